"""Indexes that start from other readers' offset tables: the same index as from a walk, or an error."""

import os
import tarfile
from pathlib import Path

import pytest
from test_manifests import energon_index, names, wds2idx, write_shard

from augstream.cli import main
from augstream.errors import IndexFileError, RecipeError, ShardError
from augstream.indexing import build_index


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three shards, and the tables that DALI's and Energon's own tools write of them."""
    long = [f"{'d' * 60}/{'n' * 90}{i}.{suffix}" for i in range(9) for suffix in ("JPG", "json")]
    shards = {"s0": names(20), "s1": ["README", *long, "LICENSE"], "s2": names(1)}
    for i, (name, inside) in enumerate(shards.items()):
        path = write_shard(
            tmp_path / "data" / f"{name}.tar", inside, tarfile.PAX_FORMAT if i else tarfile.GNU_FORMAT
        )
        path.with_suffix(".idx").write_text(wds2idx(path))
        path.with_suffix(".tar.idx").write_bytes(energon_index(path))
    return tmp_path / "data"


def build(shards, data: Path, **arguments):
    """An index that no earlier one helps with."""
    cache = data.parent / "caches" / str(len(list((data.parent).glob("caches/*"))))
    return build_index(shards, cache_dir=cache, **arguments)


def holes(path: Path, first: int, last: int) -> None:
    """Make the headers of some members unreadable, its size and ends apart."""
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar.getmembers()][first:last]
    with path.open("r+b") as file:
        for at in headers:
            file.seek(at)
            file.write(b"\xff" * 512)


@pytest.mark.parametrize("pattern", ["s{0..2}.idx", "s{0..2}.tar.idx", "s?.idx", "*.tar.idx", "*.idx"])
def test_an_index_from_offsets_is_the_index_of_the_shards(data, pattern):
    index = build(data / pattern, data)
    assert index.fingerprint == build(data, data).fingerprint
    assert index.digests == build(data, data, checksums=True).digests
    assert build(data / pattern, data, verify="digest", checksums=True).store.checksums


def test_the_walk_is_spared_by_dali_but_not_by_energon(data):
    holes(data / "s0.tar", 5, 6)  # no walk gets past this, and no header there is looked at
    assert build(data / "s0.idx", data).num_samples.tolist() == [20]
    with pytest.raises(ShardError, match="garbage where a member's header was expected"):
        build(data / "s0.tar.idx", data)
    with pytest.raises(ShardError, match="garbage where a member's header was expected"):
        build(data / "s0.idx", data, verify="digest")


def changed(data: Path, how: str) -> None:
    shard = data / "s0.tar"
    was = shard.stat()
    if how == "one more":
        write_shard(shard, names(21))
    elif how == "one fewer":
        write_shard(shard, names(19))
    elif how == "others of the same size":
        write_shard(shard, [name.replace("0000", "1000") for name in names(20)])
    elif how == "another order":
        write_shard(shard, [name for i in reversed(range(20)) for name in names(20)[3 * i : 3 * i + 3]])
    elif how == "no suffix":
        write_shard(shard, [name for name in names(20) if not name.endswith("cls")])
    elif how == "cut":
        os.truncate(shard, was.st_size // 2)
    elif how == "cut at the end":
        os.truncate(shard, 60 * 1024)
    else:
        holes(shard, 0, 1)
    os.utime(shard, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize("table", ["s0.idx", "s0.tar.idx"])
@pytest.mark.parametrize(
    "how",
    ["one more", "one fewer", "others of the same size", "another order", "no suffix", "cut", "cut at the end", "hole"],
)  # fmt: skip
def test_offsets_of_another_version_are_refused(data, how, table):
    changed(data, how)
    if table == "s0.tar.idx" and how in {"others of the same size", "another order"}:
        assert build(data / table, data).fingerprint == build(data / "s0.tar", data).fingerprint
        return
    with pytest.raises(
        ShardError, match=r"s0\.tar: .*(is of another version of it: |truncated|corrupt|ends at)"
    ):
        build(data / table, data)


@pytest.mark.parametrize("content", [b"", b"123", b"\xff" * 16, bytes(16)])
def test_broken_energon_indexes_are_refused(data, content):
    (data / "s0.tar.idx").write_bytes(content)
    with pytest.raises(IndexFileError, match=r"s0\.tar\.idx: not an Energon index"):
        build(data / "s0.tar.idx", data)


def test_offsets_that_are_missing_or_alone_are_refused(data):
    (data / "s1.idx").unlink()
    with pytest.raises(IndexFileError, match=r"s1\.idx: the offset table cannot be read"):
        build(data / "s{0..2}.idx", data)
    (data / "s0.tar").unlink()
    with pytest.raises(ShardError, match=r"s0\.tar: the shard cannot be opened"):
        build(data / "s0.idx", data)
    with pytest.raises(RecipeError, match=r"two shards are named 's2\.tar'"):
        build([data / "s2.idx", data / "s2.tar"], data)


def test_what_we_emit_is_what_we_start_from(data, capsys):
    assert main(["index", str(data), "--emit", "dali", "energon"]) == 0
    expected = build(data, data).fingerprint
    for table in ("s{0..2}.idx", "s{0..2}.tar.idx"):
        assert build(data / table, data).fingerprint == expected
    assert main(["info", str(data / "s{0..2}.idx")]) == 0
    assert expected in capsys.readouterr().out
