"""A long run in short: hundreds of epochs with kills, resumes and servers that fail, and what they leave behind.

In every turn two loaders that are never closed, one of them behind a flaky HTTP server, go on by an epoch or two, and
a third stream goes through one of the troubles of `TROUBLES`. Every batch is compared with the one computed alone in
this process; memory, descriptors, mappings and children are counted after each turn.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import say, table
from leaks import Holdings, Slope, is_running, left_since, resident_kb
from pictures import shards

import augstream as A
from augstream.digest import digest

HERE = Path(__file__).resolve().parent
SERVER = HERE.parents[1] / "tests" / "flaky_server.py"
ODDS_OF_TROUBLE = 0.02
QUICK_REMOTE = {"backoff_s": 0.005, "timeout_s": 10.0, "attempts": 12}


def dataset_of(paths: Any, **arguments: Any) -> A.StreamDataset:
    """The stream that all loaders here give."""
    compose = A.Compose(
        [
            A.RandomResizedCrop(size=(128, 128)),
            A.HorizontalFlip(p=0.5),
            A.GaussNoise(p=0.1),
            A.Normalize(),
            A.ToTensorV2(),
        ]
    )
    return A.StreamDataset(paths, compose, batch_size=16, seed=11, lanes=2, window=32, **arguments)


class Soak:
    """What goes on from turn to turn: the streams, what was seen of them, and what was counted."""

    def __init__(self, paths: list[str], url: str, folder: Path) -> None:
        self.paths, self.folder = paths, folder
        self.urls = [f"{url}/{Path(path).name}" for path in paths]
        self.here = dataset_of(paths)
        self.random = random.Random(3)
        self.state = self.here.state_dict(epoch=0, num_batches=0)
        self.chain = self.expected_chain = ""
        self.counts: dict[str, int] = dict.fromkeys(
            ("epochs", "batches", "wrong", "workers killed", "trainers killed", "resumes"), 0
        )

    @lru_cache(maxsize=8)  # noqa: B019  # there is one soak a run
    def expected(self, epoch: int) -> list[str]:
        """The digests of an epoch's batches, each computed alone in this process."""
        stream = self.here.stream
        plan = stream.plan(self.here.topology())
        return [digest(stream.batch(epoch, plan.units_of_step(step))) for step in range(plan.num_steps)]

    def check(self, epoch: int, step: int, found: str) -> None:
        """Compare a batch's digest, and chain it."""
        expected = self.expected(epoch)[step]
        self.chain, self.expected_chain = digest(found, self.chain), digest(expected, self.expected_chain)
        self.counts["batches"] += 1
        if found != expected:
            self.counts["wrong"] += 1
            print(f"WRONG: step {step} of epoch {epoch}")

    def loader(
        self, num_workers: int, *, paths: Any = None, remote: Any = None, **options: Any
    ) -> A.StreamLoader:
        """Another loader, at the place of the stream in trouble."""
        dataset = dataset_of(self.paths if paths is None else paths, remote=remote)
        loader = A.StreamLoader(dataset, num_workers=num_workers, max_respawns=10**6, **options)
        loader.load_state_dict(json.loads(json.dumps(self.state)))
        self.counts["resumes"] += 1
        return loader

    def run(self, loader: A.StreamLoader, epochs: int = 1, kill: signal.Signals | None = None) -> None:
        """Take the rest of this epoch and those after it, and kill or stop workers on the way, if `kill` says how."""
        for _ in range(epochs):
            state = loader.state_dict()
            for step, batch in enumerate(loader, start=state["units"]):
                self.check(state["epoch"], step, digest(batch))
                if kill is not None and self.random.random() < 0.1:
                    with suppress(ProcessLookupError):  # killed a step ago, and its place not filled yet
                        os.kill(self.random.choice(loader.worker_pids), kill)
                        self.counts["workers killed"] += 1
            self.counts["epochs"] += 1

    def close(self, loader: A.StreamLoader) -> None:
        """Keep the place for the loader of the next trouble."""
        self.state = loader.state_dict()
        loader.close()

    def until(self) -> int:
        """The epoch at which the trouble of this turn is over."""
        return int(self.state["epoch"]) + EPOCHS_OF_TROUBLE


EPOCHS_OF_TROUBLE = 2
Trouble = Callable[[Soak], None]


def killed(soak: Soak) -> None:
    """Workers are killed at random batches."""
    loader = soak.loader(3)
    soak.run(loader, EPOCHS_OF_TROUBLE, signal.SIGKILL)
    soak.close(loader)


