"""The conformance kit passes what keeps the promises, and says what does not."""

from __future__ import annotations

import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from engine import ResizeByHand, dataset_of

from augstream.collate import collate
from augstream.errors import RecipeError
from augstream.testing import (
    assert_elastic,
    assert_repeatable,
    assert_resumable,
    assert_survives_kill,
    make_shards,
)

pytestmark = pytest.mark.processes


class Counting(ResizeByHand):
    """Knows how many samples it has seen: what a stage must not."""

    counts: list[int] = [0]  # noqa: RUF012  # shared by all instances, as such state tends to be

    def __call__(self, sample, rng):
        self.counts[0] += 1
        return {**super().__call__(sample, rng), "count": self.counts[0]}


class Located(ResizeByHand):
    """Knows which process it is in."""

    def __call__(self, sample, rng):
        return {**super().__call__(sample, rng), "process": os.getpid()}


def drawing_collate(samples):
    return {**collate(samples), "drawn": random.random()}


def test_shards_are_what_they_are_said_to_be(tmp_path):
    paths = make_shards(tmp_path / "one", num_samples=10, num_shards=3, size=(40, 48), spread=4, seed=5)
    again = make_shards(tmp_path / "two", num_samples=10, num_shards=3, size=(40, 48), spread=4, seed=5)
    other = make_shards(tmp_path / "three", num_samples=10, num_shards=3, size=(40, 48), spread=4, seed=6)
    contents = [[Path(path).read_bytes() for path in shards] for shards in (paths, again, other)]
    assert contents[0] == contents[1] != contents[2]
    names = []
    for path in paths:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert names == [f"{n:06d}.{suffix}" for n in range(10) for suffix in ("jpg", "cls", "json", "txt")]
    for batch in dataset_of(paths, cache_dir=str(tmp_path)):
        for number, about, key in zip(batch["cls"], batch["json"], batch["__key__"], strict=True):
            assert int(key) == about["number"]
            assert number == int(key) % 10
            height, width = about["size"]
            assert 36 <= height <= 44
            assert 44 <= width <= 52
            assert all(
                0 <= x < right <= width and 0 <= y < low <= height for x, y, right, low in about["boxes"]
            )


def test_what_keeps_the_promises_passes(shards):
    dataset = dataset_of(shards)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert_repeatable(dataset)
    assert_resumable(dataset)
    assert_survives_kill(dataset, num_kills=3)
    assert_elastic(dataset)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_a_tail_that_pads_is_elastic_too(shards):
    assert_elastic(dataset_of(shards, tail="pad"), world_sizes=(1, 3))


def test_parts_of_large_datasets_can_be_checked(shards):
    dataset = dataset_of(shards)
    assert_repeatable(dataset, num_epochs=1, num_batches=2, num_workers=(1,))
    assert_resumable(dataset, num_batches=5, num_positions=2)
    assert_survives_kill(dataset, num_kills=2, num_batches=3)


def test_state_between_samples_is_found(shards):
    dataset = dataset_of(shards, Counting())
    with pytest.raises(
        AssertionError, match=r"run again.*batch 0 of epoch 0 differs in 'count'; its samples are"
    ):
        assert_repeatable(dataset)
    with pytest.raises(AssertionError, match=r"saved after \d+ batches.*differs in 'count'"):
        assert_resumable(dataset)


def test_what_differs_between_processes_is_found(shards):
    dataset = dataset_of(shards, Located())
    with pytest.raises(AssertionError, match=r"with 1 workers \(fork, persistent\).*differs in 'process'"):
        assert_repeatable(dataset)
    with pytest.raises(AssertionError, match=r"kills: batch .* differs in 'process'"):
        assert_survives_kill(dataset)


def test_draws_from_a_global_generator_are_found(shards):
    dataset = dataset_of(shards, ResizeByHand(), collate_fn=drawing_collate)
    with pytest.raises(AssertionError, match="moved the global generators of random"):
        assert_repeatable(dataset)


def test_there_must_be_a_worker_to_kill(shards):
    with pytest.raises(ValueError, match="num_workers must be 1 or more"):
        assert_survives_kill(dataset_of(shards), num_workers=0)


@pytest.mark.parametrize("counts", [{"num_epochs": 0}, {"num_batches": 0}, {"num_batches": -1}])
def test_nothing_is_not_enough_to_hold(shards, counts):
    with pytest.raises(RecipeError, match="must be at least 1, got"):
        assert_repeatable(dataset_of(shards), **counts)
    if "num_batches" in counts:
        with pytest.raises(RecipeError, match="must be at least 1, got"):
            assert_resumable(dataset_of(shards), **counts)
        with pytest.raises(RecipeError, match="must be at least 1, got"):
            assert_survives_kill(dataset_of(shards), **counts)
