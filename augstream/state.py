"""How far we are: what a checkpoint holds, and what may be continued from it.

A state is one place in one order: (epoch, units delivered) under a recipe and an index. It is the same on
every rank, says nothing of ranks or workers, and so may be continued on any number of them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import RecipeError, StateError, TransformChangedWarning
from .index import ShardIndex
from .mixing import MixtureOrder, MixtureRecipe
from .order import Recipe, check_count

VERSION = 1

_FIELDS = ("version", "epoch", "units", "recipe", "index", "transform", "skipped")
MEND_BROKEN = "load a checkpoint saved before it, or start an epoch anew with set_epoch"
_MEND_UNIT = (
    "only whole units can be dealt anew: pass the saved unit, and a batch_size that it divides "
    "(a run that is to change its batch size passes a smaller unit from the start)"
)
_MEND_INDEX = (
    "the shards, their names, order, keys or numbers of samples are others: pass the shards that the state "
    "was saved with"
)
_MEND_RECIPE = (
    "pass the saved values, or begin an epoch under the new ones with set_epoch instead of the state"
)


@dataclass(frozen=True, slots=True)
class StreamState:
    """One place in one order, as data; equal on all ranks and fit for JSON.

    epoch: counted from 0. units: canonical units of that epoch delivered so far, on all ranks together.
    recipe: `Recipe.to_dict()`. index: the fingerprint of the shards. transform: the fingerprint of the
    pipeline of transforms, or None where it has none.
    skipped: (shard, key) of samples that are left out because they killed their worker. It is the only part
    that may grow; without it the JSON is under a kilobyte.

    Raises `StateError` for a field of another type or below its range.
    """

    epoch: int
    units: int
    recipe: dict[str, Any]
    index: str
    transform: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        _check_version(self.version)
        for name in ("epoch", "units"):
            value = check_count(name, getattr(self, name), 0, MEND_BROKEN, StateError)
            object.__setattr__(self, name, value)
        if not isinstance(self.recipe, Mapping):
            raise StateError(broken(f"recipe must be a dict, got {self.recipe!r}"))
        fingerprints: tuple[Any, Any] = (self.index, "" if self.transform is None else self.transform)
        if any(not isinstance(text, str) for text in fingerprints):
            raise StateError(broken(f"fingerprints must be text, got {fingerprints!r:.80}"))
        object.__setattr__(self, "skipped", _pairs(self.skipped))

    def to_dict(self) -> dict[str, Any]:
        """The state as plain data of dicts, lists, text and numbers."""
        return {
            "version": self.version,
            "epoch": self.epoch,
            "units": self.units,
            "recipe": dict(self.recipe),
            "index": self.index,
            "transform": self.transform,
            "skipped": [list(pair) for pair in self.skipped],
        }

    @classmethod
    def from_dict(cls, data: Any) -> StreamState:
        """The state of `to_dict`; `StateError` for anything else."""
        if not isinstance(data, Mapping):
            raise StateError(broken(f"it must be a dict, got {type(data).__name__} {data!r:.80}"))
        if "version" in data:
            _check_version(data["version"])  # first: another version may well have other fields
        missing = [name for name in _FIELDS if name not in data]
        unknown = [str(name) for name in data if name not in _FIELDS]
        if missing or unknown:
            raise StateError(broken(f"missing {missing}, unknown {unknown}"))
        return cls(**data)

    def to_json(self) -> str:
        """The state as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> StreamState:
        """The state of `to_json`; `StateError`, saying where the text breaks off, for anything else."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StateError(broken(f"its {len(text)} characters are not JSON ({error})")) from error
        return cls.from_dict(data)


def _check_version(version: Any) -> None:
    if type(version) is not int or version != VERSION:
        msg = (
            f"the state is of version {version!r}, and this augstream continues version {VERSION}; "
            "use the augstream that saved it, or begin an epoch anew with set_epoch"
        )
        raise StateError(msg)


def broken(what: str) -> str:
    """What an error says of a state that nobody could have saved."""
    return f"the saved state is broken: {what}; {MEND_BROKEN}"


def _pairs(skipped: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(skipped, (list, tuple)):
        raise StateError(broken(f"skipped must be a list of [shard, key], got {skipped!r:.80}"))
    for pair in skipped:
        if not isinstance(pair, (list, tuple)) or [type(part) for part in pair] != [str, str]:
            raise StateError(broken(f"skipped must be a list of [shard, key], got {pair!r:.80} in it"))
    return tuple((shard, key) for shard, key in skipped)


def check(
    state: StreamState,
    recipe: Recipe,
    index: ShardIndex,
    *,
    transform: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Return if `state` can be continued exactly under `recipe` on `index`; otherwise raise `StateError`.

    The message names each value that differs, saved against now, and what to do. Only the batch size may
    differ, and only where the unit does not. If the fingerprint `transform` differs, a
    `TransformChangedWarning` is given: the order goes on exactly, and the change may be wanted.
    """
    try:
        saved = Recipe.from_dict(state.recipe)
    except RecipeError as error:
        raise StateError(broken(f"its recipe: {error}")) from error
    shards = f"shards: {len(index)}, samples: {index.total}"
    _compare(state, saved.to_dict(), recipe.to_dict(), index.fingerprint, shards)
    num_units = recipe.num_units(index.total)
    if state.units > num_units:
        raise StateError(broken(f"units must be from 0 to the {num_units} of an epoch, got {state.units}"))
    _compare_transforms(state, transform, stacklevel + 1)


def check_mixture(
    state: StreamState, order: MixtureOrder, *, index: str, transform: str | None = None, stacklevel: int = 2
) -> None:
    """`check` for a mixture, whose state holds a `MixtureRecipe`; `index` stands for all its sources.

    `units` may be more than an epoch's, since an unending stream counts on in its first.
    """
    try:
        saved = MixtureRecipe.from_dict(state.recipe)
    except RecipeError as error:
        raise StateError(broken(f"its recipe: {error}")) from error
    sources = f"sources: {len(order.sources)}"
    _compare(state, saved.to_dict(), order.recipe.to_dict(), index, sources)
    _compare_transforms(state, transform, stacklevel + 1)


def _compare(
    state: StreamState, then: dict[str, Any], now: dict[str, Any], index: str, described: str
) -> None:
    """Raise `StateError` for every difference that makes another order."""
    if then["unit"] == now["unit"]:
        then.pop("batch_size")
    changed = [name for name in then if then[name] != now[name]]
    differences = [f"{name}: saved {then[name]!r}, now {now[name]!r}" for name in changed]
    mends = [_MEND_UNIT] if "unit" in changed else []
    if not {"unit", "batch_size"}.issuperset(changed):
        mends.append(_MEND_RECIPE)
    if state.index != index:
        differences.append(f"index: saved {state.index!r}, now {index!r} ({described})")
        mends.append(_MEND_INDEX)
    if differences:
        found = "; ".join(differences)
        msg = f"the state belongs to another run: {found}. To mend it: {'; '.join(mends)}"
        raise StateError(msg)


def _compare_transforms(state: StreamState, transform: str | None, stacklevel: int) -> None:
    if transform is not None and state.transform is not None and transform != state.transform:
        msg = (
            f"the transforms changed: saved {state.transform!r}, now {transform!r}; the order of samples "
            "goes on exactly, their pixels are those of the new transforms"
        )
        warnings.warn(msg, TransformChangedWarning, stacklevel=stacklevel)
