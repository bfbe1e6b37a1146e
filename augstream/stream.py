"""The stream as a definition, and the pure run of it in one process: *compute these units of this epoch*.

A `Stream` is everything that decides what a batch holds; a `MixtureStream` is that for several. A `Maker`
computes batches of a stream in whatever process it is made: the trainer, a worker of ours, a DataLoader's
worker. It keeps what is costly to make (open shards, the order of the epoch it is in), and nothing that its
results depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Any, NamedTuple

from .augment import PhasedStage, Sample, Stage, in_context, run_stage
from .batching import Batcher, Begun, CollateFn, OnError
from .collate import Rows
from .decode import Fields
from .errors import AugstreamError, RecipeError, SampleError
from .images.encoded import EncodedImage
from .ledgers.coded import coded
from .mixing import MixtureOrder, MixtureRecipe
from .order import EpochOrder, Recipe, SampleRef
from .plan import UNENDING, Plan, Topology
from .seeding import Address, sample_key, stream_key
from .shards import NO_CHECKSUMS, IndexedShards, RawSample, ShardReader

Scope = tuple[str, ...]

FULL_SCOPE: Scope = ("shard", "worker", "epoch")


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """What every batch of every epoch holds follows from this value alone.

    index: the shards. recipe: the order. fields: how a sample's bytes become values. stage: the
    augmentation. scope: which of shard, worker and epoch a sample's randomness depends on; "shard" always.
    on_error: what becomes of a sample that fails. collate_fn: makes the batch from a list of samples,
    instead of `collate.collate`. with_address: put ``__address__`` into every sample and batch.
    marks: batches come with their marks, for a ledger.
    """

    index: IndexedShards
    recipe: Recipe
    fields: Fields
    stage: Stage
    scope: Scope = FULL_SCOPE
    on_error: OnError = "raise"
    collate_fn: CollateFn | None = None
    with_address: bool = False
    verify_checksums: bool = False
    marks: bool = False

    def __post_init__(self) -> None:
        if (
            not isinstance(self.scope, Iterable)
            or isinstance(self.scope, str)
            or not {"shard"} <= set(self.scope) <= set(FULL_SCOPE)
        ):
            msg = (
                f"scope must hold 'shard', and may hold 'worker' and 'epoch', got {self.scope!r}; "
                "leave out 'worker' and 'epoch' to augment each sample the same in every epoch"
            )
            raise RecipeError(msg)
        if self.on_error not in {"raise", "skip"}:
            msg = f"on_error must be 'raise' or 'skip', got {self.on_error!r}"
            raise RecipeError(msg)
        if self.verify_checksums and not self.index.store.checksums:
            raise RecipeError(NO_CHECKSUMS)
        if self.collate_fn is not None and not callable(self.collate_fn):
            msg = f"collate_fn must be a function of a list of samples, got {self.collate_fn!r}"
            raise RecipeError(msg)

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch."""
        return EpochOrder(self.index, self.recipe, epoch)

    def plan(self, topology: Topology, start_unit: int = 0) -> Plan:
        """Who computes what, of an epoch from `start_unit` on; the same for every epoch."""
        return Plan.of(self.recipe, self.index.total, topology, start_unit)

    def ref(self, epoch: int, shard: str, key: str) -> SampleRef:
        """The sample `key` of the shard named `shard`; `RecipeError`, with the nearest name, if there is none."""
        position = self.index.position(shard)
        number = self.index.table(position).find(key)
        return SampleRef(position, number, self.order(epoch).lane_of_shard(position))

    def address(self, epoch: int, ref: SampleRef, key: str) -> Address:
        """Where the randomness of a sample lives, as far as the scope goes."""
        return Address(
            seed=self.recipe.seed,
            epoch=epoch if "epoch" in self.scope else None,
            worker=ref.lane if "worker" in self.scope else None,
            shard=self.index.names[ref.shard],
            sample=key,
        )

    def batch(self, epoch: int, units: range) -> Any:
        """The batch of the canonical units `units` of `epoch`, with numpy arrays, computed here and now."""
        return self.maker().make(epoch, units).batch

    def maker(self) -> Maker:
        """Something that computes batches of this stream in this process."""
        return Maker(self)

    def sample(self, epoch: int, shard: str, key: str) -> Sample:
        """The augmented sample `key` of the shard named `shard` in `epoch`; no other sample is read."""
        return self.maker().sample(epoch, self.ref(epoch, shard, key))


@dataclass(slots=True)
class _Epoch:
    """What a maker keeps of the epoch it is in."""

    order: EpochOrder
    stream_keys: dict[int, bytes] = field(default_factory=dict)


