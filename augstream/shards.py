"""Reading samples out of indexed shards, by offset: any sample at any time, and nothing besides.

`IndexedShards` tells where every sample lies, `ShardReader` fetches one. What is read is what was indexed:
a shard whose size or mtime is another than at indexing is refused, as is one that ends early; with
checksums in the index, a single flipped byte is found.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from .errors import IndexFileError, RecipeError, SampleError, ShardError, is_of_too_many_files
from .index import Int64s, SampleTable, ShardIndex
from .sources.cache import CachedShard, RemoteShards, Wanted
from .sources.recent import Recent
from .sources.remote import Remote, RemoteFile, Status, local_path, shard_name
from .tars.indexfile import ROW, Entry, decode_table, open_regular, read_blob, read_entries
from .tars.scan import open_shard, scan_file

_log = logging.getLogger("augstream.shards")

_MAX_CACHED_SAMPLES = 1 << 18  # about 40 MB of tables
_MAX_COPIED_BYTES = 1 << 15  # longer samples of local shards are read member by member
_MAX_GAP_BYTES = 1 << 20  # so are remote ones, if they have more than that between their members

NO_CHECKSUMS = (
    "verify_checksums=True, but the shards were indexed without checksums; "
    "run augstream index --checksums, or build_index(..., checksums=True)"
)

RawSample = dict[str, Any]
"""``__key__`` and ``__url__`` (str), then each member's bytes under its suffix, in file order."""


