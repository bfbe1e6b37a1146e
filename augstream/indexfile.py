"""The index file: the sample tables of the shards of one directory, as data and nothing but data.

Layout: a magic line; the tables, one after the other; a JSON header that says for each shard its name,
size, mtime, number of samples, digest, and where its table lies; a footer with the header's place and its
hash. Numbers are little endian, each column in the narrowest width that holds it; texts are UTF-8,
undecodable bytes as they were.

Every part is hashed (BLAKE2b), so that a torn, mixed up or doctored file is noticed and never believed:
reading raises `IndexFileError`, and the index is built again. Writing goes to a temporary file that is then
renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import IndexFileError, RecipeError
from .index import SampleTable

_MAGIC = b"augstream-index/1\n"
_END = b"augstream-end/1\n"
_FOOTER = struct.Struct("<QQ16s16s")  # header offset, header length, its hash, the end mark
_COUNTS = struct.Struct("<QQQQQ")  # samples, members, suffixes, bytes of keys, bytes of suffixes
_WIDTHS: dict[int, np.dtype[Any]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
_HASH_BYTES = 16
_HEX_HASH = re.compile("[0-9a-f]{32}")
_MAX_HEADER_BYTES = 1 << 30
_STALE_TEMP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What an index file says of one shard; its table lies at `offset`, `length` bytes long."""

    name: str
    size: int
    mtime_ns: int
    num_samples: int
    digest: str
    checksums: bool
    offset: int
    length: int
    table_hash: str


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


def make_entry(name: str, size: int, mtime_ns: int, table: SampleTable, blob: bytes, *, offset: int) -> Entry:
    """The entry of a shard whose encoded table, `blob`, lies at `offset`."""
    return Entry(
        name=name,
        size=size,
        mtime_ns=mtime_ns,
        num_samples=len(table),
        digest=table.digest.hex(),
        checksums=table.checksums is not None,
        offset=offset,
        length=len(blob),
        table_hash=_hash(blob).hex(),
    )


def read_entries(path: Path) -> dict[str, Entry]:
    """What the index file at `path` says of each shard, by name; `IndexFileError` if it is broken.

    A missing or unreadable file is an `OSError`.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(_MAGIC) + _FOOTER.size:
            raise IndexFileError(_broken(path, f"{size} bytes are too few"))
        file.seek(size - _FOOTER.size)
        at, length, header_hash, end = _FOOTER.unpack(file.read(_FOOTER.size))
        if end != _END or at + length + _FOOTER.size != size or length > _MAX_HEADER_BYTES:
            raise IndexFileError(_broken(path, "it has no footer of ours"))
        file.seek(at)
        header = file.read(length)
    if _hash(header) != header_hash:
        raise IndexFileError(_broken(path, "its header was damaged"))
    try:
        rows = json.loads(header)["shards"]
        entries = [Entry(**row) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IndexFileError(_broken(path, f"its header does not parse: {error}")) from error
    for entry in entries:
        _check(entry, path, at)
    return {entry.name: entry for entry in entries}


def _check(entry: Entry, path: Path, tables_end: int) -> None:
    numbers = entry.size, entry.mtime_ns, entry.num_samples, entry.offset, entry.length
    texts = entry.name, entry.digest, entry.table_hash
    if not (
        all(type(number) is int for number in numbers)
        and all(type(text) is str for text in texts)
        and entry.checksums in (True, False)
        and min(entry.size, entry.num_samples, entry.offset, entry.length) >= 0
        and entry.num_samples <= entry.length
        and entry.offset + entry.length <= tables_end
        and _HEX_HASH.fullmatch(entry.digest)
        and _HEX_HASH.fullmatch(entry.table_hash)
    ):
        raise IndexFileError(_broken(path, f"its header says impossible things of {entry.name!r}"))


def _broken(path: Path, why: str) -> str:
    return f"{path}: not an intact index file: {why}; delete it, or run augstream index again"


def read_blob(file: BinaryIO | int, entry: Entry) -> bytes | None:
    """A table's bytes at the place that `entry` tells, or None if other bytes lie there now."""
    fd = file if isinstance(file, int) else file.fileno()
    data = os.pread(fd, entry.length, entry.offset)
    return data if len(data) == entry.length and _hash(data).hex() == entry.table_hash else None


class IndexWriter:
    """A new index file in the making: `add` tables, then `commit` puts it at `path` in one step, or
    `discard` it.

    Raises `OSError` where the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        self._temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        self._file = self._temp.open("xb")
        self._file.write(_MAGIC)
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, size: int, mtime_ns: int, table: SampleTable) -> Entry:
        """Write one shard's table; return its entry."""
        blob = encode_table(table)
        entry = make_entry(name, size, mtime_ns, table, blob, offset=self._file.tell())
        self._file.write(blob)
        self._entries[name] = entry
        return entry

    def keep(self, path: Path, entries: Iterable[Entry]) -> None:
        """Copy tables from another index file; those that are not there any more are left out."""
        with contextlib.suppress(OSError), path.open("rb") as file:
            for entry in entries:
                blob = read_blob(file, entry)
                if blob is not None and entry.name not in self._entries:
                    moved = asdict(entry) | {"offset": self._file.tell()}
                    self._file.write(blob)
                    self._entries[entry.name] = Entry(**moved)

    def commit(self) -> dict[str, Entry]:
        """Finish the file and move it into its place, over an older one; return its entries by name."""
        rows = [asdict(entry) for entry in self._entries.values()]
        header = json.dumps({"version": 1, "shards": rows}, separators=(",", ":")).encode()
        at = self._file.tell()
        self._file.write(header + _FOOTER.pack(at, len(header), _hash(header), _END))
        self._file.close()
        self._temp.replace(self.path)
        return self._entries

    def discard(self) -> None:
        """Remove the unfinished file; harmless after `commit`."""
        self._file.close()
        self._temp.unlink(missing_ok=True)


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
