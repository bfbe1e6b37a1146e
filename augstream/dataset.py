"""`StreamDataset`: a stream as torch's `IterableDataset`, to be iterated as it is or by a DataLoader."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from .augment import Sample, as_stage, fingerprint
from .batching import Batcher, CollateFn, Definition, Made, OnError, Skipped, Skips
from .decode import Field, Fields
from .epochs import EpochBoard, WorkerPlace
from .images.encoded import DecodeMode
from .images.pixels import MAX_PIXELS
from .indexing import build_index
from .mixing import MixtureRecipe
from .order import DEFAULT_WINDOW, Recipe, Tail, lanes_or_default
from .plan import Topology
from .ranks import detected, find_topology
from .shards import IndexedShards
from .sources.naming import Shards
from .sources.remote import Remote, remote_or_default
from .state import StreamState, check
from .stream import FULL_SCOPE, Stream
from .workers.slots import LocalSlots
from .workers.worker import calm_threads

_log = logging.getLogger("augstream.stream")


class BatchDataset(IterableDataset[Any]):
    """Batches of a definition, as torch iterates a dataset: what a stream and a mixture of streams have in common.

    `stream` is the definition. Each item is a batch. A pass over the dataset is an epoch, in the main process
    and in a DataLoader's workers, and each further pass is the next epoch. ranks: (rank, world size), given or
    None.
    """

    stream: Definition

    def __init__(self, stream: Definition, ranks: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.stream = stream
        self.ranks = ranks
        self._told: tuple[int, int] | None = None
        self._board = EpochBoard()
        self._board.share()
        self._skips: tuple[tuple[str, str], ...] = ()
        self._position: tuple[int, int] | None = None
        self._beginning = (0, 0)
        self.stream.plan(self.topology())  # refuses an epoch of nothing now, and not in a worker

    @property
    def recipe(self) -> Recipe | MixtureRecipe:
        """All that decides the order."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str | None:
        """What a saved state knows of the transforms, to notice that they changed."""
        raise NotImplementedError

    @property
    def sources(self) -> str:
        """What a saved state knows of the shards."""
        raise NotImplementedError

    def topology(self, num_workers: int = 0) -> Topology:
        """Which rank of how many we are."""
        return find_topology(*self.ranks, num_workers=num_workers, told=self._told)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if get_spawning_popen() is not None:  # the process that is started may not see what says our rank
            state["_told"] = detected()[0]
        return state

    def __len__(self) -> int:
        """The number of batches of a whole epoch on this rank."""
        return self.stream.plan(self.topology()).num_steps

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.recipe!r})"

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is not None:
            calm_threads()
        epoch, start = self._board.begin_pass(worker)
        return Pass(self, epoch, start, worker)

    def _pass(self, epoch: int, start: int, worker: WorkerPlace | None, num_given: int) -> Iterator[Any]:
        """The batches of one worker's steps of an epoch, from unit `start` on, after those it has given."""
        plan = self.stream.plan(self.topology(0 if worker is None else worker.num_workers), start)
        maker, slots, log = self.stream.maker(), LocalSlots(), SkipLog()
        steps = plan.steps_of_worker(0 if worker is None else worker.id)
        self._position = (epoch, plan.units_delivered_after(steps[num_given - 1] + 1) if num_given else start)
        for step in steps[num_given:]:
            self._position = (epoch, plan.units_delivered_after(step + 1))
            yield self._batch(maker, slots, log, epoch, plan.units_of_step(step))
        self._position = (epoch + 1, 0)

    def _batch(self, maker: Batcher[Any], slots: LocalSlots, log: SkipLog, epoch: int, units: range) -> Any:
        """The batch of some units; nothing here keeps it alive while the consumer has it."""
        made = made_locally(maker, slots, epoch, units, self._skips)
        log.note(made.skipped)
        return as_tensors(made.batch)

    # Position

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass epoch `epoch`, in live and future workers; if it would be anyway, change nothing.

        So calling it before every epoch, or after `load_state_dict`, does no harm. A `StreamLoader` that is made
        afterwards begins there; one that was made before has a `set_epoch` of its own.
        """
        if self._board.next_pass[0] != epoch:
            self._board.set_epoch(epoch)
        self._beginning = (epoch, 0)

    @property
    def beginning(self) -> tuple[tuple[int, int], tuple[tuple[str, str], ...]]:
        """((epoch, units delivered), samples left out) where a new `StreamLoader` begins: as `set_epoch` or
        `load_state_dict` told last, whatever passes there were since."""
        return self._beginning, self._skips

    def state_dict(self, *, epoch: int | None = None, num_batches: int | None = None) -> dict[str, Any]:
        """The place after `num_batches` batches of `epoch`, on every rank, as JSON-able data.

        Left out, they are what this process has iterated: right where the dataset is iterated here, and
        always the start of an epoch where a DataLoader's workers iterate it, for only the consumer counts
        its batches.
        """
        if epoch is None and num_batches is None:
            place = self._position or self._board.next_pass
        else:
            at = self._board.next_pass[0] if epoch is None else epoch
            place = at, self.stream.plan(self.topology()).units_delivered_after(num_batches or 0)
        return self.state_at(*place, self._skips).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass at the place of `state`, in whatever workers; the passes after it are whole
        epochs.

        Raises `StateError` for a state that cannot be continued exactly.
        """
        loaded = self.checked_state(state)
        self._skips = loaded.skipped
        self._position = None
        self._board.set_epoch(loaded.epoch, loaded.units)
        self._beginning = (loaded.epoch, loaded.units)

    def state_at(self, epoch: int, units: int, skips: tuple[tuple[str, str], ...]) -> StreamState:
        """The state of this stream at a place."""
        return StreamState(
            epoch=epoch,
            units=units,
            recipe=self.recipe.to_dict(),
            index=self.sources,
            transform=self.fingerprint,
            skipped=skips,
        )

    def checked_state(self, state: Any) -> StreamState:
        """`state`, if this stream can continue it exactly; a place at an epoch's end is the start of the next."""
        text = isinstance(state, (str, bytes))
        loaded = self._checked(StreamState.from_json(state) if text else StreamState.from_dict(state))
        if loaded.units and not self.stream.plan(self.topology(), loaded.units).num_steps:
            return self.state_at(loaded.epoch + 1, 0, loaded.skipped)
        return loaded

    def _checked(self, state: StreamState) -> StreamState:
        """`state`, or one of the same place, if it is of this stream; else raise `StateError`."""
        raise NotImplementedError


