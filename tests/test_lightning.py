"""A Lightning training that is killed in mid-epoch and resumed sees each remaining batch, and none twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torchrun import environment

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

pytestmark = [pytest.mark.processes, pytest.mark.slow]

JOB = Path(__file__).parent / "lightning_job.py"
EPOCH = 10  # 37 samples in batches of 4


class Run:
    """What one training process logged, and how it ended."""

    def __init__(self, shards: list[str], work: Path, name: str, *more: str) -> None:
        log = work / f"{name}.jsonl"
        folder = str(Path(shards[0]).parent)
        command = [sys.executable, str(JOB), folder, str(work / "checkpoints"), str(log), *more]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env=environment()
        )
        self.returncode, self.stderr = done.returncode, done.stderr
        assert log.exists(), self.stderr
        self.steps: list[Any] = [json.loads(line) for line in log.read_text().splitlines()]
        weights = Path(f"{log}.pt")
        self.weights = torch.load(weights)["weight"] if weights.exists() else None


@pytest.fixture(scope="module")
def uninterrupted(shards: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(shards, tmp_path_factory.mktemp("whole"), "whole", "-1", "0", "fresh")
    assert run.returncode == 0, run.stderr
    return run


def test_an_uninterrupted_training_sees_other_batches_in_each_epoch(uninterrupted: Run) -> None:
    assert [(epoch, number) for epoch, number, _ in uninterrupted.steps] == [
        (epoch, number) for epoch in range(3) for number in range(EPOCH)
    ]
    assert len({digest for *_, digest in uninterrupted.steps}) == 3 * EPOCH


@pytest.mark.parametrize(("kill_in_step", "workers"), [(3, "0 2"), (EPOCH, "2 1"), (2 * EPOCH - 1, "1 0")])
def test_a_killed_training_goes_on_after_its_checkpoint(
    shards: list[str], tmp_path: Path, uninterrupted: Run, kill_in_step: int, workers: str
) -> None:
    before, after = workers.split()
    killed = Run(shards, tmp_path, "killed", str(kill_in_step), before, "fresh")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = Run(shards, tmp_path, "resumed", "-1", after, "resume")
    assert resumed.returncode == 0, resumed.stderr
    # each finished step was saved; the one in which it was killed had been given its batch, and had not
    assert killed.steps == uninterrupted.steps[: kill_in_step + 1]
    assert resumed.steps == uninterrupted.steps[kill_in_step:]
    assert torch.equal(resumed.weights, uninterrupted.weights)
