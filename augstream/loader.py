"""`StreamLoader`: what a training loop iterates. It alone has state: an epoch, and the units delivered of it."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from numbers import Real
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Self

from .batching import Definition, Made
from .dataset import BatchDataset, SkipLog, as_tensors
from .device import placed
from .errors import (
    TOO_MANY_FILES,
    RecipeError,
    StateError,
    TopologyError,
    WorkerError,
    is_of_too_many_files,
)
from .ledgers.ledger import Ledger, header_of, path_of_rank
from .order import check_count
from .ranks import Standing, assert_in_step
from .workers.computing import Crew, Source, context_of, kind_of_workers
from .workers.pool import PoisonError

_log = logging.getLogger("augstream.loader")


@dataclass(slots=True)
class LoaderStats:
    """What a loader has done since it was made; times in seconds, of all workers together.

    batches, samples: delivered. skipped: samples left out. respawns: workers replaced.
    read_s, decode_s, augment_s, collate_s: where the workers' time went. transfer_s: passing batches on, from the
    worker that made them to where the consumer wants them (see `StreamLoader.to`). wait_s: the consumer's, waiting.
    """

    batches: int = 0
    samples: int = 0
    skipped: int = 0
    respawns: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    collate_s: float = 0.0
    transfer_s: float = 0.0
    wait_s: float = 0.0

    def add(self, made: Made) -> None:
        """Count a delivered batch."""
        self.batches += 1
        self.samples += made.num_samples
        self.skipped += len(made.skipped)
        self.read_s += made.times.read * 1e-9
        self.decode_s += made.times.decode * 1e-9
        self.augment_s += made.times.augment * 1e-9
        self.collate_s += made.times.collate * 1e-9
        self.transfer_s += made.times.transfer * 1e-9


class StreamLoader:
    """Iterate the batches of a dataset, computed by processes that may die at any moment.

    ``for batch in loader`` runs the rest of the current epoch, then `epoch` is the next one. The batches
    are the same for any number of workers, prefetch factor and start method. `state_dict()` is exact after
    any batch, and may be loaded under another number of workers, ranks, or, with `unit`, batch size. A new
    loader begins where the dataset's `set_epoch` or `load_state_dict` told, else at epoch 0.

    dataset: a `StreamDataset`, a `Mixture`, or an ``augstream.wds.WebDataset`` with the stages behind it.
    num_workers: 0 computes in this process. prefetch_factor: batches made ahead by each worker; the workers
    also go on into the next epoch. persistent_workers: False starts new ones each epoch.
    workers: "process", or "thread" for threads of this process: nothing is pickled, nothing survives a crash, and the
    transform must be ours, for other libraries' draw from generators that threads share.
    multiprocessing_context: "fork", "spawn", "forkserver" or a context; None for the platform's own.
    timeout_s: a worker process that finishes no sample for so long is replaced; a thread that does is a `WorkerError`.
    None waits for ever.
    max_respawns: a batch that kills its worker so many times is a `WorkerError`; with ``on_error="skip"``
    the sample at fault is left out, now and in every later epoch and resume.

    ledger: a file to which a line a batch is appended, for `augstream diff` and `augstream replay`; each of several
    ranks appends to one of its own beside it. See `Ledger`: a place that is in it already must repeat, or it is a
    `LedgerError`.

    A batch's tensors are memory that workers write to: it is used again once the last of them is gone. A
    consumer that keeps more than a few batches gets copies. Use it as a context manager, or call `close`,
    to end the workers early; they end with this process in any case.

    Not promised: use from several threads at once. Iterators of one loader share its position.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        *,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        workers: Literal["process", "thread"] = "process",
        multiprocessing_context: str | BaseContext | None = None,
        timeout_s: float | None = 120.0,
        max_respawns: int = 3,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        batches = getattr(dataset, "batches", None)
        if callable(batches):  # a webdataset pipeline of ours
            dataset = batches()
        if not isinstance(dataset, BatchDataset):
            given = type(dataset).__name__
            msg = f"StreamLoader iterates a StreamDataset or Mixture, got {given}; pass A.StreamDataset(...)"
            raise RecipeError(msg)
        if timeout_s is not None and not (isinstance(timeout_s, Real) and timeout_s > 0):
            msg = f"timeout_s must be a positive number of seconds or None, got {timeout_s!r}"
            raise RecipeError(msg)
        self.dataset = dataset
        self.prefetch_factor = check_count("prefetch_factor", prefetch_factor, 1, "leave it out for 2")
        self.max_respawns = check_count("max_respawns", max_respawns, 1, "leave it out for 3")
        self.persistent_workers = persistent_workers
        self.timeout_s = timeout_s
        self.stats = LoaderStats()
        self._topology = dataset.topology(num_workers)
        self._crew = Crew(
            workers=kind_of_workers(workers, dataset.stream),
            context=context_of(multiprocessing_context) if num_workers else None,
            prefetch_factor=self.prefetch_factor,
            timeout_s=timeout_s,
            max_respawns=self.max_respawns,
            run_on=persistent_workers,
        )
        self._log = SkipLog()
        self._ledger = None if ledger is None else self._ledger_at(ledger)
        self._definition = dataset.stream if ledger is None else _with_marks(dataset.stream)
        self._stream = self._definition
        self._arrive: Callable[[Any], Any] = as_tensors
        self._source: Source | None = None
        self._source_pid = 0  # of the process whose workers they are
        self._begun = False
        place, self._skips = dataset.beginning
        self._moves = 0
        self._begin_at(*place)

    @property
    def num_workers(self) -> int:
        """The number of workers, processes or threads."""
        return self._topology.num_workers

    @property
    def batch_size(self) -> int:
        """Samples in a full batch."""
        return self.dataset.recipe.batch_size

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_source": None,
            "_begun": False,
        }  # a copy is at our place, with workers of its own

    def __len__(self) -> int:
        """The number of batches of a whole epoch on this rank."""
        return len(self.dataset)

    def __repr__(self) -> str:
        place = f"epoch {self._epoch}, step {self._step}"
        return f"<StreamLoader of {self.dataset!r}: {place}, {self.num_workers} workers>"

    @property
    def worker_pids(self) -> list[int]:
        """The process numbers of the workers; one that has just died is among them until its place is filled."""
        self._leave_inherited()
        return [] if self._source is None else self._source.pids()

    def _ledger_at(self, path: str | os.PathLike[str]) -> Ledger:
        header = header_of(self.dataset.state_at(0, 0, ()).to_dict(), self._topology)
        return Ledger(path_of_rank(path, self._topology), header)

    # Position

    def _begin_at(self, epoch: int, start_unit: int) -> None:
        """Be at a place to which the consumer moved."""
        self._beginning, self._num_delivered = (epoch, start_unit), 0
        self._go(epoch, start_unit)

    def _go(self, epoch: int, start_unit: int) -> None:
        """Be at a place; the source is told when the next batch is wanted.

        All of it at once: no call is between the assignments, so that a Ctrl-C comes before or after them.
        """
        plan = self.dataset.stream.plan(self._topology, start_unit)
        self._begun = False
        self._epoch, self._step, self._plan = epoch, 0, plan

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next; in the body of a loop, the epoch of its batches."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; if that is the epoch under way, or comes next anyway, change nothing.

        So calling it before every epoch, or after `load_state_dict`, does no harm.
        """
        check_count("epoch", epoch, 0, "epochs are counted from 0")
        if epoch != self._place()[0]:
            self._moves += 1
            self._begin_at(epoch, 0)

    def _place(self) -> tuple[int, int]:
        """(epoch, units delivered); the end of an epoch is the start of the next."""
        if self._step and self._step == self._plan.num_steps:
            return self._epoch + 1, 0
        return self._epoch, self._plan.units_delivered_after(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream goes on, as JSON-able data under a kilobyte; equal on all ranks (if one of them found a
        sample that kills workers, after `assert_in_step`). Batches made ahead, and not delivered, don't count."""
        return self.dataset.state_at(*self._place(), self._skips).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; raises `StateError` if that cannot be done exactly."""
        loaded = self.dataset.checked_state(state)
        self._moves += 1
        self._skips = loaded.skipped
        self._begin_at(loaded.epoch, loaded.units)

    def assert_in_step(self, group: Any = None) -> None:
        """Return if all ranks are at the same place of the same stream; else raise `TopologyError` on all ranks,
        saying which are not: one that took fewer batches than the others, or resumed from another state.

        Every rank (of `group`, if it is given) has to call it, after the same number of its own batches or steps.
        It costs one all-gather of five numbers. What one rank found to kill its workers, all leave out afterwards.
        """
        self._check_ranks()
        stream = (self.dataset.state_at(0, 0, ()).to_json(), self._topology.world_size)
        standing = Standing.of(stream, self._beginning, self._num_delivered, self._skips)
        skips = assert_in_step(standing, self._topology, self._skips, group)
        self._begun = self._begun and set(skips) == set(self._skips)
        self._skips = skips

    def _check_ranks(self) -> None:
        """Raise `TopologyError` if this process has become another rank since the loader was made."""
        now, then = self.dataset.topology(self.num_workers), self._topology
        if now != then:
            msg = (
                f"the loader was made as rank {then.rank} of {then.world_size}, and now this process is rank "
                f"{now.rank} of {now.world_size}; make the loader after torch.distributed.init_process_group"
            )
            raise TopologyError(msg)

    def to(self, device: Any, *, defer: bool = True) -> Self:
        """Give batches on `device`, the same numbers, from the place where the loader is; returns the loader.

        defer: a `Compose` that ends in Normalize and ToTensorV2 sends bytes, and the device makes the floats.
        """
        self.close()
        self._stream, self._arrive = placed(self._definition, device, defer=defer)
        return self

    # Batches

    def __iter__(self) -> Iterator[Any]:
        self._check_ranks()
        if self._place()[0] != self._epoch:
            self._roll_over()
        return self._pass(self._moves)

    def _pass(self, moves: int) -> Iterator[Any]:
        epoch = self._epoch
        while self._epoch == epoch and self._step < self._plan.num_steps:
            yield self._next()
            if moves != self._moves:
                msg = (
                    "the loader was moved by set_epoch or load_state_dict while a pass over it was under way; "
                    "leave the loop first, and begin another `for batch in loader`"
                )
                raise StateError(msg)
        if self._epoch == epoch:
            self._roll_over()

    def _roll_over(self) -> None:
        """Be at the start of the next epoch, where the workers are already."""
        begun = self._begun
        self._go(self._epoch + 1, 0)
        if self.persistent_workers:
            self._begun = begun
        else:
            self._end_source()

    def _next(self) -> Any:
        """The next batch, which counts as delivered when nothing can fail any more; the source is past it before that,
        so that it has to begin again if something does: a ledger, a device without room, a Ctrl-C."""
        started = perf_counter()
        try:
            made = self._take()
        except OSError as error:
            if not is_of_too_many_files(error):
                raise
            self.close()
            msg = f"no batch could be had: {TOO_MANY_FILES}"
            raise WorkerError(msg) from error
        taken = perf_counter()
        batch = self._arrive(made.batch)
        arrived = perf_counter()
        self._note(made)
        self._log.note(made.skipped)
        self._step += 1  # no call is between these, as in `_go`
        self._num_delivered += 1
        self._begun = True
        self.stats.add(made)
        self.stats.wait_s += taken - started
        self.stats.transfer_s += arrived - taken
        return batch

    def _note(self, made: Made) -> None:
        """Enter the batch in the ledger, before anybody can save a state that is after it."""
        if self._ledger is not None and made.marks is not None:
            try:
                units = self._plan.units_of_step(self._step)
                self._ledger.note(self._epoch, units, made.num_samples, made.marks)
            except BaseException:
                self.close()  # perhaps a line was written in part: opened anew, the ledger drops it
                raise

    def _take(self) -> Made:
        while True:
            self._leave_inherited()
            if self._source is None:
                self._source, self._begun = self._crew.source(self._stream, self._topology), False
                self._source_pid = os.getpid()
            if not self._begun:  # a new life, whose steps count from here
                epoch, units = self._place()
                self._go(epoch, units)
                self._source.begin(epoch, units, self._skips)
                self._begun = True
            source = self._source
            self._begun = False
            try:
                return source.take(self._epoch, self._step)
            except PoisonError as error:
                if self.dataset.stream.on_error != "skip" or error.shard is None or error.key is None:
                    self.close()
                    raise
                self._quarantine(error.shard, error.key)
            except WorkerError:
                self.close()
                raise
            finally:
                self.stats.respawns += source.num_respawns
                source.num_respawns = 0

    def _quarantine(self, shard: str, key: str) -> None:
        """Leave a sample out from here on; what was made ahead, perhaps with it, is made again."""
        _log.warning(
            "sample %r of shard %r killed its worker each time; it is skipped from now on", key, shard
        )
        self._skips = (*self._skips, (shard, key))

    # The end

    def close(self) -> None:
        """End the workers. The loader keeps its place, and starts others if it is iterated again."""
        self._end_source()
        if self._ledger is not None:
            self._ledger.close()

    def _leave_inherited(self) -> None:
        """After a fork, leave the workers to the process that started them, and start our own when they are wanted."""
        if self._source is not None and self._source_pid != os.getpid():
            self._source, self._begun = None, False

    def _end_source(self) -> None:
        self._leave_inherited()
        if self._source is not None:
            self._source.close()
            self._source = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _with_marks(stream: Definition) -> Definition:
    """The same stream, whose batches come with their marks."""
    marked: Definition = dataclasses.replace(stream, marks=True)  # type: ignore[type-var]  # definitions are dataclasses
    return marked
