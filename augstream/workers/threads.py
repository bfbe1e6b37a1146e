"""Workers that are threads of this process: the same steps, dealt the same way, in memory that is ours already.

For pipelines that spend their time where Python's lock is released: reading, decoding, resizing. Nothing has to be
pickled, sent or mapped. Nothing is protected from a crash either, for a thread that crashes takes the trainer along.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..batching import Batcher, Definition, Made, Skips
from ..errors import WorkerError
from ..plan import Topology
from ..transforms.leaks import private_opencv
from .slots import LocalSlots
from .worker import Assignment, Redirected

_TICK_S = 0.5
_GOODBYE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Result:
    """One step's batch, or what making it raised."""

    epoch: int
    step: int
    made: Made | None
    error: BaseException | None


class _Worker(threading.Thread):
    """One thread. An assignment goes in and results come out, both under `changed`, and nothing else is shared."""

    def __init__(self, stream: Definition, topology: Topology, number: int) -> None:
        super().__init__(name=f"augstream-worker-{number}", daemon=True)
        self._stream, self._topology, self._number = stream, topology, number
        self._assignment: Assignment | None = None
        self._is_stopped_by_us = False
        self._ended_by: BaseException | None = None
        self.changed = threading.Condition()
        self.ready: deque[_Result] = deque()
        self.beat = 0

    # The trainer's side

    def assign(self, assignment: Assignment) -> None:
        """Make these steps from now on; what was made before is dropped."""
        with self.changed:
            self._assignment = assignment
            self.ready.clear()
            self.changed.notify_all()
        if not self.is_alive():
            self.start()

    def end(self) -> None:
        """End as soon as the sample at work is done."""
        with self.changed:
            self._is_stopped_by_us = True
            self.changed.notify_all()

    def take(self, timeout_s: float | None) -> _Result:
        """The next result; `WorkerError` if no sample is finished for `timeout_s`."""
        with self.changed:
            seen, since = self.beat, monotonic()
            while not self.ready:
                if self._ended_by is not None:
                    msg = f"{self.name} ended by {self._ended_by!r}, of which the cause tells more"
                    raise WorkerError(msg) from self._ended_by
                self.changed.wait(_TICK_S)
                if self.beat != seen:
                    seen, since = self.beat, monotonic()
                if timeout_s is not None and not self.ready and monotonic() - since > timeout_s:
                    msg = f"{self.name} finished no sample for {timeout_s:.3g} s, and a thread cannot be replaced"
                    raise WorkerError(msg)
            result = self.ready.popleft()
            self.changed.notify_all()
            return result

    # The thread's side

    def run(self) -> None:
        """Make steps until told to end; what ends the thread otherwise is the trainer's to raise."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  # nobody else would hear of it, and the trainer waits
            with self.changed:
                self._ended_by = error
                self.changed.notify_all()

    def _run(self) -> None:
        private_opencv.set(True)
        maker, slots = self._stream.maker(), LocalSlots()
        current: Assignment | None = None
        steps: Iterator[tuple[int, int, range]] = iter(())
        step: tuple[int, int, range] | None = None
        while (assignment := self._turn(current, done=step is None)) is not None:
            if assignment is not current:
                current = assignment
                steps = current.steps(self._stream, self._topology, self._number)
            step = next(steps, None)
            if step is not None:
                self._make(current, maker, slots, *step)

    def _turn(self, current: Assignment | None, *, done: bool) -> Assignment | None:
        """Wait until there is something to make; the assignment to make it for, or None to end."""
        with self.changed:
            while True:
                assignment = self._assignment
                if self._is_stopped_by_us:
                    return None
                if assignment is not current and assignment is not None:
                    return assignment
                if current is not None and not done and len(self.ready) < current.credits:
                    return current
                self.changed.wait()

    def _make(
        self, current: Assignment, maker: Batcher[Any], slots: LocalSlots, epoch: int, step: int, units: range
    ) -> None:
        def progress(_place: int) -> None:
            self.beat += 1
            if self._is_stopped_by_us or self._assignment is not current:
                raise Redirected

        arena = slots.begin()
        try:
            made = maker.make(epoch, units, empty=arena.empty, skips=current.skips, progress=progress)
            slots.finish(arena)
            result = _Result(epoch, step, made, None)
        except Redirected:
            return
        except Exception as error:  # noqa: BLE001  # it is the trainer who raises it
            result = _Result(epoch, step, None, error)
        with self.changed:
            if self._assignment is current:
                self.ready.append(result)
                self.changed.notify_all()


class Threads:
    """Computes a definition's steps in `topology.num_workers` threads; see `StreamLoader` for the arguments."""

    def __init__(
        self,
        stream: Definition,
        topology: Topology,
        *,
        prefetch_factor: int,
        timeout_s: float | None,
        run_on: bool,
    ) -> None:
        self._prefetch_factor, self._timeout_s, self._run_on = prefetch_factor, timeout_s, run_on
        needed = min(topology.num_workers, stream.plan(topology).num_steps)
        self._workers = [_Worker(stream, topology, number) for number in range(needed)]
        self._num_workers = topology.num_workers
        self._generation = 0
        self.num_respawns = 0
        self._finalize = weakref.finalize(self, _end, self._workers, os.getpid())

    def begin(self, epoch: int, start_unit: int, skips: Skips) -> None:
        """Have the threads make the steps of `epoch` from `start_unit` on, and of the epochs after it."""
        self._generation += 1
        for worker in self._workers:
            worker.assign(
                Assignment(
                    self._generation, epoch, start_unit, 0, self._prefetch_factor, tuple(skips), self._run_on
                )
            )

    def take(self, epoch: int, step: int) -> Made:
        """The batch of the next step; raises what computing it raised."""
        result = self._workers[step % self._num_workers].take(self._timeout_s)
        if result.made is None:
            raise result.error or WorkerError("a thread ended without a word")
        if (result.epoch, result.step) != (epoch, step):
            found = f"step {result.step} of epoch {result.epoch}"
            msg = f"{found} came where step {step} of epoch {epoch} was due; this is a defect"
            raise WorkerError(msg)
        return result.made

    def pids(self) -> list[int]:
        """Our own: threads have no other."""
        return [os.getpid()] if any(worker.is_alive() for worker in self._workers) else []

    def close(self) -> None:
        """Let the threads end, and wait a second for them."""
        self._finalize()


def _end(workers: list[_Worker], pid: int) -> None:
    if os.getpid() != pid:  # a fork: threads are not inherited, but their locks are, as they happened to be
        return
    for worker in workers:
        worker.end()
    deadline = monotonic() + _GOODBYE_S
    for worker in workers:
        if worker.is_alive():
            worker.join(max(deadline - monotonic(), 0.0))
