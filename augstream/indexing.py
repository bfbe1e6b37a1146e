"""From shards to an index: each tar is scanned once, what was found is kept in a file, a changed shard is noticed.

Sample tables come from an index file beside the shards (written by ``augstream index``) or in the user's cache, if size
and mtime of the shard are as recorded; other shards are scanned, and the file is brought up to date. For remote shards,
what the server gives in place of the mtime counts (an ETag, say); an index file that was put beside them is believed if
the sizes agree. Several processes may do all this at once: each puts a whole file in place of the other's.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .errors import IndexFileError, RecipeError, ShardError
from .index import SampleTable
from .shards import IndexedShards, TableStore
from .sources.cache import RemoteShards
from .sources.naming import Asked, Shards, resolve
from .sources.offsets import check_offsets, table_from
from .sources.remote import Remote, RemoteFile, Status, local_path, remote_file, shard_name
from .tars.indexfile import Entries, Entry, Place, TableWriter, make_private, read_entries
from .tars.scan import scan_file

_log = logging.getLogger("augstream.indexing")

INDEX_NAME = "augstream.index"
_MAX_LISTED = 10
_ASKED_AT_ONCE = 16  # servers are asked for the sizes of so many shards at a time

Progress = Callable[[int, int], None]
Missing = Mapping[str, tuple[Status, list[Entry]]]  # URL -> what is known without looking into the shard
Scanned = tuple[SampleTable, Status]


def build_index(
    shards: Shards,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    verify: Literal["stat", "digest"] = "stat",
    checksums: bool = False,
    beside: bool = False,
    remote: Remote | None = None,
) -> IndexedShards:
    """Return the index of `shards`, scanning only those that no index file knows.

    shards: a path, URL, brace pattern, glob, directory or manifest (wids JSON, ``_info.json``, ``sizes.json``), a list
        of these, or an index. What a manifest promises is checked. The offset tables of other readers stand for their
        shards (``train-{000..019}.idx`` of DALI, ``….tar.idx`` of Energon): where no index file knows a shard, what
        they say is checked and, if it is DALI's, spares the walk over the shard.
    cache_dir: where index files are kept, instead of ``augstream/index`` in the user's cache directory.
    progress: called with (shards done, shards in all) as the work goes on.
    verify: ``"stat"`` believes a recorded shard of unchanged size and mtime; ``"digest"`` scans each one again and
        compares what it finds (if checksums are recorded: every byte of data too).
    checksums: record a CRC-32 of every member, for ``verify_checksums=True`` when reading; this reads all.
    beside: write ``augstream.index`` into the shards' directory, for everybody, instead of the cache.
    remote: how shards behind URLs are fetched, several at a time; see `Remote`.

    Raises `RecipeError` if no shard matches or two have one name, and `ShardError` for shards that are missing or
    broken, after all others have been scanned and recorded. A stale, missing or broken index file is no error: it is
    replaced, and a log line says so.
    """
    if isinstance(shards, IndexedShards) and verify == "stat" and not checksums and not beside:
        return shards
    if verify not in {"stat", "digest"}:
        msg = f"verify must be 'stat' or 'digest', got {verify!r}"
        raise RecipeError(msg)
    remote = Remote() if remote is None else remote
    asked = resolve(shards, remote)
    by_directory: dict[str, list[str]] = defaultdict(list)
    for shard in asked:
        path = local_path(shard.url)
        directory = shard.url.rpartition("/")[0] if path is None else str(path.parent.absolute())
        by_directory[directory].append(shard.url)
    cache = (cache_directory() if cache_dir is None else Path(cache_dir)).absolute()
    offsets = {shard.url: shard.offsets for shard in asked if shard.offsets}
    job = _Job(verify == "digest", checksums, progress, len(asked), remote, offsets)
    places: dict[str, Place] = {}
    for directory, urls in by_directory.items():
        places |= job.index_directory(directory, urls, cache, beside=beside)
    job.raise_failures()
    index = _indexed([shard.url for shard in asked], [places[shard.url] for shard in asked], remote)
    _check_counts(asked, index)
    return index


def _indexed(urls: Sequence[str], places: Sequence[Place], remote: Remote) -> IndexedShards:
    entries = [entry for entry, _ in places]
    base = "" if all(map(os.path.isabs, urls)) else str(Path.cwd())
    return IndexedShards(
        names=tuple([shard_name(url) for url in urls]),
        urls=tuple(urls),
        num_samples=np.array([entry.num_samples for entry in entries], dtype=np.int64),
        sizes_bytes=np.array([entry.size for entry in entries], dtype=np.int64),
        digests=tuple([entry.digest for entry in entries]),
        store=TableStore.of(places, remote, base),
    )


def cache_directory() -> Path:
    """Where index files go that can't lie beside their shards: under ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "augstream" / "index"


