"""Which dataset the next unit comes from: a mixture as arithmetic, like the order of one dataset.

1. Each source has a weight in units. Its j-th unit is due at ``(j + 1/2) / weight``, and the units of all
   sources, in the order in which they are due, make an even deal: after n units, each source has had its
   share of n, to within about a unit. How many each has had before the n-th is a division and a few
   comparisons, for any n.
2. Inside rounds of `round_units` the deal is shuffled, so that no rank gets one source by rhythm.
3. A source counts its own epochs: its j-th unit is unit ``j % units`` of its epoch ``j // units``.

So the n-th unit of the mixture is (source, its epoch, its unit), at random access and without end, and a
state of (epoch, units) suffices, as it does for one dataset. What is not promised is locality: every rank
reads from all lanes of all sources.

Source: the even deal is Webster's method of apportionment (Balinski and Young, "Fair Representation",
1982), which never takes back a seat when the house grows; so prefixes of the deal are proportional.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import isfinite, lcm
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from .errors import RecipeError
from .index import Int64s
from .order import Recipe, Tail, check_count, known_fields
from .seeding import permutation, seed_key, subkey

DEFAULT_ROUND = 1024
By = Literal["samples", "epochs"]
Weight = int | float


@dataclass(frozen=True, slots=True)
class MixtureRecipe:
    """All that decides the order of a mixture, besides its sources' own recipes and indexes.

    weights: one positive number a source. By "samples" they are shares of the stream: ``{"a": 3, "b": 1}``
        gives three units of a for one of b, whatever their sizes. By "epochs" they are how often each
        sample of a source is seen: ``{"a": 1, "b": 2}`` goes twice through b for once through a.
    batch_size, unit, drop_last, tail: as in `Recipe`. All sources have this unit. A batch may hold units of
        several sources where the unit is smaller than the batch; by default a batch is of one source.
    round_units: units that are shuffled together; after every round the shares are even again.
    epoch_units: units to an epoch of the mixture: where it is counted from 0 again, and what `len` and
        progress go by. Left out, it is one pass through as many units as all sources hold, for weights by
        samples, or each source as many times as its weight, for weights by epochs. A source's own epochs
        run on through it.

    Raises `RecipeError` for any value that no run could honour.

    >>> MixtureRecipe(seed=137, batch_size=64, weights={"photos": 3, "sketches": 1}).unit
    64
    """

    seed: int
    batch_size: int
    weights: Mapping[str, Weight]
    by: By = "samples"
    unit: int | None = None
    round_units: int = DEFAULT_ROUND
    epoch_units: int | None = None
    drop_last: bool = False
    tail: Tail = "drop"

    def __post_init__(self) -> None:
        put = object.__setattr__
        alike = Recipe(self.seed, self.batch_size, self.unit, drop_last=self.drop_last, tail=self.tail)
        put(self, "seed", alike.seed)
        put(self, "batch_size", alike.batch_size)
        put(self, "unit", alike.unit)
        put(self, "weights", _checked_weights(self.weights))
        if self.by not in get_args(By):
            msg = f"by must be one of {', '.join(map(repr, get_args(By)))}, got {self.by!r}"
            raise RecipeError(msg)
        rounds = check_count("round_units", self.round_units, 1, "leave it out for the default")
        put(self, "round_units", rounds)
        if self.epoch_units is not None:
            units = check_count("epoch_units", self.epoch_units, 1, "leave it out for one pass")
            put(self, "epoch_units", units)

    @property
    def samples_per_unit(self) -> int:
        """`unit`, for the type checker's sake: it is never None once the recipe is made."""
        return self.batch_size if self.unit is None else self.unit

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MixtureRecipe:
        """The recipe of `to_dict`; `RecipeError` for a field that is unknown, missing or wrong."""
        return cls(**known_fields(cls, data))


def _checked_weights(weights: Any) -> dict[str, Weight]:
    if not isinstance(weights, Mapping) or not weights:
        msg = f'weights must name each source with its weight, got {weights!r}; pass {{"a": 3, "b": 1}}, say'
        raise RecipeError(msg)
    for name, weight in weights.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not isinstance(name, str) or not number or not isfinite(weight) or weight <= 0:
            msg = f"weights must be positive numbers by name, got {name!r}: {weight!r}; leave out a source of none"
            raise RecipeError(msg)
    return dict(weights)


class MixtureUnit(NamedTuple):
    """One unit of a mixture: canonical unit `unit` of epoch `epoch` of `source`."""

    source: str
    epoch: int
    unit: int


