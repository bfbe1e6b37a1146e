"""The example of DistributedDataParallel: killed on two ranks, restarted by torchrun, gone on with on one."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torchrun

from augstream.testing import make_shards

pytestmark = [pytest.mark.processes, pytest.mark.slow]

SCRIPT = torchrun.EXAMPLES / "train_ddp.py"
KILL_AT, LEAVE_AT, STEPS = 5, 91, 100  # an epoch is 6 steps of 16 samples
SAVE_EVERY = 3


class Lines:
    """What the ranks of a run logged: one line a step and rank."""

    def __init__(self, folder: Path, world_size: int) -> None:
        names = [f"rank-{rank}-of-{world_size}.jsonl" for rank in range(world_size)]
        lines = [[json.loads(line) for line in (folder / name).read_text().splitlines()] for name in names]
        self.of_ranks: list[list[dict[str, Any]]] = lines

    def losses(self) -> dict[int, float]:
        """Step -> loss; the ranks agree, and so do a step and its repetition after a restart."""
        found: dict[int, float] = {}
        for line in itertools.chain.from_iterable(self.of_ranks):
            assert found.setdefault(line["step"], line["loss"]) == line["loss"]
        return found

    def samples(self) -> dict[int, list[Any]]:
        """Step -> its samples in order: the first batch of each rank, then the second."""
        by_step: dict[int, list[Any]] = {}
        per_rank = [{line["step"]: line["keys"] for line in lines} for lines in self.of_ranks]
        for step in per_rank[0]:
            turns = zip(*[keys[step] for keys in per_rank if step in keys], strict=True)
            by_step[step] = [sample for turn in turns for batch in turn for sample in batch]
        return by_step


def arguments(folder: Path, name: str, **more: Any) -> list[str]:
    options = {
        "checkpoint": folder / f"{name}.pt", "record": folder / name, "save-every": SAVE_EVERY, "batch-size": 8,
        "global-batch-size": 16, **more,
    }  # fmt: skip
    texts = [text for option, value in options.items() for text in (f"--{option}", str(value))]
    return [str(SCRIPT), str(folder / "shards"), *texts]


def kill_a_rank_on_the_way(command: list[str], folder: Path) -> None:
    """Run torchrun, and kill rank 1 when step KILL_AT is done for the first time."""
    seen: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=torchrun.environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"step {KILL_AT} ") and line not in seen:
                # rank 1 has logged the step before, or there would be no loss of this one
                first = (folder / "rank-1-of-2.jsonl").read_text().splitlines()[0]
                os.kill(json.loads(first)["pid"], signal.SIGKILL)
            seen.append(line)
    assert process.returncode == 0, "".join(seen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The logs of a run on one rank, of one killed and restarted on two, and of its rest on one."""
    found = tmp_path_factory.mktemp("train")
    make_shards(found / "shards", num_samples=100, num_shards=4, size=(40, 48))
    torchrun.run(1, *arguments(found, "one", steps=STEPS))
    elastic = arguments(found, "elastic", steps=LEAVE_AT, workers=2)
    kill_a_rank_on_the_way(torchrun.command(2, *elastic, max_restarts=1), found / "elastic")
    torchrun.run(1, *arguments(found, "elastic", steps=STEPS))
    return found


def test_torchrun_restarted_the_ranks_from_the_last_checkpoint(folder):
    for lines in Lines(folder / "elastic", 2).of_ranks:
        first, second = [
            [line["step"] for line in lines if line["pid"] == pid]
            for pid in {line["pid"]: 0 for line in lines}
        ]
        saved = second[0] - 1
        assert first == [*range(1, first[-1] + 1)]
        assert second == [*range(saved + 1, LEAVE_AT + 1)]
        assert saved % SAVE_EVERY == 0
        assert KILL_AT - SAVE_EVERY <= saved <= first[-1] < LEAVE_AT


def test_losses_are_those_of_one_rank(folder):
    one, two, rest = Lines(folder / "one", 1), Lines(folder / "elastic", 2), Lines(folder / "elastic", 1)
    expected = one.losses()
    assert sorted(expected) == [*range(1, STEPS + 1)]
    assert sorted(two.losses()) == [*range(1, LEAVE_AT + 1)]
    assert sorted(rest.losses()) == [*range(LEAVE_AT + 1, STEPS + 1)]
    assert two.losses() | rest.losses() == pytest.approx(expected, rel=1e-4)
    assert len(set(expected.values())) == STEPS


def test_every_global_batch_holds_the_samples_of_one_ranks_in_order(folder):
    one, two, rest = Lines(folder / "one", 1), Lines(folder / "elastic", 2), Lines(folder / "elastic", 1)
    expected = one.samples()
    assert all(len(samples) == 16 for samples in expected.values())
    assert {**two.samples(), **rest.samples()} == expected
    for epoch in range(2):
        steps = range(6 * epoch + 1, 6 * epoch + 7)
        seen = [tuple(sample) for step in steps for sample in expected[step]]
        assert len(set(seen)) == 96
