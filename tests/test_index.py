from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import file_texts, indexes

from augstream.errors import RecipeError
from augstream.index import SampleTable, ShardIndex


def small_index(**changes: Any) -> ShardIndex:
    values: dict[str, Any] = {
        "names": ("b.tar", "a.tar", "c.tar"),
        "urls": ("/x/b.tar", "/x/a.tar", "/x/c.tar"),
        "num_samples": [3, 0, 5],
        "sizes_bytes": [100, 0, 200],
        "digests": (b"b" * 16, b"a" * 16, b"c" * 16),
    }
    return ShardIndex(**(values | changes))


def small_table(**changes: Any) -> SampleTable:
    values: dict[str, Any] = {
        "keys": ("0", "dir/1", "2"),
        "first_member": [0, 2, 3, 5],
        "suffixes": ("jpg", "cls"),
        "suffix_ids": [0, 1, 0, 1, 0],
        "offsets_bytes": [512, 2048, 4096, 6000, 8000],
        "sizes_bytes": [1000, 1, 900, 2, 0],
    }
    return SampleTable(**(values | changes))


def test_an_index_counts_in_the_order_given() -> None:
    index = small_index()
    assert len(index) == 3
    assert index.total == 8
    assert index.starts.tolist() == [0, 3, 3, 8]
    assert index.num_samples.dtype == index.sizes_bytes.dtype == index.starts.dtype == np.int64
    assert [index.position(name) for name in index.names] == [0, 1, 2]


@given(indexes())
def test_starts_are_the_running_sum(index: ShardIndex) -> None:
    running = [0]
    for count in index.num_samples.tolist():
        running.append(running[-1] + count)
    assert index.starts.tolist() == running


def test_an_index_cannot_be_changed() -> None:
    index = small_index()
    for array in (index.num_samples, index.sizes_bytes, index.starts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    counts = np.array([3, 0, 5])
    index = small_index(num_samples=counts)
    counts[0] = 7
    assert index.num_samples.tolist() == [3, 0, 5]


# GOLDEN VALUES. A fingerprint is kept in every saved state. They may change only by a decision of the
# maintainers, as a STATE break named in the change log; never to make a test pass.


def test_golden_fingerprints() -> None:
    assert small_index().fingerprint == "06c582eb582e4817f1015316602c7cff"
    assert small_index(digests=None).fingerprint == "517852e989fa0c45aae2f6cc72f67771"
    assert small_table().digest.hex() == "a8126170f4cfa51a543a83da5ed1440a"


def test_the_fingerprint_is_of_what_there_is_not_where() -> None:
    given = small_index().fingerprint
    assert small_index(urls=("s3://b.tar", "s3://a.tar", "s3://c.tar")).fingerprint == given
    assert small_index(sizes_bytes=[1, 2, 3]).fingerprint == given
    different = [
        small_index(names=("b.tar", "a.tar", "d.tar")),
        small_index(names=("a.tar", "b.tar", "c.tar")),
        small_index(num_samples=[3, 1, 5]),
        small_index(num_samples=[0, 3, 5]),
        small_index(digests=None),
        small_index(digests=(b"b" * 16, b"a" * 16, b"d" * 16)),
    ]
    assert len({given, *[index.fingerprint for index in different]}) == len(different) + 1


names_lists = st.lists(file_texts(), min_size=1, max_size=4, unique=True)


@given(names_lists, names_lists)
def test_other_names_give_another_fingerprint(some: list[str], others: list[str]) -> None:
    def fingerprint(names: list[str]) -> str:
        ones = [1] * len(names)
        return ShardIndex(
            names=tuple(names), urls=tuple(names), num_samples=ones, sizes_bytes=ones
        ).fingerprint

    assert (fingerprint(some) == fingerprint(others)) == (some == others)


def test_an_index_survives_pickling() -> None:
    index = small_index()
    twin = pickle.loads(pickle.dumps(index))  # noqa: S301  # our own bytes
    assert twin.fingerprint == index.fingerprint
    assert twin.starts.tolist() == index.starts.tolist()
    assert twin.urls == index.urls


def test_a_subset_is_in_the_order_named() -> None:
    part = small_index().subset(["c.tar", "b.tar"])
    assert part.names == ("c.tar", "b.tar")
    assert part.urls == ("/x/c.tar", "/x/b.tar")
    assert part.num_samples.tolist() == [5, 3]
    assert part.sizes_bytes.tolist() == [200, 100]
    assert part.digests == (b"c" * 16, b"b" * 16)
    assert part.fingerprint != small_index().fingerprint
    assert small_index().subset(small_index().names).fingerprint == small_index().fingerprint


def test_a_synthetic_index_has_the_counts_asked_for() -> None:
    assert ShardIndex.synthetic(4, 10).num_samples.tolist() == [10] * 4
    assert ShardIndex.synthetic(3, [1, 0, 2]).num_samples.tolist() == [1, 0, 2]
    assert len(set(ShardIndex.synthetic(1000, 1).names)) == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"names": (), "urls": (), "num_samples": [], "sizes_bytes": [], "digests": None},
            "at least one shard",
        ),
        ({"names": ("a.tar", "b.tar", "a.tar")}, r"two shards are named 'a.tar': '/x/b.tar' and '/x/c.tar'"),
        ({"urls": ("x",)}, "3 shards needs as many urls, got 1"),
        ({"num_samples": [1, 2]}, "as many num_samples, got 2"),
        ({"sizes_bytes": [1]}, "as many sizes_bytes, got 1"),
        ({"digests": (b"a" * 16,)}, "as many digests, got 1"),
        ({"digests": (b"a",) * 3}, "16 bytes"),
        ({"num_samples": [1, -2, 3]}, "'a.tar' must be 0 or more, got -2"),
        ({"num_samples": [1.5, 2, 3]}, "integers"),
        ({"num_samples": [float("nan"), 2, 3]}, "integers"),
        ({"num_samples": [[1], [2], [3]]}, "row"),
        ({"sizes_bytes": np.array([1, 2, 2**63], dtype=np.uint64)}, "fit int64"),
    ],
)
def test_a_bad_index_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        small_index(**changes)


