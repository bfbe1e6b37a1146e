"""The index file: the sample tables of the shards of one directory, as data and nothing but data.

Layout: a magic line; the tables, one after the other; a row a shard (size, mtime, number of samples, digest, and
where its table lies); the shards' names; a footer with the place and the hash of rows and names. Numbers are little
endian, a table's columns in the narrowest width that holds them; texts are UTF-8, undecodable bytes as they were.

Every part is hashed (BLAKE2b), so that a torn, mixed up or doctored file is noticed and never believed: reading
raises `IndexFileError`, and the index is built again. Writing goes to a temporary file that is then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import IndexFileError, RecipeError
from ..index import SampleTable

_log = logging.getLogger("augstream.tars.indexfile")

_MAGIC = b"augstream-index/1\n"
_END = b"augstream-end/1\n"
_FOOTER = struct.Struct("<QQQ16s16s")  # offset and number of rows, bytes of names, their hash, the end mark
_COUNTS = struct.Struct("<QQQQQ")  # samples, members, suffixes, bytes of keys, bytes of suffixes
_WIDTHS: dict[int, np.dtype[Any]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
_HASH_BYTES = 16
_STALE_TEMP_S = 3600.0

ROW = np.dtype(
    [
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("num_samples", "<i8"),
        ("digest", "V16"),
        ("checksums", "?"),
        ("offset", "<i8"),
        ("length", "<i8"),
        ("table_hash", "V16"),
    ]
)


class Entry(NamedTuple):
    """What an index file says of one shard; its table lies at `offset`, `length` bytes long."""

    size: int
    mtime_ns: int
    num_samples: int
    digest: bytes
    checksums: bool
    offset: int
    length: int
    table_hash: bytes


Place = tuple[Entry, Path | bytes]
"""An entry, and what its offset counts in: an index file, or the bytes of a table."""


class Entries(Mapping[str, Entry]):
    """What an index file says of its shards, by name."""

    def __init__(self, names: Sequence[str] = (), rows: npt.NDArray[np.void] | None = None) -> None:
        self._rows = np.zeros(0, ROW) if rows is None else rows
        self._positions = {name: i for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> Entry:
        return Entry(*self._rows[self._positions[name]].item())

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH_BYTES, person=b"augstream/file").digest()


def _pack_column(values: npt.NDArray[np.generic]) -> bytes:
    """A column of non-negative integers as its width in bytes (1, 2, 4 or 8) and its values."""
    top = int(values.max()) if len(values) else 0
    width = next(width for width in _WIDTHS if top < 1 << (8 * width))
    packed: bytes = values.astype(_WIDTHS[width]).tobytes()
    return bytes([width]) + packed


def encode_table(table: SampleTable) -> bytes:
    """A sample table as bytes, about 40 a sample."""
    keys = "\0".join(table.keys).encode("utf-8", "surrogateescape")
    suffixes = "\0".join(table.suffixes).encode("utf-8", "surrogateescape")
    counts = len(table.keys), len(table.suffix_ids), len(table.suffixes), len(keys), len(suffixes)
    columns = [np.diff(table.first_member), table.suffix_ids, table.offsets_bytes, table.sizes_bytes]
    if table.checksums is not None:
        columns.append(table.checksums)
    return b"".join([_COUNTS.pack(*counts), keys, suffixes, *map(_pack_column, columns)])


def decode_table(data: bytes) -> SampleTable:
    """The table that `encode_table` made bytes of; `IndexFileError` if these are no such bytes."""
    try:
        return _decode_table(memoryview(data))
    except (ValueError, struct.error, RecipeError) as error:
        msg = f"an index file holds a broken table ({error}); delete the file, it will be built again"
        raise IndexFileError(msg) from error


def _decode_table(data: memoryview) -> SampleTable:
    samples, members, num_suffixes, key_bytes, suffix_bytes = _COUNTS.unpack_from(data)
    at = _COUNTS.size

    def text(num_bytes: int, count: int) -> tuple[str, ...]:
        nonlocal at
        joined = str(data[at : at + num_bytes], "utf-8", "surrogateescape")
        at += num_bytes
        texts = tuple(joined.split("\0")) if count else ()
        if len(texts) != count or at > len(data):
            msg = f"{count} texts were expected, found {len(texts)}"
            raise ValueError(msg)
        return texts

    def column(count: int) -> npt.NDArray[Any]:
        nonlocal at
        dtype = _WIDTHS.get(data[at] if at < len(data) else 0)
        if dtype is None or at + 1 + count * dtype.itemsize > len(data):
            msg = f"a column of {count} numbers does not fit"
            raise ValueError(msg)
        values: npt.NDArray[Any] = np.frombuffer(data, dtype, count, at + 1)
        at += 1 + count * dtype.itemsize
        return values

    keys, suffixes = text(key_bytes, samples), text(suffix_bytes, num_suffixes)
    first_member = np.zeros(samples + 1, dtype=np.int64)
    np.cumsum(column(samples), out=first_member[1:], dtype=np.int64)
    suffix_ids, offsets, sizes = column(members), column(members), column(members)
    return SampleTable(
        keys=keys,
        first_member=first_member,
        suffixes=suffixes,
        suffix_ids=suffix_ids,
        offsets_bytes=offsets,
        sizes_bytes=sizes,
        checksums=column(members) if at < len(data) else None,
    )


def make_entry(size: int, mtime_ns: int, table: SampleTable, blob: bytes, *, offset: int) -> Entry:
    """The entry of a shard whose encoded table, `blob`, lies at `offset`."""
    checksums = table.checksums is not None
    return Entry(size, mtime_ns, len(table), table.digest, checksums, offset, len(blob), _hash(blob))


def read_entries(path: Path) -> Entries:
    """What the index file at `path` says of each shard, by name; `IndexFileError` if it is broken.

    A missing or unreadable file is an `OSError`.
    """
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(_MAGIC) + _FOOTER.size:
            raise IndexFileError(_broken(path, f"{size} bytes are too few"))
        file.seek(size - _FOOTER.size)
        at, count, name_bytes, header_hash, end = _FOOTER.unpack(file.read(_FOOTER.size))
        row_bytes = count * ROW.itemsize
        if end != _END or at + row_bytes + name_bytes + _FOOTER.size != size:
            raise IndexFileError(_broken(path, "it has no footer of ours"))
        file.seek(at)
        header = file.read(row_bytes + name_bytes)
    if _hash(header) != header_hash:
        raise IndexFileError(_broken(path, "its header was damaged"))
    rows = np.frombuffer(header, ROW, count)
    names = header[row_bytes:].decode("utf-8", "surrogateescape").split("\0") if count or name_bytes else []
    if len(names) != count or len(set(names)) != count or not _possible(rows, at):
        raise IndexFileError(_broken(path, "its header says impossible things"))
    return Entries(names, rows)


def _possible(rows: npt.NDArray[np.void], tables_end: int) -> bool:
    """Whether the tables that rows speak of lie in the file, and may hold that many samples."""
    numbers = [rows[column] for column in ("size", "num_samples", "offset", "length")]
    if not len(rows):
        return True
    inside = bool((rows["offset"] <= tables_end).all()) and bool(
        (rows["length"] <= tables_end - rows["offset"]).all()
    )
    return (
        inside
        and min(int(column.min()) for column in numbers) >= 0
        and bool((numbers[1] <= numbers[3]).all())
    )


def _broken(path: Path, why: str) -> str:
    return f"{path}: not an intact index file: {why}; delete it, or run augstream index again"


def read_blob(file: BinaryIO, entry: Entry) -> bytes | None:
    """A table's bytes at the place that `entry` tells, or None if other bytes lie there now."""
    data = os.pread(file.fileno(), entry.length, entry.offset)
    return data if len(data) == entry.length and _hash(data) == entry.table_hash else None


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone; one that is there stays as it is."""
    missing = [part for part in (directory, *directory.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; `OSError` for what is none, such as a pipe, on which reading could wait for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


class IndexWriter:
    """A new index file in the making: `add` tables, then `commit` puts it at `path` in one step, or
    `discard` it.

    Raises `OSError` where the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_private(path.parent)
        _remove_stale(path)
        self._temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        self._file = self._temp.open("xb")
        self._file.write(_MAGIC)
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, size: int, mtime_ns: int, table: SampleTable) -> Entry:
        """Write one shard's table; return its entry."""
        blob = encode_table(table)
        self._entries[name] = make_entry(size, mtime_ns, table, blob, offset=self._file.tell())
        self._file.write(blob)
        return self._entries[name]

    def keep(self, path: Path, entries: Mapping[str, Entry]) -> None:
        """Copy tables from another index file; those that are not there any more are left out."""
        with contextlib.suppress(OSError), open_regular(path) as file:
            for name, entry in entries.items():
                blob = None if name in self._entries else read_blob(file, entry)
                if blob is not None:
                    self._entries[name] = entry._replace(offset=self._file.tell())
                    self._file.write(blob)

    def commit(self) -> Mapping[str, Entry]:
        """Finish the file and move it into its place, over an older one; return its entries by name."""
        rows = np.array(list(self._entries.values()), ROW).tobytes()
        names = "\0".join(self._entries).encode("utf-8", "surrogateescape")
        footer = _FOOTER.pack(self._file.tell(), len(self._entries), len(names), _hash(rows + names), _END)
        self._file.write(rows + names + footer)
        self._file.close()
        self._temp.replace(self.path)
        return self._entries

    def discard(self) -> None:
        """Remove the unfinished file; harmless after `commit`."""
        self._file.close()
        self._temp.unlink(missing_ok=True)


class TableWriter:
    """Writes tables into an index file, or keeps them in memory where it can't be written, and logs that."""

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
        """Write one shard's table; return where it is."""
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


def _remove_stale(path: Path) -> None:
    """Remove what writers that were killed have left behind."""
    for temp in _temporaries(path):
        with contextlib.suppress(OSError):
            if time.time() - temp.stat().st_mtime > _STALE_TEMP_S:
                temp.unlink()


def _temporaries(path: Path) -> Iterator[Path]:
    for found in path.parent.iterdir():
        if found.name.startswith(f".{path.name}.") and found.name.endswith(".tmp"):
            yield found