class MixtureOrder:
    """The order of a mixture: which source, epoch and unit its n-th unit is, at random access and without end.

    num_units: canonical units in an epoch of each source (`Recipe.num_units`).

    >>> recipe = MixtureRecipe(seed=137, batch_size=8, weights={"a": 3, "b": 1})
    >>> order = MixtureOrder(recipe, {"a": 30, "b": 20})
    >>> order.epoch_units, order.units_before(1_000_000)
    (50, {'a': 750000, 'b': 250000})
    >>> order.unit(1_000_000)
    MixtureUnit(source='a', epoch=25000, unit=0)
    """

    def __init__(self, recipe: MixtureRecipe, num_units: Mapping[str, int]) -> None:
        self.recipe = recipe
        self.sources = tuple(sorted(recipe.weights))  # the order of a dict must not matter
        if set(num_units) != set(self.sources):
            msg = (
                f"weights are for {sorted(self.sources)}, datasets are {sorted(num_units)}; name each in both"
            )
            raise RecipeError(msg)
        self._sizes = [
            check_count(f"units of {name!r}", num_units[name], 1, "a source needs one unit an epoch at least")
            for name in self.sources
        ]
        exact = [Fraction(recipe.weights[name]) for name in self.sources]
        if recipe.by == "epochs":
            exact = [weight * size for weight, size in zip(exact, self._sizes, strict=True)]
        whole = lcm(*[weight.denominator for weight in exact])
        self._weights = [int(weight * whole) for weight in exact]
        self._all = sum(self._weights)
        default = sum(self._sizes) if recipe.by == "samples" else max(1, round(sum(exact)))
        self.epoch_units: int = recipe.epoch_units or default
        self._key = subkey(seed_key(recipe.seed), "mixture")
        self._round: tuple[int, Int64s, Int64s] | None = None

    def _dealt(self, num_units: int) -> list[int]:
        """How many of the first `num_units` of the even deal each source has."""
        weights, everything = self._weights, self._all
        dealt = [(2 * num_units * weight + everything) // (2 * everything) for weight in weights]
        # That is the deal up to a moment at which about `num_units` are due; give or take the few that it misses by.
        sources = range(len(weights))
        while sum(dealt) < num_units:
            dealt[min(sources, key=lambda s: (Fraction(2 * dealt[s] + 1, weights[s]), s))] += 1
        while sum(dealt) > num_units:
            dealt[max(sources, key=lambda s: (Fraction(2 * dealt[s] - 1, weights[s]), s))] -= 1
        return dealt

    def units_before(self, position: int) -> dict[str, int]:
        """How many units of each source come before `position`, counted from the first epoch's first unit."""
        check_count("position", position, 0, "units are counted from 0")
        first, sources, _ = self._round_of(position)
        counts = self._dealt(first)
        for source in sources[: position - first].tolist():
            counts[source] += 1
        return dict(zip(self.sources, counts, strict=True))

    def unit(self, position: int) -> MixtureUnit:
        """The unit at `position`, counted from the first epoch's first unit."""
        (unit,) = self.units(range(position, position + 1))
        return unit

    def units(self, positions: range) -> list[MixtureUnit]:
        """The units at consecutive positions: a batch's, say."""
        found = []
        for position in positions:
            first, sources, turns = self._round_of(check_count("position", position, 0, "counted from 0"))
            source = int(sources[position - first])
            epoch, unit = divmod(int(turns[position - first]), self._sizes[source])
            found.append(MixtureUnit(self.sources[source], epoch, unit))
        return found

    def _round_of(self, position: int) -> tuple[int, Int64s, Int64s]:
        """The round around `position`: where it begins, and for each of its units the source and the source's count."""
        epoch, inside = divmod(position, self.epoch_units)
        number, offset = divmod(inside, self.recipe.round_units)
        first = position - offset
        if self._round is None or self._round[0] != first:
            size = min(self.recipe.round_units, (epoch + 1) * self.epoch_units - first)
            before, after = self._dealt(first), self._dealt(first + size)
            due = [np.arange(low, high) for low, high in zip(before, after, strict=True)]
            sources = np.repeat(np.arange(len(due)), [len(run) for run in due])
            shuffled = sources[permutation(subkey(self._key, epoch, number), size)]
            turns = np.empty(size, dtype=np.int64)
            for source, run in enumerate(due):
                turns[shuffled == source] = run
            self._round = (first, shuffled, turns)
        return self._round
