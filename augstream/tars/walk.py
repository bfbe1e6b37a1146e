"""One walk over a tar's headers: every regular member with its place, and every defect with its offset.

No member's data is read. ``ustar`` (with prefix), old V7, GNU long names and PAX headers are understood,
sizes in octal, base-256 or PAX; every header's checksum is verified. Names come out as Python's ``tarfile``
gives them.

Other readers take whatever looks like the end for the end. Here an archive is complete only if its
end-of-archive block is there, and nothing but zeros after it. Work and memory are bounded by the size of
the file, whatever sizes its headers claim. Sparse members, continued volumes and compressed archives are
refused.

Sources: POSIX.1-2024, pax (ustar and pax interchange formats); the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn
from zlib import adler32

import numpy as np

from ..errors import ShardError

BLOCK_BYTES = 512
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_FAR_BYTES = 256 * 1024  # read ahead this much while members are small,
_NEAR_BYTES = 8 * 1024  # and this much, enough for the headers of a few small ones, after a large one
_LARGE_JUMP_BYTES = 16 * 1024
_MAX_EXTENSION_BYTES = 1024 * 1024  # a long name or PAX header; real ones are a few hundred bytes
_MAX_TRAILER_BYTES = 1024 * 1024  # how far behind the end-of-archive block stray data is looked for
_ADLER_MODULUS = 65521

_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")
_REGULAR = b"0", b"\0", b"7"
_EXTENSIONS = b"L", b"K", b"x", b"X"
_NO_DATA = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}
_REFUSED = {b"S": "a sparse file", b"M": "a file continued from another volume"}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

ReadAt = Callable[[int, int], bytes]
"""``read_at(offset, length)`` gives that many bytes from there, fewer only before the end of the file."""


def padded(num_bytes: int) -> int:
    """The next multiple of the block size: where the header after this much of a tar starts."""
    return (num_bytes + BLOCK_BYTES - 1) & -BLOCK_BYTES


class Member(NamedTuple):
    """A regular file in a tar: its name, where its header and its data start, and its length, in bytes."""

    name: str
    header_at: int
    data_at: int
    size: int


class TarWalk:
    """A walk over the `size_bytes` of a tar behind `read_at`; `name` is for messages.

    `members` may be called once. `skipped` counts, by kind, what it passed over.
    """

    def __init__(self, read_at: ReadAt, size_bytes: int, name: str) -> None:
        self._read_at = read_at
        self._size = size_bytes
        self._name = name
        self._start = 0  # the window of the file that is in memory
        self._window = b""
        self.skipped: Counter[str] = Counter()

    def members(self, at: int = 0) -> Iterator[Member]:
        """Yield the regular members from the header at `at` on, in order; raise `ShardError` at the first defect."""
        if at == 0:
            self._check_start()
        while True:
            header_at = at
            block = self._block(at)
            if block[0] == 0 and block == _ZERO_BLOCK:
                return self._check_trailer(at + BLOCK_BYTES)
            kind, name, size = self._header(block, at)
            data_at = at + BLOCK_BYTES
            if kind in _EXTENSIONS:
                kind, name, size, data_at = self._extended(kind, size, data_at)
            if kind in _NO_DATA:
                self.skipped[_NO_DATA[kind]] += 1
                size = 0
            at = padded(data_at + size)
            if at > self._size:
                self._fail_data(name, header_at, data_at, size)
            if kind in _REGULAR:
                yield Member(name, header_at, data_at, size)
            elif kind == b"g":
                self._check_global(data_at, size)
            elif kind not in _NO_DATA:
                self.skipped[f"member of unknown type {kind!r}"] += 1

    def _check_start(self) -> None:
        if self._size == 0:
            self._fail(0, "the file is empty (0 bytes); remove it, or write the shard again")
        start = self._read_at(0, 8)
        for magic, method in _COMPRESSED.items():
            if start.startswith(magic):
                what = f"compressed with {method}, which cannot be read by offset"
                self._fail(0, f"{what}; decompress the shard first")

    def _block(self, at: int, length: int = BLOCK_BYTES) -> bytes:
        """Bytes [at, at + length) of the file, through a window that is read ahead."""
        begin = at - self._start
        block = self._window[begin : begin + length]
        if len(block) == length:
            return block
        if at + length > self._size:
            self._fail_header(at, length)
        jump = begin - len(self._window)
        wanted = max(length, _NEAR_BYTES if jump > _LARGE_JUMP_BYTES else _FAR_BYTES)
        window = self._read_at(at, wanted)
        while len(window) < length:
            more = self._read_at(at + len(window), wanted - len(window))
            if not more:
                self._fail(at + len(window), "the file ends here, though it was longer when it was opened")
            window += more
        self._start, self._window = at, window
        return window[:length]

    def _header(self, block: bytes, at: int) -> tuple[bytes, str, int]:
        """Type, name and size of a header block, its checksum verified."""
        if not _checksum_holds(block):
            what = "garbage where a member's header was expected (bad checksum)" if at else "not a tar file"
            self._fail(at, f"{what}; the shard is corrupt, fetch or write it again")
        kind = block[156:157]
        if kind in _REFUSED:
            what = f"{_REFUSED[kind]} is not supported"
            self._fail(at, f"{what}; write the shard with plain members (tar without -S or -M)")
        end = block.find(b"\0", 0, 100)
        name = _text(block[: end if end >= 0 else 100])
        if kind == b"\0" and name.endswith("/"):  # how V7 archives spell a directory
            kind = b"5"
        if block[345] and kind not in (b"L", b"K"):
            name = _text(block[345:500].split(b"\0", 1)[0]) + "/" + name
        try:
            return kind, name, _number(block[124:136])
        except ValueError:
            self._fail(at, f"member {name!r} has the size {block[124:136]!r}, not a number of 0 or more")

    def _extended(self, kind: bytes, size: int, data_at: int) -> tuple[bytes, str, int, int]:
        """Type, name, size and data offset of the member that one or more extension headers speak of."""
        path: str | None = None
        long_size: int | None = None
        name = ""
        while kind in _EXTENSIONS:
            said_path, said_size = self._extension(kind, data_at, size)
            # Of several, the first counts, as in tarfile.
            path = said_path if path is None else path
            long_size = said_size if long_size is None else long_size
            at = padded(data_at + size)
            block = self._block(at)
            if block == _ZERO_BLOCK:
                self._fail(at, "an extension header is followed by the end of the archive, not by its member")
            kind, name, size = self._header(block, at)
            data_at = at + BLOCK_BYTES
        return kind, name if path is None else path, size if long_size is None else long_size, data_at

    def _extension(self, kind: bytes, data_at: int, size: int) -> tuple[str | None, int | None]:
        """The path and the size that an extension gives the member to come; None where it says nothing."""
        data = self._extension_data(data_at, size)
        if kind == b"L":
            return _text(data.split(b"\0", 1)[0]), None
        if kind == b"K":
            return None, None
        records = self._pax_records(data, data_at)
        path, length = records.get(b"path"), records.get(b"size")
        if length is not None and not (length.isdigit() and len(length) < 20):
            self._fail(data_at, f"a PAX header gives the size {length[:40]!r}, not a number of 0 or more")
        return None if path is None else _text(path).rstrip("/"), None if length is None else int(length)

    def _check_global(self, data_at: int, size: int) -> None:
        records = self._pax_records(self._extension_data(data_at, size), data_at)
        if b"path" in records or b"size" in records:
            what = "a global PAX header gives all members one path or size"
            self._fail(data_at, f"{what}; write the shard again")

    def _extension_data(self, data_at: int, size: int) -> bytes:
        if size > _MAX_EXTENSION_BYTES:
            what = f"an extension header claims {size} bytes, over the limit of {_MAX_EXTENSION_BYTES}"
            self._fail(data_at - BLOCK_BYTES, what)
        return self._block(data_at, size) if size else b""

    def _pax_records(self, data: bytes, data_at: int) -> dict[bytes, bytes]:
        """The records of a PAX header, each ``"<its length> <keyword>=<value>\\n"``."""
        records: dict[bytes, bytes] = {}
        at = 0
        while at < len(data) and data[at]:
            match = _PAX_RECORD.match(data, at)
            end = at + int(match[1]) if match else 0
            if match is None or end <= match.end() or end > len(data) or data[end - 1] != 0x0A:
                self._fail(data_at + at, "a broken record in a PAX header; fetch or write the shard again")
            if match[2] == b"path" and b"\0" in data[at:end]:
                self._fail(data_at + at, "a name with a zero byte; fetch or write the shard again")
            if match[2].startswith(b"GNU.sparse."):
                self._fail(data_at, "a sparse file is not supported; write the shard with tar without -S")
            records[match[2]] = data[match.end() : end - 1]
            at = end
        return records

    def _check_trailer(self, at: int) -> None:
        """Fail unless only zeros follow the end-of-archive block, as far as it is worth looking."""
        end = min(self._size, at + _MAX_TRAILER_BYTES)
        while at < end:
            piece = self._read_at(at, min(end - at, _FAR_BYTES))
            stray = len(piece) - len(piece.lstrip(b"\0"))
            if stray < len(piece):
                what = "data follows the end-of-archive block: zeros amid a tar, or two tars joined by cat?"
                self._fail(at + stray, f"{what} write the shard again, or join with tar --concatenate")
            if not piece:
                return
            at += len(piece)

    def _fail(self, at: int, what: str) -> NoReturn:
        msg = f"{self._name}: at offset {at}: {what}"
        raise ShardError(msg)

    def _fail_header(self, at: int, length: int) -> NoReturn:
        if at == self._size:
            what = (
                "the file ends at a member's boundary, without the end-of-archive block of zeros: truncated, "
                "or its writer was never closed; fetch or write the shard again "
                "(if you know it to be complete: truncate -s +1024 SHARD)"
            )
        else:
            left = max(0, self._size - at)
            what = f"truncated: {length} bytes of header were expected, the file ends after {left}"
            what = f"{what}; fetch or write the shard again"
        self._fail(at, what)

    def _fail_data(self, name: str, header_at: int, data_at: int, size: int) -> NoReturn:
        left = max(0, self._size - data_at)
        what = f"truncated: member {name[:200]!r} needs {size} bytes of data, padded to whole blocks of 512"
        self._fail(header_at, f"{what}; the file ends after {left} of them; fetch or write the shard again")


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """A header's number: octal text, or base-256 with the top bit set; ValueError if neither, or negative."""
    digits = field.rstrip(b"\0 ")
    if digits.isdigit():  # nearly always
        return int(digits, 8)
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.isdigit():
        return int(digits, 8)
    if digits:
        raise ValueError(digits)
    return 0


def _checksum_holds(block: bytes) -> bool:
    """Whether a header's checksum is the sum of its bytes, its own field counted as spaces."""
    field = block[148:156]
    try:
        claimed = _number(field)
    except ValueError:
        return False
    # adler32's low half is 1 + the sum of the bytes, modulo a prime: the sum at the speed of C.
    if ((adler32(block) & 0xFFFF) - 1 - sum(field) + 256 - claimed) % _ADLER_MODULUS == 0:
        return True
    signed = np.frombuffer(block, np.int8).astype(np.int64)  # some old writers take bytes as signed
    return claimed == int(signed.sum() - signed[148:156].sum()) + 256