def stopped(soak: Soak) -> None:
    """Workers fall silent, and are replaced."""
    loader = soak.loader(2, timeout_s=0.5, prefetch_factor=1)
    soak.run(loader, EPOCHS_OF_TROUBLE, signal.SIGSTOP)
    soak.close(loader)


def moved(soak: Soak) -> None:
    """The loop is left in the middle, again and again, and goes on in another loader with other workers."""
    until, left = soak.until(), 0
    while soak.state["epoch"] < until:
        loader = soak.loader(left % 4, persistent_workers=bool(left % 3))
        state, some = loader.state_dict(), soak.random.randrange(3, 20)
        for step, batch in enumerate(loader, start=state["units"]):
            soak.check(state["epoch"], step, digest(batch))
            if step - state["units"] == some:
                break
        soak.close(loader)
        left += 1
    soak.counts["epochs"] += EPOCHS_OF_TROUBLE


def renewed(soak: Soak) -> None:
    """New workers each epoch."""
    loader = soak.loader(1, persistent_workers=False)
    soak.run(loader, EPOCHS_OF_TROUBLE)
    soak.close(loader)


def spawned(soak: Soak) -> None:
    """Workers of the other start methods, killed."""
    for method in ("spawn", "forkserver"):
        loader = soak.loader(2, multiprocessing_context=method)
        next(iter(loader))
        os.kill(loader.worker_pids[0], signal.SIGKILL)
        soak.counts["workers killed"] += 1
        loader.load_state_dict(soak.state)
        soak.run(loader)
        soak.close(loader)


def threaded(soak: Soak) -> None:
    """Threads in place of processes."""
    loader = soak.loader(2, workers="thread")
    soak.run(loader, EPOCHS_OF_TROUBLE)
    soak.close(loader)


def fetched(soak: Soak) -> None:
    """A cache that has room for three of the four shards of a flaky server, and workers killed while they fetch."""
    folder = soak.folder / "cache"
    limit = sum(Path(path).stat().st_size for path in soak.paths[:3])
    remote = A.Remote(cache_dir=str(folder), cache_bytes=limit, **QUICK_REMOTE)
    loader = soak.loader(2, paths=soak.urls, remote=remote)
    soak.run(loader, EPOCHS_OF_TROUBLE, signal.SIGKILL)
    soak.close(loader)
    shutil.rmtree(folder)


def stock(soak: Soak) -> None:
    """A stock DataLoader with persistent workers."""
    from torch.utils.data import DataLoader

    dataset = dataset_of(soak.paths)
    dataset.load_state_dict(soak.state)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in range(soak.state["epoch"], soak.until()):
        for step, batch in enumerate(loader):
            soak.check(epoch, step, digest(batch))
        soak.counts["epochs"] += 1
    soak.state = dataset.state_dict(epoch=soak.until(), num_batches=0)


def retrained(soak: Soak) -> None:
    """The training process itself is killed, and its state goes on in another, with other workers."""
    until, workers = soak.until(), 0
    while soak.state["epoch"] < until:
        workers = workers % 3 + 1
        job = {"shards": soak.paths, "state": soak.state, "until": until, "workers": workers}
        command = [sys.executable, str(HERE / "soak_trainer.py")]
        trainer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert trainer.stdin is not None  # noqa: S101  # for the type checker
        assert trainer.stdout is not None  # noqa: S101  # the same
        with trainer, trainer.stdout:
            json.dump(job, trainer.stdin)
            trainer.stdin.close()
            pids = {trainer.pid}
            for _ in range(soak.random.randrange(10, 40)):
                line = json.loads(trainer.stdout.readline() or "{}")
                if not line:
                    break
                soak.check(soak.state["epoch"], soak.state["units"], line["digest"])
                soak.state = line["state"]
                pids.update(line["pids"])
            trainer.kill()
        soak.counts["trainers killed"] += 1
        deadline = time.monotonic() + 15
        while any(map(is_running, pids)):
            if time.monotonic() > deadline:
                raise SystemExit(f"a killed trainer left processes behind: {[*filter(is_running, pids)]}")
            time.sleep(0.05)
    soak.counts["epochs"] += EPOCHS_OF_TROUBLE


TROUBLES: tuple[Trouble, ...] = (
    killed,
    moved,
    fetched,
    threaded,
    stopped,
    renewed,
    stock,
    retrained,
    spawned,
)


