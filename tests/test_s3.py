"""Shards in a real S3 server (moto's, on loopback): ranges, the cache, listing, and what an ETag tells."""

import io
import tarfile
from pathlib import Path

import pytest

from augstream.errors import ShardError
from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.sources.remote import Remote

pytest.importorskip("s3fs", reason="s3:// needs s3fs")
moto_server = pytest.importorskip("moto.server", reason="the S3 server of the tests is moto's")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of botocore's own making
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def tar(seed: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        for i in range(8):
            info = tarfile.TarInfo(f"{i:04d}.jpg")
            info.size = 40_000
            out.addfile(info, io.BytesIO(bytes([seed + i]) * info.size))
    return file.getvalue()


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    import s3fs

    system = s3fs.S3FileSystem(**options)
    system.mkdir("bucket")
    for i in range(3):
        system.pipe(f"bucket/train/s{i}.tar", tar(i))
    yield system, options
    server.stop()


def test_s3(bucket, tmp_path: Path):
    system, options = bucket
    quick = {"storage_options": options, "backoff_s": 0.01}
    for i in range(3):
        (tmp_path / f"s{i}.tar").write_bytes(tar(i))
    local = build_index(tmp_path / "s{0..2}.tar", cache_dir=tmp_path / "local")
    index = None
    for shards in ("s3://bucket/train/s{0..2}.tar", "s3://bucket/train/*.tar", "s3://bucket/train/"):
        index = build_index(shards, cache_dir=tmp_path / "i", remote=Remote(**quick))
        assert index.fingerprint == local.fingerprint
    for cache in (None, str(tmp_path / "cache")):
        index.store.remote = Remote(cache_dir=cache, **quick)
        reader = ShardReader(index)
        for shard in range(3):
            assert [reader.read(shard, i)["jpg"][0] for i in range(8)] == list(range(shard, shard + 8))

    system.pipe("bucket/train/s1.tar", tar(100))  # the same size, another ETag
    index.store.remote = Remote(**quick)
    with pytest.raises(ShardError, match=r"s1\.tar: replaced after indexing"):
        ShardReader(index).read(1, 0)
    again = build_index("s3://bucket/train/", cache_dir=tmp_path / "i", remote=Remote(**quick))
    assert ShardReader(again).read(1, 0)["jpg"][0] == 100
    with pytest.raises(ShardError, match=r"s9\.tar: could not be asked for its size"):
        build_index("s3://bucket/train/s9.tar", cache_dir=tmp_path / "i", remote=Remote(**quick))
