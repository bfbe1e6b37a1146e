"""Where a shard's samples lie: a walk over its tar headers, grouped as webdataset groups them.

A member's key is its directory and its base name up to the first dot; the rest, in lower case, is its
suffix. Names without a dot, hidden names, ``__meta__`` names, directories, links and devices belong to no
sample. Members of one key that follow each other are one sample.

Where webdataset delivers fragments or stops early in silence, this raises `ShardError`: members of a sample
that are not adjacent, two samples of one key, two members of one suffix, and every defect that `TarWalk`
finds.

Source of the grouping rule: webdataset, ``base_plus_ext`` and ``group_by_keys`` of ``tariterators.py``.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import NoReturn
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ..errors import TOO_MANY_FILES, ShardError, is_of_too_many_files
from ..index import SampleTable
from .walk import ReadAt, TarWalk

_log = logging.getLogger("augstream.tars.scan")

_PIECE_BYTES = 1024 * 1024
_SPLIT = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_RESERVED = re.compile(r"__.+__")
_META = re.compile(r"__[^/]*__($|/)")


def split_name(name: str) -> tuple[str, str] | None:
    """Return (key, suffix) of a member's name as webdataset would, or None if it belongs to no sample.

    >>> split_name("train/0001.seg.PNG"), split_name("README"), split_name("__meta__/a.json")
    (('train/0001', 'seg.png'), None, None)
    """
    if name.startswith("__") and _META.match(name):
        return None
    match = _SPLIT.match(name)
    return None if match is None else (match[1], match[2].lower())


def open_shard(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Open a local shard; return (file descriptor, size in bytes, mtime in ns), or raise `ShardError`.

    Never waits: a pipe or a device is refused.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        mend = TOO_MANY_FILES if is_of_too_many_files(error) else "check the path and its permissions"
        msg = f"{path}: the shard cannot be opened: {error.strerror}; {mend}"
        raise ShardError(msg) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        msg = f"{path}: a shard must be a regular file, and this is a directory, a pipe or a device"
        raise ShardError(msg)
    return fd, status.st_size, status.st_mtime_ns


def scan_file(
    path: str | os.PathLike[str], *, name: str | None = None, checksums: bool = False
) -> tuple[SampleTable, int, int]:
    """Walk over a local tar once; return its sample table, its size in bytes, and its mtime in ns.

    name: what messages call it, if not by its path. checksums: read the members too, and record each one's CRC-32.
    Raises `ShardError` for a file that is missing, broken, or changed meanwhile.
    """
    name = str(path) if name is None else name
    fd, size, mtime_ns = open_shard(path)
    try:
        table = scan(lambda at, length: os.pread(fd, length, at), size, name, checksums=checksums)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if (after.st_size, after.st_mtime_ns) != (size, mtime_ns):
        msg = f"{name}: the shard was written to while it was indexed; index it when its writer is done"
        raise ShardError(msg)
    return table, size, mtime_ns


def scan(read_at: ReadAt, size_bytes: int, name: str, *, checksums: bool = False) -> SampleTable:
    """Return the sample table of the tar of `size_bytes` behind ``read_at(offset, length)``.

    `name` is for messages. Raises `ShardError` for every defect.
    """
    walk = TarWalk(read_at, size_bytes, name)
    keys: dict[str, int] = {}  # key -> offset of its first header
    suffixes: dict[str, int] = {}
    first_member, offsets, sizes, suffix_ids = array("q"), array("q"), array("q"), array("i")
    key = None
    in_sample: dict[str, int] = {}  # suffix -> offset of its header
    for member_name, header_at, data_at, size in walk.members():
        parts = split_name(member_name)
        if parts is None:
            walk.skipped["member outside of any sample"] += 1
            continue
        if parts[0] != key:
            key = parts[0]
            if key in keys:
                _refuse_key(name, key, keys[key], header_at)
            keys[key] = header_at
            first_member.append(len(offsets))
            in_sample = {}
        suffix = parts[1]
        if suffix in in_sample or (suffix.startswith("__") and _RESERVED.fullmatch(suffix)):
            _refuse_suffix(name, key, suffix, in_sample.get(suffix), header_at)
        in_sample[suffix] = header_at
        suffix_ids.append(suffixes.setdefault(suffix, len(suffixes)))
        offsets.append(data_at)
        sizes.append(size)
    first_member.append(len(offsets))
    _report(name, walk.skipped, len(keys))
    return SampleTable(
        keys=tuple(keys),
        first_member=np.array(first_member, dtype=np.int64),
        suffixes=tuple(suffixes),
        suffix_ids=np.array(suffix_ids, dtype=np.int32),
        offsets_bytes=np.array(offsets, dtype=np.int64),
        sizes_bytes=np.array(sizes, dtype=np.int64),
        checksums=_checksums(read_at, name, offsets, sizes) if checksums else None,
    )


def _refuse_key(name: str, key: str, first: int, again: int) -> NoReturn:
    msg = (
        f"{name}: sample {key!r} starts at offset {first} and again at offset {again}: two samples share a "
        "key, or one's members are not adjacent; write the tar with distinct keys, sorted (tar --sort=name)"
    )
    raise ShardError(msg)


def _refuse_suffix(name: str, key: str, suffix: str, first: int | None, again: int) -> NoReturn:
    if first is None:
        msg = f"{name}: member {suffix!r} of sample {key!r} at offset {again}: __names__ are reserved"
    else:
        msg = (
            f"{name}: sample {key!r} has two members {suffix!r}, at offsets {first} and {again} "
            "(suffixes are compared in lower case); rename or remove one"
        )
    raise ShardError(msg)


def _report(name: str, skipped: Counter[str], num_samples: int) -> None:
    """Log what belongs to no sample: links in particular are easily taken for files."""
    if skipped:
        counted = ", ".join(f"{count} x {kind}" for kind, count in sorted(skipped.items()))
        odd = any("link" in kind or "type" in kind for kind in skipped)
        _log.log(logging.WARNING if odd else logging.DEBUG, "%s: skipped %s", name, counted)
    if not num_samples:
        _log.warning("%s: the archive is well-formed but holds no sample", name)


def _checksums(
    read_at: ReadAt, name: str, offsets: Iterable[int], sizes: Iterable[int]
) -> npt.NDArray[np.uint32]:
    """CRC-32 of each member, read in pieces of bounded size."""
    found = array("I")
    for offset, size in zip(offsets, sizes, strict=True):
        checksum, at, end = 0, offset, offset + size
        while at < end:
            piece = read_at(at, min(end - at, _PIECE_BYTES))
            if not piece:
                msg = f"{name}: at offset {at}: the file ends here, though it was longer when it was opened"
                raise ShardError(msg)
            checksum = crc32(piece, checksum)
            at += len(piece)
        found.append(checksum)
    return np.array(found, dtype=np.uint32)
