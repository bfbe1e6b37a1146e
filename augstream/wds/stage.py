"""The augmentation stage of an ordinary webdataset pipeline, with an address for every sample.

Reading, splitting, shuffling and decoding stay webdataset's own. What the stage adds is that a sample's augmentation
follows from (seed, shard, worker, epoch, key), whatever arrived before it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import webdataset
from torch.utils.data import get_worker_info

from ..augment import as_stage, in_context, run_stage
from ..decode import MAX_PIXELS
from ..epochs import EpochBoard
from ..errors import LeakError, RecipeError, SampleError
from ..foreign import TorchStage
from ..ranks import find_topology
from ..seeding import Address, check_seed, sample_key, subkey
from ..sources.remote import shard_name
from ..stream import FULL_SCOPE
from ..transforms.compose import Addressed, ComposeStage
from .fields import Ports
from .iteration import enclosing_iteration

Sample = dict[str, Any]
Handler = Callable[[Exception], bool]

EPOCH, LANE, VISIT = "__epoch__", "__lane__", "__visit__"
"""Where our own source says the epoch, the lane that owns the shard, and, if it is not 0, the visit."""


def augment(
    transform: Any,
    *,
    seed: int,
    fields: Mapping[str, str | Sequence[str]] | None = None,
    scope: tuple[str, ...] = FULL_SCOPE,
    name: str | None = None,
    handler: Handler = webdataset.reraise_exception,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
) -> Augment:
    """A stage for ``dataset.compose(...)`` or a ``wds.DataPipeline`` that augments samples, one by one.

    transform: a `Compose`, another library's augmentation, or a function; see `foreign.adapt`.
    seed: with the scope and the sample's key, all that the random numbers follow from.
    fields: which members go in as which targets, and come back augmented: ``{"image": "jpg;png", "mask": "seg.png",
        "bboxes": "json:boxes"}``; a list of members where the target is a list. Left out: the image.
    scope: what the numbers depend on besides the key, out of "shard", "worker" (``rank * num_workers + worker``) and
        "epoch". Without "worker": the same for any number of workers. Without
        "worker" and "epoch": the same in each epoch.
    name: sets this stage's draws apart from those of another with the same seed in the same pipeline.
    handler: what to do about a sample that fails, as for webdataset's own stages.
    max_pixels: larger images are refused, where the stage decodes.
    strict: raise `LeakError`, past the handler, if the transform draws from a global generator; see `StreamDataset`.

    Works before decoding (members are bytes: the stage decodes its own, and ``decode(..., partial=True)`` does the
    rest) and after it: what goes in as an array, a tensor or a PIL image comes out as one, unless the transform makes
    tensors, or what PIL cannot hold. An epoch is one iteration of the pipeline, in whatever workers, or what
    `Augment.set_epoch` said. Where samples come again within it, by ``resampled``, ``repeat`` or ``with_epoch``, each
    visit draws other numbers; counting them costs 12 bytes for each sample of the epoch.

    Not promised: anything about the order, which is the pipeline's; `check` says what of it is left to chance. Nor
    anything where one stage object is in two pipelines, or in two loaders that run at the same time.
    """
    return Augment(transform, seed, fields, scope, name, handler, max_pixels, strict=strict)


class Augment:
    """What `augment` makes: a stage of a webdataset pipeline, picklable if the transform is."""

    def __init__(
        self,
        transform: Any,
        seed: int,
        fields: Mapping[str, str | Sequence[str]] | None,
        scope: tuple[str, ...],
        name: str | None,
        handler: Handler,
        max_pixels: int,
        *,
        strict: bool = False,
    ) -> None:
        if isinstance(scope, str) or not set(scope) <= set(FULL_SCOPE):
            msg = f"scope holds some of {FULL_SCOPE}, got {scope!r}; leave out 'worker' to be independent of workers"
            raise RecipeError(msg)
        self.transform = transform
        self.seed = check_seed(seed)
        self.scope = tuple(scope)
        self.name = name
        self._handler = handler
        self._stage = as_stage(transform, strict=strict)
        self._ports = Ports(
            fields,
            max_pixels=max_pixels,
            as_arrays=not isinstance(self._stage, TorchStage),
            late=getattr(self._stage, "sources", frozenset()),
        )
        self._board = EpochBoard()
        self._board.share()
        self._rank: int | None = None
        self._iteration: FrameType | None = None
        self._pass: Pass | None = None
        self._epoch: int | None = None

    def __repr__(self) -> str:
        return f"augstream.wds.augment({self.transform!r}, seed={self.seed}, scope={self.scope}, name={self.name!r})"

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`, in live and future workers; change nothing if it would be anyway."""
        if self._board.next_pass[0] != epoch:
            self._board.set_epoch(epoch)

    def __call__(self, source: Iterable[Any]) -> Iterator[Sample]:
        """The samples of `source`, augmented."""
        iteration = enclosing_iteration(self)
        if self._epoch is None and (iteration is None or iteration is not self._iteration):
            self._iteration, self._pass = iteration, None
        return self._run(source)

    def _begin(self) -> Pass:
        worker = get_worker_info()
        rank = find_topology().rank or self._rank or 0
        number = rank if worker is None else rank * worker.num_workers + worker.id
        return Pass(self._board.begin_pass(worker)[0] if self._epoch is None else self._epoch, number)

    def of_epoch(self, epoch: int) -> Augment:
        """A stage that is always in `epoch`, for those who count epochs themselves."""
        fixed = copy.copy(self)
        fixed._epoch, fixed._pass, fixed._iteration = epoch, None, None
        return fixed

    def pass_by(self, sample: Sample) -> None:
        """Count a visit to `sample`, and do nothing to it."""
        current = self._pass = self._pass or self._begin()
        address = self.address(sample, current.epoch, current.worker)
        key = sample_key(current.stream_key(address), str(address.sample))
        current.visits.count(int.from_bytes(key[:8], "little"))

    def _run(self, source: Iterable[Any]) -> Iterator[Sample]:
        current = self._pass
        is_empty = True
        for sample in source:
            is_empty = False
            try:
                if isinstance(sample, Mapping) and EPOCH in sample:
                    address = self.address(sample, 0)
                    result = self._augmented(sample, address.key(), address)
                else:
                    if current is None:
                        current = self._pass = self._begin()
                    result = self._visit(sample, current)
            except LeakError:
                raise
            except Exception as error:  # noqa: BLE001  # the handler judges it, as in webdataset's own stages
                if self._handler(error):
                    continue
                break
            yield result
        if is_empty and current is None:
            self._pass = self._begin()  # a worker with nothing to do counts its epochs too

    def _visit(self, sample: Any, current: Pass) -> Sample:
        address = self.address(sample, current.epoch, current.worker)
        stream = current.stream_key(address)
        key = sample_key(stream, str(address.sample))
        visit = current.visits.count(int.from_bytes(key[:8], "little"))
        if visit:
            key = sample_key(stream, str(address.sample), visit)
            address = replace(address, visit=visit)
        return self._augmented(sample, key, address)

    def address(self, sample: Any, epoch: int, worker: int = 0, visit: int = 0) -> Address:
        """Where the randomness of `sample` lives, as far as the scope goes."""
        if not isinstance(sample, Mapping) or not isinstance(sample.get("__key__"), str):
            raise SampleError(_not_a_sample(sample))
        scope = self.scope
        shard = None
        if "shard" in scope:
            url = sample.get("__url__")
            if not isinstance(url, str):
                msg = (
                    "the sample has no '__url__', which names its shard; put augment(...) before the stage that drops "
                    "it (rename(keep=False), a map that returns a new dict), or pass scope=('worker', 'epoch')"
                )
                raise SampleError(msg, key=sample["__key__"])
            shard = shard_name(url)
        return Address(
            seed=self.seed,
            epoch=sample.get(EPOCH, epoch) if "epoch" in scope else None,
            worker=sample.get(LANE, worker) if "worker" in scope else None,
            shard=shard,
            sample=sample["__key__"],
            visit=sample.get(VISIT, visit),
        )

    def at(self, sample: Mapping[str, Any], address: Address | str) -> Sample:
        """`sample`, augmented as it is at `address`, whatever else was or will be augmented."""
        address = Address.parse(address) if isinstance(address, str) else address
        return self._augmented(sample, address.key(), address)

    def _augmented(self, sample: Mapping[str, Any], key: bytes, address: Address) -> Sample:
        if self.name is not None:
            key = subkey(key, "name", self.name)
        try:
            taken = self._ports.take(sample)
            if isinstance(self._stage, ComposeStage):
                result = Addressed(self._stage.compose, self._stage.key(key))(**taken.targets)
            else:
                result = run_stage(self._stage, {**self._ports.rest(sample, taken), **taken.targets}, key)
            return self._ports.give(sample, taken, result)
        except Exception as error:
            raise in_context(error, "augment", address) from error

    def __getstate__(self) -> dict[str, Any]:
        rank = find_topology().rank or self._rank
        return {**self.__dict__, "_rank": rank, "_iteration": None, "_pass": None}


