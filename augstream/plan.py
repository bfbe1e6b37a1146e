"""Who computes it: which canonical units each rank and each worker takes, without a word between them.

A *life* is what runs from one start (of the epoch, or a resume) to the next. It begins at `start_unit`, the
number of units that were delivered before. From there on, consecutive units make batches, consecutive
batches make steps (one batch a rank), and a rank's workers take its steps in turn, as a stock
``DataLoader`` merges its workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import RecipeError, TopologyError
from .mixing import MixtureRecipe
from .order import Recipe, Tail, check_count

# The units of an epoch that never ends, as of a mixture for step-based training: a plan of it has steps for ages.
UNENDING = 2**62


@dataclass(frozen=True, slots=True)
class Topology:
    """Who we are: `rank` of `world_size`, with `num_workers` processes of our own (0: none but this one).

    Numbers only; nothing is detected here. Raises `TopologyError` where they contradict each other.
    """

    rank: int = 0
    world_size: int = 1
    num_workers: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name, minimum, mend in (
            ("rank", 0, "ranks are counted from 0"),
            ("world_size", 1, "pass 1 for a single process"),
            ("num_workers", 0, "pass 0 to compute in this process"),
        ):
            put(self, name, check_count(name, getattr(self, name), minimum, mend, TopologyError))
        if self.rank >= self.world_size:
            msg = (
                f"rank must be below world_size, got rank={self.rank} and world_size={self.world_size}; "
                "ranks are counted from 0"
            )
            raise TopologyError(msg)


@dataclass(frozen=True, slots=True)
class Plan:
    """What each rank and worker computes in one life; every rank has the same number of steps.

    num_units: canonical units in the epoch. unit, batch_size: in samples; `unit` divides `batch_size`.
    start_unit: units delivered before this life; steps are counted from there.

    Batch ``b`` of this life is the units from ``start_unit + b * k`` on, ``k = batch_size // unit``; rank
    ``r`` of ``R`` takes batch ``t * R + r`` in step ``t``. Without `drop_last` the last batch may have
    fewer units. Where the batches don't divide by the ranks, `tail` "drop" leaves the last step out on all
    ranks; "pad" completes it with the epoch's own first batches, so that what is repeated does not depend
    on where this life began.

    Raises, when an epoch is begun, `RecipeError` if `drop_last` leaves no batch of it and `TopologyError`
    if `tail` leaves no step: an epoch of nothing is never silent. The rest of an epoch may well have no
    steps.

    >>> plan = Plan.of(Recipe(seed=137, batch_size=4), total=30, topology=Topology(rank=1, world_size=2))
    >>> plan.num_units, plan.num_steps, plan.units_of_step(1), plan.units_delivered_after(2)
    (8, 4, range(3, 4), 4)
    """

    num_units: int
    unit: int
    batch_size: int
    drop_last: bool = False
    tail: Tail = "drop"
    topology: Topology = Topology()
    start_unit: int = 0

    @classmethod
    def of(cls, recipe: Recipe, total: int, topology: Topology = Topology(), start_unit: int = 0) -> Plan:
        """The plan of an epoch of `total` samples under `recipe`."""
        return cls.of_units(recipe, recipe.num_units(total), topology, start_unit)

    @classmethod
    def of_units(
        cls, recipe: Recipe | MixtureRecipe, num_units: int, topology: Topology, start_unit: int = 0
    ) -> Plan:
        """The plan of an epoch of `num_units` units under `recipe`."""
        return cls(
            num_units=num_units,
            unit=recipe.samples_per_unit,
            batch_size=recipe.batch_size,
            drop_last=recipe.drop_last,
            tail=recipe.tail,
            topology=topology,
            start_unit=start_unit,
        )

    def __post_init__(self) -> None:
        put = object.__setattr__
        # The recipe's own checks serve here: what it refuses, no plan can honour either.
        Recipe(seed=0, batch_size=self.batch_size, unit=self.unit, drop_last=self.drop_last, tail=self.tail)
        put(self, "num_units", check_count("num_units", self.num_units, 0, "it is Recipe.num_units(total)"))
        put(self, "start_unit", check_count("start_unit", self.start_unit, 0, "pass 0 to begin an epoch"))
        if self.start_unit > self.num_units:
            msg = (
                f"start_unit must be from 0 to the {self.num_units} units of the epoch, got {self.start_unit}"
            )
            raise RecipeError(msg)
        if self.start_unit == 0 and self.num_steps == 0:
            self._refuse_empty()

    def _refuse_empty(self) -> None:
        if self.num_units == 0 and not self.drop_last:
            msg = "an epoch has no batch: the shards hold no sample; see what they hold with augstream info"
            raise RecipeError(msg)
        if self.num_batches == 0:
            msg = (
                f"an epoch has no batch: drop_last=True, and its {self.num_units} units of {self.unit} "
                f"samples don't fill one batch of {self.batch_size}; pass drop_last=False, or smaller "
                "batches"
            )
            raise RecipeError(msg)
        msg = (
            f"an epoch has no step: its {self.num_batches} batches of {self.batch_size} samples don't go "
            f"round the {self.topology.world_size} ranks, and tail='drop' leaves out an incomplete step; "
            "pass tail='pad', a smaller batch_size, or fewer ranks"
        )
        raise TopologyError(msg)

    @property
    def units_per_batch(self) -> int:
        """Units in a full batch."""
        return self.batch_size // self.unit

    @property
    def num_batches(self) -> int:
        """Batches of this life on all ranks together, none of them padding."""
        return self._batches_in(self.num_units - self.start_unit)

    def _batches_in(self, units: int) -> int:
        return units // self.units_per_batch if self.drop_last else -(-units // self.units_per_batch)

    @property
    def num_steps(self) -> int:
        """Steps of this life, equal on all ranks."""
        ranks = self.topology.world_size
        return self.num_batches // ranks if self.tail == "drop" else -(-self.num_batches // ranks)

    def units_of_step(self, step: int, rank: int | None = None) -> range:
        """The canonical units of the batch that `rank` (ours, if None) gets in `step` of this life."""
        ranks = self.topology.world_size
        rank = self.topology.rank if rank is None else rank
        if not 0 <= step < self.num_steps or not 0 <= rank < ranks:
            msg = f"this life has {self.num_steps} steps on {ranks} ranks, got step {step} of rank {rank}"
            raise TopologyError(msg)
        batch = step * ranks + rank
        first = self.start_unit
        if batch >= self.num_batches:
            batch = (batch - self.num_batches) % self._batches_in(self.num_units)
            first = 0
        start = first + batch * self.units_per_batch
        return range(start, min(start + self.units_per_batch, self.num_units))

    def steps_of_worker(self, worker: int) -> range:
        """The steps of this life that worker `worker` of this rank computes; a spare worker has none."""
        workers = max(self.topology.num_workers, 1)
        if not 0 <= worker < workers:
            msg = f"worker must be from 0 to {workers - 1}, got {worker}"
            raise TopologyError(msg)
        return range(worker, self.num_steps, workers)

    def units_delivered_after(self, step_count: int) -> int:
        """The units of the epoch that are delivered once every rank has had `step_count` steps of this life.

        This is what a state holds: the same number on all ranks. Padding does not count.
        """
        if not 0 <= step_count <= self.num_steps:
            msg = f"this life has {self.num_steps} steps, got {step_count}"
            raise TopologyError(msg)
        batches = min(step_count * self.topology.world_size, self.num_batches)
        return min(self.start_unit + batches * self.units_per_batch, self.num_units)
