"""The header walk against two oracles, webdataset and tarfile, and against every way a tar can be broken."""

import io
import logging
import os
import re
import subprocess
import tarfile
import tracemalloc
import zlib
from collections import Counter

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from augstream.errors import ShardError
from augstream.tars.scan import scan, scan_file, split_name

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_of(members, tar_format=tarfile.GNU_FORMAT, **options) -> bytes:
    """A tar of (name, data) pairs; data that is a str is the type of a member without data."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format, **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data.encode(), "target/" * 20
                tar.addfile(info)
    return file.getvalue()


def scan_bytes(tar: bytes, **options):
    return scan(lambda at, length: tar[at : at + length], len(tar), "x.tar", **options)


def contents(tar: bytes, table) -> list[tuple[str, str, bytes]]:
    """(key, suffix, data) of every member of every sample, in order."""
    return [
        (key, suffix, tar[at : at + size])
        for i, key in enumerate(table.keys)
        for suffix, at, size in table.members(i)
    ]


def webdataset_contents(tar: bytes) -> list[tuple[str, str, bytes]]:
    files = tar_file_expander([{"url": "x.tar", "stream": io.BytesIO(tar)}])
    return [
        (s["__key__"], suffix, s[suffix])
        for s in group_by_keys(files)
        for suffix in s
        if suffix not in {"__key__", "__url__"}
    ]


SAMPLES = [
    (f"{key}.{suffix}", bytes([i]) * size)
    for i, key in enumerate(["train/a", "train/b", "train/c"])
    for suffix, size in (("jpg", 700), ("cls", 1), ("seg.PNG", 512), ("txt", 0))
]


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
def test_a_plain_shard(tar_format):
    tar = tar_of(SAMPLES, tar_format)
    table = scan_bytes(tar)
    assert table.keys == ("train/a", "train/b", "train/c")
    assert table.suffixes == ("jpg", "cls", "seg.png", "txt")
    assert [suffix for suffix, _, _ in table.members(1)] == ["jpg", "cls", "seg.png", "txt"]
    assert contents(tar, table) == webdataset_contents(tar)
    assert [data for _, _, data in contents(tar, table)] == [data for _, data in SAMPLES]


words = st.text("ab.A_é/", min_size=1, max_size=8)
names = (
    st.tuples(words, st.sampled_from(["jpg", "JPG", "seg.png", "cls", "", "a b", "x" * 120])).map(".".join)
    | words
    | st.tuples(st.sampled_from(["d" * 90, "e/" * 60, "ü" * 70, "__x__/", "./", "a.b/"]), words).map("/".join)
)


@pytest.mark.sweep
@settings(max_examples=300)
@given(
    st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=12),
    st.lists(st.tuples(names, st.sampled_from("123456"), st.integers(0, 12)), max_size=3),
    st.sampled_from(["gnu", "pax"]),
    st.booleans(),
)
def test_any_names_group_as_in_webdataset(files, others, tar_format, in_order):
    mixed = sorted(files, key=lambda file: split_name(file[0]) or ("", "")) if in_order else list(files)
    for name, kind, at in others:
        mixed.insert(at, (name, kind))
    tar = tar_of(mixed, FORMATS[tar_format])
    try:
        expected = webdataset_contents(tar)
    except ValueError:  # it found a duplicate file name
        expected = None
    keys = [key for key, _, _ in expected or []]
    runs = [key for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key]
    reserved = any(re.fullmatch("__.+__", suffix) for _, suffix, _ in expected or [])
    if expected is None or reserved or len(set(runs)) < len(runs):
        with pytest.raises(ShardError, match=r"two members|two samples|reserved"):
            scan_bytes(tar)
    else:
        assert contents(tar, scan_bytes(tar)) == expected


@given(st.text("ab._/\n", max_size=12))
def test_names_split_as_in_webdataset(name):
    key, suffix = base_plus_ext(name)
    meta = name.startswith("__") and tar_of_meta(name)
    assert split_name(name) == (None if meta or key is None else (key, suffix.lower()))


def tar_of_meta(name: str) -> bool:
    return not webdataset_contents(tar_of([(name, b"")])) and base_plus_ext(name)[0] is not None


def test_other_writers(tmp_path):
    for name, data in SAMPLES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for option in ("gnu", "pax", "ustar", "v7", "oldgnu"):
        subprocess.run(
            ["tar", "--format", option, "--sort=name", "-cf", "x.tar", "train"], cwd=tmp_path, check=True
        )
        tar = (tmp_path / "x.tar").read_bytes()
        table = scan_bytes(tar)
        assert contents(tar, table) == webdataset_contents(tar)
        assert Counter(contents(tar, table)) == Counter((*split_name(name), data) for name, data in SAMPLES)
    with wds.TarWriter(str(tmp_path / "w.tar")) as writer:
        for i in range(5):
            writer.write({"__key__": f"{i:09d}", "jpg": bytes(i), "txt": "text", "json": {"i": i}})
    tar = (tmp_path / "w.tar").read_bytes()
    assert contents(tar, scan_bytes(tar)) == webdataset_contents(tar)
    assert len(scan_bytes(tar)) == 5


# Single headers, made by hand.


def header(
    name: bytes, size: bytes | int, kind: bytes = b"0", prefix: bytes = b"", signed: bool = False
) -> bytes:
    """A ustar header with a true checksum."""
    size = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:124] = b"0000644 0000000 0000000 ".replace(b" ", bytes(1))
    block[124:136] = size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[345 : 345 + len(prefix)] = prefix
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)


def record(keyword: bytes, value: bytes) -> bytes:
    length = len(keyword) + len(value) + 3
    while len(b"%d" % length) + len(keyword) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(keyword) + len(value) + 3
    return b"%d %s=%s\n" % (length, keyword, value)


def pax(data: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", len(data), kind) + padded(data)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return header(b"././@LongLink", len(name) + 1, kind) + padded(name + b"\0")


DATA = padded(b"data")


@pytest.mark.parametrize(
    ("tar", "expected"),
    [
        (header(b"a.jpg", 4) + DATA, ["a.jpg"]),
        (header(b"a.jpg", 4, b"\0") + DATA, ["a.jpg"]),
        (header(b"a.jpg", 4, b"7") + DATA, ["a.jpg"]),
        (header(b"a.jpg", b"\x80" + (4).to_bytes(11, "big")) + DATA, ["a.jpg"]),
        (header(b"a.jpg", b"          4\0") + DATA, ["a.jpg"]),
        (header(b"a.jpg", b"4 \0rubbish  ") + DATA, ["a.jpg"]),
        (header("ä.jpg".encode(), 4, signed=True) + DATA, ["ä.jpg"]),
        (header(b"\xff.jpg", 4) + DATA, ["\udcff.jpg"]),
        (header(b"a.jpg", 4, prefix=b"some/dir") + DATA, ["some/dir/a.jpg"]),
        (header(b"x" * 96 + b".jpg", 4) + DATA, ["x" * 96 + ".jpg"]),
        (header(b"a.d/", 4, b"\0") + header(b"b.jpg", 4) + DATA, ["b.jpg"]),  # a V7 directory
        (long_name(b"n" * 200 + b".jpg") + header(b"n" * 100, 4) + DATA, ["n" * 200 + ".jpg"]),
        (long_name(b"l" * 200, b"K") + long_name(b"n.jpg") + header(b"m", 4) + DATA, ["n.jpg"]),
        (pax(record(b"path", b"p/q.jpg")) + header(b"m.txt", 4) + DATA, ["p/q.jpg"]),
        (pax(record(b"path", b"p/q.jpg"), b"X") + header(b"m.txt", 4) + DATA, ["p/q.jpg"]),
        (pax(record(b"size", b"4") + record(b"mtime", b"1.5")) + header(b"m.txt", 0) + DATA, ["m.txt"]),
        (pax(record(b"comment", b"c"), b"g") + header(b"m.txt", 4) + DATA, ["m.txt"]),
        (pax(b"") + header(b"m.txt", 4) + DATA, ["m.txt"]),
        (pax(record(b"path", b"1.jpg")) + pax(record(b"path", b"2.jpg")) + header(b"m", 4) + DATA, ["1.jpg"]),
        (pax(record(b"path", b"1.jpg")) + long_name(b"2.jpg") + header(b"m", 4) + DATA, ["1.jpg"]),
        (long_name(b"2.jpg") + pax(record(b"path", b"1.jpg")) + header(b"m", 4) + DATA, ["2.jpg"]),
        (header(b"a.jpg", 4, b"V") + DATA + header(b"b.jpg", 4) + DATA, ["b.jpg"]),  # an unknown type
        (header(b"a.jpg", 4, b"5") + header(b"b.jpg", 4) + DATA, ["b.jpg"]),  # a directory with a size
        (header(b"../../etc/pass.wd", 4) + DATA, ["../../etc/pass.wd"]),  # a name is no path here
    ],
)
def test_headers_of_all_kinds(tar, expected):
    tar += END
    found = contents(tar, scan_bytes(tar))
    assert [f"{key}.{suffix}" for key, suffix, _ in found] == expected
    assert {data for _, _, data in found} == {b"data"}
    with tarfile.open(fileobj=io.BytesIO(tar)) as oracle:
        assert [m.name for m in oracle if m.isreg()] == expected
    assert webdataset_contents(tar) == found


GOOD = header(b"a.jpg", 4) + DATA


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (b"", "offset 0: the file is empty"),
        (b"\x1f\x8b\x08" + bytes(50), "offset 0: compressed with gzip.*decompress"),
        (b"BZh9" + bytes(50), "compressed with bzip2"),
        (b"\xfd7zXZ\0" + bytes(50), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "compressed with zstd"),
        (b"<html>404</html>" + bytes(600), "offset 0: not a tar file"),
        (b"short", "offset 0: truncated: 512 bytes of header were expected, the file ends after 5"),
        (GOOD, "offset 1024: .* without the end-of-archive block"),
        (GOOD + b"\0" * 511, "offset 1024: truncated"),
        (GOOD + b"garbage!" * 64 + GOOD + END, "offset 1024: garbage .*bad checksum"),
        (GOOD + GOOD + END, "sample 'a' has two members 'jpg', at offsets 0 and 1024"),
        (GOOD + header(b"a.JPG", 4) + DATA + END, "two members 'jpg'"),
        (
            GOOD + header(b"b.jpg", 4) + DATA + header(b"a.txt", 4) + DATA + END,
            "sample 'a' starts at offset 0 and again at offset 2048",
        ),
        (
            GOOD + bytes(512) + header(b"b.jpg", 4) + DATA + END,
            "offset 1536: data follows the end-of-archive",
        ),
        (GOOD + END + GOOD + END, "offset 2048: data follows the end-of-archive"),
        (GOOD + END + bytes(9000) + b"x", "offset 11048: data follows the end-of-archive"),
        (
            header(b"a.jpg", 10 * 2**30) + DATA + END,
            "offset 0: truncated: member 'a.jpg' needs 10737418240 bytes",
        ),
        (header(b"a.jpg", b"\x80" + b"\xff" * 11) + DATA + END, "truncated: member"),
        (header(b"a.jpg", b"\xff" * 12) + DATA + END, "has the size"),
        (header(b"a.jpg", b"-0000000004\0") + DATA + END, "has the size"),
        (header(b"a.jpg", b"00000_00004\0") + DATA + END, "has the size"),
        (header(b"a.jpg", b"00000000009\0") + DATA + END, "has the size"),
        (header(b"a.jpg", b"0x000000004\0") + DATA + END, "has the size"),
        (header(b"a.jpg", 4, b"S") + DATA + END, "sparse file is not supported"),
        (header(b"a.jpg", 4, b"M") + DATA + END, "another volume is not supported"),
        (pax(record(b"GNU.sparse.major", b"1")) + GOOD + END, "sparse file is not supported"),
        (pax(record(b"size", b"-4")) + GOOD + END, "gives the size b'-4'"),
        (pax(record(b"size", b"9" * 30)) + GOOD + END, "gives the size"),
        (pax(record(b"size", b"9" * 18)) + GOOD + END, "truncated: member"),
        (pax(record(b"path", b"a\0b.jpg")) + GOOD + END, "zero byte"),
        (pax(record(b"path", b"b.jpg"), b"g") + GOOD + END, "global PAX header"),
        (pax(record(b"size", b"4"), b"g") + GOOD + END, "global PAX header"),
        (pax(b"0 path=b\n") + GOOD + END, "offset 512: a broken record"),
        (pax(b"99 path=b\n") + GOOD + END, "offset 512: a broken record"),
        (pax(b"3 path=b\n") + GOOD + END, "offset 512: a broken record"),
        (pax(b"9 path=bbb") + GOOD + END, "offset 512: a broken record"),
        (pax(b"path=b\n") + GOOD + END, "offset 512: a broken record"),
        (pax(record(b"path", b"b.jpg")) + END, "followed by the end of the archive"),
        (pax(record(b"path", b"b.jpg")), "without the end-of-archive block"),
        (
            header(b"p", 2 * 2**20, b"x") + bytes(2 * 2**20) + GOOD + END,
            "extension header claims 2097152 bytes",
        ),
        (header(b"p", 2**33, b"L") + GOOD + END, "extension header claims 8589934592 bytes"),
        (header(b"p", 9999, b"L") + GOOD + END, "truncated"),
        (header(b"a.__key__", 4) + DATA + END, "__names__ are reserved"),
    ],
)
def test_defects_are_errors_with_their_offset(tar, message):
    with pytest.raises(ShardError, match=message) as caught:
        scan_bytes(tar)
    assert str(caught.value).startswith("x.tar: ")


SMALL = tar_of(SAMPLES[:6])


def test_every_cut_is_detected_or_harmless():
    whole = contents(SMALL, scan_bytes(SMALL))
    last = max(at + size for _, at, size in scan_bytes(SMALL).members(1))
    end_of_archive = -(-last // 512) * 512 + 512
    for cut in range(len(SMALL) + 1):
        try:
            table = scan_bytes(SMALL[:cut])
        except ShardError:
            assert cut < end_of_archive
            continue
        assert cut >= end_of_archive
        assert contents(SMALL, table) == whole


def test_every_flipped_bit_of_a_header_is_detected_or_harmless():
    table = scan_bytes(SMALL)
    headers = [at - 512 for i in range(2) for _, at, _ in table.members(i)]
    detected = 0
    for at in headers:
        for byte in range(512):
            for bit in (0, 3, 7):
                flipped = bytearray(SMALL)
                flipped[at + byte] ^= 1 << bit
                try:
                    found = scan_bytes(bytes(flipped))
                except ShardError:
                    detected += 1
                else:  # the checksum's own padding
                    assert 148 <= byte < 156
                    assert contents(SMALL, found) == contents(SMALL, table)
    assert detected > 3 * 500 * len(headers)


def test_zeroed_blocks_are_detected():
    for at in range(0, len(SMALL) - 512, 512):
        zeroed = SMALL[:at] + bytes(512) + SMALL[at + 512 :]
        try:
            table = scan_bytes(zeroed)
        except ShardError:
            continue
        assert [m[0] for m in contents(zeroed, table)] == [m[0] for m in contents(SMALL, scan_bytes(SMALL))]


@pytest.mark.sweep
@settings(max_examples=500)
@given(st.data())
def test_shuffled_duplicated_and_overwritten_blocks_never_hang_or_crash(data):
    blocks = [SMALL[at : at + 512] for at in range(0, len(SMALL), 512)]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blocks) - 1))
        action = data.draw(st.sampled_from(["drop", "repeat", "swap", "write", "zero"]))
        if action == "drop":
            del blocks[at]
        elif action == "repeat":
            blocks.insert(at, blocks[at])
        elif action == "swap":
            other = data.draw(st.integers(0, len(blocks) - 1))
            blocks[at], blocks[other] = blocks[other], blocks[at]
        elif action == "zero":
            blocks[at] = bytes(512)
        else:
            blocks[at] = data.draw(st.binary(min_size=512, max_size=512))
        if not blocks:
            break
    tar = b"".join(blocks)
    try:
        table = scan_bytes(tar)
    except ShardError:
        return
    assert all(at + size <= len(tar) for i in range(len(table)) for _, at, size in table.members(i))


def test_work_and_memory_are_bounded_by_the_file():
    claims = [
        header(b"a.jpg", 2**40) + END,
        header(b"p", 2**30, b"x") + END,
        pax(record(b"size", b"9" * 18)) + GOOD,
    ]
    chain = pax(record(b"path", b"q" * 1000 + b".jpg")) * 2000 + GOOD + END
    tracemalloc.start()
    for tar in claims:
        with pytest.raises(ShardError):
            scan_bytes(tar)
    assert scan_bytes(chain).keys == ("q" * 1000,)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(chain) + 5_000_000


def test_large_members_are_not_read():
    tar = tar_of(
        [
            (f"{i:04d}.{suffix}", bytes(size))
            for i in range(50)
            for suffix, size in (("jpg", 100_000), ("cls", 1))
        ]
    )
    read = 0

    def read_at(at: int, length: int) -> bytes:
        nonlocal read
        piece = tar[at : at + length]
        read += len(piece)
        return piece

    assert len(scan(read_at, len(tar), "x.tar")) == 50
    assert read < len(tar) / 5


def test_short_reads_are_completed_and_a_shrinking_file_is_an_error():
    assert (
        scan(lambda at, length: SMALL[at : at + min(length, 100)], len(SMALL), "x").keys
        == scan_bytes(SMALL).keys
    )
    with pytest.raises(ShardError, match="longer when it was opened"):
        scan(lambda at, length: SMALL[:2000][at : at + length], len(SMALL), "x")


def test_checksums_are_of_the_data():
    table = scan_bytes(SMALL, checksums=True)
    assert table.checksums.tolist() == [zlib.crc32(data) for _, _, data in contents(SMALL, table)]
    assert scan_bytes(SMALL).checksums is None
    assert table.digest == scan_bytes(SMALL).digest  # recording checksums makes no other dataset of it


def test_what_is_skipped_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "augstream"):
        scan_bytes(tar_of([*SAMPLES, ("b.jpg", "1"), ("README", b""), ("d", "5")]))
        scan_bytes(tar_of([]))
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "x.tar: skipped 1 x directory, 1 x hard link, 1 x member outside of any sample"),
        ("WARNING", "x.tar: the archive is well-formed but holds no sample"),
    ]


# Files


def test_scan_file_tells_size_and_mtime(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(SMALL)
    table, size, mtime_ns = scan_file(path)
    assert table.keys == ("train/a", "train/b")
    assert (size, mtime_ns) == (len(SMALL), path.stat().st_mtime_ns)


def test_no_regular_file_is_an_error_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    for path in (tmp_path / "pipe.tar", tmp_path, "/dev/zero"):
        with pytest.raises(ShardError, match="regular file"):
            scan_file(path)
    with pytest.raises(ShardError, match="cannot be opened: No such file"):
        scan_file(tmp_path / "absent.tar")
