"""The side files of other readers: lists of shards with their sample counts, and offset tables.

| file | reader | says |
| --- | --- | --- |
| ``*.json`` | wids | shards and their counts |
| ``_info.json`` | timm | shards and their counts, by split |
| ``sizes.json`` | open_clip | shard name: count |
| ``NAME.idx`` | DALI, ``wds2idx`` version 1.2 | every member: extension, offset, size, name |
| ``NAME.tar.idx`` | Megatron Energon | where each sample's first header starts, and where the last ends |

`build_index` starts from any of them: `read_manifest` reads the first three, `sources.offsets` the others. `emit`
writes all five from an index. They are data: a manifest names shards and nothing that runs.

Sources: wids, ``wids_specs.py`` and ``wids_index.py``; timm, ``reader_wds.py``; open_clip, ``get_dataset_size``; DALI,
``tools/wds2idx.py``; Megatron Energon, ``prepare.py`` and ``itar.py``.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from ..errors import IndexFileError, RecipeError, ShardError
from ..shards import IndexedShards
from ..sources.remote import local_path
from .scan import open_shard, split_name
from .walk import Member, TarWalk, padded

KINDS = ("wids", "info", "sizes", "dali", "energon")
"""What `emit` can write."""

_MAX_BYTES = 1 << 28
_WIDS_KIND = "wids-shard-index-v1"


@dataclass(frozen=True, slots=True)
class Listed:
    """A shard as a manifest names it: where it is, and how many samples it should have."""

    url: str
    num_samples: int

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url or self.url.startswith("pipe:"):
            msg = f"a shard's url must be a path or a URL of a file, got {self.url!r}"
            raise IndexFileError(msg)
        if type(self.num_samples) is not int or self.num_samples < 0:
            msg = f"the number of samples of {self.url!r} must be 0 or more, got {self.num_samples!r}"
            raise IndexFileError(msg)


def read_manifest(path: str | os.PathLike[str]) -> list[Listed]:
    """The shards that a wids JSON, ``_info.json`` or ``sizes.json`` lists, in its order.

    Relative URLs are taken from the manifest's own directory. A file of several splits needs one to be named, as in
    ``"data/_info.json#train"``. Raises `IndexFileError` for a file that is missing, no such manifest, or empty.
    """
    text, _, split = os.fspath(path).partition("#")
    file = local_path(text)
    if file is None:
        msg = f"{text}: a manifest must be a local file; download it first"
        raise IndexFileError(msg)
    try:
        listed = _listed(_load(file), split)
    except IndexFileError as error:
        msg = f"{file}: {error}"
        raise IndexFileError(msg) from None
    if not listed:
        msg = f"{file}: it lists no shards"
        raise IndexFileError(msg)
    return [Listed(_resolved(shard.url, file.parent), shard.num_samples) for shard in listed]


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            msg = f"it has more than {_MAX_BYTES} bytes"
            raise IndexFileError(msg)
        return json.loads(data)
    except OSError as error:
        msg = f"the manifest cannot be read: {error.strerror}"
        raise IndexFileError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"this is not JSON: {error}"
        raise IndexFileError(msg) from error


def _listed(content: Any, split: str) -> list[Listed]:
    if not isinstance(content, dict):
        msg = f"a manifest is a JSON object, this is {type(content).__name__}"
        raise IndexFileError(msg)
    if "wids_version" in content:
        return _wids(content, nested=False)
    if "splits" in content:
        return _splits(content["splits"], split)
    if content and all(type(count) is int for count in content.values()):
        return [Listed(name, count) for name, count in content.items()]
    msg = (
        "not a manifest that is known: it has neither 'wids_version' (wids) nor 'splits' (timm's _info.json), "
        "nor only names and numbers (open_clip's sizes.json)"
    )
    raise IndexFileError(msg)


def _wids(content: Mapping[str, Any], *, nested: bool) -> list[Listed]:
    if not nested and content["wids_version"] != 1:
        msg = f"wids_version {content['wids_version']!r} is not known, 1 is"
        raise IndexFileError(msg)
    base = content.get("base", "")
    shards, parts = content.get("shardlist", []), content.get("datasets", [])
    if not isinstance(base, str) or not isinstance(shards, list) or not isinstance(parts, list):
        msg = "wids: 'base' must be a text, 'shardlist' and 'datasets' lists"
        raise IndexFileError(msg)
    listed = []
    for shard in shards:
        if not isinstance(shard, dict) or "url" not in shard or "nsamples" not in shard:
            msg = f"wids: every shard needs 'url' and 'nsamples', got {str(shard)[:100]}"
            raise IndexFileError(msg)
        entry = Listed(shard["url"], shard["nsamples"])
        listed.append(Listed(_joined(base, entry.url), entry.num_samples) if base else entry)
    for part in parts:
        if not isinstance(part, dict) or "source_url" in part or nested:
            msg = "wids: datasets that point to other manifests are not followed; list their shards instead"
            raise IndexFileError(msg)
        listed += _wids(part, nested=True)
    return listed


def _splits(splits: Any, split: str) -> list[Listed]:
    if not isinstance(splits, dict) or not splits:
        msg = "_info.json: 'splits' must be an object of splits"
        raise IndexFileError(msg)
    if not split and len(splits) == 1:
        (split,) = splits
    if split not in splits:
        msg = f"_info.json: choose one of the splits {', '.join(splits)}, as in '_info.json#{next(iter(splits))}'"
        raise IndexFileError(msg)
    chosen = splits[split]
    names = chosen.get("filenames") if isinstance(chosen, dict) else None
    counts = chosen.get("shard_lengths") if isinstance(chosen, dict) else None
    if not isinstance(names, list) or not isinstance(counts, list) or len(names) != len(counts):
        msg = f"_info.json: split {split!r} needs as many 'filenames' as 'shard_lengths'"
        raise IndexFileError(msg)
    return [Listed(name, count) for name, count in zip(names, counts, strict=True)]


def _joined(base: str, url: str) -> str:
    if "://" in url or url.startswith("/"):
        return url
    return urljoin(base.rstrip("/") + "/", url) if "://" in base else f"{base.rstrip('/')}/{url}"


def _resolved(url: str, directory: Path) -> str:
    path = local_path(url)
    return url if path is None or path.is_absolute() else str(directory / path)


# Writing


def emit(
    index: IndexedShards, kinds: Sequence[str], directory: str | os.PathLike[str], *, split: str = "train"
) -> list[Path]:
    """Write side files of `index`, and return their paths.

    kinds: out of ``"wids"`` (shards.json), ``"info"`` (_info.json), ``"sizes"`` (sizes.json), which go into
        `directory`, and ``"dali"``, ``"energon"``, which go beside each shard.
    split: the split's name in ``_info.json``. Other splits there are kept, as are other shards in ``sizes.json``.

    Each is written whole or not at all. Raises `RecipeError` for an unknown kind, `ShardError` for a shard that has
    changed since it was indexed or that a format can't describe, `IndexFileError` for a present file that is broken
    or can't be written.
    """
    side_files = _SideFiles(index, Path(directory), split)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        msg = f"side files are {', '.join(KINDS)}; got {unknown[0]!r}"
        raise RecipeError(msg)
    return [path for kind in dict.fromkeys(kinds) for path in getattr(side_files, kind)()]


class _SideFiles:
    def __init__(self, index: IndexedShards, directory: Path, split: str) -> None:
        self._index = index
        self._directory = directory
        self._split = split

    def wids(self) -> Iterator[Path]:
        index = self._index
        shards = [
            {"url": self._relative(url), "nsamples": int(count), "filesize": int(size)}
            for url, count, size in zip(index.urls, index.num_samples, index.sizes_bytes, strict=True)
        ]
        content = {"__kind__": _WIDS_KIND, "wids_version": 1, "name": self._split, "shardlist": shards}
        yield _write_json(self._directory / "shards.json", content)

    def info(self) -> Iterator[Path]:
        path = self._directory / "_info.json"
        content = _present(path)
        if not isinstance(content.setdefault("splits", {}), dict):
            msg = f"{path}: 'splits' must be an object; move the file away"
            raise IndexFileError(msg)
        content["splits"][self._split] = {
            "name": self._split,
            "num_samples": self._index.total,
            "filenames": [self._relative(url) for url in self._index.urls],
            "shard_lengths": self._index.num_samples.tolist(),
        }
        yield _write_json(path, content)

    def sizes(self) -> Iterator[Path]:
        path = self._directory / "sizes.json"
        counts = dict(zip(self._index.names, self._index.num_samples.tolist(), strict=True))
        yield _write_json(path, _present(path) | counts)

    def dali(self) -> Iterator[Path]:
        for path, samples, _ in self._walks():
            lines = [f"v1.2 {len(samples)}"]
            for members in samples:
                parts = [(member.name.rsplit("/", 1)[-1].split(".", 1)[1], member) for member in members]
                if any(len(f"{extension}|{member.name}".split()) != 1 for extension, member in parts):
                    msg = (
                        f"{path}: {members[0].name!r}: a DALI index can't tell names with spaces; rename them"
                    )
                    raise ShardError(msg)
                lines.append(" ".join([f"{ext} {m.data_at} {m.size} {m.name}" for ext, m in parts]))
            text = "\n".join([*lines, ""])
            yield _write(path.with_suffix(".idx"), text.encode("utf-8", "surrogateescape"))

    def energon(self) -> Iterator[Path]:
        for path, samples, end in self._walks():
            starts = [members[0].header_at for members in samples]
            yield _write(path.with_suffix(".tar.idx"), np.array([*starts, end], "<u8").tobytes())

    def _walks(self) -> Iterator[tuple[Path, list[list[Member]], int]]:
        """Path, members by sample, and end of the last member of each shard: names and headers as they are."""
        for shard, url in enumerate(self._index.urls):
            path = local_path(url)
            if path is None:
                msg = f"{url}: its side files lie beside it, and it is not a local file"
                raise ShardError(msg)
            members = _members(path)
            inside = [member for member in members if split_name(member.name) is not None]
            table = self._index.table(shard)
            if [member.data_at for member in inside] != table.offsets_bytes.tolist():
                msg = f"{url}: replaced after indexing; make the index again (augstream index)"
                raise ShardError(msg)
            end = padded(members[-1].data_at + members[-1].size) if members else 0
            yield path, [inside[a:b] for a, b in pairwise(table.first_member.tolist())], end

    def _relative(self, url: str) -> str:
        """A shard as seen from the directory of the side files."""
        path = local_path(url)
        if path is None:
            return url
        absolute, base = path.absolute(), self._directory.absolute()
        return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)


def _members(path: Path) -> list[Member]:
    fd, size, _ = open_shard(path)
    try:
        return list(TarWalk(lambda at, length: os.pread(fd, length, at), size, str(path)).members())
    finally:
        os.close(fd)


def _present(path: Path) -> dict[str, Any]:
    """What a side file says already; nothing if there is none."""
    if not path.exists():
        return {}
    content = _load(path)
    if not isinstance(content, dict):
        msg = f"{path}: a JSON object was expected; move the file away"
        raise IndexFileError(msg)
    return content


def _write_json(path: Path, content: Any) -> Path:
    return _write(path, json.dumps(content, indent=2).encode() + b"\n")


def _write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all."""
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temp.write_bytes(data)
        temp.replace(path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        msg = f"{path}: cannot be written: {error.strerror}"
        raise IndexFileError(msg) from error
    return path
