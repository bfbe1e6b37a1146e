"""A source for webdataset pipelines whose samples come in augstream's order: addressed epochs, exact resuming."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from types import FrameType
from typing import Any, Self

import webdataset
from webdataset import filters

from ..augment import NoStage
from ..batching import OnError
from ..decode import Fields
from ..epochs import EpochBoard
from ..errors import RecipeError, ShardError
from ..order import DEFAULT_WINDOW, Recipe, Tail, lanes_or_default
from ..plan import Topology
from ..sources.naming import Shards
from ..sources.remote import Remote, remote_or_default
from .batches import Batched, Clock
from .dataset import PipelineDataset, Place
from .definition import Members, PipelineStream
from .iteration import enclosing_iteration, is_mixed
from .shards import ShardSource
from .traits import refusal

Sample = dict[str, Any]


class WebDataset(webdataset.WebDataset):  # type: ignore[misc]  # webdataset has no types
    """``wds.WebDataset`` in augstream's order: the same fluid methods, and every epoch repeatable and resumable.

    shards: as for `StreamDataset`, or in webdataset's notation; compressed ones are unpacked into the cache once.
    batch_size, seed, shuffle, window, lanes, unit, drop_last, tail: the order; see `Recipe`;
        lanes are 8, and 1 with shuffle=False, where they are left out. If `batched` is not used,
        `batch_size` is that of the loader, and `drop_last` should be on: a short batch is not always the last.
    select_files, rename_files: of members' names, as webdataset's (suffixes are lower-cased before).
    on_error: "raise", or "skip" samples that cannot be read or that a stage fails on.
    rank, world_size, cache_dir, cache_bytes, remote, verify_checksums: as for `StreamDataset`.

    Stages behind it run batch by batch: what one keeps from sample to sample ends with the batch. So any batch can be
    computed alone, and ``DataLoader(dataset.batched(), batch_size=None, num_workers=n)`` gives the same for every n,
    as does ``StreamLoader(dataset.batched(), num_workers=n)``, which survives killed workers. While stages work on a
    sample, the global generators of `random`, numpy and torch stand at its address. Stages that hold samples back or
    reorder them are refused with what to use instead; one that drops them makes batches shorter, and if it drops all
    of a batch, that is an error. Samples have ``__epoch__`` and ``__lane__`` besides what webdataset gives them, which
    `augment` follows.

    Not promised: that stages which do not end in `batched` can be resumed in mid-epoch where they drop samples;
    anything where ``with_epoch`` or ``repeat`` is resumed in mid-epoch.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        window: int = DEFAULT_WINDOW,
        lanes: int | None = None,
        unit: int | None = None,
        drop_last: bool = False,
        tail: Tail = "drop",
        select_files: Callable[[str], bool] | None = None,
        rename_files: Callable[[str], str] | None = None,
        on_error: OnError = "raise",
        rank: int | None = None,
        world_size: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        remote: Remote | None = None,
        verify_checksums: bool = False,
        **others: Any,
    ) -> None:
        if others:
            raise RecipeError(_others(others))
        webdataset.DataPipeline.__init__(self)
        self.seed = seed
        lanes = lanes_or_default(lanes, shuffle=shuffle)
        self.recipe = Recipe(seed, batch_size, unit, lanes, shuffle, window, drop_last, tail)
        self.source = ShardSource(shards, cache_dir, remote_or_default(remote, cache_dir, cache_bytes))
        self.pipeline.append(self.source)
        self._members = Members(select_files, rename_files)
        self._on_error: OnError = on_error
        self._verify_checksums = verify_checksums
        self._ranks = (rank, world_size)
        self._renew()
        with suppress(
            ShardError, OSError
        ):  # which are raised when the dataset is iterated, as webdataset does
            self.source.index()  # once, here, and not in each worker

    def _renew(self) -> None:
        """Become a pipeline of our own, with a place of its own."""
        self._board = EpochBoard()
        self._board.share()
        self._batches: PipelineDataset | None = None
        self._beginning = 0  # the epoch in which a StreamLoader begins
        self._iteration: FrameType | None = None
        self._place = Place(0)
        self.clock = Clock()

    # Stages

    def append(self, stage: Any) -> None:
        """Append a stage; `RecipeError` for one that holds samples back or reorders them."""
        refused = refusal(stage)
        if refused is not None:
            raise RecipeError(refused)
        if isinstance(stage, Batched) and stage.batchsize != self.recipe.batch_size:
            raise RecipeError(_other_size(stage.batchsize, self.recipe.batch_size))
        self.pipeline.append(stage)
        self._batches = None

    def compose(self, *stages: Any) -> Self:
        """A copy with more stages, and a place of its own."""
        result: Self = super().compose(*stages)
        result._renew()
        return result

    def batched(
        self,
        batchsize: int | None = None,
        collation_fn: Callable[[list[Any]], Any] | None = filters.default_collation_fn,
        partial: bool = True,
    ) -> Self:
        """Batches of `batch_size` samples, collated as webdataset does, without its look-ahead."""
        if batchsize not in {None, self.recipe.batch_size}:
            raise RecipeError(_other_size(batchsize, self.recipe.batch_size))
        if not partial and not self.recipe.drop_last:
            msg = "batched(partial=False) would leave the last samples out; pass drop_last=True to WebDataset for that"
            raise RecipeError(msg)
        return self.compose(Batched(self.recipe.batch_size, collation_fn))

    def listed(self, batchsize: int | None = None, partial: bool = True) -> Self:
        """Lists of `batch_size` samples."""
        return self.batched(batchsize, collation_fn=None, partial=partial)

    def with_length(self, n: int, silent: bool = False) -> Self:
        """The same dataset with ``len(dataset) == n``; unlike webdataset's, it pickles, and nobody needs warning."""
        self.size = n
        self.__class__ = SizedWebDataset
        return self

    def close(self) -> None:
        """Give up the pipeline; the dataset cannot be iterated any more."""
        super().close()
        self._batches = None

    # Iteration

    def batches(self) -> PipelineDataset:
        """The batches of this pipeline as a dataset for a `StreamLoader`; place and epoch are those of this one."""
        if self._batches is None:
            index = self.source.index()
            stream = PipelineStream(
                index=index,
                recipe=self.recipe,
                fields=Fields(None),
                stage=NoStage(),
                on_error=self._on_error,
                verify_checksums=self._verify_checksums,
                stages=tuple(self.pipeline[1:]),
                members=self._members,
                urls=self.source.urls,
            )
            self._batches = PipelineDataset(stream, self._ranks, self._board, self._beginning)
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        if is_mixed():
            msg = (
                "wds.RandomMix draws from Python's global generator, and its samples cannot be resumed; mix "
                "StreamDatasets with augstream.Mixture instead"
            )
            raise RecipeError(msg)
        return Iteration(self)

    def iterator(self, place: Place | None = None) -> Iterator[Any]:
        """One iteration: what the stages make of an epoch, and of its repetitions as further visits."""
        batches = self.batches()
        if place is None:
            place = self._begun(batches)
        while place.visit - place.first_visit < self.repetitions:
            before = place.total
            for output in batches.outputs(place, self.clock):
                yield output
                if self.repetitions != 1 and 0 < self.nsamples <= place.total:
                    return
            if place.total == before and (place.visit or not place.start_unit):
                return  # an empty pass will stay empty
            place.visit, place.num_batches = place.visit + 1, 0

    def _begun(self, batches: PipelineDataset) -> Place:
        """Where the iteration begins that is asked for now: a new one, or a further pass of the pipeline around us."""
        around = enclosing_iteration(self)
        if around is None or around is not self._iteration:
            if around is not None:
                _check_behind(self, around.f_locals["self"].pipeline)
            self._iteration, self._place = around, batches.begin()
        else:
            visit = self._place.visit + 1
            self._place = replace(self._place, visit=visit, first_visit=visit)
        return replace(self._place)

    # Position

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`, in live and future workers; change nothing if it would be anyway."""
        if self._board.next_pass[0] != epoch:
            self._board.set_epoch(epoch)
        self._beginning = epoch
        if self._batches is not None:
            self._batches.set_epoch(epoch)

    def state_dict(self, *, epoch: int | None = None, num_batches: int | None = None) -> dict[str, Any]:
        """The place after `num_batches` batches of `epoch`, as JSON-able data; see `StreamDataset.state_dict`."""
        return self.batches().state_dict(epoch=epoch, num_batches=num_batches)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at the place of `state`, in whatever workers."""
        self.batches().load_state_dict(state)

    def sample(self, *, epoch: int, shard: str, key: str) -> Any:
        """What the stages make of one sample alone, as it is in every run; nothing else is read."""
        return self.batches().sample(epoch=epoch, shard=shard, key=key)

    def topology(self, num_workers: int = 0) -> Topology:
        """Which rank of how many we are."""
        return self.batches().topology(num_workers)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_iteration": None}


class Iteration(Iterator[Any]):
    """One process's iteration over a `WebDataset`: an iterator that can tell its place, and be moved to one.

    That is what torchdata's StatefulDataLoader asks of each worker.
    """

    def __init__(self, dataset: WebDataset) -> None:
        self._dataset = dataset
        self._place: Place | None = None
        self._outputs: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._outputs is None:
            self._begin()
            self._outputs = self._dataset.iterator(self._place)
        return next(self._outputs)

    def _begin(self) -> Place:
        if self._place is None:
            self._place = self._dataset._begun(self._dataset.batches())
        return self._place

    def state_dict(self) -> dict[str, int]:
        """The place in this process's share of the iteration."""
        return asdict(self._begin())

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a place that `state_dict` told in the same worker of as many."""
        self._place, self._outputs = Place(**state), None
        self._dataset.batches().go_to(self._place)


class SizedWebDataset(WebDataset):
    """A `WebDataset` that was told its length."""

    def __len__(self) -> int:
        return self.size


def shards_and_samples(shards: Shards, *, batch_size: int, seed: int, **arguments: Any) -> WebDataset:
    """The first stage of a ``wds.DataPipeline``: samples as webdataset reads them, in augstream's order.

    Takes the place of shard list, splitters, shard shuffle, opener, expander and grouper; see `WebDataset` for the
    arguments. `batch_size` is that of ``augstream.wds.batched`` behind it, or of the DataLoader. A pipeline that holds
    samples back, or reorders them, is refused when it is iterated.
    """
    return WebDataset(shards, batch_size=batch_size, seed=seed, **arguments)


def _check_behind(source: Any, pipeline: list[Any]) -> None:
    """Refuse stages of the pipeline around `source` that would break its order."""
    for stage in pipeline:
        refused = None if stage is source else refusal(stage)
        if refused is not None:
            raise RecipeError(refused)


def _other_size(given: int | None, batch_size: int) -> str:
    return (
        f"batched({given}) would cut batches of {batch_size} samples anew, which could not be resumed; leave its "
        f"argument out, or pass batch_size={given} to WebDataset"
    )


_MENDS: Mapping[str, str] = {
    "shardshuffle": "leave it out: shards and samples are shuffled (shuffle=False: in file order)",
    "detshuffle": "leave it out: the order is deterministic, and another one in each epoch",
    "resampled": "leave it out: each sample comes once an epoch; with_epoch(n) makes epochs longer",
    "mode": "leave it out",
    "repeat": "use .repeat() or .with_epoch(n)",
    "nodesplitter": "leave it out: ranks share each epoch's batches out (rank=, world_size=)",
    "workersplitter": "leave it out: workers share each epoch's batches out",
    "handler": "pass on_error='skip' to leave out samples that cannot be read",
    "cache_size": "pass cache_dir= alone",
    "url_to_name": "leave it out",
    "empty_check": "leave it out: an epoch of nothing is refused",
    "verbose": "leave it out",
}


def _others(others: Mapping[str, Any]) -> str:
    known = [f"{name}: {_MENDS[name]}" for name in others if name in _MENDS]
    unknown = [name for name in others if name not in _MENDS]
    lines = [*known, *[f"{name}: there is no such argument" for name in unknown]]
    return "augstream.wds.WebDataset does not take " + "; ".join(lines)
