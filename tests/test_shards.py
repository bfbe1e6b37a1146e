"""Reading by offset: the bytes are webdataset's, and never those of a shard that was replaced or damaged."""

import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from augstream import shards
from augstream.errors import RecipeError, SampleError, ShardError
from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.sources.remote import local_path, shard_name


def write_shard(path: Path, num_samples: int, seed: int, extra: tuple[str, int] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for i in range(num_samples):
            members = [("jpg", 300 + 100 * i), ("cls", 1), ("txt", 0)]
            for j, (suffix, size) in enumerate(members):
                if extra is not None and j == 1:
                    info = tarfile.TarInfo(f"{extra[0]}{i}")
                    info.size = extra[1]
                    tar.addfile(info, io.BytesIO(bytes(extra[1])))
                info = tarfile.TarInfo(f"d/{i:03d}.{suffix}")
                info.size = size
                tar.addfile(info, io.BytesIO(bytes((seed + i + k) % 256 for k in range(size))))
    return path


@pytest.fixture
def index(tmp_path):
    for i in range(5):
        write_shard(tmp_path / f"s{i}.tar", 4 + i, i)
    return build_index(tmp_path, cache_dir=tmp_path / "cache", checksums=True)


def webdataset_samples(url: str) -> list[dict]:
    files = tar_file_expander([{"url": url, "stream": io.BytesIO(Path(url).read_bytes())}])
    return list(group_by_keys(files))


@pytest.mark.parametrize("verify_checksums", [False, True])
def test_samples_are_those_of_webdataset(index, verify_checksums):
    reader = ShardReader(index, verify_checksums=verify_checksums)
    for shard in (3, 0, 4, 1, 2):
        expected = webdataset_samples(index.urls[shard])
        for sample in reversed(range(len(expected))):
            raw = reader.read(shard, sample)
            assert raw == expected[sample]
            assert list(raw) == list(expected[sample])


def test_a_sample_is_one_read(index, monkeypatch):
    reader, reads, pread = ShardReader(index), [], os.pread
    samples = [(shard, sample) for shard, size in enumerate(index.num_samples) for sample in range(size)]
    for place in samples:
        reader.read(*place)  # and thereby the shards' tables
    monkeypatch.setattr(os, "pread", lambda *arguments: reads.append(arguments) or pread(*arguments))
    for place in samples:
        reader.read(*place)
    assert len(reads) == len(samples)


def test_members_far_apart_are_read_one_by_one(tmp_path):
    path = write_shard(tmp_path / "far.tar", 2, 0, extra=("__pad__", 3_000_000))
    index = build_index(path, cache_dir=tmp_path / "cache")
    assert ShardReader(index).read(0, 1) == webdataset_samples(str(path))[1]


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_shards_stay_open(index):
    before = num_open()
    reader = ShardReader(index, max_open=2)
    for _ in range(3):
        for shard in range(5):
            reader.read(shard, 0)
            assert num_open() <= before + 2
    del reader
    assert num_open() == before


SPARE = """
import resource, sys
from augstream.errors import ShardError
from augstream.indexing import build_index
from augstream.shards import ShardReader

index = build_index(sys.argv[1], cache_dir=sys.argv[2])
reader = ShardReader(index)
first = reader.read(0, 0)
used = max(reader._open.recall(0)._fd, 3) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
print([len(reader.read(shard, 0)["jpg"]) for shard in (1, 2, 3, 4, 0)], reader.read(0, 0) == first)
try:
    ShardReader(index).read(1, 0)
except (OSError, ShardError) as error:
    print(error)
"""


@pytest.mark.usefixtures("index")
def test_a_reader_closes_what_it_keeps_open_where_no_more_files_may_be(tmp_path):
    arguments = [sys.executable, "-c", SPARE, str(tmp_path), str(tmp_path / "cache")]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr == ""
    assert run.stdout.splitlines()[0] == "[300, 300, 300, 300, 300] True"
    assert re.search(
        r"s1\.tar: the shard cannot be opened: Too many open files; .*raise the limit", run.stdout
    )


def test_a_reader_pickles_without_what_it_has_open(index):
    reader = ShardReader(index, max_open=3, verify_checksums=True)
    first = reader.read(2, 1)
    data = pickle.dumps(reader)
    assert len(data) < 4000
    copy = pickle.loads(data)  # noqa: S301  (our own pickle)
    assert copy.read(2, 1) == first
    assert copy.verify_checksums


@pytest.mark.processes
def test_a_fork_shares_nothing_that_moves(index):
    reader = ShardReader(index)
    expected = [reader.read(1, i) for i in range(5)]
    pid = os.fork()
    if pid == 0:
        ok = all([reader.read(1, i) for i in range(5)] == expected for _ in range(50))
        os._exit(0 if ok else 1)
    for _ in range(50):
        assert [reader.read(1, i) for i in range(5)] == expected
    assert os.waitpid(pid, 0)[1] == 0


def test_shards_are_closed_also_when_the_interpreter_has_taken_its_modules_down(index, monkeypatch):
    reader = ShardReader(index)
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader.read(1, 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    monkeypatch.setattr(shards, "os", None)
    del reader
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_threads_may_share_a_reader_whose_files_come_and_go(index):
    reader = ShardReader(index, max_open=1)
    expected = {(shard, i): reader.read(shard, i) for shard in range(5) for i in range(4)}
    wrong: list[object] = []

    def work(start: int) -> None:
        for step in range(400):
            shard, sample = (start + step) % 5, step % 4
            try:
                if reader.read(shard, sample) != expected[shard, sample]:
                    wrong.append((shard, sample))
            except Exception as error:  # noqa: BLE001  (whatever it is, it is reported below)
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_shard_of_another_size_or_time_is_refused(index):
    path = Path(index.urls[1])
    status = path.stat()
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    with pytest.raises(
        ShardError, match=r"s1\.tar: replaced after indexing: its mtime is .* make the index again"
    ):
        ShardReader(index).read(1, 0)
    path.write_bytes(path.read_bytes() + bytes(512))
    os.utime(path, ns=(0, status.st_mtime_ns))
    with pytest.raises(
        ShardError, match=r"s1\.tar: replaced after indexing: it has 20992 bytes, and had 20480"
    ):
        ShardReader(index).read(1, 0)


def test_a_missing_shard_is_named(index):
    Path(index.urls[1]).unlink()
    with pytest.raises(ShardError, match=r"s1\.tar: the shard cannot be opened: No such file"):
        ShardReader(index).read(1, 0)


def test_a_shard_cut_while_it_is_open_is_an_error(index):
    reader = ShardReader(index)
    reader.read(1, 0)
    os.truncate(index.urls[1], 3000)
    with pytest.raises(
        ShardError, match=r"s1\.tar: replaced after indexing: its bytes from 3072 on are gone"
    ):
        reader.read(1, 1)


def test_every_single_flipped_byte_of_data_is_found_by_checksums(index):
    path = Path(index.urls[0])
    status, data = path.stat(), path.read_bytes()
    for suffix, offset, size in index.table(0).members(2):
        for at in {0, size // 2, size - 1} - {-1}:
            if not size:
                continue
            changed = bytearray(data)
            changed[offset + at] ^= 4
            path.write_bytes(changed)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            plain = ShardReader(index).read(0, 2)
            assert plain[suffix] != data[offset : offset + size]  # delivered in silence without checksums
            reader = ShardReader(index, verify_checksums=True)
            message = rf"s0\.tar: member '{suffix}' of sample 'd/002' \({size} bytes at offset"
            with pytest.raises(SampleError, match=message) as caught:
                reader.read(0, 2)
            assert (caught.value.shard, caught.value.key) == ("s0.tar", "d/002")
            assert reader.read(0, 1)["jpg"]


def test_verifying_needs_recorded_checksums(tmp_path):
    index = build_index(write_shard(tmp_path / "x.tar", 3, 0), cache_dir=tmp_path / "cache")
    with pytest.raises(
        RecipeError, match=r"indexed without checksums; .*build_index\(\.\.\., checksums=True\)"
    ):
        ShardReader(index, verify_checksums=True)


def test_a_sample_that_is_not_there(index):
    with pytest.raises(RecipeError, match="sample must be from 0 to 3, got 4"):
        ShardReader(index).read(0, 4)
    with pytest.raises(RecipeError, match="max_open must be 1 or more, got 0"):
        ShardReader(index, max_open=0)


def test_names_and_paths():
    assert local_path("file:///a%20b/c.tar") == Path("/a b/c.tar")
    assert local_path("/a%20b/c.tar") == Path("/a%20b/c.tar")
    assert local_path("s3://bucket/c.tar") is None
    assert shard_name("/a/b#c?d.tar") == "b#c?d.tar"
    assert shard_name("https://x.org/a/b.tar?sig=/c#d") == "b.tar"
