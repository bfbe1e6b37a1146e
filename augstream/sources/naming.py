"""Which shards are meant: paths, patterns, directories, manifests, offset tables and URLs become a list of shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RecipeError, ShardError
from ..index import ShardIndex
from ..tars.manifests import read_manifest
from .offsets import shard_of
from .remote import Remote, local_path, matching, shard_name

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ShardIndex


class Asked(NamedTuple):
    """A shard that is asked for; if by a manifest, which one, and how many samples it promises.

    offsets: the offset table by which it is asked for, if by one; see `offsets`.
    """

    url: str
    manifest: str = ""
    num_samples: int = -1
    offsets: str = ""


def resolve(shards: Shards, remote: Remote = Remote()) -> list[Asked]:  # noqa: B008  (a frozen value)
    """The shards that `shards` stands for, in order: patterns as given, globs and directories sorted.

    Raises `RecipeError` where nothing matches, for two shards of one name, and for what has no order, as sets have
    none: it would be another one in each run.
    """
    if isinstance(shards, ShardIndex):
        resolved = [Asked(url) for url in shards.urls]
    else:
        resolved = [shard for part in parts_of(shards) for shard in _expand(part, remote)]
    if not resolved:
        msg = "no shards were given; pass a path, a pattern ('train-{000..019}.tar'), a directory or a list"
        raise RecipeError(msg)
    seen: dict[str, str] = {}
    chosen = []
    for shard in resolved:
        name = shard_name(shard.url)
        if (
            shard.offsets and seen.get(name) == shard.url
        ):  # both its tables are there; the first, DALI's, tells more
            continue
        if name in seen:
            msg = (
                f"two shards are named {name!r}: {seen[name]!r} and {shard.url!r}; a shard's name is part of its "
                "samples' addresses, so it must be the only one of its name: rename one, or leave one out"
            )
            raise RecipeError(msg)
        seen[name] = shard.url
        chosen.append(shard)
    return chosen


def parts_of(shards: Any) -> list[str]:
    """The paths and patterns that were given; `RecipeError` for anything else."""
    parts = [shards] if isinstance(shards, (str, os.PathLike)) else shards
    if isinstance(parts, Iterable) and not isinstance(parts, (bytes, Mapping, set, frozenset)):
        parts = list(parts)
        if all(isinstance(part, (str, os.PathLike)) for part in parts):
            return [os.fspath(part) for part in parts]
    msg = (
        "shards are a path, a pattern ('train-{000..019}.tar'), a directory, a list of these in their order, or an "
        f"index; got {shards!r:.200}"
    )
    raise RecipeError(msg)


def _expand(pattern: str, remote: Remote) -> list[Asked]:
    try:
        return _expanded(pattern, remote)
    except OSError as error:
        msg = f"{pattern:.200}: it cannot be looked for: {error.strerror}; check the path and its permissions"
        raise ShardError(msg) from error


def _expanded(pattern: str, remote: Remote) -> list[Asked]:
    if (
        not pattern
    ):  # as from a variable that is not set; the path of this text would be the current directory
        msg = "an empty text names no shards; pass a path, a pattern ('train-{000..019}.tar'), a directory or a list"
        raise RecipeError(msg)
    path = local_path(pattern)
    if path is not None and path.is_dir():
        names = sorted([name for name in os.listdir(path) if name.endswith(".tar")])  # noqa: PTH208  (a glob finds
        # nothing where it may not look)
        return _found([str(path / name) for name in names], f"no *.tar file lies in {pattern!r}")
    if pattern.partition("#")[0].endswith(".json"):
        return [Asked(shard.url, pattern, shard.num_samples) for shard in read_manifest(pattern)]
    if path is not None and path.exists():
        return [_asked(pattern)]
    if "{" in pattern:
        import braceexpand

        try:
            expanded = list(braceexpand.braceexpand(pattern))
        except ValueError as error:
            msg = f"the shard pattern {pattern!r} has unbalanced braces; write 'train-{{000..019}}.tar', say"
            raise RecipeError(msg) from error
        if len(expanded) > 1:
            return [shard for part in expanded for shard in _expand(part, remote)]
    if "://" in pattern and path is None and ("*" in pattern or pattern.endswith("/")):
        found = matching(f"{pattern}*.tar" if pattern.endswith("/") else pattern, remote)
        return _found(found, f"no shard matches {pattern!r}")
    if path is not None and has_magic(pattern):
        return _found(sorted(glob(str(path))), f"no shard matches {pattern!r}")  # noqa: PTH207  (as given)
    return [_asked(pattern)]


def _asked(url: str) -> Asked:
    return Asked(shard_of(url), offsets=url) if url.endswith(".idx") else Asked(url)


def _found(urls: list[str], otherwise: str) -> list[Asked]:
    if not urls:
        msg = f"{otherwise}; check the path (from {Path.cwd()})"
        raise RecipeError(msg)
    return [_asked(url) for url in urls]