def test_an_unknown_shard_is_refused_with_the_nearest_name() -> None:
    for ask in (small_index().position, lambda name: small_index().subset([name])):
        with pytest.raises(RecipeError, match=r"no shard is named 'aa.tar'.*did you mean 'a.tar'"):
            ask("aa.tar")
    with pytest.raises(RecipeError, match=r"the first is 'b\.tar'"):
        small_index().position("nothing like it")


def test_a_table_lists_members_in_file_order() -> None:
    table = small_table()
    assert len(table) == 3
    assert table.members(0) == [("jpg", 512, 1000), ("cls", 2048, 1)]
    assert table.members(1) == [("jpg", 4096, 900)]
    assert table.members(2) == [("cls", 6000, 2), ("jpg", 8000, 0)]
    assert table.find("dir/1") == 1
    assert small_table(checksums=[1, 2, 3, 4, 2**32 - 1]).checksums.tolist()[-1] == 2**32 - 1


def test_a_digest_is_of_the_table_whatever_numbers_its_suffixes_have() -> None:
    given = small_table().digest
    assert small_table(suffixes=("cls", "jpg"), suffix_ids=[1, 0, 1, 0, 1]).digest == given
    assert small_table(checksums=[1, 2, 3, 4, 5]).digest == given, (
        "an option of indexing must not change the data"
    )
    different = [
        small_table(keys=("0", "dir/1", "3")),
        small_table(suffixes=("png", "cls")),
        small_table(first_member=[0, 1, 3, 5]),
        small_table(offsets_bytes=[512, 2048, 4096, 6000, 8001]),
        small_table(sizes_bytes=[1000, 1, 900, 2, 1]),
    ]
    assert len({given, *[table.digest for table in different]}) == len(different) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_member": [0, 5]}, "3 samples need 4 first_member"),
        ({"first_member": [0, 3, 2, 5]}, "must rise"),
        ({"first_member": [0, 2, 3, 4]}, "must rise"),
        ({"offsets_bytes": [1]}, "as many offsets_bytes"),
        ({"sizes_bytes": [1]}, "as many sizes_bytes"),
        ({"checksums": [1]}, "as many checksums"),
        ({"suffix_ids": [0, 1, 2, 0, 0]}, "suffix_ids"),
        ({"suffix_ids": [0, 1, -1, 0, 0]}, "suffix_ids"),
        ({"sizes_bytes": [1, 1, 1, 1, -1]}, "0 or more"),
        ({"keys": ("0", "1", "0")}, "'0' names two samples"),
    ],
)
def test_a_bad_table_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        small_table(**changes)


def test_a_sample_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no sample has the key 'dir/2'.*did you mean 'dir/1'"):
        small_table().find("dir/2")
    for sample in (-1, 3):
        with pytest.raises(RecipeError, match=f"from 0 to 2, got {sample}"):
            small_table().members(sample)


def test_an_empty_shard_has_an_empty_table() -> None:
    empty = SampleTable((), np.zeros(1, dtype=np.int64), (), *[np.zeros(0, dtype=np.int64)] * 3)
    assert len(empty) == 0
    assert len(empty.digest) == 16