@contextmanager
def flaky(folder: Path) -> Iterator[str]:
    """The URL of a server of the folder's files, in a process of its own."""
    command = [sys.executable, str(SERVER), str(folder), str(ODDS_OF_TROUBLE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # noqa: S101  # for the type checker
        try:
            yield server.stdout.readline().strip()
        finally:  # by force: forked workers hold its input open, should an error end all this before they are closed
            server.kill()


class Old:
    """A loader that is never closed, and the memory of its workers, which live as long."""

    def __init__(self, soak: Soak, name: str, loader: A.StreamLoader) -> None:
        self.soak, self.name, self.loader = soak, name, loader
        self.memory_kb: list[float] = []

    def go_on(self, epochs: int) -> None:
        """Some epochs more."""
        for _ in range(epochs):
            self.soak.run(self.loader)
            self.memory_kb.append(sum(map(resident_kb, self.loader.worker_pids)))


def turns(soak: Soak, num_turns: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Run; gives a row for each thing that must not grow, and what was left behind by each trouble."""
    for trouble in TROUBLES:  # torch, fsspec and multiprocessing start helpers of their own, once
        trouble(soak)
    clean = Holdings.now()
    old = [
        Old(soak, "2 workers, local shards", soak.loader(2)),
        Old(
            soak,
            "2 workers, ranges of a flaky server",
            soak.loader(2, paths=soak.urls, remote=A.Remote(**QUICK_REMOTE)),
        ),
    ]
    epochs, memory_kb, held, left = [], [], [], []
    for turn in range(num_turns):
        old[0].go_on(2)
        old[1].go_on(1)
        trouble = TROUBLES[turn % len(TROUBLES)]
        before = Holdings.now()
        trouble(soak)
        if more := left_since(before):
            left.append(f"after turn {turn}, {trouble.__name__}: {', '.join(more)}")
        epochs.append(soak.counts["epochs"])
        memory_kb.append(resident_kb())
        held.append(Holdings.now())
        say(
            f"turn {turn + 1} of {num_turns}, {trouble.__name__}: {memory_kb[-1] / 1024:.1f} MB; left: {left}"
        )
    say("")
    rows = [row("this process, kB", Slope.of(epochs, memory_kb), len(epochs))]
    rows += [
        row(f"{one.name}, kB of both", Slope.of(range(len(one.memory_kb)), one.memory_kb), len(one.memory_kb))
        for one in old
    ]
    for name in ("descriptors", "mappings", "threads"):
        rows.append(row(name, Slope.of(epochs, [float(getattr(one, name)) for one in held]), len(epochs)))
    while old:  # and let go of them: a dataset shares its epoch with workers through a descriptor
        old.pop().loader.close()
    left += [f"in the end: {more}" for more in left_since(clean)]
    return rows, left


def row(what: str, slope: Slope, points: int) -> dict[str, Any]:
    return {
        "what": what,
        "mean": slope.mean,
        "per_epoch": slope.per_step,
        "error": slope.error,
        "points": points,
    }


def run(arguments: Namespace) -> dict[str, Any]:
    """An hour's shape: 200 epochs, or fewer with --quick."""
    paths = shards(arguments.data, 400, 160)
    logging.getLogger("augstream").setLevel(logging.ERROR)  # every kill is a warning
    num_turns = len(TROUBLES) if arguments.quick else 37
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, flaky(Path(paths[0]).parent) as url:
        soak = Soak(paths, url, Path(folder))
        rows, left = turns(soak, num_turns)
    seconds = time.monotonic() - begun
    lines = [
        [
            one["what"],
            f"{one['mean']:,.1f}",
            f"{one['per_epoch']:+.3f}",
            f"{one['error']:.3f}",
            str(one["points"]),
        ]
        for one in rows
    ]
    print(
        table(lines, ["second half of the run", "mean", "more an epoch", "standard error", "points in all"])
    )
    print(f"\n{seconds:.0f} s; " + ", ".join(f"{count} {name}" for name, count in soak.counts.items()))
    print(f"chained digest {soak.chain}\n      expected {soak.expected_chain}")
    print("left behind: " + ("; ".join(left) or "nothing"))
    if soak.counts["wrong"] or left or soak.chain != soak.expected_chain:
        raise SystemExit("the soak found something: see above")
    return {"rows": rows, "counts": soak.counts, "seconds": seconds, "chain": soak.chain}
