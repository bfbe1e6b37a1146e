"""What a worker process does: the steps it is given, one after the other, into shared memory.

A worker has no state. It knows the stream, its number, and the place it was told to start from; everything else is
arithmetic. So it can be killed at any moment, replaced by another that is told where to go on, and
redirected by a new assignment. It tells, in a page of shared memory, which sample it is at: so that its
death has a name.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..batching import Definition
from ..errors import RecipeError, WorkerError
from ..plan import Topology
from ..transforms.leaks import private_opencv
from .channel import Channel, ChannelClosed, is_orphan
from .slots import Arena, Sealed, WorkerSlots, anonymous_file, mapped

_POLL_S = 1.0

# The page: the trainer writes the first cell, the worker the others.
ORDERED, BEAT, AT_EPOCH, AT_STEP, AT_PLACE = range(5)
_NUM_CELLS = 8
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Assignment:
    """From trainer to worker: make these steps, in this order, until told otherwise.

    generation: tells an assignment from those before it. epoch, start_unit: where this life begins;
    first_step: the first of the worker's own steps that is wanted, 0 for all. credits: how many batches
    may be made until more are granted. skips: samples to leave out. run_on: go on into the epochs after it.
    """

    generation: int
    epoch: int
    start_unit: int
    first_step: int
    credits: int
    skips: tuple[tuple[str, str], ...]
    run_on: bool

    def steps(self, stream: Definition, topology: Topology, worker: int) -> Iterator[tuple[int, int, range]]:
        """(epoch, step, units) of what `worker` makes, in order; ends only where it never has a step again."""
        epoch, plan, first = self.epoch, stream.plan(topology, self.start_unit), self.first_step
        while True:
            steps = plan.steps_of_worker(worker)
            for step in range(max(first, steps.start), steps.stop, steps.step):
                yield epoch, step, plan.units_of_step(step)
            plan, first, epoch = stream.plan(topology), 0, epoch + 1
            if not self.run_on or not plan.steps_of_worker(worker):
                return


class Grant(NamedTuple):
    """From trainer to worker: `credits` more batches may be made; the trainer is done with `slots`."""

    credits: int
    slots: tuple[int, ...]


class Hello(NamedTuple):
    """From worker to trainer, first: the worker is up; the descriptor beside it is its page."""

    pid: int


class Announcement(NamedTuple):
    """From worker to trainer: a step is ready; the slot's descriptor is beside it if its memory is new."""

    generation: int
    epoch: int
    step: int
    slot: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What computing a step raised, as data: the error if it pickles, and its traceback as text."""

    error: BaseException | None
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that `error` is."""
        text = "".join(traceback.format_exception(error)).rstrip()
        try:
            crossed = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
        except Exception:  # noqa: BLE001  # an error may fail to pickle in any way it likes
            return cls(None, text)
        return cls(crossed if type(crossed) is type(error) else None, text)

    def raised(self) -> BaseException:
        """The error, with the worker's traceback as a note."""
        error = self.error or WorkerError("a worker raised an error that does not pickle")
        error.add_note(f"It was raised in a worker process:\n{self.text}")
        return error


class Page:
    """A page of memory that trainer and worker share: numbers, each written by one side only."""

    def __init__(self, cells: npt.NDArray[np.uint8]) -> None:
        self.cells = cells[: 8 * _NUM_CELLS].data.cast("q")


class Redirected(Exception):  # noqa: N818  # it is an event
    """What is being made is not wanted any more."""


