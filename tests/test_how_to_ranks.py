"""The scripts of the page on many ranks, run as it says: under torchrun, under SLURM's variables, under Ray Train."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torchrun

import augstream as A
from augstream.testing import make_shards

pytestmark = [pytest.mark.processes, pytest.mark.slow]

PAGE = torchrun.TESTS.parent / "docs" / "how-to" / "ranks.md"
BLOCK = re.compile(
    r"^```\{code-block\} python\n:caption: (\S+)\n\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE
)
SCRIPTS = dict(BLOCK.findall(PAGE.read_text()))
TRAIN = "...  # train"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with shards, where the scripts run."""
    make_shards(tmp_path / "shards", num_samples=64, num_shards=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(folder: Path, name: str, step: str) -> Path:
    """A script of the page, with something to do for each batch."""
    text = SCRIPTS[name]
    assert text.count(TRAIN) == 1
    path = folder / name
    path.write_text(text.replace(TRAIN, step))
    return path


def keys(dataset: A.StreamDataset, num_epochs: int = 1) -> list[list[str]]:
    loader = A.StreamLoader(dataset)
    return [batch["__key__"] for _ in range(num_epochs) for batch in loader]


def test_the_page_has_a_script_for_each_launcher():
    assert set(SCRIPTS) == {"train.py", "train_slurm.py", "train_ray.py"}


def test_under_torchrun_in_two_worlds(folder):
    log = 'open(f"seen-{dist.get_world_size()}-{dist.get_rank()}", "a").write(json.dumps(batch["__key__"]) + "\\n")'
    path = script(folder, "train.py", log)
    torchrun.run(2, path)
    finished = json.loads(Path("loader.json").read_text())
    assert (finished["epoch"], finished["units"]) == (2, 0)
    Path("loader.json").write_text(
        json.dumps(finished | {"epoch": 1, "units": 8})
    )  # as if it had been killed
    torchrun.run(4, path)
    seen = {
        (world_size, rank): [
            json.loads(line) for line in Path(f"seen-{world_size}-{rank}").read_text().splitlines()
        ]
        for world_size in (2, 4)
        for rank in range(world_size)
    }
    whole = keys(A.StreamDataset("shards", batch_size=16, unit=4, seed=137, fields={"label": "cls"}), 2)
    two = [[*a, *b] for a, b in zip(seen[2, 0], seen[2, 1], strict=True)]
    assert two == whole
    four = [[*a, *b, *c, *d] for a, b, c, d in zip(*[seen[4, rank] for rank in range(4)], strict=True)]
    assert four == whole[6:]


def test_under_the_variables_of_slurm(folder):
    path = script(folder, "train_slurm.py", "print(*batch['__key__'])")
    tasks = [
        subprocess.Popen(
            [sys.executable, str(path)], stdout=subprocess.PIPE, text=True,
            env=torchrun.environment() | {"SLURM_PROCID": str(rank), "SLURM_NTASKS": "3", "SLURM_LOCALID": str(rank)},
        )
        for rank in range(3)
    ]  # fmt: skip
    printed = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0]
    parts = [[line.split() for line in text.splitlines()] for text in printed]
    whole = keys(A.StreamDataset("shards", batch_size=4, seed=137, fields={"label": "cls"}))
    assert [batch for step in zip(*parts, strict=True) for batch in step] == whole[:15]


class RayStep:
    """What the ranks of Ray Train do with a batch: note its keys; and once, rank 1 dies at its fifth."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.keys: list[list[str]] = []
        self.life = 0

    def __call__(self, rank: int, batch: dict[str, list[str]]) -> None:
        died = Path(self.folder) / "died"
        if not self.keys:
            self.life = 2 if died.exists() else 1
        self.keys.append(batch["__key__"])
        (Path(self.folder) / f"life-{self.life}-rank-{rank}.json").write_text(json.dumps(self.keys))
        if rank == 1 and self.life == 1 and len(self.keys) == 5:
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


RAY_JOB = """
import sys
sys.path[:0] = {paths!r}
{script}

if __name__ == "__main__":
    import ray
    from test_how_to_ranks import RayStep
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir={temporary!r},
        runtime_env={{"env_vars": {{"PYTHONPATH": {pythonpath!r}}}}},
    )
    result = fit({shards!r}, RayStep({folder!r}), {storage!r})
    assert result.error is None, result.error
    ray.shutdown()
"""


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason=".venv/bin/python -m pip install -c scripts/constraints.txt -e .[ray] for it",
)
def test_under_ray_train_with_a_worker_that_dies(folder):
    environment = torchrun.environment() | {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_memory_monitor_refresh_ms": "0",  # what else runs on this machine is not ours to judge
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # it would leave a token in the home directory
    }
    paths = environment["PYTHONPATH"].split(os.pathsep)
    job = folder / "job.py"
    with TemporaryDirectory(prefix="ray-") as temporary:  # a short path: it holds sockets
        text = RAY_JOB.format(
            paths=paths, script=SCRIPTS["train_ray.py"], pythonpath=environment["PYTHONPATH"], temporary=temporary,
            shards=str(folder / "shards"), folder=str(folder), storage=str(folder / "storage"),
        )  # fmt: skip
        job.write_text(text)
        done = subprocess.run(
            [sys.executable, str(job)],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            env=environment,
        )
    assert done.returncode == 0, done.stderr[-5000:]
    assert (folder / "died").exists()
    lives = []
    for life in (1, 2):
        parts = [json.loads((folder / f"life-{life}-rank-{rank}.json").read_text()) for rank in range(2)]
        lives.append([batch for step in zip(*parts) for batch in step])  # noqa: B905  # one may be a step further
    whole = keys(A.StreamDataset("shards", batch_size=4, seed=137, fields={"label": "cls"}), 2)
    assert lives[0][:10] == whole[:10]
    assert lives[1] == whole[-len(lives[1]) :]
    assert len(whole) - len(lives[1]) in {0, 6}, "Ray goes on from the last checkpoint that it has taken"