class Maker(Batcher[SampleRef]):
    """Computes batches and samples of a stream in this process."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.on_error, stream.collate_fn, marks=stream.marks)
        self.stream = stream
        self._reader = ShardReader(stream.index, verify_checksums=stream.verify_checksums)
        self._epochs: dict[int, _Epoch] = {}
        stage: Any = coded(stream.stage) if stream.marks and stream.collate_fn is None else stream.stage
        self._encoded: frozenset[str] = getattr(stage, "sources", frozenset())
        self._phased: PhasedStage | None = stage if hasattr(stage, "begin") else None

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            if len(self._epochs) > 1:  # the one before and the one ahead
                del self._epochs[min(self._epochs)]
            found = self._epochs[epoch] = _Epoch(self.stream.order(epoch))
        return found

    def refs(self, epoch: int, units: range) -> list[SampleRef]:
        """The samples of consecutive canonical units; the shards after them are fetched meanwhile, if remote."""
        order = self._epoch(epoch).order
        if self._reader.fetches:
            self._reader.ahead(order.shards_after(units))
        return order.refs(units)

    def name(self, ref: SampleRef) -> tuple[str, str]:
        """The shard's name and the key of a sample."""
        index = self.stream.index
        return index.names[ref.shard], index.table(ref.shard).keys[ref.sample]

    def _key(self, epoch: int, ref: SampleRef, key: str) -> bytes:
        """The key of a sample's randomness."""
        keys = self._epoch(epoch).stream_keys
        stream = keys.get(ref.shard)
        if stream is None:
            address = self.stream.address(epoch, ref, key)
            stream = keys[ref.shard] = stream_key(
                address.seed, shard=address.shard, worker=address.worker, epoch=address.epoch
            )
        return sample_key(stream, key)

    def begin(self, epoch: int, ref: SampleRef) -> _Begun:
        """Read a sample and, where the stage can do so, decide all about it; pixels are left for later.

        Raises `SampleError` with shard, key, epoch and address for whatever decoding or augmenting raises, and for a
        checksum that fails, and `ShardError` where the shard itself is at fault.
        """
        started = perf_counter_ns()
        try:
            raw = self._reader.read(ref.shard, ref.sample)
        except SampleError as error:
            raise in_context(error, "read", self.stream.address(epoch, ref, error.key or "")) from error
        self.times.read += perf_counter_ns() - started
        begun = _Begun(self, epoch, ref, raw)
        if self._phased is not None:
            self._decide(begun)
        return begun

    def _decide(self, begun: _Begun) -> None:
        """Decode what does not wait, and take the first of the stage's two steps, if it has two."""
        stream, times = self.stream, self.times
        started = perf_counter_ns()
        what = "decode"
        try:
            shard = stream.index.names[begun.ref.shard]
            begun.sample = stream.fields.decode(begun.raw, shard=shard, encoded=self._encoded)
            begun.late = [value for value in begun.sample.values() if isinstance(value, EncodedImage)]
            times.decode += (decoded := perf_counter_ns()) - started
            if self._phased is not None:
                what = "augment"
                begun.call = self._phased.begin(begun.sample, self._key(begun.epoch, begun.ref, begun.key))
                begun.size_bytes += begun.call.size_bytes
                self._count(begun, decoded)
        except Exception as error:
            raise self._in_context(error, what, begun) from error

    def finish(self, begun: _Begun, rows: Rows | None) -> Sample:
        """The sample that was begun; its image in the next of `rows`. Raises as `begin` does."""
        stream = self.stream
        if self._phased is None:
            self._decide(begun)
        started = perf_counter_ns()
        try:
            out = None if rows is None else rows.out()
            if self._phased is None:
                key = self._key(begun.epoch, begun.ref, begun.key)
                sample = run_stage(stream.stage, begun.sample, key, out)
            else:
                sample = self._phased.finish(begun.call, begun.sample, out)
        except Exception as error:
            raise self._in_context(error, "augment", begun) from error
        sample["__key__"], sample["__shard__"] = begun.key, stream.index.names[begun.ref.shard]
        if stream.with_address:
            sample["__address__"] = str(stream.address(begun.epoch, begun.ref, begun.key))
        self._count(begun, started)
        return sample

    def _count(self, begun: _Begun, started_ns: int) -> None:
        """Note the time since `started_ns`: what late decoding took of it as such, the rest as augmenting."""
        spent = -begun.spent_ns
        for image in begun.late:
            spent += image.spent_ns
        begun.spent_ns += spent
        self.times.decode += spent
        self.times.augment += perf_counter_ns() - started_ns - spent

    def _in_context(self, error: Exception, what: str, begun: _Begun) -> AugstreamError:
        if any(image.failed for image in begun.late):
            what = "decode"
        return in_context(error, what, self.stream.address(begun.epoch, begun.ref, begun.key))


