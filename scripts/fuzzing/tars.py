"""Tars to break, and tars that were never whole: headers with any field, their checksums made to hold."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from functools import cache
from random import Random

from hypothesis import strategies as st
from mutations import MAX_CASE_BYTES, mutated

END = bytes(1024)
KINDS = b"01234567LKxXgSMDVNA\0 z"
NAMES = (
    b"a.jpg",
    b"a.cls",
    b"b.jpg",
    b"b.JPG",
    b"../../evil.jpg",
    b"/etc/passwd.jpg",
    b"..",
    b".",
    b"",
    b".hidden.jpg",
    b"d/",
    b"d/a.jpg",
    b"a." + b"x" * 90,
    b"\xff\xfe.jpg",
    b"a.__key__",
    b"__meta__/a.json",
    b"a\nb.jpg",
    b"a.jpg/",
    b"\xc3\xa9.png",
    b"a.b.c.d",
)
SIZES = (
    b"00000000000\0",
    b"00000000005\0",
    b"00000001000\0",
    b"77777777777\0",
    b"112402762000",
    b"-0000000001\0",
    b" 5 \0\0\0\0\0\0\0\0\0",
    b"\x80" + bytes(10) + b"\5",
    b"\x80\0\0\0" + b"\xff" * 8,
    b"\xff" * 12,
    b"\xff" * 11 + b"\xfe",
    b"9" * 12,
    bytes(12),
    b"0x10\0\0\0\0\0\0\0\0",
    b"\x80" + b"\x7f" + b"\xff" * 10,
)
PAX = (
    b"path=long/" + b"n" * 300 + b".jpg",
    b"path=../../../tmp/evil.jpg",
    b"path=",
    b"path=a\0b.jpg",
    b"size=5",
    b"size=10000000000",
    b"size=-1",
    b"size=" + b"9" * 19,
    b"size=" + b"9" * 30,
    b"GNU.sparse.major=1",
    b"GNU.sparse.map=0,1",
    b"GNU.sparse.realsize=10000000000",
    b"SCHILY.xattr.user.x=1",
    b"linkpath=/etc/passwd",
    b"hdrcharset=BINARY",
    b"mtime=1e999",
    b"comment=" + b"c" * 2000,
)


def header(
    name: bytes = b"a.jpg",
    size: bytes = SIZES[1],
    kind: bytes = b"0",
    link: bytes = b"",
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A header block of any fields, whose checksum holds."""
    block = bytearray(512)
    for at, width, field in (
        (0, 100, name),
        (100, 8, b"0000644\0"),
        (108, 8, b"0001000\0"),
        (116, 8, b"0001000\0"),
        (124, 12, size),
        (136, 12, b"00000000000\0"),
        (156, 1, kind),
        (157, 100, link),
        (257, 8, magic),
        (345, 155, prefix),
    ):
        block[at : at + min(width, len(field))] = field[:width]
    return summed(block)


def summed(block: bytearray | bytes) -> bytes:
    """The header block with the checksum that it should have."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return bytes(block[:148]) + b"%06o\0 " % total + bytes(block[156:512])


def pax_records(texts: Sequence[bytes]) -> bytes:
    """PAX records with the lengths that they should have."""
    records = b""
    for text in texts:
        length = len(text) + 3
        while len(b"%d %s\n" % (length, text)) != length:
            length = len(b"%d %s\n" % (length, text))
        records += b"%d %s\n" % (length, text)
    return records


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def extension(kind: bytes, data: bytes) -> bytes:
    return header(b"././@LongLink", b"%011o\0" % len(data), kind) + padded(data)


@cache
def seeds(members: tuple[tuple[str, bytes], ...]) -> list[bytes]:
    """The members as tars of every format, and among links, devices, directories and long names."""
    found = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            if tar_format != tarfile.USTAR_FORMAT:
                info = tarfile.TarInfo("long/" + "n" * 200 + ".cls")
                info.size, info.pax_headers = 1, {"comment": "x" * 700}
                tar.addfile(info, io.BytesIO(b"7"))
        found.append(file.getvalue()[: -(len(file.getvalue()) % 10240) or None])
    odd = b"".join(
        [
            header(b"link.jpg", SIZES[0], b"2", b"/etc/passwd"),
            header(b"hard.jpg", SIZES[1], b"1", b"a.jpg"),
            header(b"dev.jpg", SIZES[1], b"3"),
            header(b"fifo.jpg", SIZES[0], b"6"),
            header(b"d/", SIZES[0], b"5"),
            extension(b"x", pax_records(PAX[:1])),
            header(),
            padded(b"12345"),
            extension(b"L", b"l" * 300 + b".jpg\0"),
            header(),
            padded(b"12345"),
            extension(b"g", pax_records(PAX[-1:])),
            header(b"b.cls", magic=bytes(8)),
            padded(b"12345"),
        ]
    )
    return [*found, odd + END]


def mutant(rng: Random, whole: Sequence[bytes]) -> bytes:
    """A tar broken in a few places; mostly with its headers' checksums mended again, so that more is looked at."""
    tar = mutated(rng, whole, block=512, words=(*NAMES, *SIZES))
    if rng.random() < 0.3:
        return tar
    blocks = [tar[at : at + 512] for at in range(0, len(tar), 512)]
    return b"".join(
        summed(block) if block[257:262] == b"ustar" and len(block) == 512 else block for block in blocks
    )


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A tar of headers with any fields, each followed by any data."""
    parts = []
    for _ in range(draw(st.integers(1, 8))):
        kind = bytes([draw(st.sampled_from(KINDS))])
        if kind in b"xXg":
            data = pax_records(draw(st.lists(st.sampled_from(PAX), max_size=4)))
            data = draw(st.sampled_from([data, data[:-1], b"9" + data, b"0 path=\n" + data]))
        else:
            data = draw(
                st.one_of(
                    st.just(b"12345"),
                    st.binary(max_size=40),
                    st.sampled_from([b"n" * 300 + b".jpg\0", b"\xff" * 200]),
                )
            )
        size = draw(
            st.one_of(
                st.just(b"%011o\0" % len(data)), st.sampled_from(SIZES), st.binary(min_size=12, max_size=12)
            )
        )
        name = draw(st.one_of(st.sampled_from(NAMES), st.binary(max_size=100)))
        prefix = draw(st.sampled_from([b"", b"", b"p", b"../..", b"\xff" * 155]))
        magic = draw(st.sampled_from([b"ustar\x0000", b"ustar  \0", bytes(8)]))
        parts.append(
            header(name, size, kind, draw(st.sampled_from([b"", b"/etc/passwd", b"a.jpg"])), prefix, magic)
            + padded(data)
        )
    return (b"".join(parts) + draw(st.sampled_from([END, END, b"", bytes(512), END + b"x"])))[:MAX_CASE_BYTES]
