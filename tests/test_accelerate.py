"""Accelerate saves and restores a StreamLoader's place: no batch is skipped by hand, and none comes twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torchrun

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

pytestmark = [pytest.mark.processes, pytest.mark.slow]

JOB = Path(__file__).parent / "accelerate_job.py"
EPOCH = 10  # 37 samples in batches of 4


def arguments(shards: list[str], work: Path, name: str, *more: str) -> list[str]:
    return [str(JOB), str(Path(shards[0]).parent), str(work / "saved"), str(work / name), *more]


def run(shards: list[str], work: Path, name: str, *more: str) -> tuple[int, list[Any], Any]:
    """(exit status, what was logged, the weights it learned) of a process."""
    work.mkdir(exist_ok=True)
    command = [sys.executable, *arguments(shards, work, name, *more)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=torchrun.environment()
    )
    assert (work / f"{name}.0").exists(), done.stderr
    weights = work / f"{name}.pt"
    return done.returncode, logged(work, name, 0), torch.load(weights)["weight"] if weights.exists() else None


def logged(work: Path, name: str, rank: int) -> list[Any]:
    return [json.loads(line) for line in (work / f"{name}.{rank}").read_text().splitlines()]


@pytest.mark.parametrize(("kill_in_step", "workers"), [(3, "0 2"), (EPOCH, "2 0")])
def test_a_killed_training_goes_on_after_its_state(
    shards: list[str], tmp_path: Path, kill_in_step: int, workers: str
) -> None:
    before, after = workers.split()
    status, whole, weights = run(shards, tmp_path / "a", "whole", "-1", "0", "fresh")
    assert status == 0
    assert [epoch for epoch, _ in whole] == [epoch for epoch in range(3) for _ in range(EPOCH)]
    status, killed, _ = run(shards, tmp_path, "killed", str(kill_in_step), before, "fresh")
    assert status == -signal.SIGKILL
    assert killed == whole[: kill_in_step + 1]
    status, resumed, resumed_weights = run(shards, tmp_path, "resumed", "-1", after, "resume")
    assert status == 0
    assert resumed == whole[kill_in_step:]
    assert torch.equal(resumed_weights, weights)


def test_two_ranks_share_the_stream(shards: list[str], tmp_path: Path) -> None:
    _, whole, _ = run(shards, tmp_path / "a", "whole", "-1", "0", "fresh")
    torchrun.run(2, *arguments(shards, tmp_path, "ranks", "-1", "1", "fresh"))
    ranks = [logged(tmp_path, "ranks", rank) for rank in range(2)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == whole
