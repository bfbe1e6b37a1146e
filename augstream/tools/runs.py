"""The ways to run one stream, which should all give the same bytes: topologies, places to begin, and a kill."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..epochs import EpochBoard
from ..errors import RecipeError, WorkerError
from .comparing import Difference, delivered, difference, global_generators, kept, loading, named_values
from .conditions import filled, hash_seed, uninterrupted
from .traces import Tracer

if TYPE_CHECKING:
    from ..dataset import BatchDataset

_SPAWN_HASH_SEED = 1
_MAX_TRACED = 16

Batches = Iterator[tuple[int, int, Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where two runs of a stream differ first: in which batch, which sample of it, and in what."""

    epoch: int
    batch: int
    shard: str
    key: str
    what: Difference

    def __str__(self) -> str:
        sample = f", sample {self.key!r} of {self.shard!r}" if self.key else ""
        return f"epoch {self.epoch}, batch {self.batch}{sample}, {self.what}"


@dataclass(frozen=True, slots=True)
class Check:
    """One way to run the stream: whether it gave the same bytes; None if it could not be run so.

    why: what was found instead, or what stood in the way. place: the first difference.
    """

    name: str
    holds: bool | None
    why: str = ""
    place: Place | None = None


class Runs:
    """The ways to run a dataset, and the run that all are compared with."""

    def __init__(self, dataset: BatchDataset, num_epochs: int, num_batches: int) -> None:
        self._dataset, self._num_epochs, self._num_batches = dataset, num_epochs, num_batches
        self._states: list[dict[str, Any]] = []
        self._expected: dict[tuple[int, int], Any] = {}

    def begin(self) -> None:
        """Run the stream once, for all others to be compared with."""
        with global_generators(1), filled(0), loading(self._dataset, 0) as loader:
            for epoch, number, batch in delivered(loader, self._num_epochs, self._num_batches):
                self._expected[epoch, number] = kept(batch)
                self._states.append(json.loads(json.dumps(loader.state_dict())))

    # Ways

    def ways(
        self, num_workers: Sequence[int], methods: Sequence[str]
    ) -> Iterator[tuple[str, int, Callable[[], Batches]]]:
        """Each way's name, how many of the batches it leaves out, and what gives the others."""
        yield "again in this process, other seeds and memory", 0, self._again
        for method in methods:
            # others than forked ones are slow to start
            for number in num_workers if method == "fork" else num_workers[-1:]:
                ahead = (
                    f"{method}, persistent" if number % 2 else f"{method}, not persistent, one batch ahead"
                )
                arguments = {
                    "persistent_workers": bool(number % 2),
                    "prefetch_factor": 2 if number % 2 else 1,
                }
                hashes = ", other hash seed" if method != "fork" else ""
                name = f"{number} {'worker' if number == 1 else 'workers'} ({ahead}{hashes})"
                yield name, 0, partial(self._loaded, number, multiprocessing_context=method, **arguments)
        yield "2 threads", 0, partial(self._loaded, 2, workers="thread")
        yield "2 workers of a stock DataLoader", 0, self._stock
        for epoch in range(1, self._num_epochs):
            left_out = sum(other != epoch for other, _ in self._expected)
            yield f"epoch {epoch} by itself", left_out, partial(self._alone, epoch)
        middle = min(self._num_batches, sum(epoch == 0 for epoch, _ in self._expected)) // 2
        if middle:
            for number in (0, 2):
                yield (
                    f"resumed after {middle} batches, {number} workers",
                    middle,
                    partial(self._resumed, middle, number),
                )
        yield "2 workers, one of them killed", 0, self._killed

    def _again(self) -> Batches:
        with global_generators(2) as moved, filled(255):
            yield from self._loaded(0)
        if moved:
            raise _MovedError(moved)

    def _loaded(self, number: int, **arguments: Any) -> Batches:
        method = arguments.get("multiprocessing_context", "fork")
        seed = None if method == "fork" else _SPAWN_HASH_SEED
        if method != "fork":
            self._check_sendable()
        with hash_seed(seed), loading(self._dataset, number, **arguments) as loader:
            yield from delivered(loader, self._num_epochs, self._num_batches)

    def _check_sendable(self) -> None:
        try:
            pickle.dumps(self._dataset.stream)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # pickle raises any of them
            msg = f"it cannot be sent to other processes: {error}"
            raise RecipeError(msg) from error

    def _stock(self) -> Batches:
        from torch.utils.data import DataLoader

        ours = copy.copy(self._dataset)
        ours._board = EpochBoard()  # the user's keeps its epoch
        ours._board.share()
        with _torch_generator():
            for epoch in range(self._num_epochs):
                ours.set_epoch(epoch)
                loader = DataLoader(ours, batch_size=None, num_workers=2, multiprocessing_context="fork")
                with uninterrupted():
                    running = iter(loader)
                for number, batch in enumerate(running):
                    if number == self._num_batches:
                        break
                    yield epoch, number, batch

    def _alone(self, epoch: int) -> Batches:
        with loading(self._dataset, 0) as loader:
            loader.set_epoch(epoch)
            yield from delivered(loader, 1, self._num_batches)

    def _resumed(self, place: int, number: int) -> Batches:
        with loading(self._dataset, number) as loader:
            loader.load_state_dict(self._states[place - 1])
            yield from delivered(loader, self._num_epochs, self._num_batches, first=place)

    def _killed(self) -> Batches:
        with _quiet(), loading(self._dataset, 2, prefetch_factor=1) as loader:
            is_killed = False
            for found in delivered(loader, self._num_epochs, self._num_batches):
                yield found
                if not is_killed and loader.worker_pids:
                    os.kill(loader.worker_pids[0], signal.SIGKILL)
                    is_killed = True

    # Comparisons

    def check(self, name: str, num_left_out: int, way: Callable[[], Batches]) -> Check:
        """Run the stream a way, and compare."""
        num_batches, places = 0, []
        try:
            for epoch, number, batch in way():
                num_batches += 1
                place = self._place(epoch, number, kept(batch))
                if place is not None:
                    places.append(place)
        except _MovedError as error:
            why = f"it moved the global generators of {', '.join(error.names)}"
            if places:
                why = f"{_told(places, num_batches)}; {why}"
            return Check(name, False, why, places[0] if places else None)
        except RecipeError as error:  # what cannot be pickled, or must not run in threads
            return Check(name, None, str(error).partition(";")[0])
        except WorkerError as error:
            return Check(name, False, f"it does not run: {str(error).partition(';')[0]}")
        missing = len(self._expected) - num_left_out - num_batches
        if missing > 0 and not places:
            return Check(name, False, f"it gave {missing} batches fewer")
        return Check(name, not places, _told(places, num_batches), places[0] if places else None)

    def _place(self, epoch: int, number: int, batch: Any) -> Place | None:
        expected = self._expected.get((epoch, number))
        if expected is None:
            return Place(epoch, number, "", "", Difference("batch", text="it is one more than before"))
        what = difference(expected, batch)
        if what is None:
            return None
        keys, shards = (named_values(expected).get(name, []) for name in ("__key__", "__shard__"))
        row = what.row
        if row is None or not row < len(keys) == len(shards):
            return Place(epoch, number, "", "", what)
        name = what.name.partition("[")[0]
        one, other = named_values(expected).get(name), named_values(batch).get(name)
        alone = None if one is None or other is None else difference(one[row], other[row], name)
        return Place(epoch, number, shards[row], keys[row], alone or what)

    def tracers(self, place: Place | None) -> Iterator[Tracer]:
        """What computes some samples step by step: those of the first batch that differed, or of the first of all."""
        epoch, number = (0, 0) if place is None else (place.epoch, place.batch)
        stream: Any = self._dataset.stream
        plan = stream.plan(self._dataset.topology())
        refs = stream.maker().refs(epoch, plan.units_of_step(min(number, plan.num_steps - 1)))
        if not hasattr(stream, "sources"):
            yield Tracer(stream, epoch, _some(refs, place, stream))
            return
        for name, source in stream.sources.items():  # of a mixture
            ours = [ref for ref in refs if ref.source == name]
            for at in sorted({ref.epoch for ref in ours}):
                yield Tracer(source, at, [ref.ref for ref in ours if ref.epoch == at][:_MAX_TRACED])


class _MovedError(Exception):
    """A run moved global generators."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


@contextmanager
def _quiet() -> Iterator[None]:
    """Don't warn of a worker that we kill."""
    logger = logging.getLogger("augstream.loader")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _torch_generator() -> Iterator[None]:
    """Put torch's generator back, from which a DataLoader draws."""
    import torch

    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _told(places: Sequence[Place], num_batches: int) -> str:
    if not places:
        return ""
    return f"in {len(places)} of {num_batches} batches, first in {places[0]}"


def _some(refs: Sequence[Any], place: Place | None, stream: Any) -> list[Any]:
    """Some samples of a batch; the one that differed among them, where that is known."""
    chosen = list(refs[:_MAX_TRACED])
    if place is not None and place.key:
        names = list(map(stream.maker().name, refs))
        if (place.shard, place.key) in names[_MAX_TRACED:]:
            chosen[-1] = refs[names.index((place.shard, place.key))]
    return chosen
