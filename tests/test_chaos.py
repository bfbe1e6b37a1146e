"""Workers and trainers are killed, stopped and interrupted; what is delivered stays the same."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic, perf_counter

import pytest
from engine import DieAt, ExitAt, ResizeByHand, dataset_of, digests, epochs_of

import augstream as A
from augstream.digest import digest
from augstream.errors import WorkerError

pytestmark = pytest.mark.processes
TESTS = Path(__file__).parent


def workers() -> list[multiprocessing.process.BaseProcess]:
    """The live workers, by number."""
    found = [
        child for child in multiprocessing.active_children() if child.name.startswith("augstream-worker")
    ]
    return sorted(found, key=lambda child: child.name)


class Killer(threading.Thread):
    """Kills so many workers at random moments, each once; its choices follow from its seed."""

    def __init__(self, num_kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.num_kills, self.random = num_kills, random.Random(seed)
        self.enough = threading.Event()

    def run(self) -> None:
        killed: set[int] = set()
        while len(killed) < self.num_kills:
            threading.Event().wait(self.random.expovariate(1 / 0.03))
            victims = [worker.pid for worker in workers() if worker.pid not in killed]
            if victims:
                victim = self.random.choice(victims)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
        self.enough.set()


def heavy() -> A.Compose:
    return A.Compose([A.RandomResizedCrop(size=(256, 256)), A.HorizontalFlip(p=0.5)])


def test_thirty_kills_at_random_moments_change_nothing(shards, caplog, capfd):
    dataset = dataset_of(shards, heavy())
    killer = Killer(num_kills=32, seed=8)
    with A.StreamLoader(dataset, num_workers=3, prefetch_factor=1, max_respawns=100) as loader:
        first = digests(loader)
        killer.start()
        seen = [first]
        while not killer.enough.is_set():
            seen.append(digests(loader))
        seen += [digests(loader) for _ in range(2)]
        assert seen == epochs_of(dataset, len(seen))
        assert loader.stats.respawns == 32
        lines = [record.message for record in caplog.records if "goes on in its place" in record.message]
        assert len(lines) == loader.stats.respawns
        assert all("was killed by SIGKILL" in line for line in lines)
    assert capfd.readouterr().err == ""
    assert not workers()


@pytest.mark.measures
@pytest.mark.parametrize(
    ("method", "num_kills", "limit_s"),
    [
        ("fork", 11, 0.5),
        pytest.param("forkserver", 3, 5.0, marks=pytest.mark.slow),
        pytest.param("spawn", 3, 5.0, marks=pytest.mark.slow),
    ],
)
def test_recovery_is_quick(shards, method, num_kills, limit_s, record_property):
    """From the death of all workers until a batch is delivered that only their successors can have made."""
    dataset = dataset_of(shards, batch_size=1)
    made_ahead = 2  # one by each worker
    times = []
    with A.StreamLoader(dataset, num_workers=2, prefetch_factor=1, multiprocessing_context=method) as loader:
        found = digests(islice(loader, 2))
        while len(times) < num_kills:
            for pid in loader.worker_pids:
                os.kill(pid, signal.SIGKILL)
            began = perf_counter()
            found += digests(islice(loader, made_ahead + 1))
            times.append(perf_counter() - began)
        found += digests(loader)
        assert [found] == epochs_of(dataset, 1)
        assert loader.stats.respawns == 2 * num_kills
    record_property("median_recovery_s", statistics.median(times))
    print(f"recovery, {method}: median {statistics.median(times):.3f} s, worst {max(times):.3f} s")  # noqa: T201
    assert statistics.median(times) < limit_s


def starting() -> set[int]:
    """Workers that spawn or forkserver started, as the system sees them: however far they have come."""
    parents, scripts = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            script = (folder / "cmdline").read_text()  # before either is kept: it may end between the two
            if stat[0] != "Z":
                parents[int(folder.name)], scripts[int(folder.name)] = int(stat[1]), script
    ours = {pid for pid, parent in parents.items() if parent == os.getpid()}
    forked = {pid for pid, parent in parents.items() if parent in ours and "forkserver" in scripts[parent]}
    return forked | {pid for pid in ours if "spawn_main" in scripts[pid]}


@dataclass(frozen=True)
class Ballast(ResizeByHand):
    """More than a pipe holds, which a worker has to be sent."""

    ballast: bytes = bytes(300_000)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_is_killed_before_it_has_read_what_it_is_sent_is_replaced(shards, method):
    dataset = dataset_of(shards, Ballast())
    before, killed = starting(), set()

    def kill_two():
        while len(killed) < 2:
            for pid in starting() - before - killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    killer = threading.Thread(target=kill_two, daemon=True)
    killer.start()
    with A.StreamLoader(
        dataset, num_workers=1, multiprocessing_context=method, max_respawns=5, timeout_s=20
    ) as loader:
        assert [digests(loader)] == epochs_of(dataset, 1)
    killer.join()


@pytest.mark.measures
def test_a_worker_that_hangs_is_replaced(shards, caplog, capfd):
    dataset = dataset_of(shards)
    with A.StreamLoader(dataset, num_workers=2, prefetch_factor=1, timeout_s=0.5) as loader:
        seen = [digests(loader)]
        stopped = workers()[1]
        os.kill(stopped.pid, signal.SIGSTOP)
        began = monotonic()
        seen.append(digests(loader))
        assert 0.5 <= monotonic() - began < 10
        assert seen == epochs_of(dataset, 2)
        assert loader.stats.respawns == 1
        assert not stopped.is_alive()
    assert [record.message for record in caplog.records if "no sign of life" in record.message]
    assert capfd.readouterr().err == ""


@pytest.mark.measures
def test_stopped_workers_do_not_keep_the_trainer_from_leaving(shards):
    loader = A.StreamLoader(dataset_of(shards), num_workers=2)
    next(iter(loader))
    for worker in workers():
        os.kill(worker.pid, signal.SIGSTOP)
    began = monotonic()
    loader.close()
    assert monotonic() - began < 5
    assert not workers()


class TestPoison:
    """A sample that kills its worker every time."""

    KEY = "000020"

    def place(self, dataset):
        """(step, shard) of the sample in epoch 0."""
        for step, batch in enumerate(dataset_of([*dataset.index.urls], ResizeByHand())):
            if self.KEY in batch["__key__"]:
                return step, batch["__shard__"][batch["__key__"].index(self.KEY)]
        pytest.fail("no such sample")

    def test_it_is_named(self, shards, caplog):
        dataset = dataset_of(shards, DieAt(keys=(self.KEY,)))
        step, shard = self.place(dataset)
        whole = epochs_of(dataset_of(shards, ResizeByHand()), 1)[0]
        with A.StreamLoader(dataset, num_workers=2) as loader:
            seen = []
            with pytest.raises(WorkerError) as caught:
                seen.extend(digest(batch) for batch in loader)
            assert seen == whole[:step]
            assert loader.state_dict()["units"] == step
            assert f"sample {self.KEY!r} of shard {shard!r} killed its worker 3 times" in str(caught.value)
            assert "SIGKILL" in str(caught.value)
        lines = [
            record.message
            for record in caplog.records
            if f"goes on in its place, at step {step} of epoch 0" in record.message
        ]
        assert len(lines) == 2
        assert all(f"at sample {self.KEY!r} of shard {shard!r}" in line for line in lines)

    def test_it_is_skipped_by_every_topology_and_every_resume(self, shards):
        stage = DieAt(keys=(self.KEY,), trainer=os.getpid())
        dataset = dataset_of(shards, stage, on_error="skip")
        step, shard = self.place(dataset)
        healthy = [[*loop] for loop in [A.StreamLoader(dataset_of(shards, ResizeByHand()))] * 2]
        runs = []
        for num_workers in (1, 2, 5):
            with A.StreamLoader(dataset, num_workers=num_workers, max_respawns=2) as loader:
                first = [digest(batch) for batch in loader]
                state = loader.state_dict()
                runs.append([first, digests(loader)])
                assert loader.stats.respawns >= 1  # other workers may be at it in the next epoch
                assert state["skipped"] == [[shard, self.KEY]]
        assert runs[0] == runs[1] == runs[2]
        assert [batch for batch in range(10) if runs[0][0][batch] != digest(healthy[0][batch])] == [step]
        here = A.StreamLoader(dataset)  # where the stage does not die: it is the state that skips
        here.load_state_dict(json.loads(json.dumps(state)))
        assert digests(here) == runs[0][1]
        keys = [key for batch in A.StreamLoader(dataset) for key in batch["__key__"]]
        assert self.KEY in keys

    @pytest.mark.parametrize("on_error", ["raise", "skip"])
    def test_one_that_kills_less_often_is_delivered(self, shards, tmp_path, on_error):
        stage = DieAt(keys=(self.KEY,), folder=str(tmp_path), times=2)
        dataset = dataset_of(shards, stage, on_error=on_error)
        # Workers that lived on would be at it in the next epoch, too, and might die there for the second time.
        with A.StreamLoader(dataset, num_workers=2, persistent_workers=False) as loader:
            assert digests(loader) == epochs_of(dataset_of(shards, ResizeByHand()), 1)[0]
            assert loader.stats.respawns == 2
            assert loader.state_dict()["skipped"] == []

    def test_none_is_blamed_where_each_death_is_at_another(self, shards, tmp_path):
        """As where memory runs out: to skip a sample for it would change the stream by chance."""
        first = next(iter(dataset_of(shards, ResizeByHand())))["__key__"]
        stage = DieOnceAt(keys=tuple(first), folder=str(tmp_path))
        with A.StreamLoader(dataset_of(shards, stage, on_error="skip"), num_workers=1) as loader:
            with pytest.raises(
                WorkerError, match="died, each time at another sample, 3 times in epoch 0, step 0"
            ):
                digests(loader)
            assert loader.state_dict()["skipped"] == []
            assert digests(loader) == epochs_of(dataset_of(shards, ResizeByHand()), 1)[0]

    def test_a_stage_that_ends_its_process_is_named_too(self, shards):
        with (
            A.StreamLoader(dataset_of(shards, ExitAt(keys=(self.KEY,))), num_workers=1) as loader,
            pytest.raises(WorkerError, match=f"'{self.KEY}' of shard .* exited with status 3"),
        ):
            digests(loader)

    def test_a_collate_fn_that_kills_is_told_from_the_samples(self, shards):
        dataset = dataset_of(shards, ResizeByHand(), collate_fn=die_collating, on_error="skip")
        with (
            A.StreamLoader(dataset, num_workers=1) as loader,
            pytest.raises(WorkerError, match="collating a batch killed its worker 3 times"),
        ):
            digests(loader)


@dataclass(frozen=True)
class DieOnceAt(DieAt):
    """Kills the worker that computes some keys, once for each."""

    def __call__(self, sample, rng):
        mark = Path(self.folder) / sample["__key__"]
        if sample["__key__"] in self.keys and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), self.signal)
        return ResizeByHand.__call__(self, sample, rng)


def die_collating(_samples):
    os.kill(os.getpid(), signal.SIGKILL)


TRAINER = """
import json, multiprocessing, os, signal, sys
import augstream as A
from augstream.digest import digest
from engine import dataset_of

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    job = json.load(sys.stdin)
    dataset = dataset_of(job["shards"])
    try:
        with A.StreamLoader(dataset, num_workers=2, multiprocessing_context=job["method"]) as loader:
            if job["state"]:
                loader.load_state_dict(job["state"])
            while loader.epoch < job["epochs"]:
                for batch in loader:
                    pids = [child.pid for child in multiprocessing.active_children()]
                    line = {"digest": digest(batch), "state": loader.state_dict(), "pids": pids}
                    print(json.dumps(line), flush=True)
    except KeyboardInterrupt:
        print(json.dumps("interrupted"), flush=True)
