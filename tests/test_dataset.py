"""`StreamDataset` by itself and in torch's own DataLoader."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
from engine import FailAt, dataset_of, digests, epochs_of
from torch.utils.data import DataLoader

import augstream as A
from augstream.errors import AugstreamError, RecipeError, SampleError, StateError
from augstream.testing import make_shards

# torch warns of more workers than cores; the tests want them
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def dataset(shards):
    return dataset_of(shards)


@pytest.fixture(scope="module")
def epochs(shards):
    return epochs_of(dataset_of(shards), 5)


def stock(dataset, num_workers, *, method=None, persistent=False, **more):
    return DataLoader(
        dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=method,
        persistent_workers=persistent, **more,
    )  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize(
    ("num_workers", "method", "persistent"),
    [
        (0, None, False),
        *itertools.product((1, 2, 5), ("fork",), (True, False)),
        *[
            pytest.param(2, method, persistent, marks=pytest.mark.slow)
            for method in ("spawn", "forkserver")
            for persistent in (True, False)
        ],
    ],
)
def test_a_stock_loader_gives_the_same_batches_epoch_after_epoch(
    dataset, epochs, num_workers, method, persistent
):
    loader = stock(dataset, num_workers, method=method, persistent=persistent)
    assert len(loader) == 10
    few = method in {"spawn", "forkserver"} and not persistent  # each pass imports torch in each worker
    assert digests(loader) == epochs[0]
    assert few or digests(loader) == epochs[1]
    dataset.set_epoch(4)
    assert digests(loader) == epochs[4]
    dataset.set_epoch(1)
    assert few or [digests(loader) for _ in range(2)] == epochs[1:3]


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [True, False])
def test_set_epoch_before_every_epoch_changes_nothing(dataset, epochs, persistent):
    loader = stock(dataset, 2, persistent=persistent)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        torch.manual_seed(0)
        assert digests(loader) == epochs[epoch]


@pytest.mark.processes
def test_new_loaders_prefetch_and_pinning_change_nothing(dataset, epochs):
    for epoch, (num_workers, more) in enumerate(
        [(2, {}), (0, {}), (3, {"prefetch_factor": 4}), (1, {}), (2, {})]
    ):
        assert digests(stock(dataset, num_workers, **more)) == epochs[epoch]


def test_the_dataset_itself_is_a_loop(dataset, epochs):
    assert [digests(dataset) for _ in range(3)] == epochs[:3]
    assert len(dataset) == 10
    assert isinstance(next(iter(dataset))["image"], torch.Tensor)


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_a_stock_loader_resumes_anywhere(dataset, epochs, num_workers, shards):
    for num_batches in (1, 5, 9):
        state = json.loads(json.dumps(dataset.state_dict(epoch=1, num_batches=num_batches)))
        fresh = dataset_of(shards)
        fresh.load_state_dict(state)
        fresh.set_epoch(1)  # as trainers do, and no harm
        loader = stock(fresh, num_workers)
        assert digests(loader) == epochs[1][num_batches:]
        assert digests(loader) == epochs[2]


def test_states_of_loop_stock_loader_and_stream_loader_are_one(dataset, epochs):
    seen = digests(itertools.islice(dataset, 3))
    state = dataset.state_dict()
    assert seen == epochs[0][:3]
    assert state == dataset.state_dict(epoch=0, num_batches=3)
    loader = A.StreamLoader(dataset)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    assert digests(loader) == epochs[0][3:]
    assert loader.state_dict() == dataset.state_dict(epoch=0, num_batches=10) | {"epoch": 1, "units": 0}
    dataset.load_state_dict(loader.state_dict())
    assert digests(dataset) == epochs[1]


def test_a_stream_loader_begins_where_its_dataset_was_told_to(dataset, epochs, shards):
    state = dataset.state_dict(epoch=1, num_batches=3) | {"skipped": [["no.tar", "none"]]}
    other = dataset_of(shards)
    other.load_state_dict(state)
    for told in (other, pickle.loads(pickle.dumps(other))):  # noqa: S301  # our own bytes
        loader = A.StreamLoader(told)
        assert loader.state_dict() == state
        assert digests(loader) == epochs[1][3:]
    next(iter(other))  # a look at a batch moves no loader
    assert A.StreamLoader(other).state_dict() == state
    for epoch in (1, 2):
        other.set_epoch(epoch)
        assert A.StreamLoader(other).epoch == epoch
    assert A.StreamLoader(dataset).epoch == 0


def test_a_state_at_the_end_of_an_epoch_is_the_start_of_the_next(dataset, epochs):
    dataset.load_state_dict(dataset.state_dict(epoch=0, num_batches=10))
    assert digests(dataset) == epochs[1]


def test_a_state_of_another_seed_is_refused(dataset, shards):
    with pytest.raises(StateError, match="seed: saved 1, now 137"):
        dataset.load_state_dict(dataset_of(shards, seed=1).state_dict())


def test_a_changed_transform_is_noticed_but_may_go_on(dataset, shards):
    other = dataset_of(shards, A.Compose([A.RandomCrop(24, 24)]))
    with pytest.warns(A.TransformChangedWarning):
        dataset.load_state_dict(other.state_dict(epoch=1, num_batches=2))
    keys = [batch["__key__"] for batch in dataset]
    assert keys == [batch["__key__"] for batch in resumed(other, epoch=1, num_batches=2)]


def resumed(dataset, **place):
    dataset.load_state_dict(dataset.state_dict(**place))
    return dataset


def test_pickled_it_is_the_same_stream(dataset, epochs):
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # our own bytes
    assert digests(copy) == epochs[0]
    assert digests(dataset) == epochs[0]


@pytest.mark.processes
def test_errors_reach_the_loop_of_a_stock_loader(shards):
    dataset = dataset_of(shards, FailAt(keys=("000011",)))
    with pytest.raises(SampleError, match="no luck with 000011"):
        digests(stock(dataset, 2))
    assert len(digests(stock(dataset_of(shards, FailAt(keys=("000011",)), on_error="skip"), 2))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"lanes": 0}, "lanes must be"),
        ({"unit": 3}, "unit must divide batch_size"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"window": 0}, "window must be"),
        ({"tail": "wrap"}, "tail must be one of 'drop', 'pad'"),
        ({"scope": ("epoch",)}, "scope must hold 'shard'"),
        ({"scope": "shard"}, "scope must hold 'shard'"),
        ({"scope": None}, "scope must hold 'shard'"),
        ({"verify_checksums": True}, "the shards were indexed without checksums"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip'"),
        ({"collate_fn": 3}, "collate_fn must be"),
        ({"transform": 3}, "transform"),
        ({"transform": A.HorizontalFlip}, r"pass HorizontalFlip\(...\) in place of HorizontalFlip"),
        ({"drop_last": True, "batch_size": 40}, "an epoch has no batch"),
        ({"rank": 1}, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, "rank must be below world_size"),
        ({"rank": 0, "world_size": 11}, "an epoch has no step"),
    ],
)
def test_arguments_that_cannot_be_are_refused(shards, arguments, message):
    with pytest.raises(ValueError, match=message):
        dataset_of(shards, **arguments)


def test_shards_that_match_nothing_are_refused(tmp_path):
    with pytest.raises(AugstreamError, match="none-"):
        dataset_of(str(tmp_path / "none-{000..003}.tar"))


def test_shards_of_no_sample_are_refused(tmp_path):
    (tmp_path / "none.tar").write_bytes(bytes(10240))
    with pytest.raises(RecipeError, match="the shards hold no sample"):
        dataset_of(str(tmp_path))


def test_without_shuffling_samples_come_in_file_order(tmp_path: Path) -> None:
    make_shards(tmp_path, num_samples=50, num_shards=3)
    dataset = A.StreamDataset(str(tmp_path), batch_size=4, seed=1, shuffle=False, fields={"cls": "cls"})
    keys = [key for batch in dataset for key in batch["__key__"]]
    assert keys == [f"{number:06d}" for number in range(50)]
