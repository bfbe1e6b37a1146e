"""The index: what is scanned, kept, believed, and built again, and what happens to broken files and shards."""

import io
import logging
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augstream.errors import IndexFileError, RecipeError, ShardError
from augstream.index import SampleTable, ShardIndex
from augstream.indexing import INDEX_NAME, build_index, cache_directory
from augstream.shards import IndexedShards, ShardReader
from augstream.sources.naming import resolve
from augstream.tars.indexfile import IndexWriter, decode_table, encode_table, read_entries


def write_shard(path: Path, num_samples: int = 5, salt: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for i in range(num_samples):
            for suffix, data in (("jpg", bytes([i % 256]) * 900), ("cls", f"{i}{salt}".encode())):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    directory = tmp_path / "shards"
    directory.mkdir()
    for i in range(4):
        write_shard(directory / f"train-{i}.tar", 3 + i)
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "augstream")
    return lambda: [record.getMessage() for record in caplog.records]


class Scans:
    """Which shards a call scanned: those whose access the index didn't save."""

    def __init__(self, shards: Path) -> None:
        self.shards = shards

    def __call__(self, build) -> list[str]:
        seen: list[str] = []
        unreadable = {path: path.stat() for path in self.shards.glob("*.tar")}
        for path, status in unreadable.items():
            kept = path.with_suffix(".kept")
            path.rename(kept)
            path.write_bytes(b"\xff" * status.st_size)  # the same size and time, other bytes
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            try:
                build()
            except ShardError:
                seen.append(path.name)
            kept.rename(path)
        return seen


def test_what_is_found(shards, cache):
    index = build_index(shards, cache_dir=cache)
    assert isinstance(index, IndexedShards)
    assert index.names == ("train-0.tar", "train-1.tar", "train-2.tar", "train-3.tar")
    assert index.num_samples.tolist() == [3, 4, 5, 6]
    assert index.sizes_bytes.tolist() == [(shards / name).stat().st_size for name in index.names]
    assert index.store.mtimes_ns.tolist() == [(shards / name).stat().st_mtime_ns for name in index.names]
    assert index.table(3).keys == tuple(f"{i:04d}" for i in range(6))
    assert [index.table(i).digest for i in range(4)] == list(index.digests)


@pytest.mark.parametrize("beside", [False, True])
def test_a_known_shard_is_not_scanned_again(shards, cache, beside):
    first = build_index(shards, cache_dir=cache, beside=beside)
    assert (shards / INDEX_NAME).exists() == beside
    assert cache.exists() != beside
    assert Scans(shards)(lambda: build_index(shards, cache_dir=cache)) == []
    again = build_index(shards, cache_dir=cache)
    assert again.fingerprint == first.fingerprint
    for i in range(4):
        assert again.table(i).digest == first.table(i).digest


def test_all_spellings_give_one_index(shards, cache, monkeypatch):
    expected = build_index(shards, cache_dir=cache)
    monkeypatch.chdir(shards)
    spellings = [
        f"{shards}/train-{{0..3}}.tar",
        f"{shards}/*.tar",
        f"{shards}/",
        str(shards),
        [f"{shards}/train-{{0,1}}.tar", shards / "train-2.tar", f"{shards}/train-[3-9].tar"],
        f"file://{shards}/train-{{0..3}}.tar",
        "train-{0..3}.tar",
        ".",
        expected,
        ShardIndex.subset(expected, expected.names),
    ]
    for spelling in spellings:
        assert build_index(spelling, cache_dir=cache).fingerprint == expected.fingerprint
    assert build_index(expected) is expected


def test_order_is_as_given_and_a_subset_is_another_dataset(shards, cache):
    index = build_index([shards / "train-2.tar", shards / "train-0.tar"], cache_dir=cache)
    assert index.names == ("train-2.tar", "train-0.tar")
    whole = build_index(shards, cache_dir=cache)
    subset = whole.subset(["train-2.tar", "train-0.tar"])
    assert isinstance(subset, IndexedShards)
    assert subset.fingerprint == index.fingerprint != whole.fingerprint
    assert subset.table(0).digest == whole.table(2).digest
    assert subset.store.mtimes_ns.tolist() == index.store.mtimes_ns.tolist()


