"""What each node would read: the arithmetic behind ``augstream plan``, which opens no shard.

A rank's batches come from the lanes that its numbers meet. Rank ``r`` of ``R`` takes batch ``t * R + r`` of
``k`` units in step ``t``, and unit ``u`` is of lane ``u % lanes``; so it meets the lanes that are ``r * k +
i`` (``i < k``) modulo ``gcd(R * k, lanes)``. Where `lanes` is a multiple of ``R * k``, no two ranks share a
lane, and no two nodes read the same shard but for those at the edges of runs.

What is computed takes memory and time by the shard and by the lane, never by the sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import numpy.typing as npt

from .errors import TopologyError
from .index import Int64s, ShardIndex
from .order import EpochOrder, Recipe, check_count
from .plan import Plan, Topology


@dataclass(frozen=True, slots=True)
class Layout:
    """What the nodes of a run read in one epoch, under one number of lanes.

    lanes, num_steps: of the epoch; steps are the same on all ranks.
    samples_of_rank: (ranks,) delivered to each. They differ by a unit where one is short, and in the last
    step. shards_of_node, bytes_of_node: (nodes,) distinct shards, and their bytes, that hold a sample which
        the node may read. Where several nodes share a lane this is an upper bound, and hardly ever more
        than a few too many.
    cache_bytes_of_node: (nodes,) a cache of so many bytes never fetches a shard twice: at most what a
        node's lanes have open at one time.
    open_shards_of_worker: the shards that one worker may have open at a time, at most.
    shared_shards: shards read by more than one node. fetches: shards read by all nodes, counted once a node.
    num_shards: shards that hold a sample at all.
    """

    lanes: int
    num_steps: int
    samples_of_rank: Int64s
    shards_of_node: Int64s
    bytes_of_node: Int64s
    cache_bytes_of_node: Int64s
    open_shards_of_worker: int
    shared_shards: int
    num_shards: int

    @property
    def fetches(self) -> int:
        """Shards read by all nodes together: `num_shards` if each is read by one node only."""
        return int(self.shards_of_node.sum())

    @property
    def shared(self) -> float:
        """The share of shards that more than one node reads, from 0 to 1."""
        return self.shared_shards / self.num_shards

    @property
    def imbalance(self) -> int:
        """Samples between the rank that gets most and the one that gets fewest."""
        return int(self.samples_of_rank.max() - self.samples_of_rank.min())


def lay_out(
    index: ShardIndex,
    recipe: Recipe,
    *,
    world_size: int,
    num_workers: int = 0,
    ranks_per_node: int = 1,
    epoch: int = 0,
) -> Layout:
    """What each node reads in an epoch, from its start, if `ranks_per_node` consecutive ranks share a node.

    Raises `TopologyError` for numbers that contradict each other, and what `Plan` raises where an epoch has
    no step.

    >>> index = ShardIndex.synthetic(200, 1000)
    >>> layout = lay_out(index, Recipe(seed=137, batch_size=64, lanes=8), world_size=8)
    >>> layout.shards_of_node.tolist(), layout.shared_shards, layout.imbalance
    ([33, 34, 33, 34, 34, 34, 34, 28], 64, 0)
    """
    plan = Plan.of(recipe, index.total, Topology(0, world_size, num_workers))
    check_count("ranks_per_node", ranks_per_node, 1, "pass the processes started on each node", TopologyError)
    order = EpochOrder(index, recipe, epoch)
    lanes = _Lanes(order)
    step_units = world_size * recipe.units_per_batch
    rows = []
    changes = np.zeros(lanes.num_shards + 1, dtype=np.int64)
    for first in range(0, world_size, ranks_per_node):
        met = np.zeros(recipe.lanes, dtype=bool)
        for rank in range(first, min(first + ranks_per_node, world_size)):
            met |= lanes.met(rank * recipe.units_per_batch, step_units)
        starts, stops = lanes.shards_of(met)
        np.add.at(changes, starts, 1)
        np.add.at(changes, stops, -1)
        num_bytes = int((lanes.bytes_before[stops] - lanes.bytes_before[starts]).sum())
        cache_bytes = min(int(lanes.open_bytes[met].sum()), num_bytes)
        rows.append((int((stops - starts).sum()), num_bytes, cache_bytes))
    of_node = np.array(rows, dtype=np.int64).T
    lanes_of_worker = int(lanes.met(0, step_units * max(num_workers, 1)).sum())
    return Layout(
        lanes=recipe.lanes,
        num_steps=plan.num_steps,
        samples_of_rank=_samples_of_ranks(plan, order),
        shards_of_node=of_node[0],
        bytes_of_node=of_node[1],
        cache_bytes_of_node=of_node[2],
        open_shards_of_worker=int(np.sort(lanes.open_shards)[-lanes_of_worker:].sum()),
        shared_shards=int((np.cumsum(changes) > 1).sum()),
        num_shards=lanes.num_shards,
    )


def compare_lanes(
    index: ShardIndex, recipe: Recipe, lanes: Iterable[int] = (), *, world_size: int, **others: int
) -> list[Layout]:
    """The layouts under `lanes` and under the numbers that suit this world, the fewest lanes first.

    Those are the recipe's own; one lane a rank, and one a worker (times the units of a batch, which are of
    consecutive lanes): there, nobody shares a lane.
    """
    world = Topology(0, world_size, others.get("num_workers", 0))
    alone = world.world_size * recipe.units_per_batch
    suited = {recipe.lanes, alone, alone * max(world.num_workers, 1)}
    return [
        lay_out(index, replace(recipe, lanes=number), world_size=world_size, **others)
        for number in sorted(suited.union(lanes))
    ]


class _Lanes:
    """The shards that each lane's run spans, in the order of the epoch; those without samples left out."""

    def __init__(self, order: EpochOrder) -> None:
        recipe, index = order.recipe, order.index
        self._recipe = recipe
        shards = order.shard_order[index.num_samples[order.shard_order] > 0]
        self.num_shards = len(shards)
        starts = _running_sum(index.num_samples[shards])
        self.bytes_before = _running_sum(index.sizes_bytes[shards])
        window = recipe.window if recipe.shuffle else 1
        runs = [order.run_of_lane(lane) for lane in range(recipe.lanes)]
        # A run reads whole windows' shards: at its edges, its samples may be anywhere in the window.
        low = np.array([run.start for run in runs]) // window * window
        high = np.minimum(-(-np.array([run.stop for run in runs]) // window) * window, index.total)
        empty = np.array([not run for run in runs])
        self._starts = np.where(empty, self.num_shards, np.searchsorted(starts, low, side="right") - 1)
        self._stops = np.where(empty, self.num_shards, np.searchsorted(starts, high, side="left"))
        # A window that begins in a shard reaches at most into the shard `window` places after its last sample.
        reached = np.searchsorted(starts, np.minimum(starts[1:] + window - 1, index.total), side="left")
        spans = np.arange(self.num_shards)
        self.open_shards = self._most(reached - spans, self._stops - self._starts)
        spanned_bytes = self.bytes_before[reached] - self.bytes_before[spans]
        run_bytes = self.bytes_before[self._stops] - self.bytes_before[self._starts]
        self.open_bytes = self._most(spanned_bytes, run_bytes)

    def _most(self, of_shard: Int64s, of_run: Int64s) -> Int64s:
        """The largest number in each lane's run, and no more than the whole run has."""
        edges = np.stack([self._starts, self._stops], axis=1).ravel()
        largest = np.maximum.reduceat(np.append(of_shard, 0), edges)[::2]
        return np.minimum(largest, of_run)

    def met(self, first_unit: int, stride: int) -> npt.NDArray[np.bool_]:
        """(lanes,) whether a batch of every `stride`-th unit from `first_unit` on ever meets the lane."""
        turn = gcd(stride, self._recipe.lanes)
        return (np.arange(self._recipe.lanes) - first_unit) % turn < self._recipe.units_per_batch

    def shards_of(self, met: npt.NDArray[np.bool_]) -> tuple[Int64s, Int64s]:
        """Where the shards of some lanes start and stop, each shard in one stretch only."""
        stops = self._stops[met]
        before = np.append(0, stops[:-1])
        return np.maximum(self._starts[met], before), stops


def _running_sum(numbers: Int64s) -> Int64s:
    return np.append(0, np.cumsum(numbers))


def _samples_of_ranks(plan: Plan, order: EpochOrder) -> Int64s:
    """(ranks,) samples that each rank gets in an epoch."""
    ranks = plan.topology.world_size
    samples = np.full(ranks, (plan.num_steps - 1) * plan.batch_size, dtype=np.int64)
    for rank in range(ranks):
        samples[rank] += sum(map(order.unit_size, plan.units_of_step(plan.num_steps - 1, rank)))
    # One unit may be short: the end of the last run, which is among the epoch's last `lanes` units.
    last_run = min(order.num_units, order.recipe.lanes) - 1
    short = last_run + (order.num_units - 1 - last_run) // order.recipe.lanes * order.recipe.lanes
    step, rank = divmod(short // plan.units_per_batch, ranks)
    if step < plan.num_steps - 1:
        samples[rank] -= plan.unit - order.unit_size(short)
    return samples
