"""torchdata's StatefulDataLoader: its own states, taken anywhere, restore the same bytes; workers send only a place."""

from __future__ import annotations

import json
from typing import Any

import pipelines
import pytest
import webdataset as wds
from engine import dataset_of
from pipelines import collected, crop_and_flip

import augstream as A
import augstream.wds
from augstream.digest import digest

stateful = pytest.importorskip("torchdata.stateful_dataloader")

pytestmark = [
    *pipelines.PARDON,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.processes,
]
__all__ = ["collected"]


def stream(shards: list[str]) -> A.StreamDataset:
    return dataset_of(shards)


def pipeline(shards: list[str]) -> wds.WebDataset:
    """A webdataset pipeline of ours that makes batches."""
    source = augstream.wds.WebDataset(shards, batch_size=4, seed=137, lanes=3, window=16)
    stage = augstream.wds.augment(crop_and_flip(), seed=11, fields={"image": "jpg"})
    return source.decode("rgb8").compose(stage).to_tuple("__key__", "jpg", "cls").batched()


def samples(shards: list[str]) -> wds.WebDataset:
    """A webdataset pipeline of ours that gives samples."""
    source = augstream.wds.WebDataset(shards, batch_size=4, seed=137, lanes=3, window=16, drop_last=True)
    return source.to_tuple("__key__", "cls")


def loader(dataset: Any, num_workers: int, **arguments: Any) -> Any:
    return stateful.StatefulDataLoader(
        dataset, batch_size=None, num_workers=num_workers, collate_fn=as_it_is,
        multiprocessing_context="fork" if num_workers else None, **arguments,
    )  # fmt: skip


def as_it_is(item: Any) -> Any:
    return item


def digests(items: Any) -> list[str]:
    return [digest(item) for item in items]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [stream, pipeline, samples])
def test_its_states_restore_the_same_bytes(shards: list[str], make: Any, num_workers: int) -> None:
    whole = loader(make(shards), num_workers)
    first, second, third = (digests(whole) for _ in range(3))
    assert first != second != third != first
    for stop in (1, 2, 5, len(first) - 1):
        begun = loader(make(shards), num_workers)
        iterator = iter(begun)
        found = digests(next(iterator) for _ in range(stop))
        state = begun.state_dict()
        resumed = loader(make(shards), num_workers)
        resumed.load_state_dict(state)
        assert found + digests(resumed) == first
        assert digests(resumed) == second
        assert digests(resumed) == third


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_later_epoch_is_restored_too(shards: list[str], num_workers: int, persistent: bool) -> None:
    def make() -> Any:
        return loader(stream(shards), num_workers, persistent_workers=persistent and num_workers > 0)

    whole = make()
    epochs = [digests(whole) for _ in range(4)]
    begun = make()
    assert digests(begun) == epochs[0]
    iterator = iter(begun)
    found = digests(next(iterator) for _ in range(3))
    resumed = make()
    resumed.load_state_dict(begun.state_dict())
    assert found + digests(resumed) == epochs[1]
    assert digests(resumed) == epochs[2]
    again = make()
    again.load_state_dict(resumed.state_dict())
    assert digests(again) == epochs[3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_states_taken_every_few_steps_replay_the_steps_between(shards: list[str], num_workers: int) -> None:
    whole = digests(loader(stream(shards), num_workers))
    begun = loader(stream(shards), num_workers, snapshot_every_n_steps=3)
    iterator = iter(begun)
    found = digests(next(iterator) for _ in range(5))
    resumed = loader(stream(shards), num_workers, snapshot_every_n_steps=3)
    resumed.load_state_dict(begun.state_dict())
    assert found + digests(resumed) == whole


def test_what_workers_send_is_a_place_and_nothing_more(shards: list[str]) -> None:
    begun = loader(stream(shards), 2)
    next(iter(begun))
    workers = begun.state_dict()["_snapshot"]["_worker_snapshots"]
    for state in workers.values():
        place = state["fetcher_state"]["dataset_iter_state"]
        assert set(place) == {"epoch", "start_unit", "num_given"}
        assert len(json.dumps(state)) < 1000


def test_a_state_of_other_shards_is_refused(shards: list[str]) -> None:
    begun = loader(stream(shards), 0)
    next(iter(begun))
    other = loader(stream(shards[:3]), 0)
    other.load_state_dict(begun.state_dict())
    with pytest.raises(A.StateError):
        next(iter(other))
