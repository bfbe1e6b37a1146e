"""Shards behind real HTTP servers: ranges, the cache, and servers that are slow, busy, broken or without ranges."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from flaky_server import serving

from augstream import cli
from augstream.dataset import StreamDataset
from augstream.errors import RecipeError, ShardError
from augstream.indexing import INDEX_NAME, build_index
from augstream.shards import ShardReader
from augstream.sources.remote import Remote, RemoteFile
from augstream.tars.manifests import emit

pytestmark = pytest.mark.processes  # not all start processes, but all start a server

QUICK = {"backoff_s": 0.01, "timeout_s": 5.0}


def write_shard(path: Path, num_samples: int, seed: int, size: int = 30_000) -> Path:
    with tarfile.open(path, "w") as tar:
        for i in range(num_samples):
            for suffix, data in (("jpg", bytes([(seed + i) % 251]) * size), ("cls", b"7")):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def data(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    for i in range(4):
        write_shard(directory / f"s{i}.tar", 10 + i, i)
    return directory


@pytest.fixture
def local(data, tmp_path):
    return build_index(data, cache_dir=tmp_path / "local")


@pytest.fixture
def served(data):
    with serving(data) as (server, url):
        yield server, url


def everything(index) -> list[dict]:
    reader = ShardReader(index)
    return [
        {key: value for key, value in reader.read(shard, i).items() if key != "__url__"}
        for shard in range(len(index))
        for i in range(int(index.num_samples[shard]))
    ]


def test_ranges_deliver_the_same_samples(served, local, tmp_path):
    server, url = served
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    assert index.names == local.names
    assert index.fingerprint == local.fingerprint
    assert everything(index) == everything(local)
    assert list((tmp_path / "i").glob("*.index"))
    del server.requests[:]
    build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    assert {(kind, path) for kind, path, _ in server.requests if INDEX_NAME not in path} == {
        ("HEAD", f"/s{i}.tar") for i in range(4)
    }


@pytest.mark.parametrize("cached", [True, False])
def test_shards_are_scanned_several_at_a_time(served, local, tmp_path, cached):
    server, url = served
    server.together = threading.Barrier(4, timeout=10)  # one after the other would get no answer
    remote = Remote(cache_dir=str(tmp_path / "cache") if cached else None, ahead=4, attempts=1)
    done = []
    index = build_index(
        f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=remote, progress=lambda *at: done.append(at)
    )
    assert index.fingerprint == local.fingerprint
    assert done == [(number, 4) for number in range(1, 5)]


@pytest.mark.parametrize("ranges", [True, False])
def test_the_cache_delivers_the_same_samples_and_fetches_each_shard_once(served, local, tmp_path, ranges):
    server, url = served
    server.ranges = ranges
    remote = Remote(cache_dir=str(tmp_path / "cache"), **QUICK)
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=remote)
    assert index.fingerprint == local.fingerprint
    assert everything(index) == everything(local)
    gets = [path for kind, path, _ in server.requests if kind == "GET" and INDEX_NAME not in path]
    assert sorted(set(gets)) == [f"/s{i}.tar" for i in range(4)]
    assert len(gets) == 4
    names = [path.name for path in (tmp_path / "cache" / "shards").iterdir()]
    assert sorted(name.rsplit("-", 1)[1] for name in names if name != "lock") == [
        f"s{i}.tar" for i in range(4)
    ]
    server.busy = 10**6  # what is cached needs no server
    assert everything(index) == everything(local)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_an_index_starts_from_remote_offsets(served, data, local, tmp_path, ranges, cached):
    server, url = served
    write_shard(data / "s0.tar", 40, 0)
    local = build_index(data, cache_dir=tmp_path / "local")
    emit(local, ["dali"], data)
    server.ranges = ranges
    remote = Remote(cache_dir=str(tmp_path / "cache") if cached else None, **QUICK)
    if not ranges and not cached:
        with pytest.raises(ShardError, match="answers no range requests; pass cache_dir="):
            build_index(f"{url}/s0.idx", cache_dir=tmp_path / "i", remote=remote)
        return
    index = build_index(f"{url}/s{{0..3}}.idx", cache_dir=tmp_path / "i", remote=remote)
    assert index.fingerprint == local.fingerprint
    if ranges:
        assert server.sent < 0.4 * local.sizes_bytes.sum()
    assert everything(index) == everything(local)
    write_shard(data / "s0.tar", 41, 0)
    with pytest.raises(ShardError, match=r"s0\.idx is of another version of it"):
        build_index(f"{url}/s0.idx", cache_dir=tmp_path / "i", remote=remote)


def test_without_ranges_and_cache_the_way_out_is_told(served, tmp_path):
    server, url = served
    server.ranges = False
    with pytest.raises(ShardError, match="answers no range requests; pass cache_dir="):
        build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))


@pytest.mark.parametrize("trouble", ["busy", "drops", "short"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_passing_trouble_is_outlived(served, local, tmp_path, trouble, ranges, cached):
    server, url = served
    server.ranges = ranges or not cached
    remote = Remote(cache_dir=str(tmp_path / "cache") if cached else None, **QUICK)
    setattr(server, trouble, 3)
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=remote)
    assert index.fingerprint == local.fingerprint
    setattr(server, trouble, 3)
    assert everything(index) == everything(local)


def test_a_silent_server_is_left_after_the_time_out(served, local, tmp_path):
    server, url = served
    server.stalls = 1
    remote = Remote(cache_dir=str(tmp_path / "cache"), timeout_s=0.3, backoff_s=0.01)
    index = build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
    assert everything(index) == everything(local.subset(["s0.tar"]))


def test_a_slow_server_is_waited_for(served, local, tmp_path):
    server, url = served
    server.pause_s = 0.1  # longer in all than the time-out, and never silent for so long
    remote = Remote(cache_dir=str(tmp_path / "cache"), timeout_s=0.4, backoff_s=0.01)
    index = build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
    assert everything(index) == everything(local.subset(["s0.tar"]))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("trouble", ["busy", "drops"])
def test_lasting_trouble_is_a_shard_error(served, tmp_path, trouble, cached):
    server, url = served
    setattr(server, trouble, 10**6)
    remote = Remote(cache_dir=str(tmp_path / "cache") if cached else None, attempts=3, **QUICK)
    with pytest.raises(ShardError, match=r"s0\.tar: could not be .* 3 times: .*; check the URL"):
        build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.suffix == ".part"]
    assert left == []


def test_a_missing_shard_is_told_at_once(served, tmp_path):
    server, url = served
    with pytest.raises(ShardError, match=r"s9\.tar: could not be asked for its size: .*404"):
        build_index(f"{url}/s9.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    assert len([1 for _, path, _ in server.requests if path == "/s9.tar"]) <= 2  # HEAD and GET, once each


def test_a_download_goes_on_where_it_broke(served, data, tmp_path):
    server, url = served
    write_shard(data / "big.tar", 300, 0)
    server.drops = 2
    with (tmp_path / "out").open("w+b") as out:
        file = RemoteFile(f"{url}/big.tar", Remote(**QUICK))
        file.download(out, file.status().size)
    assert (tmp_path / "out").read_bytes() == (data / "big.tar").read_bytes()
    assert server.sent < 2 * (data / "big.tar").stat().st_size


@pytest.mark.parametrize("cached", [True, False])
def test_a_shard_replaced_on_the_server_is_noticed(served, data, tmp_path, cached):
    _, url = served
    first = Remote(**QUICK)
    index = build_index(f"{url}/s{{0..1}}.tar", cache_dir=tmp_path / "i", remote=first)
    write_shard(data / "s1.tar", 11, 99)  # the same size and structure, other bytes
    remote = Remote(cache_dir=str(tmp_path / "cache") if cached else None, **QUICK)
    again = build_index(f"{url}/s{{0..1}}.tar", cache_dir=tmp_path / "i", remote=remote)
    assert everything(again)[10]["jpg"] == bytes([99]) * 30_000
    write_shard(data / "s1.tar", 12, 5)
    fresh = Remote(cache_dir=str(tmp_path / "cache2") if cached else None, **QUICK)
    index.store.remote = fresh
    with pytest.raises(ShardError, match=r"s1\.tar"):
        ShardReader(index).read(1, 0)


def test_what_arrives_is_checked_against_the_checksums_of_the_index(served, data, tmp_path):
    _, url = served
    index = build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK), checksums=True)
    status, content = (data / "s0.tar").stat(), bytearray((data / "s0.tar").read_bytes())
    content[5000] ^= 1
    (data / "s0.tar").write_bytes(content)
    os.utime(data / "s0.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    index.store.remote = Remote(cache_dir=str(tmp_path / "cache"), **QUICK)
    with pytest.raises(
        ShardError, match=r"s0\.tar: replaced after indexing: what was fetched is not what was indexed"
    ):
        ShardReader(index).read(0, 0)
    assert not list((tmp_path / "cache" / "shards").glob("*.tar"))


def test_an_index_beside_the_shards_is_used(served, data, local, tmp_path):
    server, url = served
    build_index(data, beside=True, checksums=True)
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    assert index.fingerprint == local.fingerprint
    assert index.store.checksums
    assert {path for kind, path, _ in server.requests if kind == "GET"} == {f"/{INDEX_NAME}"}
    assert everything(index) == everything(local)


def shards_in(cache: Path) -> dict[str, int]:
    return {path.name.rsplit("-", 1)[1]: path.stat().st_size for path in (cache / "shards").glob("*.tar")}


def test_the_least_recently_used_shards_are_dropped(served, local, tmp_path, caplog):
    _, url = served
    sizes = [int(size) for size in local.sizes_bytes]
    remote = Remote(
        cache_dir=str(tmp_path / "cache"), cache_bytes=sizes[1] + sizes[2] + sizes[3], ahead=0, **QUICK
    )
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    index.store.remote = remote
    reader = ShardReader(index, max_open=1)
    for shard in (0, 1, 2, 0, 3):  # 1 is the one not used for longest
        time.sleep(0.01)
        reader.read(shard, 0)
        assert sum(shards_in(tmp_path / "cache").values()) <= remote.cache_bytes
    assert sorted(shards_in(tmp_path / "cache")) == ["s0.tar", "s2.tar", "s3.tar"]
    assert "fetched again" not in caplog.text
    reader.read(1, 0)
    assert "s1.tar: fetched again, for it was dropped meanwhile: cache_bytes=" in caplog.text


def test_a_shard_larger_than_the_cache(served, tmp_path):
    _, url = served
    remote = Remote(cache_dir=str(tmp_path / "cache"), cache_bytes=1000, **QUICK)
    with pytest.raises(RecipeError, match="more than the whole cache: cache_bytes=1000"):
        build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=remote)


def test_shards_are_fetched_ahead(served, local, tmp_path):
    server, url = served
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    index.store.remote = Remote(cache_dir=str(tmp_path / "cache"), ahead=2, **QUICK)
    reader = ShardReader(index)
    reader.ahead([3, 1, 2])
    until = time.monotonic() + 10
    while len(shards_in(tmp_path / "cache")) < 3 and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert sorted(shards_in(tmp_path / "cache")) == ["s1.tar", "s2.tar", "s3.tar"]
    del server.requests[:]
    assert reader.read(3, 0)["jpg"] == ShardReader(local).read(3, 0)["jpg"]
    assert server.requests == []
    server.busy = 10**6
    ShardReader(index).ahead([0])  # what fails ahead of time is no error yet
    ShardReader(build_index(local)).ahead([0])  # and local shards need no fetching


READ = """
import sys
from augstream.indexing import build_index
from augstream.sources.remote import Remote
from augstream.shards import ShardReader
url, cache, limit = sys.argv[1:]
remote = Remote(cache_dir=cache, cache_bytes=int(limit) or None, backoff_s=0.05, timeout_s=20)
index = build_index(url, cache_dir=cache + "/i", remote=remote)
print("indexed", flush=True)
reader = ShardReader(index, max_open=2)
for turn in range(3):
    for shard in range(len(index)):
        for sample in range(int(index.num_samples[shard])):
            assert len(reader.read(shard, sample)["jpg"]) == 30000