"""


class Trainer:
    """A training script in a process, and a process group, of its own."""

    def __init__(self, script: Path, shards: list[str], method: str, state=None, epochs: int = 3) -> None:
        script.write_text(TRAINER)
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        )  # fmt: skip
        self.process.stdin.write(
            json.dumps({"shards": shards, "method": method, "state": state, "epochs": epochs})
        )
        self.process.stdin.close()

    def lines(self, count: int | None = None) -> list:
        """The next `count` lines that it prints, or all."""
        lines = []
        while count is None or len(lines) < count:
            line = self.process.stdout.readline()
            if not line:
                break
            lines.append(json.loads(line))
        return lines

    def end(self) -> str:
        """What it wrote to stderr, all told."""
        text = self.process.stderr.read()
        self.process.wait(20)
        self.process.stdout.close()
        self.process.stderr.close()
        return text


def await_death(pids: set[int]) -> None:
    """Return once no process of these numbers is left; fail after some seconds."""
    deadline = monotonic() + 15
    pause = threading.Event()
    while any(is_running(pid) for pid in pids):
        assert monotonic() < deadline, f"orphans: {[pid for pid in pids if is_running(pid)]}"
        pause.wait(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_killed_trainer_leaves_nothing_behind_and_resumes_exactly(shards, tmp_path, method):
    """The trainer is killed after a random number of batches, again and again, until it gets through."""
    choices = random.Random(method)
    expected = [digest for epoch in epochs_of(dataset_of(shards), 3) for digest in epoch]
    seen, state, pids = [], None, set()
    for count in [choices.randint(2, 9), choices.randint(2, 9), None]:
        trainer = Trainer(tmp_path / "train.py", shards, method, state)
        lines = trainer.lines(count)
        trainer.process.kill()
        trainer.end()
        seen += [line["digest"] for line in lines]
        state = lines[-1]["state"]
        pids |= {trainer.process.pid, *(pid for line in lines for pid in line["pids"])}
    assert seen == expected
    await_death(pids)
    left = [path.name for path in Path("/dev/shm").iterdir()] if Path("/dev/shm").exists() else []  # noqa: S108
    assert not [name for name in left if any(str(pid) in name for pid in pids)]


@pytest.mark.measures
@pytest.mark.parametrize(
    "method", ["fork", *[pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver")]]
)
def test_ctrl_c_leaves_at_once_and_cleanly(shards, tmp_path, method):
    trainer = Trainer(tmp_path / "train.py", shards, method, epochs=10**6)
    lines = trainer.lines(5)
    os.killpg(trainer.process.pid, signal.SIGINT)  # as a terminal does: to all processes at once
    began = monotonic()
    lines += trainer.lines()
    errors = trainer.end()
    assert monotonic() - began < 10  # a second where the machine is not busy
    assert lines[-1] == "interrupted"
    assert errors == ""
    assert trainer.process.returncode == 0
    await_death({pid for line in lines[:-1] for pid in line["pids"]})


UNGUARDED = """
import sys
import augstream as A
from engine import dataset_of
loader = A.StreamLoader(dataset_of(sys.argv[1:]), num_workers=1, multiprocessing_context="spawn")
try:
    next(iter(loader))
except A.WorkerError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_script_that_workers_cannot_import_is_told_what_to_do(shards, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    run = subprocess.run(
        [sys.executable, str(script), *shards], capture_output=True, text=True, timeout=240, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )  # fmt: skip
    assert "died before it had started, 3 times" in run.stdout
    assert "if __name__ == '__main__':" in run.stdout


def test_logs_name_the_sample_the_step_and_the_fate(shards, tmp_path, caplog):
    stage = DieAt(keys=("000020",), folder=str(tmp_path), times=1, signal=signal.SIGTERM)
    with (
        caplog.at_level(logging.WARNING, "augstream"),
        A.StreamLoader(dataset_of(shards, stage), num_workers=1) as loader,
    ):
        digests(loader)
    (line,) = [record.message for record in caplog.records if "goes on in its place" in record.message]
    assert "worker 0 (pid " in line
    assert "was killed by SIGTERM at sample '000020' of shard 'train-00000" in line
