"""From shards to an index: each tar is scanned once, what was found is kept in a file, a changed shard is
noticed.

Sample tables come from an index file beside the shards (written by ``augstream index``) or in the user's
cache, if size and mtime of the shard are as recorded; other shards are scanned, and the file is brought up
to date. Several processes may do this at once: each puts a whole file in place of the other's.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from glob import glob, has_magic
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .errors import IndexFileError, RecipeError, ShardError
from .index import SampleTable, ShardIndex
from .indexfile import Entries, Entry, IndexWriter, encode_table, make_entry, read_entries
from .manifests import read_manifest
from .shards import IndexedShards, TableStore, local_path, shard_name
from .tarscan import scan_file

_log = logging.getLogger("augstream.indexing")

INDEX_NAME = "augstream.index"
_MAX_LISTED = 10

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ShardIndex
Progress = Callable[[int, int], None]
Place = tuple[Entry, Path | bytes]


def build_index(
    shards: Shards,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    verify: Literal["stat", "digest"] = "stat",
    checksums: bool = False,
    beside: bool = False,
) -> IndexedShards:
    """Return the index of `shards`, scanning only those that no index file knows.

    shards: a path, brace pattern, glob, directory or manifest (wids JSON, ``_info.json``, ``sizes.json``),
        a list of these, or an index. What a manifest promises is checked.
    cache_dir: where index files are kept, instead of ``augstream/index`` in the user's cache directory.
    progress: called with (shards done, shards in all) as the work goes on.
    verify: ``"stat"`` believes a recorded shard of unchanged size and mtime; ``"digest"`` scans each one
        again and compares what it finds (if checksums are recorded: every byte of data too).
    checksums: record a CRC-32 of every member, for ``verify_checksums=True`` when reading; this reads all.
    beside: write ``augstream.index`` into the shards' directory, for everybody, instead of the cache.

    Raises `RecipeError` if no shard matches or two have one name, and `ShardError` for shards that are
    missing or broken, after all others have been scanned and recorded. A stale, missing or broken index
    file is no error: it is replaced, and a log line says so.
    """
    if isinstance(shards, IndexedShards) and verify == "stat" and not checksums and not beside:
        return shards
    if verify not in {"stat", "digest"}:
        msg = f"verify must be 'stat' or 'digest', got {verify!r}"
        raise RecipeError(msg)
    resolved = _resolve(shards)
    urls = [shard.url for shard in resolved]
    by_directory: dict[Path, list[str]] = defaultdict(list)
    for url in urls:
        by_directory[_path(url).parent].append(url)
    cache = cache_directory() if cache_dir is None else Path(cache_dir)
    job = _Job(verify == "digest", checksums, progress, len(urls))
    places: dict[str, Place] = {}
    for directory, members in by_directory.items():
        home = directory / INDEX_NAME
        away = cache / f"{blake2b(os.fsencode(directory.resolve()), digest_size=16).hexdigest()}.index"
        places |= job.index_directory(directory, members, [home] if beside else [home, away])
    job.raise_failures()
    index = _indexed(urls, [places[url] for url in urls])
    _check_counts(resolved, index)
    return index


def _indexed(urls: Sequence[str], places: Sequence[Place]) -> IndexedShards:
    entries = [entry for entry, _ in places]
    return IndexedShards(
        names=tuple([shard_name(url) for url in urls]),
        urls=tuple(urls),
        num_samples=np.array([entry.num_samples for entry in entries], dtype=np.int64),
        sizes_bytes=np.array([entry.size for entry in entries], dtype=np.int64),
        digests=tuple([entry.digest for entry in entries]),
        store=TableStore.of(places),
    )


def cache_directory() -> Path:
    """Where index files go that can't lie beside their shards: under ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "augstream" / "index"


def resolve_shards(shards: Shards) -> list[str]:
    """The paths or URLs that `shards` stands for, in order: patterns as given, globs and directories sorted.

    Raises `RecipeError` where nothing matches, and for two shards of one name.
    """
    return [shard.url for shard in _resolve(shards)]


class _Resolved(NamedTuple):
    """A shard that is asked for; if by a manifest, which one, and how many samples it promises."""

    url: str
    manifest: str = ""
    num_samples: int = -1