def _check_counts(asked: list[Asked], index: IndexedShards) -> None:
    """Raise `IndexFileError` unless each shard has as many samples as its manifest promised."""
    for shard, count in zip(asked, index.num_samples.tolist(), strict=True):
        if shard.manifest and shard.num_samples != count:
            msg = (
                f"{shard.manifest} promises {shard.num_samples} samples in {shard.url}, and it has {count}; "
                "write the manifest again (augstream index --emit), or index the shards without it"
            )
            raise IndexFileError(msg)


def _entries(path: Path) -> Entries:
    """What an index file knows; nothing if it is missing or broken."""
    try:
        return read_entries(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entries()
    except (OSError, IndexFileError) as error:
        _log.warning("%s; the shards are scanned again", error)
        return Entries()


class _Known(NamedTuple):
    """What one index file says of the shards of a directory; `by_size` if it can't know the server's validators."""

    path: Path
    entries: Entries
    by_size: bool = False


class _Job:
    """One call of `build_index`: what was asked for, and what went wrong so far."""

    def __init__(
        self,
        by_digest: bool,
        checksums: bool,
        progress: Progress | None,
        total: int,
        remote: Remote,
        offsets: Mapping[str, str],
    ) -> None:
        self._by_digest = by_digest
        self._checksums = checksums
        self._progress = progress
        self._total = total
        self._remote = remote
        self._offsets = offsets
        self._done = 0
        self._failures: list[ShardError] = []

    @cached_property
    def _remote_shards(self) -> RemoteShards:
        return RemoteShards(self._remote)

    def index_directory(
        self, directory: str, urls: list[str], cache: Path, *, beside: bool
    ) -> dict[str, Place]:
        """Where the table of each shard of one directory is, after scanning those that no index file knows."""
        statuses = self._statuses(urls)
        local = local_path(urls[0]) is not None
        name = os.fsencode(Path(directory).resolve()) if local else directory.encode()
        away = cache / f"{blake2b(name, digest_size=16).hexdigest()}.index"
        if local:
            target = Path(directory) / INDEX_NAME if beside else away
            known = [
                _Known(path, _entries(path)) for path in dict.fromkeys([Path(directory) / INDEX_NAME, target])
            ]
        elif beside:
            msg = f"{directory}: nothing can be written beside remote shards; index a copy, and upload {INDEX_NAME}"
            raise RecipeError(msg)
        else:
            target = away
            home = self._fetched_index(directory, away)
            known = [
                _Known(away, _entries(away)),
                *([] if home is None else [_Known(home, _entries(home), True)]),
            ]
        places: dict[str, Place] = {}
        missing: dict[str, list[Entry]] = {}
        for url, status in statuses.items():
            recorded = [(k, k.entries[shard_name(url)]) for k in known if shard_name(url) in k.entries]
            fresh = self._fresh(status, recorded)
            if fresh is None:
                missing[url] = [entry for k, entry in recorded if not k.by_size]
            else:
                places[url] = fresh
                self._advance()
        if missing:
            _log_stale(missing, statuses)
            others = next(k.entries for k in known if k.path == target)
            kept = {n: e for n, e in others.items() if not local or (Path(directory) / n).exists()}
            places |= self._scan(
                {url: (statuses[url], missing[url]) for url in missing}, target, kept, places
            )
        return places

    def _statuses(self, urls: list[str]) -> dict[str, Status]:
        """Size and mtime, or what the server tells in its place; failures are put down."""

        def ask(url: str) -> Status | ShardError:
            path = local_path(url)
            try:
                if path is None:
                    return remote_file(url, self._remote).status()
                found = path.stat()
            except ShardError as error:
                return error
            except OSError:
                return Status(-1, 0)  # the scan will tell what is wrong
            return Status(found.st_size, found.st_mtime_ns)

        if local_path(urls[0]) is None:
            with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                answers = list(pool.map(ask, urls))
        else:
            answers = [ask(url) for url in urls]
        for answer in answers:
            if isinstance(answer, ShardError):
                self._failures.append(answer)
                self._advance()
        return {url: answer for url, answer in zip(urls, answers, strict=True) if isinstance(answer, Status)}

    def _fresh(self, status: Status, recorded: list[tuple[_Known, Entry]]) -> Place | None:
        """What is recorded of a shard, if it may be used without looking into the shard."""
        if self._by_digest:
            return None
        for known, entry in recorded:
            same = status.size in {-1, entry.size} and (known.by_size or entry.mtime_ns == status.validator)
            if same and entry.checksums >= self._checksums:
                return entry._replace(mtime_ns=status.validator), known.path
        return None

    def _fetched_index(self, directory: str, away: Path) -> Path | None:
        """A local copy of the index file that lies beside remote shards, if there is one."""
        if directory.startswith("pipe:"):
            return None
        file = RemoteFile(f"{directory}/{INDEX_NAME}", self._remote)
        try:
            status = file.status()
            copy = away.with_suffix(f".{status.size}-{status.validator}.remote")
            if not copy.exists():
                make_private(copy.parent)
                part = copy.with_suffix(f".{secrets.token_hex(8)}.tmp")
                try:
                    with part.open("xb") as out:
                        file.download(out, status.size)
                    part.replace(copy)
                finally:
                    part.unlink(missing_ok=True)
        except (ShardError, OSError) as error:
            _log.debug("%s: no index file beside the shards: %s", directory, error)
            return None
        return copy

    def _scan(
        self,
        missing: Missing,
        target: Path,
        others: Mapping[str, Entry],
        fresh: dict[str, Place],
    ) -> dict[str, Place]:
        """Scan shards, and write what was found to `target`, beside what it holds of others.

        Returns the places of the shards scanned, and of those of `fresh` that were moved with the file.
        """
        places: dict[str, Place] = {}
        writer = TableWriter(target)
        written: Mapping[str, Entry] = {}
        try:
            for url, found in self._scans(missing):
                if isinstance(found, ShardError):
                    self._failures.append(found)
                else:
                    table, status = found
                    places[url] = writer.add(shard_name(url), *status, table)
                    _compare(url, places[url][0], missing[url][1])
                self._advance()
        finally:  # also after Ctrl-C, so that the work is not lost
            written = writer.finish(others)
        moved = [url for url, (_, place) in fresh.items() if place == target and shard_name(url) in written]
        return places | {url: (written[shard_name(url)], target) for url in moved}

    def _scans(self, missing: Missing) -> Iterator[tuple[str, Scanned | ShardError]]:
        """Scan the shards, and tell in their order what was found; several remote ones at a time: servers are slow."""

        def scan(url: str) -> Scanned | ShardError:
            try:
                return self._scan_one(url, *missing[url])
            except ShardError as error:
                return error

        if local_path(next(iter(missing))) is not None:
            yield from zip(missing, map(scan, missing), strict=True)
            return
        pool = ThreadPoolExecutor(self._remote_shards.num_at_once)
        try:
            yield from zip(missing, pool.map(scan, missing), strict=True)
        finally:  # after Ctrl-C, those that have not begun are left
            pool.shutdown(cancel_futures=True)

    def _scan_one(self, url: str, status: Status, recorded: list[Entry]) -> Scanned:
        checksums = self._checksums or any(entry.checksums for entry in recorded)
        offsets, path = self._offsets.get(url), local_path(url)
        if offsets is not None and not checksums and not self._by_digest:
            started = table_from(offsets, url, status, self._remote)
            if started is not None:
                return started
        if path is None:
            table, status = self._remote_shards.scan(url, status, checksums=checksums)
        else:
            table, *stat = scan_file(path, checksums=checksums)
            status = Status(*stat)
        if offsets is not None:
            check_offsets(offsets, table, url, self._remote)
        return table, status

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


def _log_stale(missing: dict[str, list[Entry]], statuses: Mapping[str, Status]) -> None:
    stale = [
        url
        for url, recorded in missing.items()
        if recorded
        and statuses[url].size >= 0
        and statuses[url] not in [(entry.size, entry.mtime_ns) for entry in recorded]
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