def test_brackets_and_braces_in_real_names(tmp_path, cache):
    odd = tmp_path / "a[1]{x}"
    odd.mkdir()
    path = write_shard(odd / "s{1}.tar")
    assert build_index(path, cache_dir=cache).names == ("s{1}.tar",)
    assert build_index(odd, cache_dir=cache).names == ("s{1}.tar",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{}/absent-*.tar", "no shard matches '.*absent-.*'"),
        ("{}/empty", r"no \*\.tar file lies in"),
        ("", "an empty text names no shards"),
        ("{}/train-{{0..3.tar", "unbalanced braces"),
    ],
)
def test_no_shards(shards, cache, pattern, message):
    (shards / "empty").mkdir()
    with pytest.raises(RecipeError, match=message):
        build_index(pattern.format(shards), cache_dir=cache)
    with pytest.raises(RecipeError, match="no shards were given"):
        build_index([], cache_dir=cache)


def test_what_is_no_path_or_has_no_order_is_refused(shards, cache):
    path = str(shards / "train-1.tar")
    for odd in ({path}, {path: 1}, path.encode(), 3, None, [3], [[path]]):
        with pytest.raises(RecipeError, match="a list of these in their order, or an index; got"):
            build_index(odd, cache_dir=cache)
    assert build_index(iter([path]), cache_dir=cache).names == ("train-1.tar",)
    assert build_index({path: 1}.keys(), cache_dir=cache).names == ("train-1.tar",)


def test_what_cannot_be_looked_for_is_named(shards, cache):
    with pytest.raises(ShardError, match="it cannot be looked for: File name too long"):
        build_index(shards / ("x" * 300) / "a.tar", cache_dir=cache)


