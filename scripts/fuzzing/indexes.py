"""Index files to break, and index files that lie with every hash in order."""

from __future__ import annotations

import os
import struct
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pictures
import tars
from hypothesis import strategies as st
from mutations import MAX_CASE_BYTES, mutated

from augstream.errors import IndexFileError
from augstream.index import SampleTable
from augstream.indexing import build_index
from augstream.shards import IndexedShards, TableStore
from augstream.sources.remote import Remote
from augstream.tars.indexfile import (
    _COUNTS,
    _END,
    _FOOTER,
    _MAGIC,
    ROW,
    _hash,
    encode_table,
    make_entry,
    read_entries,
)
from augstream.tars.scan import scan

MTIME_NS = 1_700_000_000_000_000_000
_EXTREMES = (0, 1, 512, 1024, 4096, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@cache
def shards() -> dict[str, bytes]:
    """Two small shards, by name."""
    first = tars.seeds(
        (("0.jpg", pictures.jpegs()[0]), ("0.cls", b"7"), ("1.jpg", pictures.jpegs()[1]), ("1.cls", b"8"))
    )[0]
    return {"train-0.tar": first, "train-1.tar": tars.seeds((("2.cls", b"1"), ("3.cls", b"2")))[0]}


def put_shards(place: Path) -> None:
    """Write the shards into a directory, with the time that the index files know."""
    for name, data in shards().items():
        (place / name).write_bytes(data)
        os.utime(place / name, ns=(MTIME_NS, MTIME_NS))


@cache
def tables(*, checksums: bool = False) -> dict[str, SampleTable]:
    return {
        name: scan(lambda at, length, data=data: data[at : at + length], len(data), name, checksums=checksums)
        for name, data in shards().items()
    }


@cache
def in_memory() -> IndexedShards:
    """The index of the shards, of no file."""
    places: list[Any] = []
    for name, table in tables().items():
        blob = encode_table(table)
        places.append((make_entry(len(shards()[name]), MTIME_NS, table, blob, offset=0), blob))
    return IndexedShards(
        names=tuple(shards()),
        urls=tuple(shards()),
        num_samples=np.array([len(table) for table in tables().values()]),
        sizes_bytes=np.array([len(data) for data in shards().values()]),
        digests=tuple(table.digest for table in tables().values()),
        store=TableStore.of(places, Remote()),
    )


def true_fingerprint() -> str:
    return in_memory().fingerprint


def is_intact(path: Path) -> bool:
    """Whether the file's hashes hold, so that it may be believed."""
    try:
        read_entries(path)
    except IndexFileError:
        return False
    return True


@cache
def seeds() -> list[bytes]:
    """Index files as `augstream index` writes them, with and without checksums."""
    found = []
    for checksums in (False, True):
        with tempfile.TemporaryDirectory() as directory:
            put_shards(Path(directory))
            build_index(directory, beside=True, checksums=checksums)
            found.append((Path(directory) / "augstream.index").read_bytes())
    return found


def hashed(
    blobs: list[bytes], names: bytes, num_samples: list[int], digests: list[bytes], *, checksums: bool
) -> bytes:
    """An index file of any tables, in which every hash is right."""
    rows, at = [], len(_MAGIC)
    sizes = [len(data) for data in shards().values()]
    for i, blob in enumerate(blobs):
        rows.append(
            (
                sizes[i % 2],
                MTIME_NS,
                num_samples[i] & (2**63 - 1),
                digests[i],
                checksums,
                at,
                len(blob),
                _hash(blob),
            )
        )
        at += len(blob)
    header = np.array(rows, ROW).tobytes() + names
    footer = _FOOTER.pack(at, len(rows), len(names), _hash(header), _END)
    return _MAGIC + b"".join(blobs) + header + footer


def mutant(rng: Random) -> bytes:
    """An index file broken anywhere; mostly inside its tables, with the hashes mended."""
    if rng.random() < 0.3:
        return mutated(rng, seeds(), block=8)
    checksums = rng.random() < 0.5
    whole = tables(checksums=checksums)
    blobs = [mutated(rng, [encode_table(table)], block=8) for table in whole.values()]
    counts = [_COUNTS.unpack_from(blob.ljust(_COUNTS.size, b"\0"))[0] for blob in blobs]
    counts = [rng.choice((count, len(table))) for count, table in zip(counts, whole.values(), strict=True)]
    return hashed(
        blobs,
        "\0".join(whole).encode(),
        counts,
        [table.digest for table in whole.values()],
        checksums=checksums,
    )


def _column(values: list[int]) -> bytes:
    return b"\x08" + struct.pack(f"<{len(values)}Q", *values)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Index files whose tables say extreme things, hashed as they should be."""
    numbers = st.one_of(st.sampled_from(_EXTREMES), st.integers(0, 3000))
    blobs, counts = [], []
    for _ in range(2):
        keys = draw(st.lists(st.text("ab/.\0é", max_size=3), max_size=4, unique=True))
        steps = draw(st.lists(st.integers(0, 2), min_size=len(keys), max_size=len(keys)))
        members = sum(steps) + draw(st.sampled_from([0, 0, 0, 1]))
        columns = [steps, *[draw(st.lists(numbers, min_size=members, max_size=members)) for _ in range(2)]]
        ids = draw(st.lists(st.integers(0, 1), min_size=members, max_size=members))
        packed = "\0".join(keys).encode()
        blob = _COUNTS.pack(len(keys), members, 2, len(packed), 7) + packed + b"jpg\0cls"
        blob += b"".join(map(_column, [columns[0], ids, *columns[1:]]))
        blobs.append(blob[: MAX_CASE_BYTES // 4])
        counts.append(len(keys))
    return hashed(
        blobs,
        draw(st.sampled_from([b"train-0.tar\0train-1.tar", b"train-0.tar\0../../x", b"\0"])),
        counts,
        [bytes(16)] * 2,
        checksums=False,
    )