print("done", flush=True)
"""


def start(url: str, cache: Path, limit: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", READ, url, str(cache), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_stream_of_remote_shards_is_that_of_local_ones(served, local, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    server, url = served
    options = {"batch_size": 4, "seed": 137, "fields": {"label": "cls"}, "lanes": 2, "window": 8}
    pattern = f"{url}/s{{0..3}}.tar"
    expected = [batch["__key__"] for batch in StreamDataset(local, **options)]
    by_ranges = StreamDataset(pattern, remote=Remote(**QUICK), **options)
    assert [batch["__key__"] for batch in by_ranges] == expected
    del server.requests[:]
    limit = int(local.sizes_bytes.sum())
    cached = StreamDataset(pattern, cache_dir=str(tmp_path / "cache"), cache_bytes=limit, **options)
    assert [batch["__key__"] for batch in cached] == expected
    with pytest.raises(RecipeError, match="not both"):
        StreamDataset(pattern, cache_bytes=limit, remote=Remote(), **options)
    gets = [path for kind, path, _ in server.requests if kind == "GET" and INDEX_NAME not in path]
    assert sorted(gets) == [f"/s{i}.tar" for i in range(4)]


@pytest.mark.parametrize("limited", [False, True])
def test_processes_share_one_cache(served, local, tmp_path, limited):
    server, url = served
    server.pause_s = 0.002
    limit = int(local.sizes_bytes[:3].sum()) if limited else 0
    processes = [start(f"{url}/s{{0..3}}.tar", tmp_path / "cache", limit) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "indexed\ndone\n"), err
    if not limited:
        gets = [path for kind, path, _ in server.requests if kind == "GET" and INDEX_NAME not in path]
        assert len(gets) == 4  # each shard once, for all of them
    assert not list((tmp_path / "cache" / "shards").glob("*.part"))


def test_the_command_line_indexes_remote_shards_into_the_cache(served, local, tmp_path, monkeypatch, capsys):
    _, url = served
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cli.main(["index", f"{url}/s{{0..3}}.tar", "--checksums"]) == 0
    assert f"wrote {tmp_path / 'xdg'}" in capsys.readouterr().out
    assert cli.main(["info", f"{url}/s{{0..3}}.tar"]) == 0
    assert f"checksums: yes    fingerprint: {local.fingerprint}" in capsys.readouterr().out
    assert cli.main(["info", f"{url}/s9.tar"]) == 2
    assert "s9.tar: could not be asked for its size" in capsys.readouterr().err


def test_a_process_killed_while_fetching_leaves_nothing_that_lasts(served, local, tmp_path):
    server, url = served
    server.pause_s = 0.2
    shards = tmp_path / "cache" / "shards"
    process = start(f"{url}/s{{0..3}}.tar", tmp_path / "cache")
    until = time.monotonic() + 60
    while not list(shards.glob("*.part")) and time.monotonic() < until:
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert list(shards.glob("*.part"))
    server.pause_s = 0.0
    remote = Remote(cache_dir=str(tmp_path / "cache"), **QUICK)
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=remote)
    assert everything(index) == everything(local)
    assert not list(shards.glob("*.part"))
    assert sorted(shards_in(tmp_path / "cache").values()) == sorted(local.sizes_bytes.tolist())


def test_a_process_that_hangs_while_fetching_is_not_waited_for_for_ever(served, local, tmp_path):
    server, url = served
    server.pause_s = 0.3
    process = start(f"{url}/s0.tar", tmp_path / "cache")
    until = time.monotonic() + 60
    while not list((tmp_path / "cache" / "shards").glob("*.part")) and time.monotonic() < until:
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGSTOP)
    try:
        server.pause_s = 0.0
        remote = Remote(cache_dir=str(tmp_path / "cache"), backoff_s=0.01, timeout_s=0.5)
        index = build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
        assert everything(index) == everything(local.subset(["s0.tar"]))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_fork_opens_its_own_connections(served, tmp_path):
    _, url = served
    index = build_index(f"{url}/s{{0..3}}.tar", cache_dir=tmp_path / "i", remote=Remote(**QUICK))
    reader = ShardReader(index)
    expected = reader.read(0, 0)
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os._exit(0 if reader.read(0, 0) == expected and reader.read(1, 3)["cls"] == b"7" else 1)
    assert reader.read(0, 0) == expected
    assert os.waitpid(pid, 0)[1] == 0


def test_a_damaged_file_in_the_cache_is_fetched_again(served, local, tmp_path):
    _, url = served
    remote = Remote(cache_dir=str(tmp_path / "cache"), **QUICK)
    index = build_index(f"{url}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
    (cached,) = (tmp_path / "cache" / "shards").glob("*.tar")
    os.truncate(cached, 1000)
    assert everything(index) == everything(local.subset(["s0.tar"]))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:cat x.tar", "a pipe: URL runs a shell command"),
        ("ftp://x.org/a.tar", "shards are read from paths and from"),
        ("simplecache::http://x.org/a.tar", "shards are read from paths and from"),
        ("python://os/system.tar", "shards are read from paths and from"),
    ],
)
def test_other_urls_are_refused(tmp_path, url, message):
    with pytest.raises(RecipeError, match=message):
        build_index(url, cache_dir=tmp_path)


def test_pipes_run_only_when_allowed_by_name(data, local, tmp_path):
    marker = tmp_path / "ran"
    url = f"pipe:echo x >> {marker}; cat {data}/s{{0..3}}.tar"
    for remote in (None, Remote(cache_dir=str(tmp_path / "cache")), Remote(allow_pipe=True)):
        with pytest.raises(RecipeError, match="if you trust it, pass allow_pipe=True and a cache_dir"):
            build_index(url, cache_dir=tmp_path / "i", remote=remote)
    assert not marker.exists()
    remote = Remote(cache_dir=str(tmp_path / "cache"), allow_pipe=True, **QUICK)
    for _ in range(2):
        index = build_index(url, cache_dir=tmp_path / "i", remote=remote)
        assert index.names == ("s0.tar", "s1.tar", "s2.tar", "s3.tar")
        assert [digest.hex() for digest in index.digests] == [digest.hex() for digest in local.digests]
        assert everything(index) == everything(local)
    assert marker.read_text() == "x\n" * 4  # each once


def test_a_pipe_that_fails_or_says_something_else_is_an_error(data, tmp_path):
    remote = Remote(cache_dir=str(tmp_path / "cache"), allow_pipe=True, attempts=2, **QUICK)
    with pytest.raises(ShardError, match=r"status 3, .* after 2 runs: oh"):
        build_index(f"pipe:cat {data}/s0.tar; echo oh >&2; exit 3", cache_dir=tmp_path / "i", remote=remote)
    with pytest.raises(ShardError, match=r"at offset \d+: "):
        build_index(f"pipe:head -c 99999 {data}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
    index = build_index(f"pipe:cat {data}/s0.tar", cache_dir=tmp_path / "i", remote=remote)
    write_shard(data / "s0.tar", 10, 3, size=30_001)
    index.store.remote = Remote(cache_dir=str(tmp_path / "cache2"), allow_pipe=True, attempts=2, **QUICK)
    with pytest.raises(ShardError, match=r"what was fetched is not what was indexed|status 0"):
        ShardReader(index).read(0, 0)


def test_a_scheme_whose_package_is_missing_is_told(tmp_path):
    with pytest.raises(RecipeError, match="needs the package adlfs: pip install adlfs"):
        build_index("abfs://container/a.tar", cache_dir=tmp_path)


def test_nothing_is_written_beside_remote_shards(served, tmp_path):
    _, url = served
    with pytest.raises(RecipeError, match="nothing can be written beside remote shards"):
        build_index(f"{url}/s0.tar", cache_dir=tmp_path, beside=True)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_bytes": 5},
        {"cache_dir": "x", "cache_bytes": 0},
        {"attempts": 0},
        {"timeout_s": 0},
        {"ahead": -1},
        {"backoff_s": -1},
    ],
)
def test_senseless_options_are_refused(options):
    with pytest.raises(RecipeError):
        Remote(**options)


def test_secrets_are_not_shown():
    assert "hunter2" not in repr(Remote(storage_options={"key": "hunter2"}))
