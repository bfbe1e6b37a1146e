"""Real ranks under torchrun, with gloo: late, killed, out of step, and resumed in other worlds."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torchrun
from engine import dataset_of, epochs_of
from torchrun_job import POISON

import augstream as A
from augstream.testing import make_shards

pytestmark = [pytest.mark.processes, pytest.mark.slow]

NUM_SAMPLES = 48  # 24 batches of 2, which go round 1, 2, 3 and 4 ranks


class Runs:
    """Four runs of torchrun, one after another, and what their ranks left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = make_shards(folder / "shards", NUM_SAMPLES, 4, size=(20, 24), spread=2)
        self.epochs = epochs_of(dataset_of(self.shards, batch_size=2), 3)
        self.state = folder / "state.json"
        os.mkfifo(folder / "fifo-1")

    def run(self, world_size: int, *tasks: Any, status: int = 0) -> None:
        job = self.folder / f"job-{world_size}.json"
        todo = [task if isinstance(task, tuple) else (task, {}) for task in tasks]
        job.write_text(json.dumps({"shards": self.shards, "folder": str(self.folder), "tasks": todo}))
        torchrun.run(world_size, torchrun.TESTS / "torchrun_job.py", job, status=status)

    def life(self, num_steps: int, **arguments: Any) -> tuple[str, dict[str, Any]]:
        return "life", {"state": str(self.state), "num_steps": num_steps, **arguments}

    def left(self, name: str, world_size: int) -> list[Any]:
        """What each rank left."""
        paths = [self.folder / f"{name}-{rank}-of-{world_size}.json" for rank in range(world_size)]
        return [json.loads(path.read_text()) for path in paths]

    def merged(self, name: str, world_size: int) -> list[Any]:
        """The batches that the ranks left, in the order of the steps."""
        return list(itertools.chain.from_iterable(zip(*self.left(name, world_size), strict=True)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = Runs(tmp_path_factory.mktemp("torchrun"))
    found.run(
        2, "late", "global", "killed", "in_step", "poisoned", "spawned", found.life(6, kill=True), status=1
    )
    found.states = [json.loads(found.state.read_text())]
    found.run(1, "global", found.life(6))
    found.states.append(json.loads(found.state.read_text()))
    found.run(3, "killed", "in_step", found.life(8))
    found.states.append(json.loads(found.state.read_text()))
    found.run(4, "global", found.life(9))
    return found


def test_killed_and_resumed_on_other_numbers_of_ranks(runs):
    """Two ranks, one killed in its fourth step; then one rank, three, four: epoch after epoch, each batch once."""
    assert [(state["epoch"], state["units"]) for state in runs.states] == [(0, 6), (0, 12), (1, 12)]
    killed = [
        batches[:3] for batches in runs.left("life", 2)
    ]  # what came after the checkpoint is delivered again
    delivered = list(itertools.chain.from_iterable(zip(*killed, strict=True)))
    for world_size in (1, 3, 4):
        delivered += runs.merged("life", world_size)
    assert delivered == [*runs.epochs[0], *runs.epochs[1], *runs.epochs[2]]


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_states_are_equal_on_all_ranks(runs, world_size):
    states = runs.left("state", world_size)
    assert all(state == states[0] for state in states)
    assert len(json.dumps(states[0])) < 1024


def test_global_batches_are_the_same_on_one_two_and_four_ranks(runs):
    """Samples, order and bytes."""
    found = {
        world_size: [
            list(itertools.chain.from_iterable(batches))
            for batches in zip(*runs.left("global", world_size), strict=True)
        ]
        for world_size in (1, 2, 4)
    }
    assert [len(batch) for batch in found[1]] == [12] * 8
    assert found[1] == found[2] == found[4]
    names = [(shard, key) for batch in found[1][:4] for shard, key, _ in batch]
    assert len(set(names)) == NUM_SAMPLES


def test_a_rank_that_starts_late_misses_nothing(runs):
    parts = runs.left("late", 2)
    for epoch in range(2):
        merged = [batch for step in zip(*[part[epoch] for part in parts], strict=True) for batch in step]
        assert merged == runs.epochs[epoch]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_go_on_while_one_loses_its_workers(runs, world_size):
    left = runs.left("killed", world_size)
    merged = list(itertools.chain.from_iterable(zip(*[rank["digests"] for rank in left], strict=True)))
    assert merged == [*runs.epochs[0], *runs.epochs[1]]
    assert left[1]["respawns"] >= 2
    assert [rank["respawns"] for rank in (left[0], *left[2:])] == [0] * (world_size - 1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_rank_out_of_step_is_named_on_all_ranks(runs, world_size):
    left = runs.left("in_step", world_size)
    assert all(said == left[0] for said in left)
    said = left[0]
    assert said["at the start"] is None
    assert said["after four batches"] is None
    assert said["the next epoch"] is None
    who = f"the ranks are not in step: rank 1 of {world_size} "
    assert said["a batch less"].startswith(f"{who}has had 5 batches where the others have had 6; every rank")
    older = f"{who}began at unit {3 * world_size} of epoch 0 where the others began at unit {6 * world_size}"
    assert said["an older state"].startswith(older)
    assert "streams something else" in said["another seed"]


def test_what_one_rank_found_to_kill_its_workers_all_ranks_leave_out(runs):
    """It is in the states that are saved after a check, and costs no worker again."""
    left = runs.left("poisoned", 2)
    merged = itertools.chain.from_iterable(zip(*[rank["keys"] for rank in left], strict=True))
    whole = A.StreamLoader(dataset_of(runs.shards, batch_size=2))
    expected = [batch["__key__"] for _ in range(3) for batch in whole]
    assert list(merged) == [[key for key in keys if key != POISON] for keys in expected]
    (shard,) = {
        batch["__shard__"][batch["__key__"].index(POISON)] for batch in whole if POISON in batch["__key__"]
    }
    assert left[0]["states"] == left[1]["states"]
    assert [state["skipped"] for state in left[0]["states"]] == [[[shard, POISON]]] * 3
    assert sorted(rank["respawns"] for rank in left) == [
        [0] * 3,
        [left[0]["respawns"][0] or left[1]["respawns"][0]] * 3,
    ]


def test_spawned_workers_of_a_stock_loader_know_their_rank(runs):
    assert runs.merged("spawned", 2) == runs.epochs[0]
