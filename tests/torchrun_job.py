"""What the ranks of test_torchrun.py do: the tasks of a job, each of which leaves what it saw in a file a rank.

Run as ``torchrun --nproc-per-node N torchrun_job.py JOB.json``; the job names the shards, the folder and the tasks.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from engine import dataset_of, digests
from torch.utils.data import DataLoader

import augstream as A
from augstream.digest import digest

GLOBAL_BATCH = 12
POISON = "000020"


class Rank:
    """This rank, and where it leaves what it saw."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.shards, self.folder = job["shards"], Path(job["folder"])
        self.number, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def dataset(self, transform: Any = None, **arguments: Any) -> A.StreamDataset:
        return dataset_of(self.shards, transform, **{"batch_size": 2, **arguments})

    def leave(self, name: str, value: Any) -> None:
        """Write a value, whole or not at all."""
        path = self.folder / f"{name}-{self.number}-of-{self.world_size}.json"
        path.with_suffix(".new").write_text(json.dumps(value))
        path.with_suffix(".new").replace(path)


def late(rank: Rank) -> None:
    """The other ranks begin when rank 0 has had two whole epochs."""
    with A.StreamLoader(rank.dataset(), num_workers=1) as loader:
        fifo = rank.folder / f"fifo-{max(rank.number, 1)}"
        if rank.number:
            fifo.read_text()  # until somebody writes
        rank.leave("late", [digests(loader) for _ in range(2)])
        for other in range(1, rank.world_size if rank.number == 0 else 0):
            (rank.folder / f"fifo-{other}").write_text("go")


def global_batches(rank: Rank) -> None:
    """Two epochs in which the batches of all ranks together have always the same size."""
    dataset = rank.dataset(batch_size=GLOBAL_BATCH // rank.world_size, unit=1, drop_last=True)
    with A.StreamLoader(dataset, num_workers=1) as loader:
        rank.leave(
            "global",
            [
                [
                    [shard, key, digest(image)]
                    for shard, key, image in zip(
                        batch["__shard__"], batch["__key__"], batch["image"], strict=True
                    )
                ]
                for _ in range(2)
                for batch in loader
            ],
        )


def worker_killed(rank: Rank) -> None:
    """One rank loses a worker now and then; the others go on."""
    with A.StreamLoader(rank.dataset(), num_workers=2) as loader:
        seen = []
        for _ in range(2):
            for batch in loader:
                seen.append(digest(batch))
                if rank.number == 1 and len(seen) % 5 == 2:
                    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        loader.assert_in_step()
        rank.leave("killed", {"digests": seen, "respawns": loader.stats.respawns})


def in_step(rank: Rank) -> None:
    """What the check says of mistakes that rank 1 makes."""
    said: dict[str, str | None] = {}

    def check(name: str, loader: A.StreamLoader) -> None:
        try:
            loader.assert_in_step()
        except A.TopologyError as error:
            said[name] = str(error)
        else:
            said[name] = None

    culprit = rank.number == 1
    loader = A.StreamLoader(rank.dataset())
    check("at the start", loader)
    digests(itertools.islice(loader, 3))
    state = loader.state_dict()
    digests(itertools.islice(loader, 1))
    check("after four batches", loader)
    digests(itertools.islice(loader, 1 if culprit else 2))
    check("a batch less", loader)
    loader.load_state_dict(loader.state_dict() if not culprit else state)
    check("an older state", loader)
    loader.load_state_dict(state)
    digests(loader)
    check("the next epoch", loader)
    other = A.StreamLoader(rank.dataset(seed=1 if culprit else 137))
    check("another seed", other)
    rank.leave("in_step", said)


def die_at_poison(sample: dict[str, Any]) -> dict[str, Any]:
    """A stage that a sample kills each time."""
    if sample["__key__"] == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample


def poisoned(rank: Rank) -> None:
    """One rank meets a sample that kills its workers; after a check, all ranks know of it."""
    dataset = rank.dataset(die_at_poison, fields={"label": "cls"}, on_error="skip")
    with A.StreamLoader(dataset, num_workers=1, persistent_workers=False) as loader:
        keys, states, respawns = [], [], []
        for _ in range(3):
            keys += [batch["__key__"] for batch in loader]
            loader.assert_in_step()
            states.append(loader.state_dict())
            respawns.append(loader.stats.respawns)
        rank.leave("poisoned", {"keys": keys, "states": states, "respawns": respawns})


def spawned(rank: Rank) -> None:
    """Workers of a stock loader that find neither torch.distributed nor the launcher's environment."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    stock = DataLoader(rank.dataset(), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    rank.leave("spawned", digests(stock))
    os.environ.update(hidden)


def life(rank: Rank, *, state: str, num_steps: int, kill: bool = False) -> None:
    """Some steps of a training run, with a checkpoint after each, from the last checkpoint on.

    kill: rank 1 dies in its fourth step.
    """
    path = Path(state)
    with A.StreamLoader(rank.dataset(), num_workers=1) as loader:
        if path.exists():
            loader.load_state_dict(json.loads(path.read_text()))
        seen: list[str] = []
        while len(seen) < num_steps:
            for batch in itertools.islice(loader, num_steps - len(seen)):
                seen.append(digest(batch))
                rank.leave("life", seen)
                if kill and rank.number == 1 and len(seen) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
                dist.all_reduce(torch.ones(1))  # as a training step does
                if rank.number == 0:
                    path.with_suffix(".new").write_text(json.dumps(loader.state_dict()))
                    path.with_suffix(".new").replace(path)
                dist.barrier()
        rank.leave("state", loader.state_dict())


TASKS = {
    "late": late, "global": global_batches, "killed": worker_killed, "in_step": in_step, "spawned": spawned,
    "life": life, "poisoned": poisoned,
}  # fmt: skip


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    rank = Rank(job)
    tasks: list[tuple[str, dict[str, Any]]] = job["tasks"]
    if tasks[0][0] == "late":
        late(rank)
        tasks = tasks[1:]
    dist.init_process_group("gloo")
    for name, arguments in tasks:
        dist.barrier()
        TASKS[name](rank, **arguments)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