def test_relative_paths_stay_what_they_were(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(shards)
    index = build_index(["train-0.tar", "./train-1.tar", f"file://{shards}/train-2.tar"], cache_dir="cache")
    assert index.urls[:2] == ("train-0.tar", "./train-1.tar")
    monkeypatch.chdir(tmp_path)
    for found in (index, index.subset(index.names[:2]), pickle.loads(pickle.dumps(index))):  # noqa: S301  (our own)
        assert ShardReader(found).read(1, 0)["__url__"] == "./train-1.tar"
    assert index.store.files[0].is_relative_to(shards / "cache")


def test_two_shards_of_one_name(shards, cache):
    other = shards / "other"
    other.mkdir()
    write_shard(other / "train-1.tar")
    with pytest.raises(RecipeError, match=r"two shards are named 'train-1\.tar': .* and .*other"):
        build_index([shards, other], cache_dir=cache)
    with pytest.raises(RecipeError, match="two shards are named"):
        build_index([shards / "train-1.tar"] * 2, cache_dir=cache)


def test_several_directories(shards, cache):
    other = shards / "other"
    other.mkdir()
    write_shard(other / "val-1.tar", 2)
    index = build_index([shards, other], cache_dir=cache)
    assert index.num_samples.tolist() == [3, 4, 5, 6, 2]
    assert len(list(cache.glob("*.index"))) == 2


def test_missing_and_broken_shards_are_all_named_and_the_rest_is_kept(shards, cache):
    (shards / "train-1.tar").write_bytes(b"")
    (shards / "train-2.tar").write_bytes((shards / "train-2.tar").read_bytes()[:1500])
    with pytest.raises(ShardError) as caught:
        build_index(f"{shards}/train-{{0..4}}.tar", cache_dir=cache)
    text = str(caught.value)
    assert text.startswith("3 of 5 shards are unusable:")
    assert "train-1.tar: at offset 0: the file is empty" in text
    assert "train-2.tar: at offset" in text
    assert "train-4.tar: the shard cannot be opened: No such file or directory" in text
    (kept,) = cache.glob("*.index")
    assert sorted(read_entries(kept)) == ["train-0.tar", "train-3.tar"]


def test_one_broken_shard_is_one_error(shards, cache):
    (shards / "train-1.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"^\S*train-1.tar: at offset 0"):
        build_index(shards, cache_dir=cache)


@pytest.mark.parametrize("beside", [False, True])
def test_a_changed_shard_is_scanned_again_and_said(shards, cache, beside, logged):
    first = build_index(shards, cache_dir=cache, beside=beside)
    write_shard(shards / "train-1.tar", 9)
    assert logged() == []
    second = build_index(shards, cache_dir=cache)
    assert second.num_samples.tolist() == [3, 9, 5, 6]
    assert len(second.table(1)) == 9
    assert len(second.table(2)) == 5
    assert second.fingerprint != first.fingerprint
    (line,) = logged()
    assert line == f"one shard changed since the index was made, scanning again: {shards}/train-1.tar …"
    build_index(shards, cache_dir=cache)
    assert len(logged()) == 1


def test_a_new_time_alone_is_scanned_again_and_gives_the_same_index(shards, cache, logged):
    first = build_index(shards, cache_dir=cache)
    os.utime(shards / "train-1.tar", ns=(1, 1))
    assert build_index(shards, cache_dir=cache).fingerprint == first.fingerprint
    assert len(logged()) == 1


def replace_unseen(path: Path, data: bytes) -> None:
    """Other bytes under the same size and time."""
    status = path.stat()
    assert len(data) == status.st_size
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_digest_finds_what_size_and_time_do_not(shards, cache, logged):
    first = build_index(shards, cache_dir=cache)
    path = shards / "train-1.tar"
    replace_unseen(path, write_shard(shards / "x", 4).read_bytes().replace(b"0003.jpg", b"0009.jpg"))
    (shards / "x").unlink()
    data = bytearray(path.read_bytes())
    assert build_index(shards, cache_dir=cache).fingerprint == first.fingerprint
    with pytest.raises(ShardError, match="bad checksum"):  # the header's, which was not renewed
        build_index(shards, cache_dir=cache, verify="digest")
    at = data.index(b"0009.jpg")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    replace_unseen(path, bytes(data))
    second = build_index(shards, cache_dir=cache, verify="digest")
    assert second.fingerprint != first.fingerprint
    assert "train-1.tar: changed since the index was made, though its size and mtime did not" in logged()[-1]


def test_a_digest_with_checksums_finds_a_flipped_byte_of_data(shards, cache, logged):
    build_index(shards, cache_dir=cache, checksums=True)
    path = shards / "train-1.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    replace_unseen(path, bytes(data))
    build_index(shards, cache_dir=cache, verify="digest")
    assert any("train-1.tar: changed since the index was made" in line for line in logged())


def test_checksums_are_added_on_request_and_kept(shards, cache):
    plain = build_index(shards, cache_dir=cache)
    assert plain.table(0).checksums is None
    checked = build_index(shards, cache_dir=cache, checksums=True)
    assert checked.table(0).checksums is not None
    assert checked.fingerprint == plain.fingerprint
    write_shard(shards / "train-0.tar", 2)
    assert build_index(shards, cache_dir=cache).table(0).checksums is not None


@pytest.mark.parametrize("verify", ["md5", None])
def test_unknown_verification(shards, verify):
    with pytest.raises(RecipeError, match="verify must be 'stat' or 'digest'"):
        build_index(shards, verify=verify)


def test_progress_counts_up(shards, cache):
    calls: list[tuple[int, int]] = []
    build_index(shards, cache_dir=cache, progress=lambda done, total: calls.append((done, total)))
    build_index(shards, cache_dir=cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


# Index files


def test_the_cache_is_private_and_follows_xdg(shards, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "augstream" / "index"
    build_index(shards)
    assert len(list(cache_directory().glob("*.index"))) == 1
    assert cache_directory().stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "augstream" / "index"


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 2
    return {
        "empty": b"",
        "cut": data[:middle],
        "cut at the end": data[:-1],
        "longer": data + b"\0",
        "flipped in the header": data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        "flipped in a table": data[:100] + bytes([data[100] ^ 1]) + data[101:],
        "another file": b"#!/bin/sh\n" * 100,
    }[how]


DAMAGES = [
    "empty",
    "cut",
    "cut at the end",
    "longer",
    "flipped in the header",
    "flipped in a table",
    "another file",
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_index_file_is_replaced_and_said(shards, cache, how, logged):
    first = build_index(shards, cache_dir=cache)
    (path,) = cache.glob("*.index")
    path.write_bytes(damaged(path.read_bytes(), how))
    second = build_index(shards, cache_dir=cache)
    assert second.fingerprint == first.fingerprint
    assert [second.table(i).digest for i in range(4)] == list(first.digests)
    assert len(logged()) >= 1
    if (
        how != "flipped in a table"
    ):  # that one is found when the table is read, and the table alone is made again
        assert read_entries(path).keys() == {"train-0.tar", "train-1.tar", "train-2.tar", "train-3.tar"}


def test_tables_survive_the_loss_and_the_renewal_of_the_index_file(shards, cache, logged):
    index = build_index(shards, cache_dir=cache)
    copy = pickle.loads(pickle.dumps(index))  # noqa: S301  (our own pickle)
    (path,) = cache.glob("*.index")
    build_index(write_shard(shards / "a-first.tar", 300), cache_dir=cache)  # moves the tables
    assert [copy.table(i).digest for i in range(4)] == list(index.digests)
    assert logged() == []
    path.unlink()
    assert [index.table(i).digest for i in range(4)] == list(index.digests)
    assert len(logged()) == 4  # scanned again, once each
    assert index.table(0) is index.table(0)


def test_a_table_is_never_that_of_a_replaced_shard(shards, cache):
    index = build_index(shards, cache_dir=cache)
    write_shard(shards / "train-1.tar", 17)
    build_index(shards, cache_dir=cache)
    with pytest.raises(ShardError, match=r"train-1.tar: replaced after indexing"):
        index.table(1)
    assert len(index.table(2)) == 5


def test_an_index_file_beside_the_shards_that_is_doctored_is_not_believed(shards, cache):
    build_index(shards, beside=True)
    path = shards / INDEX_NAME
    data = path.read_bytes()
    status = (shards / "train-0.tar").stat()
    start = status.st_size.to_bytes(8, "little") + status.st_mtime_ns.to_bytes(8, "little")
    assert start + (3).to_bytes(8, "little") in data
    path.write_bytes(data.replace(start + (3).to_bytes(8, "little"), start + (4).to_bytes(8, "little")))
    with pytest.raises(IndexFileError, match="header was damaged"):
        read_entries(path)
    assert build_index(shards, cache_dir=cache).num_samples.tolist() == [3, 4, 5, 6]


def test_where_no_file_can_be_written_the_index_stays_in_memory(shards, tmp_path, logged):
    (tmp_path / "file").write_bytes(b"")
    index = build_index(shards, cache_dir=tmp_path / "file" / "cache")
    assert "it stays in memory" in logged()[0]
    copy = pickle.loads(pickle.dumps(index))  # noqa: S301  (our own pickle)
    assert [len(copy.table(i)) for i in range(4)] == [3, 4, 5, 6]
    assert len(logged()) == 1


def test_entries_of_other_shards_are_kept_and_of_vanished_ones_dropped(shards, cache):
    build_index(shards / "train-0.tar", cache_dir=cache)
    build_index(shards / "train-1.tar", cache_dir=cache)
    (path,) = cache.glob("*.index")
    assert sorted(read_entries(path)) == ["train-0.tar", "train-1.tar"]
    (shards / "train-0.tar").unlink()
    build_index(shards / "train-2.tar", cache_dir=cache)
    assert sorted(read_entries(path)) == ["train-1.tar", "train-2.tar"]


def test_left_over_temporary_files_are_removed_once_they_are_old(shards, cache):
    build_index(shards, cache_dir=cache)
    (path,) = cache.glob("*.index")
    old, new = (cache / f".{path.name}.{word}.tmp" for word in ("old", "new"))
    for temp in (old, new):
        temp.write_bytes(b"")
    os.utime(old, (time.time() - 90_000,) * 2)
    write_shard(shards / "train-4.tar")
    build_index(shards, cache_dir=cache)
    assert not old.exists()
    assert new.exists()
    assert len(list(cache.iterdir())) == 2


def test_the_writer_leaves_nothing_when_discarded(tmp_path):
    writer = IndexWriter(tmp_path / "x.index")
    writer.discard()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_keeps_what_it_has(shards, cache):
    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(shards, cache_dir=cache, progress=interrupt)
    (path,) = cache.iterdir()
    assert sorted(read_entries(path)) == ["train-0.tar", "train-1.tar"]


@pytest.mark.processes
def test_many_processes_at_once_agree_and_leave_one_intact_file(shards, cache):
    code = (
        "import sys; from augstream.indexing import build_index;"
        "index = build_index(sys.argv[1], cache_dir=sys.argv[2]);"
        "print(index.fingerprint, [len(index.table(i)) for i in range(len(index))])"
    )
    command = [sys.executable, "-c", code, str(shards), str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(outputs) == 1
    assert "[3, 4, 5, 6]" in outputs.pop()
    (path,) = cache.iterdir()
    assert len(read_entries(path)) == 4


# The format


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@st.composite
def tables(draw) -> SampleTable:
    keys = draw(st.lists(texts.filter(bool), unique=True, max_size=8))
    suffixes = draw(st.lists(texts, unique=True, min_size=1, max_size=4))
    counts = draw(st.lists(st.integers(1, 4), min_size=len(keys), max_size=len(keys)))
    num_members = sum(counts)
    column = st.lists(
        st.integers(0, 2 ** draw(st.sampled_from([3, 8, 20, 33, 60]))),
        min_size=num_members,
        max_size=num_members,
    )
    checksums = draw(
        st.none() | st.lists(st.integers(0, 2**32 - 1), min_size=num_members, max_size=num_members)
    )
    return SampleTable(
        keys=tuple(keys),
        first_member=np.cumsum([0, *counts]),
        suffixes=tuple(suffixes),
        suffix_ids=np.array(
            draw(st.lists(st.integers(0, len(suffixes) - 1), min_size=num_members, max_size=num_members)),
            np.int32,
        ),
        offsets_bytes=np.array(draw(column), np.int64),
        sizes_bytes=np.array(draw(column), np.int64),
        checksums=None if checksums is None else np.array(checksums, np.uint32),
    )


@given(tables())
def test_tables_come_back_as_they_were(table):
    again = decode_table(encode_table(table))
    assert again.digest == table.digest
    assert again.suffixes == table.suffixes
    assert (again.checksums is None) == (table.checksums is None)
    assert table.checksums is None or again.checksums.tolist() == table.checksums.tolist()
    for i in range(len(table)):
        assert again.members(i) == table.members(i)


@pytest.mark.sweep
@settings(max_examples=500)
@given(tables(), st.data())
def test_no_bytes_make_the_decoder_crash(table, data):
    blob = bytearray(encode_table(table))
    for at in data.draw(st.lists(st.integers(0, len(blob) - 1), max_size=4)):
        blob[at] = data.draw(st.integers(0, 255))
    with suppress(IndexFileError):
        decode_table(bytes(blob[: data.draw(st.integers(0, len(blob)))]))


def test_claims_of_an_index_file_are_checked_against_its_size():
    claim = (2**62).to_bytes(8, "little")
    for at in range(0, 40, 8):
        blob = bytearray(encode_table(SampleTable(("a",), [0, 1], ("x",), [0], [512], [4])))
        blob[at : at + 8] = claim
        with pytest.raises(IndexFileError):
            decode_table(bytes(blob))


ROW = {
    "size": 1024, "mtime_ns": 1, "num_samples": 1, "digest": b"", "checksums": 0,
    "offset": 18, "length": 100, "table_hash": b"",
}  # fmt: skip


def index_file(*rows, names: bytes = b"a.tar") -> bytes:
    """The format as documented, written by hand."""
    start = b"augstream-index/1\n" + bytes(100)
    header = b"".join(struct.pack("<qqq16sbqq16s", *row.values()) for row in rows) + names
    hashed = blake2b(header, digest_size=16, person=b"augstream/file").digest()
    place = len(start), len(rows), len(names)
    return start + header + struct.pack("<QQQ16s16s", *place, hashed, b"augstream-end/1\n")


@pytest.mark.parametrize(
    "changes",
    [{"num_samples": 10**9}, {"num_samples": -1}, {"offset": 10**9}, {"offset": 19}, {"offset": -2**63}, {"length": -5},
     {"length": 2**63 - 1}, {"size": -1}, {"offset": 2**63 - 1, "length": 2**63 - 1}],
)  # fmt: skip
def test_impossible_entries_are_refused_even_if_well_hashed(tmp_path, changes):
    path = tmp_path / "x.index"
    path.write_bytes(index_file(ROW))
    assert read_entries(path)["a.tar"].length == 100
    path.write_bytes(index_file(ROW | changes))
    with pytest.raises(IndexFileError, match="impossible"):
        read_entries(path)


@pytest.mark.parametrize(
    ("rows", "names"), [(2, b"a.tar\0a.tar"), (2, b"a.tar"), (1, b"a\0b"), (0, b"a.tar")]
)
def test_names_must_fit_the_rows(tmp_path, rows, names):
    (tmp_path / "x.index").write_bytes(index_file(*[ROW] * rows, names=names))
    with pytest.raises(IndexFileError):
        read_entries(tmp_path / "x.index")


def test_names_that_are_no_utf8_survive(tmp_path, cache):
    path = tmp_path / os.fsdecode(b"train-\xff.tar")
    write_shard(path)
    index = build_index(path, cache_dir=cache)
    assert build_index(path, cache_dir=cache).names == index.names == ("train-\udcff.tar",)


def test_patterns_do_not_need_files_to_exist():
    asked = resolve("x/{a,b}-{0..1}.tar")
    assert [shard.url for shard in asked] == ["x/a-0.tar", "x/a-1.tar", "x/b-0.tar", "x/b-1.tar"]