class Pass:
    """What a stage keeps while a pipeline is iterated once: the epoch, whose it is, the keys and the visits."""

    def __init__(self, epoch: int, worker: int) -> None:
        self.epoch = epoch
        self.worker = worker
        self.visits = Visits()
        self._stream_keys: dict[tuple[str | None, int | None, int | None], bytes] = {}

    def stream_key(self, address: Address) -> bytes:
        """The key of the address without its sample."""
        place = (address.shard, address.worker, address.epoch)
        key = self._stream_keys.get(place)
        if key is None:
            key = self._stream_keys[place] = replace(address, sample=None, visit=0).key()
        return key


class Visits:
    """How often each number came by: 12 bytes a number, a few microseconds a question.

    New numbers gather in a dict; when it is full they become a sorted run, and runs of about one length are merged.
    """

    def __init__(self, num_recent: int = 1 << 16) -> None:
        self._num_recent = num_recent
        self._recent: dict[int, int] = {}
        self._runs: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]] = []

    def count(self, number: int) -> int:
        """How often `number`, from 0 to 2**64 - 1, was asked for before."""
        recent = self._recent.get(number)
        if recent is None:
            wanted = np.uint64(number)
            for numbers, counts in self._runs:
                place = int(numbers.searchsorted(wanted))
                if place < len(numbers) and numbers[place] == wanted:
                    counts[place] += 1
                    return int(counts[place]) - 1
        self._recent[number] = 1 + (recent or 0)
        if len(self._recent) >= self._num_recent:
            self._settle()
        return recent or 0

    def _settle(self) -> None:
        numbers = np.fromiter(self._recent.keys(), dtype=np.uint64)
        counts = np.fromiter(self._recent.values(), dtype=np.uint32)
        self._recent = {}
        while self._runs and len(self._runs[-1][0]) <= len(numbers):
            more_numbers, more_counts = self._runs.pop()
            numbers, counts = np.concatenate([numbers, more_numbers]), np.concatenate([counts, more_counts])
        order = np.argsort(numbers)
        self._runs.append((numbers[order], counts[order]))


def _not_a_sample(sample: Any) -> str:
    is_batch = isinstance(sample, Mapping) and isinstance(sample.get("__key__"), (list, tuple))
    if is_batch or (isinstance(sample, list) and sample and isinstance(sample[0], Mapping)):
        return "augment(...) takes samples one by one, and got a batch; put it before batched, or behind unbatched"
    found = (
        f"keys {sorted(map(str, sample))}" if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
    )
    return (
        f"augment(...) takes samples, dicts with a text '__key__', and got {found}; "
        "put it before to_tuple, extract_keys, rename_keys and rename(keep=False)"
    )
