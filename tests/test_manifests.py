"""Side files of other readers: written as those readers read them, read back, and refused when broken."""

import io
import json
import struct
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augstream.errors import IndexFileError, RecipeError, ShardError
from augstream.indexing import build_index
from augstream.sources.offsets import read_dali
from augstream.tars.manifests import emit, read_manifest


def write_shard(path: Path, names: list[str], tar_format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name in names:
            data = name.encode() * 50
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def names(num_samples: int) -> list[str]:
    return [f"{i:04d}.{suffix}" for i in range(num_samples) for suffix in ("jpg", "SEG.png", "cls")]


@pytest.fixture
def index(tmp_path):
    for i in range(3):
        write_shard(tmp_path / "data" / f"s{i}.tar", names(2 + i))
    return build_index(tmp_path / "data", cache_dir=tmp_path / "cache")


@pytest.fixture
def data(index) -> Path:
    return Path(index.urls[0]).parent


def build(shards, data):
    return build_index(shards, cache_dir=data.parent / "cache")


def test_wids_as_wids_writes_and_reads_it(index, data):
    (path,) = emit(index, ["wids"], data)
    content = json.loads(path.read_text())
    assert content["wids_version"] == 1
    assert content["__kind__"] == "wids-shard-index-v1"
    assert content["shardlist"][1] == {
        "url": "s1.tar",
        "nsamples": 3,
        "filesize": (data / "s1.tar").stat().st_size,
    }
    assert build(path, data).fingerprint == index.fingerprint


def test_wids_in_another_directory_names_whole_paths(index, data, tmp_path):
    (path,) = emit(index, ["wids"], tmp_path)
    assert json.loads(path.read_text())["shardlist"][0]["url"] == "data/s0.tar"
    other = tmp_path / "other"
    other.mkdir()
    (path,) = emit(index, ["wids"], other)
    assert json.loads(path.read_text())["shardlist"][0]["url"] == str(data / "s0.tar")
    assert build(path, data).fingerprint == index.fingerprint


def test_wids_with_bases_and_parts(index, data):
    shards = [{"url": f"s{i}.tar", "nsamples": 2 + i, "md5sum": "0", "weight": 1} for i in range(3)]
    for content in (
        {"wids_version": 1, "shardlist": shards},
        {"wids_version": 1, "shardlist": shards, "base": str(data)},
        {
            "wids_version": 1,
            "shardlist": shards[:1],
            "datasets": [{"shardlist": shards[1:], "base": str(data), "name": "x"}],
        },
    ):
        (data / "w.json").write_text(json.dumps(content))
        assert build(data / "w.json", data).fingerprint == index.fingerprint
    (data / "w.json").write_text(
        json.dumps({"wids_version": 1, "shardlist": shards, "base": "https://x.org/d"})
    )
    assert read_manifest(data / "w.json")[2].url == "https://x.org/d/s2.tar"


def test_info_as_timm_reads_it(index, data):
    emit(index, ["info"], data, split="train")
    (path,) = emit(index.subset(["s2.tar"]), ["info"], data, split="val")
    splits = json.loads(path.read_text())["splits"]
    assert splits["train"] == {
        "name": "train", "num_samples": 9, "filenames": ["s0.tar", "s1.tar", "s2.tar"], "shard_lengths": [2, 3, 4],
    }  # fmt: skip
    assert build(f"{path}#train", data).fingerprint == index.fingerprint
    assert build(f"{path}#val", data).names == ("s2.tar",)
    with pytest.raises(
        IndexFileError, match=r"choose one of the splits train, val, as in '_info.json#train'"
    ):
        read_manifest(path)
    with pytest.raises(IndexFileError, match="choose one of the splits"):
        read_manifest(f"{path}#test")


def test_sizes_as_open_clip_reads_them(index, data):
    emit(index.subset(["s1.tar"]), ["sizes"], data)
    (path,) = emit(index.subset(["s0.tar", "s2.tar"]), ["sizes"], data)
    assert json.loads(path.read_text()) == {"s1.tar": 3, "s0.tar": 2, "s2.tar": 4}
    assert build(path, data).names == ("s1.tar", "s0.tar", "s2.tar")


def wds2idx(path: Path) -> str:
    """What DALI's wds2idx writes, by its own rules: groups of extension, data offset, size and name."""
    samples: list[list[str]] = []
    last = None
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isreg():
                continue
            dot = member.name.find(".", member.name.rfind("/") + 1)
            if member.name[:dot] != last:
                samples.append([])
                last = member.name[:dot]
            samples[-1].append(f"{member.name[dot + 1 :]} {member.offset_data} {member.size} {member.name}")
    return f"v1.2 {len(samples)}\n" + "".join(" ".join(sample) + "\n" for sample in samples)


def energon_index(path: Path) -> bytes:
    """What Energon's prepare writes: where each sample's first header starts, then where the archive ends."""
    offsets, last = [], None
    with tarfile.open(path) as tar:
        for member in tar:
            key = member.name.split(".")[0]
            if member.isreg() and "." in member.name and key != last:
                offsets.append(member.offset)
                last = key
        offsets.append(tar.offset)
    return struct.pack(f"<{len(offsets)}Q", *offsets)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_dali_and_energon_offsets(tmp_path, tar_format):
    long = [f"{'d' * 60}/{'n' * 90}{i}.{suffix}" for i in range(3) for suffix in ("JPG", "json", "a.b")]
    path = write_shard(tmp_path / "long.tar", ["README", *long, "LICENSE"], tar_format)
    index = build_index(path, cache_dir=tmp_path / "cache")
    dali, energon = emit(index, ["dali", "energon"], tmp_path)
    assert (dali.name, energon.name) == ("long.idx", "long.tar.idx")
    assert energon.read_bytes() == energon_index(path)
    assert read_dali(dali).digest == index.table(0).digest
    theirs = wds2idx(path).splitlines()
    assert dali.read_text().splitlines()[1:] == [
        line for line in theirs[1:] if "README" not in line and "LICENSE" not in line
    ]


def test_dali_and_energon_of_plain_shards(index, data):
    paths = emit(index, ["dali", "energon"], data)
    assert [path.name for path in paths] == [
        "s0.idx",
        "s1.idx",
        "s2.idx",
        "s0.tar.idx",
        "s1.tar.idx",
        "s2.tar.idx",
    ]
    for i in range(3):
        assert (data / f"s{i}.idx").read_text() == wds2idx(data / f"s{i}.tar")
        assert (data / f"s{i}.tar.idx").read_bytes() == energon_index(data / f"s{i}.tar")
        assert read_dali(data / f"s{i}.idx").digest == index.table(i).digest


def test_names_that_dali_cannot_tell(tmp_path):
    index = build_index(write_shard(tmp_path / "x.tar", ["a b.jpg"]), cache_dir=tmp_path / "cache")
    with pytest.raises(ShardError, match=r"'a b.jpg': a DALI index can't tell names with spaces"):
        emit(index, ["dali"], tmp_path)
    assert len(emit(index, ["energon"], tmp_path)) == 1


def test_a_shard_replaced_after_indexing_is_not_described(index, data):
    write_shard(data / "s1.tar", names(9))
    with pytest.raises(ShardError, match=r"s1\.tar: replaced after indexing"):
        emit(index, ["energon"], data)


def test_a_manifest_that_promises_otherwise_is_refused(index, data):
    (path,) = emit(index, ["sizes"], data)
    write_shard(data / "s1.tar", names(9))
    with pytest.raises(IndexFileError, match=r"sizes\.json promises 3 samples in .*s1\.tar, and it has 9"):
        build(path, data)


def test_what_cannot_be_emitted(index, data, tmp_path):
    with pytest.raises(RecipeError, match="side files are wids, info, sizes, dali, energon; got 'tfrecord'"):
        emit(index, ["tfrecord"], data)
    with pytest.raises(IndexFileError, match="cannot be written"):
        emit(index, ["wids"], tmp_path / "absent")
    (data / "sizes.json").write_text("{")
    with pytest.raises(IndexFileError, match="not JSON"):
        emit(index, ["sizes"], data)
    (data / "sizes.json").write_text("[]")
    with pytest.raises(IndexFileError, match="a JSON object was expected"):
        emit(index, ["sizes"], data)
    assert (data / "sizes.json").read_text() == "[]"


SHARD = {"url": "a.tar", "nsamples": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1]", "a manifest is a JSON object, this is list"),
        ("[" * 100_000, "not JSON"),
        ("{}", "not a manifest that is known"),
        ('{"a.tar": "3"}', "not a manifest that is known"),
        ('{"a.tar": true}', "not a manifest that is known"),
        ('{"a.tar": -1}', "must be 0 or more, got -1"),
        ('{"pipe:rm -rf /": 1}', "must be a path or a URL of a file, got 'pipe:"),
        (json.dumps({"wids_version": 2, "shardlist": [SHARD]}), "wids_version 2 is not known"),
        (json.dumps({"wids_version": 1}), "it lists no shards"),
        (json.dumps({"wids_version": 1, "shardlist": {}}), "lists"),
        (json.dumps({"wids_version": 1, "shardlist": [{"url": "a.tar"}]}), "needs 'url' and 'nsamples'"),
        (json.dumps({"wids_version": 1, "shardlist": [SHARD | {"url": 3}]}), "must be a path or a URL"),
        (json.dumps({"wids_version": 1, "shardlist": [SHARD | {"url": "pipe:curl x"}]}), "must be a path or a URL"),
        (json.dumps({"wids_version": 1, "shardlist": [SHARD | {"nsamples": 1.5}]}), "must be 0 or more, got 1.5"),
        (json.dumps({"wids_version": 1, "shardlist": [SHARD], "base": 3}), "'base' must be a text"),
        (json.dumps({"wids_version": 1, "datasets": [{"source_url": "http://x"}]}), "not followed"),
        (json.dumps({"wids_version": 1, "datasets": [{"datasets": [{"shardlist": [SHARD]}]}]}), "not followed"),
        (json.dumps({"splits": []}), "'splits' must be an object"),
        (json.dumps({"splits": {}}), "'splits' must be an object"),
        (json.dumps({"splits": {"a": 1}}), "as many 'filenames' as 'shard_lengths'"),
        (json.dumps({"splits": {"a": {"filenames": ["x"], "shard_lengths": []}}}), "as many 'filenames'"),
        (json.dumps({"splits": {"a": {"filenames": [1], "shard_lengths": [1]}}}), "must be a path or a URL"),
    ],
)  # fmt: skip
def test_broken_manifests_are_refused(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(IndexFileError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["wids_version", "shardlist", "url", "nsamples", "splits", "datasets", "base"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_manifest_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("m") / "m.json"
    path.write_text(json.dumps(content))
    try:
        assert all(shard.num_samples >= 0 for shard in read_manifest(path))
    except IndexFileError:
        return


def test_manifests_are_local_files():
    with pytest.raises(IndexFileError, match="must be a local file"):
        read_manifest("https://x.org/shards.json")
    with pytest.raises(IndexFileError, match="cannot be read: No such file"):
        read_manifest("absent.json")


@pytest.mark.parametrize(
    "text",
    ["", "v1.1 1\njpg 512 3 a.jpg\n", "v1.2 2\njpg 512 3 a.jpg\n", "v1.2 1\njpg 512 3\n", "v1.2 1\njpg x 3 a.jpg\n",
     "v1.2 1\njpg -512 3 a.jpg\n", "v1.2 1\n\n", "v1.2 x\n",
     "v1.2 1\njpg 9" + "9" * 30 + " 3 a.jpg\n",
     "v1.2 2\njpg 512 3 a.jpg\njpg 2048 3 a.jpg\n"],
)  # fmt: skip
def test_broken_dali_indexes_are_refused(tmp_path, text):
    (tmp_path / "x.idx").write_text(text)
    with pytest.raises(IndexFileError, match=r"not a DALI index of version 1\.2"):
        read_dali(tmp_path / "x.idx")