def _resolve(shards: Shards) -> list[_Resolved]:
    if isinstance(shards, ShardIndex):
        resolved = [_Resolved(url) for url in shards.urls]
    elif isinstance(shards, (str, os.PathLike)):
        resolved = _expand(os.fspath(shards))
    else:
        resolved = [shard for part in shards for shard in _expand(os.fspath(part))]
    if not resolved:
        msg = "no shards were given; pass a path, a pattern ('train-{000..019}.tar'), a directory or a list"
        raise RecipeError(msg)
    seen: dict[str, str] = {}
    for shard in resolved:
        name = shard_name(shard.url)
        if name in seen:
            msg = (
                f"two shards are named {name!r}: {seen[name]!r} and {shard.url!r}; a shard's name is part of its "
                "samples' addresses, so it must be the only one of its name: rename one, or leave one out"
            )
            raise RecipeError(msg)
        seen[name] = shard.url
    return resolved


def _expand(pattern: str) -> list[_Resolved]:
    path = local_path(pattern)
    if path is not None and path.is_dir():
        return _found(sorted(str(tar) for tar in path.glob("*.tar")), f"no *.tar file lies in {pattern!r}")
    if pattern.partition("#")[0].endswith(".json"):
        return [_Resolved(shard.url, pattern, shard.num_samples) for shard in read_manifest(pattern)]
    if path is not None and path.exists():
        return [_Resolved(pattern)]
    if "{" in pattern:
        import braceexpand

        try:
            expanded = list(braceexpand.braceexpand(pattern))
        except ValueError as error:
            msg = f"the shard pattern {pattern!r} has unbalanced braces; write 'train-{{000..019}}.tar', say"
            raise RecipeError(msg) from error
        if len(expanded) > 1:
            return [shard for part in expanded for shard in _expand(part)]
    if path is not None and has_magic(pattern):
        return _found(sorted(glob(str(path))), f"no shard matches {pattern!r}")  # noqa: PTH207  (as given)
    return [_Resolved(pattern)]


def _found(urls: list[str], otherwise: str) -> list[_Resolved]:
    if not urls:
        msg = f"{otherwise}; check the path (from {Path.cwd()})"
        raise RecipeError(msg)
    return [_Resolved(url) for url in urls]


def _check_counts(resolved: list[_Resolved], index: IndexedShards) -> None:
    """Whether each shard has as many samples as its manifest promised."""
    for shard, count in zip(resolved, index.num_samples.tolist(), strict=True):
        if shard.manifest and shard.num_samples != count:
            msg = (
                f"{shard.manifest} promises {shard.num_samples} samples in {shard.url}, and it has {count}; "
                "write the manifest again (augstream index --emit), or index the shards without it"
            )
            raise IndexFileError(msg)


def _path(url: str) -> Path:
    path = local_path(url)
    if path is None:
        msg = f"{url}: remote shards are not supported here; copy them to a local directory"
        raise RecipeError(msg)
    return path


