"""What comes when: pure arithmetic from (index, recipe, epoch) to the samples of every unit.

1. The epoch's shards are permuted, and their samples laid end to end. That gives every sample a place.
2. Inside windows of `window` consecutive places the samples are permuted again. That gives the epoch's
   *positions*: ``position -> (shard, sample)`` is one cached window and one binary search.
3. Positions are cut into blocks of `unit`, the blocks into `lanes` runs, equal within one, and the runs dealt
   out round-robin: canonical unit ``u`` is block ``u // lanes`` of the run of lane ``u % lanes``.

Steps 1 and 2 know nothing of units, lanes or batches: those change which samples come together, never which
sample stands where. Memory is a few numbers a shard, and a window a lane; nothing grows with the samples.

Source: windows instead of a buffer, so that the state is a number and not a history, follow the block shuffle
of MosaicML Streaming (``py1b``), and lanes its canonical nodes. All randomness is raw Philox words, sorted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from .errors import AugstreamError, RecipeError
from .index import Int64s, ShardIndex
from .seeding import check_seed, permutation, seed_key, subkey

DEFAULT_WINDOW = 8192
DEFAULT_LANES = 8
Tail = Literal["drop", "pad"]


def check_count(
    name: str, value: Any, minimum: int, mend: str, error: type[AugstreamError] = RecipeError
) -> int:
    """Return `value` as an int if it is an integer of at least `minimum`; otherwise raise `error`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        msg = f"{name} must be an integer of at least {minimum}, got {value!r}; {mend}"
        raise error(msg)
    return int(value)


