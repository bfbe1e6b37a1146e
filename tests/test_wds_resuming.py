"""Ordinary deterministic webdataset pipelines, resumed by reading again; and those that cannot be, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import webdataset as wds
from pipelines import collected, crop_and_flip, plain

import augstream.wds
from augstream.digest import digest
from augstream.errors import RecipeError, StateError
from augstream.wds import resumable

pytestmark = pipelines.PARDON
__all__ = ["collected"]


def augment() -> augstream.wds.Augment:
    return augstream.wds.augment(crop_and_flip(), seed=11, fields={"image": "jpg"})


def few(sample: dict[str, Any]) -> bool:
    return int(sample["__key__"]) % 4 != 0


def ordinary(shards: Any, *, batchsize: int = 4, drops: bool = False) -> wds.WebDataset:
    """What people have: shard shuffle, sample shuffle, decoding, augmentation, batches."""
    dataset = wds.WebDataset(shards, shardshuffle=3, seed=5, detshuffle=True, nodesplitter=wds.split_by_node)
    dataset = dataset.shuffle(9, initial=5, seed=6).decode("rgb8").compose(augment())
    if drops:
        dataset = dataset.select(few)
    return dataset.to_tuple("__key__", "jpg", "cls").batched(batchsize)


def digests(items: Any) -> list[str]:
    return [digest(tuple(item)) for item in items]


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("drops", [False, True])
def test_it_goes_on_exactly_after_any_output(shards: list[str], num_workers: int, drops: bool) -> None:
    whole = resumable(ordinary(shards, drops=drops), num_workers=num_workers)
    epochs = [digests(whole) for _ in range(2)]
    keys = [
        key for batch in resumable(ordinary(shards, drops=drops), num_workers=num_workers) for key in batch[0]
    ]
    expected = [sample["__key__"] for sample in plain(shards) if not drops or few(sample)]
    assert sorted(keys) == sorted(expected)
    assert not set(epochs[0]) & set(epochs[1])
    for epoch, stop in ((0, 1), (0, len(epochs[0]) - 1), (1, 4)):
        begun = resumable(ordinary(shards, drops=drops), num_workers=num_workers)
        begun.set_epoch(epoch)
        iterator = iter(begun)
        found = digests(next(iterator) for _ in range(stop))
        state = json.loads(json.dumps(begun.state_dict()))
        resumed = resumable(ordinary(shards, drops=drops), num_workers=num_workers)
        resumed.load_state_dict(state)
        assert found + digests(resumed) == epochs[epoch]
        if epoch == 0:
            assert digests(resumed) == epochs[1]


def test_what_was_taken_is_not_decoded_again(shards: list[str]) -> None:
    decoded: list[str] = []

    def decode(sample: dict[str, Any]) -> dict[str, Any]:
        decoded.append(sample["__key__"])
        return sample

    def pipeline() -> wds.WebDataset:
        return plain(shards).shuffle(9, seed=3).map(decode).to_tuple("__key__").batched(4)

    begun = resumable(pipeline())
    iterator = iter(begun)
    for _ in range(5):
        next(iterator)
    assert len(decoded) == 20
    state = begun.state_dict()
    decoded.clear()
    resumed = resumable(pipeline())
    resumed.load_state_dict(state)
    assert sum(len(batch[0]) for batch in resumed) == 17
    assert len(decoded) == 17


def test_visits_to_resampled_samples_are_counted_on(shards: list[str]) -> None:
    def pipeline() -> wds.DataPipeline:
        urls = wds.ResampledShards(shards, deterministic=True, seed=3)
        return wds.DataPipeline(urls, wds.tarfile_to_samples(), augment(), wds.to_tuple("__key__", "jpg"))

    def first(loader: Any, count: int) -> list[str]:
        iterator = iter(loader)
        return digests(next(iterator) for _ in range(count))

    expected = first(resumable(pipeline()), 100)
    begun = resumable(pipeline())
    assert first(begun, 60) == expected[:60]
    resumed = resumable(pipeline())
    resumed.load_state_dict(begun.state_dict())
    assert first(resumed, 40) == expected[60:]
    assert len(set(expected)) > 95


def test_the_ordinary_batches_are_the_same(shards: list[str]) -> None:
    dataset = plain(shards).decode("rgb8").to_tuple("__key__", "jpg").listed(4)
    assert [[key for key, _ in batch] for batch in resumable(dataset)] == [
        [key for key, _ in batch] for batch in dataset
    ]


def own_stage(samples: Any) -> Any:
    yield from samples


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda ds: ds.shuffle(10), "seed="),
        (lambda ds: ds.rsample(0.5), "global generator"),
        (lambda ds: ds.compose(own_stage), "cannot be seen"),
        (lambda ds: ds.decode("rgb8").shuffle(10, seed=1), "before the decoding"),
        (lambda ds: ds.decode("rgb8").compose(wds.Cached()), "before the decoding"),
        (lambda ds: ds.with_epoch(10), "count in the loop"),
        (lambda ds: ds.repeat(2), "count in the loop"),
        (lambda ds: wds.RandomMix([ds]), "wds.WebDataset or wds.DataPipeline"),
        (wds.DataPipeline, "reads shards"),
    ],
)
def test_what_is_not_deterministic_is_refused(shards: list[str], change: Any, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        resumable(change(plain(shards)))


def test_resampling_without_determinism_and_drops_behind_it_are_refused(shards: list[str]) -> None:
    with pytest.raises(RecipeError, match="deterministic=True"):
        resumable(wds.WebDataset(shards, resampled=True, shardshuffle=False))
    urls = wds.ResampledShards(shards, deterministic=True, seed=3)
    with pytest.raises(RecipeError, match="visits"):
        resumable(wds.DataPipeline(urls, wds.tarfile_to_samples(), wds.decode(), wds.select(few)))


def test_generic_names_in_the_environment_are_refused(
    shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER", "0")
    monkeypatch.setenv("NUM_WORKERS", "2")
    with pytest.raises(RecipeError, match="unset both"):
        resumable(plain(shards))


def test_a_state_is_for_the_same_workers_ranks_and_pipeline(
    shards: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = resumable(ordinary(shards), num_workers=2).state_dict()
    with pytest.raises(StateError, match="num_workers=2"):
        resumable(ordinary(shards)).load_state_dict(state)
    with pytest.raises(StateError, match="pipeline"):
        resumable(ordinary(shards[:2]), num_workers=2).load_state_dict(state)
    with pytest.raises(StateError, match="pipeline"):
        resumable(ordinary(shards, batchsize=8), num_workers=2).load_state_dict(state)
    resumable(ordinary([str(tmp_path / Path(path).name) for path in shards]), num_workers=2).load_state_dict(
        state
    )
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StateError, match="rank"):
        resumable(ordinary(shards), num_workers=2).load_state_dict(state)


def test_moving_it_under_a_loop_is_noticed(shards: list[str]) -> None:
    loader = resumable(ordinary(shards))
    iterator = iter(loader)
    next(iterator)
    loader.set_epoch(7)
    with pytest.raises(StateError, match="leave the loop"):
        next(iterator)
    assert loader.epoch == 7
    assert np.asarray(next(iter(loader))[1]).shape == (4, 16, 16, 3)
