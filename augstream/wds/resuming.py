"""Resuming an ordinary webdataset pipeline by reading again what was read before, without decoding it.

For shards that can only be streamed. What a worker has taken out of the head of its pipeline (shard list, splitting,
reading, seeded shuffles) is counted; after a restart, so many samples are read and thrown away before the first is
decoded. Whether the head repeats itself is found out by looking at its stages.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from multiprocessing.context import BaseContext
from typing import Any

import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset import filters, shardlists

from ..errors import RecipeError, StateError
from ..order import check_count
from ..ranks import find_topology
from ..sources.remote import shard_name
from ..state import MEND_BROKEN, broken
from .batches import Batched
from .check import check
from .stage import Augment
from .traits import arguments, trait

_VERSION = 1
_READERS = ("tar_file_expander", "group_by_keys", "tarfile_samples")


def resumable(
    pipeline: webdataset.DataPipeline,
    *,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    multiprocessing_context: str | BaseContext | None = None,
) -> Resumable:
    """A loader of `pipeline`'s outputs that can be resumed in mid-epoch, where `WebDataset` cannot be used.

    pipeline: a ``wds.WebDataset`` or ``wds.DataPipeline`` that reads shards, without ``with_epoch`` and ``repeat``. Its
        ``batched`` is exchanged for one that does not look ahead.
    num_workers, prefetch_factor, multiprocessing_context: of the DataLoader inside, which is made for each epoch.

    ``state_dict()`` is exact after any output, for this rank, this number of workers and this pipeline; each rank has
    its own. Epochs are told to the stages that count them (``detshuffle``, ``ResampledShards``, `augment`).

    The cost of resuming is reading once more all that this epoch had read, in each worker, at the speed of the disk or
    the network and of webdataset's tar reader (about 0.1 ms a sample), and nothing for decoding or augmenting it.

    Raises `RecipeError` for a pipeline that is not deterministic, or has stages of which that cannot be seen, or that
    holds samples back behind the first stage that decodes.
    """
    return Resumable(pipeline, num_workers, prefetch_factor, multiprocessing_context)


class Resumable:
    """What `resumable` makes: iterate it, an epoch at a time."""

    def __init__(
        self,
        pipeline: webdataset.DataPipeline,
        num_workers: int,
        prefetch_factor: int,
        multiprocessing_context: str | BaseContext | None,
    ) -> None:
        self._counted = _Counted(pipeline)
        self._num_workers = check_count("num_workers", num_workers, 0, "pass 0 to read in this process")
        self._prefetch_factor = prefetch_factor
        self._context = multiprocessing_context
        self._go(0, [0] * self._num_lines, 0)

    @property
    def _num_lines(self) -> int:
        return max(self._num_workers, 1)

    def _go(self, epoch: int, taken: list[int], due: int) -> None:
        self.epoch = epoch
        self._taken, self._due = taken, due
        self._moves = getattr(self, "_moves", 0) + 1

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; if that is the epoch under way, or comes next anyway, change nothing."""
        if epoch != self.epoch:
            self._go(check_count("epoch", epoch, 0, "epochs are counted from 0"), [0] * self._num_lines, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where this rank goes on, as JSON-able data."""
        topology = find_topology()
        return {
            "version": _VERSION,
            "epoch": self.epoch,
            "taken": list(self._taken),
            "due": self._due,
            "rank": topology.rank,
            "world_size": topology.world_size,
            "pipeline": self._counted.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; `StateError` if that cannot be done exactly."""
        if not isinstance(state, Mapping):
            raise StateError(broken(f"it must be a dict, got {type(state).__name__}"))
        here = {**self.state_dict(), "epoch": state.get("epoch"), "due": state.get("due")}
        for name in ("version", "rank", "world_size", "pipeline"):
            if state.get(name) != here[name]:
                msg = (
                    f"the state has {name}={state.get(name)!r}, and here it is {here[name]!r}; a pipeline that is read "
                    "again goes on only with the same shards, stages and seeds, on the same rank of as many"
                )
                raise StateError(msg)
        taken = state.get("taken")
        if not isinstance(taken, (list, tuple)) or not taken:
            raise StateError(broken(f"'taken' must be a list of numbers, got {taken!r:.80}"))
        if len(taken) != self._num_lines:
            msg = (
                f"the state is of {len(taken)} workers, and here there are {self._num_lines}; pass "
                f"num_workers={len(taken)}, or use augstream.wds.WebDataset, which does not mind"
            )
            raise StateError(msg)
        counts = [check_count("taken", count, 0, MEND_BROKEN, StateError) for count in taken]
        epoch = check_count("epoch", state.get("epoch"), 0, MEND_BROKEN, StateError)
        due = check_count("due", state.get("due"), 0, MEND_BROKEN, StateError)
        if due >= self._num_lines:
            raise StateError(
                broken(f"'due' must be below {self._num_lines}, the number of workers, got {due}")
            )
        self._go(epoch, counts, due)

    def __iter__(self) -> Iterator[Any]:
        moves = self._moves
        waiting: list[deque[tuple[int, Any]]] = [deque() for _ in range(self._num_lines)]
        ended = [False] * self._num_lines
        outputs = iter(self._loader())
        while not all(ended):
            line = self._due
            while not waiting[line] and not ended[line]:
                number, taken, output = next(outputs)
                if taken is None:
                    ended[number] = True
                else:
                    waiting[number].append((taken, output))
            self._due = (line + 1) % self._num_lines
            if not waiting[line]:
                continue
            self._taken[line], output = waiting[line].popleft()
            yield output
            if moves != self._moves:
                msg = "it was moved by set_epoch or load_state_dict while an epoch was under way; leave the loop first"
                raise StateError(msg)
        self._go(self.epoch + 1, [0] * self._num_lines, 0)

    def _loader(self) -> DataLoader[Any]:
        """The outputs of the rest of the epoch, each with its worker's number and count."""
        dataset = _Rest(self._counted, self.epoch, list(self._taken))
        workers: dict[str, Any] = {}
        if self._num_workers:
            workers = {"prefetch_factor": self._prefetch_factor, "multiprocessing_context": self._context}
        return DataLoader(
            dataset, batch_size=None, num_workers=self._num_workers, collate_fn=_as_it_is, **workers
        )


def _as_it_is(item: Any) -> Any:
    return item


class _Rest(IterableDataset[tuple[int, int | None, Any]]):
    """The rest of one epoch: (worker, samples taken so far, output), and at last (worker, None, None)."""

    def __init__(self, counted: _Counted, epoch: int, taken: list[int]) -> None:
        super().__init__()
        self.counted, self.epoch, self.taken = counted, epoch, taken

    def __iter__(self) -> Iterator[tuple[int, int | None, Any]]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        for taken, output in self.counted.rest(self.epoch, self.taken[number]):
            yield number, taken, output
        yield number, None, None


class _Counted:
    """A pipeline in two parts: the head, which is read again, and the tail, which begins to decode."""

    def __init__(self, pipeline: webdataset.DataPipeline) -> None:
        if not isinstance(pipeline, webdataset.DataPipeline):
            msg = f"resumable(...) takes a wds.WebDataset or wds.DataPipeline, got {type(pipeline).__name__}"
            raise RecipeError(msg)
        if pipeline.repetitions != 1:
            msg = "a pipeline with with_epoch or repeat has no place to go back to; leave it out, and count in the loop"
            raise RecipeError(msg)
        stages = list(pipeline.pipeline)
        end = _end_of_head(stages)
        self.head, self.tail = stages[:end], [_without_look_ahead(stage) for stage in stages[end:]]
        self._refuse()
        described = [
            (trait(stage).label, list(map(shard_name, getattr(stage, "urls", ())))) for stage in stages
        ]
        text = json.dumps(described).encode()
        self.fingerprint = blake2b(text, digest_size=16, person=b"augstream/again").hexdigest()

    def _refuse(self) -> None:
        resamples = any(isinstance(stage, shardlists.ResampledShards) for stage in self.head)
        for stage in self.tail:
            found = trait(stage)
            if found.effect in {"holds", "source", "split"}:
                msg = (
                    f"{found.label} holds samples back behind the first stage that decodes, so that they would have "
                    "to be decoded to be read again; put it before the decoding"
                )
                raise RecipeError(msg)
            if found.effect == "drops" and resamples:
                msg = (
                    f"{found.label} drops samples behind the first stage that decodes, so that visits to resampled "
                    "samples could not be counted; put it before the decoding"
                )
                raise RecipeError(msg)
        report = check(webdataset.DataPipeline(*self.head, *self.tail))
        blind = {
            finding
            for stage in report.stages
            for finding in stage.trait.findings
            if finding.kind == "unknown"
        }
        faults = [
            finding for finding in report.findings if finding.kind in {"chance", "loses"} or finding in blind
        ]
        if faults:
            listed = "\n  ".join(f"{finding.what}; {finding.mend}" for finding in faults)
            msg = f"this pipeline cannot be read again in the same order:\n  {listed}\n{report}"
            raise RecipeError(msg)

    def rest(self, epoch: int, taken: int) -> Iterator[tuple[int, Any]]:
        """(samples taken, output) of this process's share of `epoch`, after `taken` samples."""
        head = [_at_epoch(stage, epoch) for stage in self.head]
        tail = [_at_epoch(stage, epoch) for stage in self.tail]
        samples = _Counter(webdataset.DataPipeline(*head).iterator1())
        augments = [stage for stage in tail if isinstance(stage, Augment)]
        while samples.count < taken:
            sample = next(samples)
            for stage in augments:
                stage.pass_by(sample)
        for output in webdataset.DataPipeline(lambda: samples, *tail).iterator1():
            yield samples.count, output


class _Counter:
    """An iterator that counts."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = iter(items)
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.count += 1
        return item


def _end_of_head(stages: list[Any]) -> int:
    """Where the tail begins: behind the reader, and behind shuffles and selections that follow it at once."""
    readers = [place for place, stage in enumerate(stages) if _filter_name(stage) in _READERS]
    if not readers:
        msg = "resumable(...) takes a pipeline that reads shards: wds.WebDataset, or one with wds.tarfile_to_samples()"
        raise RecipeError(msg)
    end = readers[-1] + 1
    while end < len(stages) and _is_cheap(stages[end]):
        end += 1
    return end


def _is_cheap(stage: Any) -> bool:
    """Whether a stage that follows the reader can run over bytes at little cost."""
    if isinstance(stage, filters.detshuffle) or stage is webdataset.compat.check_empty:
        return True
    return _filter_name(stage) in {
        "_shuffle",
        "_select",
        "_rename",
        "_rename_keys",
        "islice",
        "_info",
        "_log_keys",
    }


def _filter_name(stage: Any) -> str:
    return stage.f.__name__ if isinstance(stage, filters.FilterFunction) else ""


def _without_look_ahead(stage: Any) -> Any:
    if _filter_name(stage) != "_batched":
        return stage
    given = arguments(stage)
    return Batched(given["batchsize"], given["collation_fn"], given["partial"])


def _at_epoch(stage: Any, epoch: int) -> Any:
    """A copy of `stage` that begins with `epoch`, if it counts epochs."""
    if isinstance(stage, Augment):
        return stage.of_epoch(epoch)
    if isinstance(stage, (filters.detshuffle, shardlists.ResampledShards)):
        stage = copy.copy(stage)
        stage.epoch = epoch - 1
    return None if stage is webdataset.compat.check_empty else stage