class TableStore:
    """The sample tables of some shards, read from index files when first asked for; the recent ones stay.

    rows: what the index files say of each shard. files: those files; file_ids: which of them has the table, or -1
    where its bytes are in `blobs`, by position. remote: how remote shards are fetched. base: where relative paths
    begin, whatever directory a process works in later. If a file has changed or gone, the table is looked for again,
    and as a last resort made again from the shard.
    """

    def __init__(
        self,
        rows: npt.NDArray[np.void],
        file_ids: npt.NDArray[np.int32],
        files: Sequence[Path],
        blobs: Mapping[int, bytes],
        remote: Remote,
        base: str = "",
    ) -> None:
        self._rows, self._file_ids, self._files, self._blobs = rows, file_ids, tuple(files), dict(blobs)
        self.remote, self._base = remote, base
        self._recent: Recent[SampleTable] = Recent(_MAX_CACHED_SAMPLES)

    @classmethod
    def of(cls, places: Sequence[tuple[Entry, Path | bytes]], remote: Remote, base: str = "") -> TableStore:
        """The store of shards of which the entry, and the index file or the encoded table are given."""
        files = {
            place: i for i, place in enumerate(dict.fromkeys([p for _, p in places if isinstance(p, Path)]))
        }
        return cls(
            np.array([entry for entry, _ in places], ROW),
            np.array([files[p] if isinstance(p, Path) else -1 for _, p in places], np.int32),
            tuple(files),
            {i: place for i, (_, place) in enumerate(places) if isinstance(place, bytes)},
            remote,
            base,
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return TableStore, (self._rows, self._file_ids, self._files, self._blobs, self.remote, self._base)

    def subset(self, positions: Sequence[int]) -> TableStore:
        """The store of the shards at some positions."""
        blobs = {i: self._blobs[at] for i, at in enumerate(positions) if at in self._blobs}
        rows, file_ids = self._rows[positions], self._file_ids[positions]
        return TableStore(rows, file_ids, self._files, blobs, self.remote, self._base)

    def path(self, url: str) -> Path | None:
        """Where a local shard lies; None for a remote one."""
        path = local_path(url)
        return None if path is None else self._base / path

    @property
    def files(self) -> tuple[Path, ...]:
        """The index files that hold the tables."""
        return self._files

    @property
    def in_memory(self) -> bool:
        """Whether some tables are in no file, because none could be written."""
        return bool(self._blobs)

    @property
    def mtimes_ns(self) -> Int64s:
        """(shards,) when each shard was last written, as it was when it was scanned."""
        return self._rows["mtime_ns"]

    @property
    def checksums(self) -> bool:
        """Whether all tables have checksums."""
        return bool(self._rows["checksums"].all())

    def table(self, shard: int, url: str) -> SampleTable:
        """The table of a shard, which lies at `url`; `ShardError` if it is no longer as it was indexed."""
        table = self._recent.recall(shard)
        if table is None:
            table = self._load(shard, url)
            self._recent.keep(shard, table, len(table))
        return table

    def _load(self, shard: int, url: str) -> SampleTable:
        entry = Entry(*self._rows[shard].item())
        blob = self._blobs.get(shard)
        path = self._files[self._file_ids[shard]] if blob is None else None
        if path is not None:
            blob = _blob_in(path, entry) or _blob_moved(path, shard_name(url), entry)
        if blob is not None:
            table = decode_table(blob)
            ends = table.offsets_bytes + table.sizes_bytes
            if len(table) == entry.num_samples and (len(ends) == 0 or ends.max() <= entry.size):
                return table
        _log.warning("%s: its table is no longer in %s, scanning the shard again", url, path)
        local = self.path(url)
        if local is None:
            status = Status(entry.size, entry.mtime_ns)
            table = RemoteShards(self.remote).scan(url, status, checksums=entry.checksums)[0]
        else:
            table = scan_file(local, checksums=entry.checksums)[0]
        if table.digest != entry.digest:
            raise ShardError(_replaced(url, "its members are not those that were indexed"))
        return table


def _blob_moved(path: Path, name: str, old: Entry) -> bytes | None:
    """The bytes of a table, if the index file was written anew since `old` was read."""
    try:
        new = read_entries(path).get(name)
    except (OSError, IndexFileError) as error:
        if is_of_too_many_files(error):
            raise
        return None
    same = new is not None and new.digest == old.digest and new.checksums >= old.checksums
    return _blob_in(path, new) if same and new is not None else None


def _blob_in(path: Path, entry: Entry) -> bytes | None:
    try:
        with open_regular(path) as file:
            return read_blob(file, entry)
    except OSError as error:
        if is_of_too_many_files(error):
            raise
        return None


def _replaced(url: str, how: str) -> str:
    return f"{url}: replaced after indexing: {how}; make the index again (build_index, or augstream index)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IndexedShards(ShardIndex):
    """A `ShardIndex` of real shards: it also tells where every member of every sample lies.

    store: where the tables are; they are read when first asked for. Pickles to about 100 bytes a shard.
    """

    store: TableStore = field(default_factory=lambda: TableStore.of([], Remote()), repr=False)

    def __post_init__(self) -> None:
        ShardIndex.__post_init__(self)
        if len(self.store) != len(self.names):
            msg = f"{len(self.names)} shards need as many tables, got {len(self.store)}; use build_index"
            raise RecipeError(msg)

    def __repr__(self) -> str:
        return f"<IndexedShards: {len(self)} shards, {self.total} samples, fingerprint {self.fingerprint}>"

    def table(self, shard: int) -> SampleTable:
        """The sample table of the shard at a position; `ShardError` if the shard was replaced meanwhile."""
        return self.store.table(shard, self.urls[shard])

    def subset(self, names: Iterable[str]) -> IndexedShards:
        """The index of the shards named, in the order named: another dataset, with another fingerprint."""
        plain = ShardIndex.subset(self, names)
        positions = {name: i for i, name in enumerate(self.names)}
        return IndexedShards(
            names=plain.names,
            urls=plain.urls,
            num_samples=plain.num_samples,
            sizes_bytes=plain.sizes_bytes,
            digests=plain.digests,
            store=self.store.subset([positions[name] for name in plain.names]),
        )


class _LocalShard:
    """A shard that is open, closed when nobody uses it any more, threads in the middle of a read included."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def __del__(
        self, close: Callable[[int], None] = os.close
    ) -> None:  # at the interpreter's end `os` is gone
        close(self._fd)


class ShardReader:
    """Reads single samples of `index`, in any order; of a remote shard, with one request each.

    max_open: shards kept open at once. verify_checksums: compare each member with the CRC-32 in the index, which must
    have been made with ``checksums=True``. Remote shards are fetched as the index was told to (see `Remote`). Safe to
    share between threads, to fork with, and to pickle.
    """

    def __init__(self, index: IndexedShards, *, max_open: int = 128, verify_checksums: bool = False) -> None:
        if max_open < 1:
            msg = f"max_open must be 1 or more, got {max_open}"
            raise RecipeError(msg)
        if verify_checksums and not index.store.checksums:
            raise RecipeError(NO_CHECKSUMS)
        self.index = index
        self.verify_checksums = verify_checksums
        self._max_open = max_open
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._open: Recent[_LocalShard | CachedShard | RemoteFile] = Recent(self._max_open)
        self._remote: RemoteShards | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "max_open": self._max_open, "verify_checksums": self.verify_checksums}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # the state is the constructor's arguments

    def read(self, shard: int, sample: int) -> RawSample:
        """One sample as webdataset would deliver it before decoding.

        Raises `ShardError` if the shard is missing, was changed after indexing, or ends early, and `SampleError` if a
        member fails its checksum.
        """
        if os.getpid() != self._pid:  # a fork: connections to servers, and threads, are not inherited
            self._start()
        try:
            return self._read_sample(shard, sample)
        except (OSError, ShardError) as error:
            if not is_of_too_many_files(error) or not self._open.forget(lambda _: True):
                raise
        return self._read_sample(shard, sample)  # with files to spare, which the reader itself had kept open

    def _read_sample(self, shard: int, sample: int) -> RawSample:
        table = self.index.table(shard)
        members = table.members(sample)
        file = self._open.recall(shard) or self._open_shard(shard)
        raw: RawSample = {"__key__": table.keys[sample], "__url__": self.index.urls[shard]}
        start = min([offset for _, offset, _ in members])
        end = max([offset + size for _, offset, size in members])
        most = _MAX_COPIED_BYTES  # from memory, a few reads cost less than one and a copy of what it brought
        if isinstance(file, RemoteFile):
            most = sum([size for _, _, size in members]) + _MAX_GAP_BYTES
        if end - start <= most:
            span = self._read(file, start, end - start, shard)
            for suffix, offset, size in members:
                raw[suffix] = span[offset - start : offset - start + size]
        else:
            for suffix, offset, size in members:
                raw[suffix] = self._read(file, offset, size, shard)
        if self.verify_checksums:
            self._verify(shard, sample, table, raw)
        return raw

    @property
    def fetches(self) -> bool:
        """Whether whole shards are fetched into a cache, so that `ahead` is of use."""
        remote = self.index.store.remote
        return remote.cache_dir is not None and remote.ahead > 0

    def ahead(self, shards: Iterable[int]) -> None:
        """Say which shards will be read next, so that remote ones can be fetched into the cache meanwhile."""
        if not self.fetches:
            return
        wanted = [self._wanted(shard) for shard in shards if local_path(self.index.urls[shard]) is None]
        if wanted:
            self._remote_shards().ahead(wanted)

    def _open_shard(self, shard: int) -> _LocalShard | CachedShard | RemoteFile:
        path = self.index.store.path(self.index.urls[shard])
        file = self._open_remote(shard) if path is None else self._open_local(shard, path)
        self._open.keep(shard, file, 1)
        return file

    def _open_local(self, shard: int, path: Path) -> _LocalShard:
        index = self.index
        fd, size, mtime_ns = open_shard(path)
        file = _LocalShard(fd)
        was_size, was_mtime_ns = int(index.sizes_bytes[shard]), int(index.store.mtimes_ns[shard])
        if size != was_size:
            raise ShardError(_replaced(index.urls[shard], f"it has {size} bytes, and had {was_size}"))
        if mtime_ns != was_mtime_ns:
            how = f"its mtime is {mtime_ns}, and was {was_mtime_ns} (ns)"
            raise ShardError(_replaced(index.urls[shard], how))
        return file

    def _open_remote(self, shard: int) -> CachedShard | RemoteFile:
        file = self._remote_shards().open(self._wanted(shard))
        # What others have dropped from the cache would take space as long as it is open here.
        self._open.forget(lambda opened: isinstance(opened, CachedShard) and opened.dropped)
        return file

    def _remote_shards(self) -> RemoteShards:
        if self._remote is None:
            self._remote = RemoteShards(self.index.store.remote)
        return self._remote

    def _wanted(self, shard: int) -> Wanted:
        index, url = self.index, self.index.urls[shard]

        def check(path: Path) -> None:
            table = index.table(shard)
            found = scan_file(path, name=url, checksums=table.checksums is not None)[0]
            same = table.checksums is None or np.array_equal(np.asarray(found.checksums), table.checksums)
            if found.digest != table.digest or not same:
                raise ShardError(_replaced(url, "what was fetched is not what was indexed"))

        return Wanted(url, int(index.sizes_bytes[shard]), int(index.store.mtimes_ns[shard]), check)

    def _read(
        self, file: _LocalShard | CachedShard | RemoteFile, offset: int, length: int, shard: int
    ) -> bytes:
        data = file.read(offset, length)
        while len(data) < length:
            more = file.read(offset + len(data), length - len(data))
            if not more:
                how = f"its bytes from {offset + len(data)} on are gone"
                raise ShardError(_replaced(self.index.urls[shard], how))
            data += more
        return data

    def _verify(self, shard: int, sample: int, table: SampleTable, raw: RawSample) -> None:
        if table.checksums is None:
            raise RecipeError(NO_CHECKSUMS)
        first = int(table.first_member[sample])
        for i, (suffix, offset, size) in enumerate(table.members(sample), first):
            found, recorded = crc32(raw[suffix]), int(table.checksums[i])
            if found != recorded:
                where = (
                    f"member {suffix!r} of sample {table.keys[sample]!r} ({size} bytes at offset {offset})"
                )
                msg = (
                    f"{self.index.urls[shard]}: {where} has the checksum {found:08x}, and had {recorded:08x} "
                    "when indexed: the shard was damaged or changed; fetch it again, or index it again if "
                    "this is meant"
                )
                raise SampleError(msg, shard=self.index.names[shard], key=table.keys[sample])