class Pass(Iterator[Any]):
    """One process's pass over a dataset: an iterator that can tell its place, and be moved to one.

    That is what torchdata's StatefulDataLoader asks of each worker: (epoch, start unit, batches that it gave).
    """

    def __init__(self, dataset: BatchDataset, epoch: int, start: int, worker: WorkerPlace | None) -> None:
        self._dataset, self._epoch, self._start, self._worker = dataset, epoch, start, worker
        self._num_given = 0
        self._batches: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = self._dataset._pass(self._epoch, self._start, self._worker, self._num_given)
        batch = next(self._batches)
        self._num_given += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """The place in this process's share of the pass."""
        return {"epoch": self._epoch, "start_unit": self._start, "num_given": self._num_given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a place that `state_dict` told in the same worker of as many."""
        self._epoch, self._start, self._num_given = state["epoch"], state["start_unit"], state["num_given"]
        self._batches = None
        self._dataset._board.set_epoch(self._epoch, self._start)
        self._dataset._board.begin_pass(self._worker)


class StreamDataset(BatchDataset):
    """Batches of augmented samples from tar shards, as a pure function of (shards, seed, recipe, epoch).

    shards: a path, URL, brace pattern, glob, directory, manifest or offset tables (see `build_index`), a list of
        these, or an index.
    transform: a `Compose`, a function or another library's transform (see `foreign.adapt`), or None.
    batch_size, seed, shuffle, window, lanes, unit, drop_last, tail: the order; see `Recipe`;
        lanes are 8, and 1 with shuffle=False, where they are left out.
    fields: which members become which fields of a sample, and how; see `Fields`.
    scope: what a sample's randomness depends on besides its key: the shard, the worker (lane) that owns the
        shard, and the epoch. Leave out "worker" and "epoch" to augment each sample the same in
        every epoch; "epoch" alone is not enough where shards are shuffled, for then their lanes change.
    on_error: "raise" the error of a sample that fails, or "skip" the sample: its batch is shorter, nothing
        else moves, and the log says so once a shard.
    collate_fn: makes the batch of a list of samples; see `collate`.
    rank, world_size: which share is ours, where neither torch.distributed nor torchrun says so.
    with_address: put ``__address__`` into every batch. max_pixels: refuse larger images. verify_checksums:
        compare every sample with the checksums in its index (``augstream index --checksums``): a flipped byte is an
        error of its sample, which ``on_error="skip"`` skips.
    cache_dir: where indexes are kept, and whole shards from servers, of which cache_bytes says how much. Without it,
        indexes go to the user's cache, and samples come by range requests. remote: the rest about servers; if it is
        given, its own cache_dir and cache_bytes say where shards are kept, and how much of them.
    decode: how much of an image a `Compose` decodes. "region": what its first crop needs, which gives the same
        pixels as "full"; "scaled": that, and at 1/2, 1/4 or 1/8 where a resize follows and leaves fewer pixels,
        which gives others.
    strict: raise `LeakError` at the first sample for which a transform draws from a global generator of random,
        numpy, torch or OpenCV, whatever `on_error` says; other libraries' code may draw from those that it is lent.

    Each item is a batch: a dict of tensors and lists, with ``__key__`` and ``__shard__``. A pass over the
    dataset is an epoch, in the main process and in ``DataLoader(dataset, batch_size=None, num_workers=n)``,
    which gives the same batches for every n; each further pass is the next epoch.

    Not promised: anything where two loaders run over one dataset object at the same time (see `EpochBoard`);
    a position in mid-epoch of a stock DataLoader's workers, which only the consumer knows: see
    `state_dict`.
    """

    stream: Stream

    def __init__(
        self,
        shards: Shards,
        transform: Any = None,
        *,
        batch_size: int,
        seed: int,
        fields: Mapping[str, str | Field] | None = None,
        shuffle: bool = True,
        window: int = DEFAULT_WINDOW,
        lanes: int | None = None,
        unit: int | None = None,
        drop_last: bool = False,
        tail: Tail = "drop",
        scope: tuple[str, ...] = FULL_SCOPE,
        on_error: OnError = "raise",
        collate_fn: CollateFn | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        with_address: bool = False,
        max_pixels: int = MAX_PIXELS,
        decode: DecodeMode = "region",
        strict: bool = False,
        verify_checksums: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        remote: Remote | None = None,
    ) -> None:
        remote = remote_or_default(remote, cache_dir, cache_bytes)
        lanes = lanes_or_default(lanes, shuffle=shuffle)
        recipe = Recipe(seed, batch_size, unit, lanes, shuffle, window, drop_last, tail)
        self.transform = transform
        stream = Stream(
            index=build_index(shards, cache_dir=cache_dir, remote=remote),
            recipe=recipe,
            fields=Fields(fields, max_pixels=max_pixels, mode=decode),
            stage=as_stage(transform, strict=strict),
            scope=scope,
            on_error=on_error,
            collate_fn=collate_fn,
            with_address=with_address,
            verify_checksums=verify_checksums,
        )
        super().__init__(stream, (rank, world_size))

    @property
    def index(self) -> IndexedShards:
        """The shards and their samples."""
        return self.stream.index

    @property
    def recipe(self) -> Recipe:
        """All that decides the order."""
        return self.stream.recipe

    @property
    def fingerprint(self) -> str | None:
        """What a saved state knows of the transform, to notice that it changed."""
        found = fingerprint(self.transform)
        scaled = self.stream.fields.mode == "scaled"  # other pixels, as from another transform
        return f"{found} scaled" if scaled and found is not None else found

    @property
    def sources(self) -> str:
        """What a saved state knows of the shards."""
        return self.index.fingerprint

    def sample(self, *, epoch: int, shard: str, key: str) -> Sample:
        """One augmented sample alone, with numpy arrays, as it is in every run; nothing else is read.

        `shard` is the shard's name, `key` the sample's ``__key__``.
        """
        return self.stream.sample(epoch, shard, key)

    def _checked(self, state: StreamState) -> StreamState:
        check(state, self.recipe, self.index, transform=self.fingerprint, stacklevel=5)
        return state


def made_locally(maker: Batcher[Any], slots: LocalSlots, epoch: int, units: range, skips: Skips) -> Made:
    """The batch of some units, computed in this process."""
    arena = slots.begin()
    made = maker.make(epoch, units, empty=arena.empty, skips=skips)
    slots.finish(arena)
    return made


class SkipLog:
    """Says once a shard that samples of it are skipped."""

    def __init__(self) -> None:
        self._shards: set[str] = set()

    def note(self, skipped: tuple[Skipped, ...]) -> None:
        """Log samples that were skipped."""
        for sample in skipped:
            if sample.shard not in self._shards:
                self._shards.add(sample.shard)
                _log.warning(
                    "skipped sample %r of shard %r (more of this shard are only counted): %s",
                    sample.key, sample.shard, sample.why,
                )  # fmt: skip


def as_tensors(value: Any) -> Any:
    """`value` with its arrays as tensors of the same memory, in dicts, lists and tuples.

    Arrays of text, and others that torch has no dtype for, stay as they are.
    """
    if isinstance(value, np.ndarray):
        return _tensor(value)
    if type(value) is dict:
        return {name: as_tensors(item) for name, item in value.items()}
    if type(value) is list and any(isinstance(item, np.ndarray) for item in value):
        return [as_tensors(item) for item in value]
    if type(value) is tuple:
        return tuple([as_tensors(item) for item in value])
    return value


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16 or array.dtype == np.longdouble:
        return array
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
