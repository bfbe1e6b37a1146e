"""The batches of a webdataset pipeline as a dataset, and the place of a process that iterates it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info

from ..augment import fingerprint as fingerprint_of
from ..dataset import BatchDataset, SkipLog
from ..epochs import EpochBoard
from ..order import Recipe
from ..state import StreamState, check
from .batches import Clock
from .definition import PipelineStream


@dataclass(slots=True)
class Place:
    """Where one process is in its share of an iteration; it moves on as outputs are given.

    start_unit: where the epoch was begun. visit: which pass over the epoch it is; first_visit: with which pass the
    iteration began. num_batches: how many batches of the pass were given, and num_outputs how many outputs of the batch
    after them. total: outputs of all passes.
    """

    epoch: int
    start_unit: int = 0
    visit: int = 0
    first_visit: int = 0
    num_batches: int = 0
    num_outputs: int = 0
    total: int = 0


class PipelineDataset(BatchDataset):
    """The batches of a `WebDataset`'s pipeline, for a `StreamLoader`."""

    stream: PipelineStream

    def __init__(
        self,
        stream: PipelineStream,
        ranks: tuple[int | None, int | None],
        board: EpochBoard,
        beginning: int = 0,
    ) -> None:
        super().__init__(stream, ranks)
        self._board = board
        self._beginning = (beginning, 0)

    @property
    def recipe(self) -> Recipe:
        """All that decides the order."""
        return self.stream.recipe

    @property
    def fingerprint(self) -> str | None:
        """What a saved state knows of the stages, to notice that they changed."""
        return fingerprint_of(list(self.stream.stages))

    @property
    def sources(self) -> str:
        """What a saved state knows of the shards."""
        return self.stream.index.fingerprint

    def _checked(self, state: StreamState) -> StreamState:
        check(state, self.recipe, self.stream.index, transform=self.fingerprint, stacklevel=5)
        return state

    def begin(self) -> Place:
        """Begin an iteration, and say where."""
        epoch, start_unit = self._board.begin_pass(get_worker_info())
        return Place(epoch, start_unit)

    def go_to(self, place: Place) -> None:
        """Have the iteration that begins now, and those after it, count from `place`."""
        self._board.set_epoch(place.epoch, place.start_unit)
        self._board.begin_pass(get_worker_info())

    def outputs(self, place: Place, clock: Clock) -> Iterator[Any]:
        """What the stages make of this worker's share of a pass, from `place` on, which moves, as does `clock`."""
        worker = get_worker_info()
        start = place.start_unit if not place.visit else 0
        plan = self.stream.plan(self.topology(0 if worker is None else worker.num_workers), start)
        steps = plan.steps_of_worker(0 if worker is None else worker.id)
        maker, log = self.stream.maker(), SkipLog()
        self._position = (place.epoch, start)
        clock.batch = 0
        for step in steps[place.num_batches :]:
            refs = maker.refs(place.epoch, plan.units_of_step(step))
            outputs, skipped, _ = maker.outputs(place.epoch, refs, skips=self._skips, visit=place.visit)
            log.note(tuple(skipped))
            for number in range(place.num_outputs, len(outputs)):
                clock.is_last = number == len(outputs) - 1
                place.total += 1
                place.num_outputs = number + 1
                if clock.is_last:
                    place.num_batches, place.num_outputs = place.num_batches + 1, 0
                    self._position = (place.epoch, plan.units_delivered_after(step + 1))
                yield outputs[number]
            if not outputs:
                place.num_batches += 1
            clock.batch += 1
        self._position = (place.epoch + 1, 0)

    def sample(self, *, epoch: int, shard: str, key: str) -> Any:
        """What the stages before batching make of one sample alone, as in every run; nothing else is read."""
        return self.stream.sample(epoch, shard, key)