class Worker:
    """The life of a worker process."""

    def __init__(self, stream: Definition, topology: Topology, number: int, channel: Channel) -> None:
        self._stream, self._topology, self._number = stream, topology, number
        self._channel = channel
        self._parent = os.getppid()
        self._maker = stream.maker()
        self._slots = WorkerSlots()
        self._sending_ns = 0  # what passing the last batch on took: the next one tells
        self._generation = NOWHERE
        self._credits = 0
        self._steps: Iterator[tuple[int, int, range]] = iter(())
        self._skips: frozenset[tuple[str, str]] = frozenset()
        descriptor = anonymous_file(8 * _NUM_CELLS)
        self._cells = Page(mapped(descriptor)).cells
        self._cells[ORDERED] = self._cells[AT_PLACE] = NOWHERE
        channel.send(Hello(os.getpid()), descriptor)
        os.close(descriptor)

    def run(self) -> None:
        """Make steps until the trainer is gone."""
        while True:
            self._listen()
            step = next(self._steps, None) if self._credits else None
            if step is None:
                self._wait()
            else:
                self._make(*step)

    def _wait(self, *, for_room: bool = False) -> None:
        if not self._channel.wait(_POLL_S, for_room=for_room) and is_orphan(self._parent):
            raise ChannelClosed

    def _listen(self) -> None:
        """Take whatever the trainer has sent."""
        while (received := self._channel.receive()) is not None:
            message = received[0]
            if isinstance(message, Grant):
                self._credits += message.credits
                self._slots.release(message.slots)
            elif isinstance(message, Assignment):
                self._generation = message.generation
                self._credits = message.credits
                self._skips = frozenset(message.skips)
                self._steps = message.steps(self._stream, self._topology, self._number)

    def _make(self, epoch: int, step: int, units: range) -> None:
        cells = self._cells
        cells[AT_EPOCH], cells[AT_STEP] = epoch, step
        arena = self._slots.begin()
        result: Any
        try:
            result = self._maker.make(
                epoch, units, empty=arena.empty, skips=self._skips, progress=self._progress
            )
            result.times.transfer = self._sending_ns
            started = perf_counter_ns()
            sealed = self._seal(result, arena)
            self._sending_ns = perf_counter_ns() - started
        except Redirected:
            cells[AT_PLACE] = NOWHERE
            self._slots.give_up()
            return
        except Exception as error:  # noqa: BLE001  # it is the trainer who raises it
            sealed = self._slots.seal(Failure.of(error), arena)
        cells[AT_PLACE] = NOWHERE
        self._credits -= 1
        self._announce(epoch, step, sealed)

    def _seal(self, result: Any, arena: Arena) -> Sealed:
        try:
            return self._slots.seal(result, arena)
        except (
            AttributeError,
            TypeError,
            RuntimeError,
            pickle.PicklingError,
        ) as error:  # as pickle and torch say it
            msg = (
                f"a batch cannot be passed on by the process that made it: {type(error).__name__}: {error}; let "
                "transform and collate_fn return arrays, tensors and what pickles, or pass workers='thread' or "
                "num_workers=0"
            )
            raise RecipeError(msg) from error

    def _announce(self, epoch: int, step: int, sealed: Sealed) -> None:
        place = (sealed.slot, sealed.offset, sealed.size_bytes)
        announcement = Announcement(self._generation, epoch, step, *place)
        while not self._channel.offer(announcement, sealed.descriptor):
            # the trainer is long at something else
            self._wait(for_room=True)
            self._listen()
        self._slots.sent(sealed)

    def _progress(self, place: int) -> None:
        """Say which sample comes next, and notice if it is not wanted any more."""
        cells = self._cells
        cells[AT_PLACE] = place
        cells[BEAT] += 1
        if cells[ORDERED] > self._generation:
            raise Redirected
        if is_orphan(self._parent):
            raise ChannelClosed


def work(stream: Definition, topology: Topology, number: int, channel: Channel) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's affair, and its end is ours
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    calm_threads()
    private_opencv.set(True)
    try:
        Worker(stream, topology, number, channel).run()
    except ChannelClosed:
        pass
    finally:
        channel.close()


def calm_threads() -> None:
    """One thread a worker: the workers are the parallelism, and threads don't survive a fork."""
    cv2, torch = sys.modules.get("cv2"), sys.modules.get("torch")
    if cv2 is not None:
        cv2.setNumThreads(0)
    if torch is not None:
        torch.set_num_threads(1)