class _Begun:
    """A sample on its way: what is known of it by now. `size_bytes` is the memory that it keeps, about."""

    __slots__ = ("call", "epoch", "key", "late", "maker", "raw", "ref", "sample", "size_bytes", "spent_ns")

    def __init__(self, maker: Maker, epoch: int, ref: SampleRef, raw: RawSample) -> None:
        self.maker, self.epoch, self.ref, self.raw = maker, epoch, ref, raw
        self.key: str = raw["__key__"]
        self.size_bytes = sum(map(len, raw.values()))
        self.sample: Sample = {}
        self.late: list[EncodedImage] = []
        self.spent_ns = 0
        self.call: Any = None

    def finish(self, rows: Rows | None) -> Sample:
        """The sample; its image in the next of `rows`."""
        return self.maker.finish(self, rows)


class MixtureRef(NamedTuple):
    """One sample of a mixture: `ref` in epoch `epoch` of `source`."""

    source: str
    epoch: int
    ref: SampleRef


@dataclass(frozen=True, slots=True, eq=False)
class MixtureStream:
    """What every batch of a mixture holds follows from this value alone: its sources, and the order of both.

    sources: streams of the same unit, `on_error` and `collate_fn`. unending: an epoch has no last unit. marks: as
    those of a stream.
    """

    sources: Mapping[str, Stream]
    recipe: MixtureRecipe
    unending: bool = False
    marks: bool = False
    epoch_units: int = field(init=False)
    """Units to an epoch, if it ends."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "epoch_units", self.order().epoch_units)

    @property
    def on_error(self) -> OnError:
        """What becomes of a sample that fails."""
        return next(iter(self.sources.values())).on_error

    @property
    def collate_fn(self) -> CollateFn | None:
        """What makes a batch of a list of samples."""
        return next(iter(self.sources.values())).collate_fn

    def order(self) -> MixtureOrder:
        """The order of all epochs."""
        sizes = {name: source.recipe.num_units(source.index.total) for name, source in self.sources.items()}
        return MixtureOrder(self.recipe, sizes)

    def plan(self, topology: Topology, start_unit: int = 0) -> Plan:
        """Who computes what, of an epoch from `start_unit` on; the same for every epoch."""
        num_units = UNENDING if self.unending else self.epoch_units
        return Plan.of_units(self.recipe, num_units, topology, start_unit)

    def batch(self, epoch: int, units: range) -> Any:
        """The batch of the canonical units `units` of `epoch`, with numpy arrays, computed here and now."""
        return self.maker().make(epoch, units).batch

    def maker(self) -> MixtureMaker:
        """Something that computes batches of this mixture in this process."""
        return MixtureMaker(self)


class MixtureMaker(Batcher[MixtureRef]):
    """Computes batches of a mixture in this process, by the makers of its sources.

    Samples have ``__source__`` besides what they have in their source. In skips and names, the shard is
    ``source/shard``, since shards of two sources may have the same name.
    """

    def __init__(self, stream: MixtureStream) -> None:
        super().__init__(stream.on_error, stream.collate_fn, marks=stream.marks)
        sources = {name: replace(source, marks=stream.marks) for name, source in stream.sources.items()}
        self._makers = {name: source.maker() for name, source in sources.items()}
        self._order, self._epoch_units = stream.order(), stream.epoch_units

    def refs(self, epoch: int, units: range) -> list[MixtureRef]:
        """The samples of consecutive canonical units."""
        first = epoch * self._epoch_units
        found = []
        for unit in self._order.units(range(first + units.start, first + units.stop)):
            refs = self._makers[unit.source].refs(unit.epoch, range(unit.unit, unit.unit + 1))
            found += [MixtureRef(unit.source, unit.epoch, ref) for ref in refs]
        return found

    def name(self, ref: MixtureRef) -> tuple[str, str]:
        """The source and shard's name, and the key, of a sample."""
        shard, key = self._makers[ref.source].name(ref.ref)
        return f"{ref.source}/{shard}", key

    def begin(self, epoch: int, ref: MixtureRef) -> _BegunOfSource:
        """Begin a sample, as its source does."""
        maker = self._makers[ref.source]
        maker.times = self.times
        try:
            return _BegunOfSource(ref.source, maker.begin(ref.epoch, ref.ref))
        except AugstreamError as error:
            error.add_note(_note(ref.source))
            raise


class _BegunOfSource:
    """A sample of a source on its way."""

    __slots__ = ("_begun", "_source", "size_bytes")

    def __init__(self, source: str, begun: Begun) -> None:
        self._source, self._begun = source, begun
        self.size_bytes = begun.size_bytes

    def finish(self, rows: Rows | None) -> Sample:
        """The sample, as its source makes it."""
        try:
            sample = self._begun.finish(rows)
        except AugstreamError as error:
            error.add_note(_note(self._source))
            raise
        sample["__source__"] = self._source
        return sample


def _note(source: str) -> str:
    return f"It is of source {source!r} of the mixture."
