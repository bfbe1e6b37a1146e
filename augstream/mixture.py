"""`Mixture`: several streams dealt out as one, in shares, with the promises of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from .dataset import BatchDataset, StreamDataset
from .errors import RecipeError
from .mixing import DEFAULT_ROUND, By, MixtureRecipe, Weight
from .order import Recipe, Tail
from .state import StreamState, check_mixture
from .stream import MixtureStream

_DIGEST_BYTES = 8


class Mixture(BatchDataset):
    """Batches of several datasets in given shares, as a pure function of them and of a seed.

    datasets: each a `StreamDataset`, by name; of one `unit`, `on_error` and `collate_fn`. Their tails don't matter,
        nor their batch sizes and ranks where the mixture has its own.
    weights: one positive number a dataset. by: "samples", for shares of the stream (``{"a": 3, "b": 1}``:
        three units of a for one of b), or "epochs", for how often each sample of a dataset is seen while the
        others are seen as often as their weights say.
    seed: of the deal alone. What comes when within a dataset, and how it is augmented, follows from its own.
    batch_size: of the datasets, if it is left out. drop_last, tail: as for one stream.
    epochs: 1 for passes of `epoch_units` units each; None for one pass without end, as for training by steps.
    epoch_units, round_units: see `MixtureRecipe`.
    rank, world_size: which share is ours, where neither torch.distributed, torchrun nor the datasets say so.

    Each dataset runs through its own epochs, whichever the mixture is in: its n-th unit is unit ``n % units``
    of its epoch ``n // units``, with the bytes that it has there in the dataset alone. A batch is of one
    dataset, or, where `unit` is smaller than the batch, of any. Batches have ``__source__`` besides what they
    have in a dataset. Iterate it, or a `StreamLoader` of it, or a stock ``DataLoader(mixture,
    batch_size=None)``; one sample alone is ``mixture.datasets[name].sample(…)``.

    Raises `RecipeError` for datasets that cannot share batches.

    Not promised: locality. Every rank reads from all lanes of all datasets. Without `drop_last` in a dataset,
    each of its epochs ends with a short unit, and so some batches are short.
    """

    stream: MixtureStream

    def __init__(
        self,
        datasets: Mapping[str, StreamDataset],
        *,
        weights: Mapping[str, Weight],
        seed: int,
        by: By = "samples",
        batch_size: int | None = None,
        drop_last: bool = False,
        tail: Tail = "drop",
        epochs: int | None = 1,
        epoch_units: int | None = None,
        round_units: int = DEFAULT_ROUND,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if not isinstance(datasets, Mapping) or not datasets:
            msg = f'datasets must be StreamDatasets by name, got {datasets!r:.80}; pass {{"a": dataset, …}}'
            raise RecipeError(msg)
        for name, dataset in datasets.items():
            if not isinstance(name, str) or not isinstance(dataset, StreamDataset):
                msg = f"datasets must be StreamDatasets by name, got {name!r}: {type(dataset).__name__}"
                raise RecipeError(msg)
        if epochs not in {1, None}:
            msg = (
                f"epochs must be 1 or None (without end), got {epochs!r}; for longer epochs pass epoch_units"
            )
            raise RecipeError(msg)
        self.datasets = dict(datasets)
        for what in ("on_error", "collate_fn", "with_address"):
            self._agreed(f"stream.{what}")
        if rank is None and world_size is None:
            rank, world_size = self._agreed("ranks")
        recipe = MixtureRecipe(
            seed=seed,
            batch_size=self._agreed("recipe.batch_size") if batch_size is None else batch_size,
            weights=weights,
            by=by,
            unit=self._agreed("recipe.unit"),
            round_units=round_units,
            epoch_units=epoch_units,
            drop_last=drop_last,
            tail=tail,
        )
        streams = {name: dataset.stream for name, dataset in datasets.items()}
        super().__init__(MixtureStream(streams, recipe, epochs is None), (rank, world_size))

    def _agreed(self, what: str) -> Any:
        """The attribute that all datasets have alike; `RecipeError` if they differ."""
        values = {name: attrgetter(what)(dataset) for name, dataset in self.datasets.items()}
        first = next(iter(values.values()))
        if any(value != first for value in values.values()):
            told = ", ".join(f"{name!r} has {value!r}" for name, value in values.items())
            plain = what.rpartition(".")[2]
            msg = f"the datasets of a mixture must have the same {plain}, but {told}; make them alike"
            raise RecipeError(msg)
        return first

    @property
    def recipe(self) -> MixtureRecipe:
        """All that decides the deal."""
        return self.stream.recipe

    @property
    def fingerprint(self) -> str | None:
        """What a saved state knows of the transforms, to notice that they changed."""
        found = {name: dataset.fingerprint for name, dataset in self.datasets.items()}
        return None if None in found.values() else _digest(sorted(found.items()))

    @property
    def sources(self) -> str:
        """What a saved state knows of the datasets: for each, a number over its shards and its order."""
        return " ".join(
            f"{name}:{_digest((dataset.sources, _order_of(dataset.recipe)))}"
            for name, dataset in sorted(self.datasets.items())
        )

    def __len__(self) -> int:
        """The number of batches of a whole epoch on this rank; TypeError if it never ends."""
        if self.stream.unending:
            msg = "a mixture with epochs=None has no length; count steps, or pass epochs=1"
            raise TypeError(msg)
        return super().__len__()

    def _checked(self, state: StreamState) -> StreamState:
        check_mixture(
            state, self.stream.order(), index=self.sources, transform=self.fingerprint, stacklevel=5
        )
        if self.stream.unending:
            return state
        # An epoch without end goes on through the same units, counted otherwise.
        more, units = divmod(state.units, self.stream.epoch_units)
        return replace(state, epoch=state.epoch + more, units=units)


def _order_of(recipe: Recipe) -> dict[str, Any]:
    """What of a dataset's recipe decides its units."""
    return {name: value for name, value in recipe.to_dict().items() if name not in {"batch_size", "tail"}}


def _digest(value: Any) -> str:
    return blake2b(repr(value).encode(), digest_size=_DIGEST_BYTES, person=b"augstream/mix").hexdigest()
