"""A training run as hypothesis lives it: deliver, save, restore into another world, hold against plain loops.

Nothing here starts a process: index, order, plan and state promise all of it by themselves. What processes
may do to it is for the tests of the loader.
"""

from __future__ import annotations

from typing import Any

import reference
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from strategies import indexes, recipes

from augstream.errors import RecipeError, TopologyError
from augstream.index import ShardIndex
from augstream.order import EpochOrder, Recipe
from augstream.plan import Plan, Topology
from augstream.state import StreamState, check


class Rank:
    """One rank of one life: it knows its own topology, the definition and a state, and asks nobody."""

    def __init__(self, index: ShardIndex, recipe: Recipe, state_json: str, topology: Topology) -> None:
        state = StreamState.from_json(state_json)
        check(state, recipe, index)
        self.state = state
        self.plan = Plan.of(recipe, index.total, topology, state.units)
        self.order = EpochOrder(index, recipe, state.epoch)
        self.step = 0

    def next_batch(self) -> list[tuple[int, int, int]]:
        workers = max(1, self.plan.topology.num_workers)
        (worker,) = [w for w in range(workers) if self.step in self.plan.steps_of_worker(w)]
        assert worker == self.step % workers
        batch = self.order.refs(self.plan.units_of_step(self.step))
        self.step += 1
        return [tuple(ref) for ref in batch]

    def save(self) -> str:
        units = self.plan.units_delivered_after(self.step)
        changed = self.state.to_dict() | {"units": units}
        return StreamState.from_dict(changed).to_json()


class TrainingRun(RuleBasedStateMachine):
    """Lives of an epoch, one after another, in worlds that change; then the next epoch."""

    @initialize(index=indexes(max_shards=5, max_samples=20), recipe=recipes(tail="drop"))
    def begin(self, index: ShardIndex, recipe: Recipe) -> None:
        self.index = index
        self.recipe = recipe
        self.epoch = 0
        self.start_epoch()
        self.enter(Topology(0, 1, 0))

    def start_epoch(self) -> None:
        self.expected = [s for unit in reference.units(self.index, self.recipe, self.epoch) for s in unit]
        self.delivered: list[tuple[int, int, int]] = []
        first = StreamState(
            epoch=self.epoch, units=0, recipe=self.recipe.to_dict(), index=self.index.fingerprint
        )
        self.saved = first.to_json()

    def enter(self, world: Topology) -> None:
        """Begin a life of `world` from what was saved last; one too large for an epoch shrinks to a rank."""
        try:
            self.ranks = self.ranks_of(world)
        except TopologyError:
            self.ranks = self.ranks_of(Topology())
        except RecipeError:
            assert self.recipe.drop_last
            assert self.index.total < self.recipe.batch_size
            self.recipe = Recipe(**(self.recipe.to_dict() | {"drop_last": False}))
            self.start_epoch()
            self.ranks = self.ranks_of(Topology())

    def ranks_of(self, world: Topology) -> list[Rank]:
        seats = [Topology(rank, world.world_size, world.num_workers) for rank in range(world.world_size)]
        return [Rank(self.index, self.recipe, self.saved, seat) for seat in seats]

    def deliver_step(self) -> None:
        for rank in self.ranks:
            self.delivered += rank.next_batch()

    @property
    def steps_left(self) -> int:
        return self.ranks[0].plan.num_steps - self.ranks[0].step

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(0, self.steps_left))):
            self.deliver_step()

    @rule()
    def save(self) -> None:
        self.saved = self.ranks[0].save()
        self.saved_length = len(self.delivered)
        assert {rank.save() for rank in self.ranks} == {self.saved}, "equal on all ranks"
        assert len(self.saved) < 1000

    @rule(world_size=st.integers(1, 5), num_workers=st.integers(0, 4), batch=st.integers(1, 4))
    def stop_and_restore(self, world_size: int, num_workers: int, batch: int) -> None:
        """Saved, then anything may change but what the order is made of."""
        self.save()
        values: dict[str, Any] = self.recipe.to_dict()
        values["batch_size"] = self.recipe.samples_per_unit * batch
        # Fewer ranks or smaller batches may yet deliver what the last world would have dropped as its tail.
        self.recipe = Recipe(**values)
        self.enter(Topology(0, world_size, num_workers))

    @precondition(lambda self: hasattr(self, "saved_length"))
    @rule(world_size=st.integers(1, 5))
    def be_killed_and_restore(self, world_size: int) -> None:
        """What was delivered after the last save is delivered again, and nothing before it."""
        if StreamState.from_json(self.saved).epoch == self.epoch:
            units = StreamState.from_json(self.saved).units
            self.delivered = self.delivered[: self.saved_length if units else 0]
            self.enter(Topology(0, world_size, 0))

    @precondition(lambda self: self.steps_left == 0)
    @rule(next_epoch=st.integers(0, 2**33))
    def end_epoch(self, next_epoch: int) -> None:
        """What is left is less than a step; one rank has all of it, unless the recipe drops it."""
        self.save()
        self.enter(Topology())
        while self.steps_left:
            self.deliver_step()
        lost = len(self.expected) - len(self.delivered)
        assert lost == 0 or (self.recipe.drop_last and lost < self.recipe.batch_size)
        self.epoch = next_epoch
        self.start_epoch()
        self.saved_length = 0
        self.enter(Topology())

    @invariant()
    def nothing_is_lost_and_nothing_comes_twice(self) -> None:
        if hasattr(self, "ranks"):
            assert self.delivered == self.expected[: len(self.delivered)]
            assert len({rank.plan.num_steps for rank in self.ranks}) == 1


TestTrainingRun = TrainingRun.TestCase
TestTrainingRun.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