def _entries(path: Path) -> Entries:
    """What an index file knows; nothing if it is missing or broken."""
    try:
        return read_entries(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entries()
    except (OSError, IndexFileError) as error:
        _log.warning("%s; the shards are scanned again", error)
        return Entries()


class _Job:
    """One call of `build_index`: what was asked for, and what went wrong so far."""

    def __init__(self, by_digest: bool, checksums: bool, progress: Progress | None, total: int) -> None:
        self._by_digest = by_digest
        self._checksums = checksums
        self._progress = progress
        self._total = total
        self._done = 0
        self._failures: list[ShardError] = []

    def index_directory(self, directory: Path, urls: list[str], sources: list[Path]) -> dict[str, Place]:
        """Where the table of each shard of one directory is, after scanning those that no source knows.

        The last source is brought up to date.
        """
        known = {source: _entries(source) for source in sources}
        places: dict[str, Place] = {}
        missing: dict[str, list[Entry]] = {}
        for url in urls:
            name = shard_name(url)
            recorded = [(entries[name], source) for source, entries in known.items() if name in entries]
            fresh = self._fresh(url, recorded)
            if fresh is None:
                missing[url] = [entry for entry, _ in recorded]
            else:
                places[url] = fresh
                self._advance()
        if missing:
            _log_stale(missing)
            target = sources[-1]
            others = {name: entry for name, entry in known[target].items() if (directory / name).exists()}
            places |= self._scan(missing, target, others, places)
        return places

    def _fresh(self, url: str, recorded: list[tuple[Entry, Path]]) -> Place | None:
        """What is recorded of a shard, if it may be used without looking into the shard."""
        if self._by_digest or not recorded:
            return None
        now = _size_and_mtime(url)
        for entry, source in recorded:
            if (entry.size, entry.mtime_ns) == now and entry.checksums >= self._checksums:
                return entry, source
        return None

    def _scan(
        self, missing: dict[str, list[Entry]], target: Path, others: dict[str, Entry], fresh: dict[str, Place]
    ) -> dict[str, Place]:
        """Scan shards, and write what was found to `target`, beside what it holds of others.

        Returns the places of the shards scanned, and of those of `fresh` that were moved with the file.
        """
        places: dict[str, Place] = {}
        writer = _Writer(target)
        written: Mapping[str, Entry] = {}
        try:
            for url, recorded in missing.items():
                checksums = self._checksums or any(entry.checksums for entry in recorded)
                try:
                    table, size, mtime_ns = scan_file(_path(url), checksums=checksums)
                except ShardError as error:
                    self._failures.append(error)
                else:
                    places[url] = writer.add(shard_name(url), size, mtime_ns, table)
                    _compare(url, places[url][0], recorded)
                self._advance()
        finally:  # also after Ctrl-C, so that the work is not lost
            written = writer.finish(others)
        moved = [url for url, (_, place) in fresh.items() if place == target and shard_name(url) in written]
        return places | {url: (written[shard_name(url)], target) for url in moved}

    def _advance(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)

    def raise_failures(self) -> None:
        """Raise what went wrong with single shards, all in one error."""
        if not self._failures:
            return
        if len(self._failures) == 1:
            raise self._failures[0]
        lines = [str(error) for error in self._failures[:_MAX_LISTED]]
        more = len(self._failures) - len(lines)
        msg = f"{len(self._failures)} of {self._total} shards are unusable:\n  " + "\n  ".join(lines)
        raise ShardError(msg + (f"\n  and {more} more" if more else ""))


class _Writer:
    """An index file in the making that falls back to memory where it can't be written."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._file: IndexWriter | None = None
        try:
            self._file = IndexWriter(target)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _log.warning(
            "%s: the index can't be kept there (%s), it stays in memory", self._target, error.strerror
        )
        if self._file is not None:
            self._file.discard()
        self._file = None

    def add(self, name: str, size: int, mtime_ns: int, table: SampleTable) -> Place:
        if self._file is not None:
            try:
                return self._file.add(name, size, mtime_ns, table), self._target
            except OSError as error:
                self._give_up(error)
        blob = encode_table(table)
        return make_entry(size, mtime_ns, table, blob, offset=0), blob

    def finish(self, others: Mapping[str, Entry]) -> Mapping[str, Entry]:
        """Put the file into its place; return what it says of each shard."""
        if self._file is not None:
            try:
                self._file.keep(self._target, others)
                return self._file.commit()
            except OSError as error:
                self._give_up(error)
        return {}


def _size_and_mtime(url: str) -> tuple[int, int] | None:
    try:
        status = _path(url).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _log_stale(missing: dict[str, list[Entry]]) -> None:
    stale = [
        url
        for url, recorded in missing.items()
        if recorded and _size_and_mtime(url) not in [(entry.size, entry.mtime_ns) for entry in recorded]
    ]
    if stale:
        shards = f"{len(stale)} shards" if len(stale) > 1 else "one shard"
        _log.warning("%s changed since the index was made, scanning again: %s …", shards, stale[0])


def _compare(url: str, entry: Entry, recorded: list[Entry]) -> None:
    """Log a change that size and mtime did not show."""
    for old in recorded:
        same_stat = (old.size, old.mtime_ns) == (entry.size, entry.mtime_ns)
        same_data = old.checksums != entry.checksums or old.table_hash == entry.table_hash
        if same_stat and not (old.digest == entry.digest and same_data):
            _log.warning("%s: changed since the index was made, though its size and mtime did not", url)
            return