def known_fields(recipe: type[Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `data` if it has just the fields of the dataclass `recipe`; otherwise raise `RecipeError`."""
    known = sorted(field.name for field in fields(recipe))
    if sorted(map(str, data)) != known:
        msg = f"a recipe has the fields {', '.join(known)}; got {', '.join(map(str, data)) or 'none'}"
        raise RecipeError(msg)
    return data


def lanes_or_default(lanes: int | None, *, shuffle: bool) -> int:
    """`lanes`, or where it is None as many as suit most: one in file order, so that samples come in it, else 8."""
    if lanes is None:
        return DEFAULT_LANES if shuffle else 1
    return lanes


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the order of an epoch, besides the index. It says nothing of ranks or processes.

    seed: from 0 to 2**64 - 1.
    batch_size: samples that a rank receives at once.
    unit: the samples that stay together whatever the batches are; it divides `batch_size`, and is
        `batch_size` where it is left out. A smaller unit allows another batch size, and thereby another world
        size for the same global batch, in the middle of an epoch.
    lanes: runs that are read side by side. A multiple of the ranks (times the units of a batch) keeps each
        rank to shards of its own; `augstream.layout` computes what any number does.
    shuffle: False gives the shards and samples in file order, every epoch; that is the order in which they
        are delivered, too, with ``lanes=1``, while more lanes read so many parts of the files side by side.
    window: samples that are shuffled together. A sample moves a third of the window on average: 2,731 places
        for the default of 8,192, where webdataset's usual ``shuffle(1000)`` moves it about 740 from the mean
        delay; and where ``shardshuffle=100`` mixes shards within 100, here all shards are permuted. It costs
        open (or cached) shards: each lane being read has about ``window / samples per shard + 1`` of them at
        a time, so 10 for shards of 1,000 samples, 2 for 10,000. No sample leaves its window, and windows take
        0.1 µs of sorting and 2 bytes a sample.
    drop_last: leave out, at the end, samples that don't fill a unit and units that don't fill a batch.
    tail: what becomes of the last step where the batches don't divide by the ranks: "drop" leaves it out on
        all ranks, "pad" gives the ranks without a batch one from the start of the epoch.

    Raises `RecipeError` for any value that no run could honour.

    >>> Recipe(seed=137, batch_size=64).unit
    64
    """

    seed: int
    batch_size: int
    unit: int | None = None
    lanes: int = DEFAULT_LANES
    shuffle: bool = True
    window: int = DEFAULT_WINDOW
    drop_last: bool = False
    tail: Tail = "drop"

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "seed", check_seed(self.seed))
        put(self, "batch_size", check_count("batch_size", self.batch_size, 1, "pass batch_size=64, say"))
        if self.unit is None:
            put(self, "unit", self.batch_size)
        put(self, "unit", check_count("unit", self.unit, 1, "leave it out for unit=batch_size"))
        put(self, "lanes", check_count("lanes", self.lanes, 1, "leave it out for lanes=8"))
        put(self, "window", check_count("window", self.window, 1, "pass shuffle=False for file order"))
        if self.batch_size % self.samples_per_unit:
            msg = (
                f"unit must divide batch_size, got unit={self.unit} and batch_size={self.batch_size}; "
                "leave unit out, or pass a divisor"
            )
            raise RecipeError(msg)
        for name in ("shuffle", "drop_last"):
            if not isinstance(getattr(self, name), bool):
                msg = f"{name} must be True or False, got {getattr(self, name)!r}"
                raise RecipeError(msg)
        if self.tail not in get_args(Tail):
            msg = f"tail must be one of {', '.join(map(repr, get_args(Tail)))}, got {self.tail!r}"
            raise RecipeError(msg)

    @property
    def samples_per_unit(self) -> int:
        """`unit`, for the type checker's sake: it is never None once the recipe is made."""
        return self.batch_size if self.unit is None else self.unit

    @property
    def units_per_batch(self) -> int:
        """How many consecutive canonical units make a batch."""
        return self.batch_size // self.samples_per_unit

    def num_units(self, total: int) -> int:
        """The number of units of an epoch of `total` samples; the short one counts unless `drop_last`."""
        return total // self.samples_per_unit if self.drop_last else -(-total // self.samples_per_unit)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe of `to_dict`; `RecipeError` for a field that is unknown, missing or wrong."""
        return cls(**known_fields(cls, data))


class SampleRef(NamedTuple):
    """One sample of the order: its shard and its place there, and the lane that owns the shard this epoch."""

    shard: int
    sample: int
    lane: int


class EpochOrder:
    """The order of one epoch: which samples every canonical unit holds, at random access.

    Costs a few numbers a shard to make, about a microsecond a sample to ask in batches, and a sort of
    `window` numbers when a lane enters a new window; one window a lane is kept. Raises `RecipeError` for an
    index that holds no samples.

    Not promised: thread safety of one instance.

    >>> order = EpochOrder(ShardIndex.synthetic(3, 10), Recipe(seed=137, batch_size=4), epoch=0)
    >>> order.num_units, order.unit(0)[0]
    (8, SampleRef(shard=0, sample=3, lane=0))
    """

    def __init__(self, index: ShardIndex, recipe: Recipe, epoch: int) -> None:
        self.index = index
        self.recipe = recipe
        self.epoch = check_count("epoch", epoch, 0, "epochs are counted from 0")
        if index.total == 0:
            msg = f"there is nothing to stream: the {len(index)} shards of the index hold no samples"
            raise RecipeError(msg)
        self.num_units = recipe.num_units(index.total)
        self._key = subkey(seed_key(recipe.seed), "order", self.epoch)
        num_shards = len(index)
        places = np.arange(num_shards)
        self.shard_order: Int64s = (
            permutation(subkey(self._key, "shards"), num_shards) if recipe.shuffle else places
        )
        self._starts = np.zeros(num_shards + 1, dtype=np.int64)
        np.cumsum(index.num_samples[self.shard_order], out=self._starts[1:])
        self._lane_of_shard = np.empty(num_shards, dtype=np.int64)
        self._lane_of_shard[self.shard_order] = places * recipe.lanes // num_shards
        self._windows: dict[int, npt.NDArray[np.unsignedinteger]] = {}

    def lane_of_shard(self, shard: int) -> int:
        """The lane that owns `shard` this epoch, for its samples' addresses."""
        return int(self._lane_of_shard[shard])

    def lane_of_unit(self, unit: int) -> int:
        """The lane whose run holds canonical unit `unit`."""
        return unit % self.recipe.lanes

    def run_of_lane(self, lane: int) -> range:
        """The positions that lane `lane` reads; empty where there are fewer units than lanes."""
        size = self.recipe.samples_per_unit
        start, stop = (self._first_block(lane) * size, self._first_block(lane + 1) * size)
        return range(min(start, self.index.total), min(stop, self.index.total))

    def _first_block(self, lane: int) -> int:
        """The first block of a lane's run: longer runs come first, so that canonical units leave no gap."""
        each, longer = divmod(self.num_units, self.recipe.lanes)
        return lane * each + min(lane, longer)

    def unit_size(self, unit: int) -> int:
        """The number of samples in canonical unit `unit`: all but the one that ends the last run are full."""
        return len(self._positions(range(unit, unit + 1)))

    def unit(self, unit: int) -> list[SampleRef]:
        """The samples of canonical unit `unit`, in order."""
        return self.refs(range(unit, unit + 1))

    def refs(self, units: range) -> list[SampleRef]:
        """The samples of consecutive canonical units, in order: a batch's, say."""
        shards, samples = self.shard_sample(self._positions(units))
        lanes = self._lane_of_shard[shards]
        return list(map(SampleRef, shards.tolist(), samples.tolist(), lanes.tolist()))

    def shards_after(self, units: range, count: int = 2) -> list[int]:
        """The shards that the lanes of some consecutive units come to next, the first `count` of each lane.

        That is: after the windows in which those units lie, or, without shuffling, after their shards. What has to be
        fetched can be fetched before it is needed.
        """
        found: dict[int, None] = {}
        for unit in units:
            last = int(self._positions(range(unit, unit + 1))[-1])
            if self.recipe.shuffle:
                until = (last // self.recipe.window + 1) * self.recipe.window
            else:
                until = int(self._starts[np.searchsorted(self._starts, last, side="right")])
            if until < self.run_of_lane(self.lane_of_unit(unit)).stop:
                turn = int(np.searchsorted(self._starts, until, side="right")) - 1
                found |= dict.fromkeys(self.shard_order[turn : turn + count].tolist())
        return list(found)

    def _positions(self, units: range) -> Int64s:
        if units and not (min(units) >= 0 and max(units) < self.num_units):
            msg = f"units must be from 0 to {self.num_units - 1} in this epoch, got {units}"
            raise RecipeError(msg)
        each, longer = divmod(self.num_units, self.recipe.lanes)
        canonical = np.arange(units.start, units.stop, units.step)
        turns, lanes = np.divmod(canonical, self.recipe.lanes)
        blocks = lanes * each + np.minimum(lanes, longer) + turns
        size = self.recipe.samples_per_unit
        positions = (blocks[:, None] * size + np.arange(size)).ravel()
        return positions[positions < self.index.total]

    def shard_sample(self, positions: Int64s) -> tuple[Int64s, Int64s]:
        """The shards, and the samples' places in them, at `positions` (each from 0 to the total - 1)."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and not (positions.min() >= 0 and positions.max() < self.index.total):
            given = f"{positions.min()} to {positions.max()}"
            msg = f"positions must be from 0 to {self.index.total - 1}, got {given}"
            raise RecipeError(msg)
        places = self._shuffled(positions) if self.recipe.shuffle else positions
        turns = np.searchsorted(self._starts, places, side="right") - 1
        return self.shard_order[turns], places - self._starts[turns]

    def _shuffled(self, positions: Int64s) -> Int64s:
        """The places, in the permuted shards laid end to end, of the samples that come at `positions`."""
        size = self.recipe.window
        windows, offsets = np.divmod(positions, size)
        places = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            inside = windows == window
            places[inside] = self._window(window)[offsets[inside]] + np.int64(window * size)
        return places

    def _window(self, window: int) -> npt.NDArray[np.unsignedinteger]:
        """The permutation of one window; the windows last used, one a lane, are kept."""
        found = self._windows.pop(window, None)
        if found is None:
            size = min(self.recipe.window, self.index.total - window * self.recipe.window)
            shuffled = permutation(subkey(self._key, "window", window), size)
            found = shuffled.astype(np.min_scalar_type(size - 1))
        self._windows[window] = found
        if len(self._windows) > self.recipe.lanes + 1:
            del self._windows[next(iter(self._windows))]
        return found
