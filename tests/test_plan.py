from __future__ import annotations

from typing import Any

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import recipes, topologies

from augstream.errors import RecipeError, TopologyError
from augstream.order import Recipe
from augstream.plan import Plan, Topology


def plan_or_none(recipe: Recipe, total: int, topology: Topology, start: int) -> Plan | None:
    """The plan, or None where the epoch has no step and says so."""
    try:
        return Plan.of(recipe, total, topology, start)
    except (RecipeError, TopologyError):
        return None


def on_every_rank(topology: Topology) -> list[Topology]:
    return [Topology(rank, topology.world_size, topology.num_workers) for rank in range(topology.world_size)]


@st.composite
def lives(draw: st.DrawFn) -> tuple[Recipe, int, Topology, int]:
    recipe = draw(recipes())
    total = draw(st.integers(1, 150))
    return recipe, total, draw(topologies()), draw(st.integers(0, recipe.num_units(total)))


def expected_steps(recipe: Recipe, total: int, topology: Topology, start: int) -> list[list[list[int]]]:
    return reference.steps(
        recipe.num_units(total),
        recipe.units_per_batch,
        drop_last=recipe.drop_last,
        tail=recipe.tail,
        world_size=topology.world_size,
        start=start,
    )


@given(lives())
def test_steps_are_those_of_the_plain_loops(life: tuple[Recipe, int, Topology, int]) -> None:
    _, _, topology, start = life
    expected = expected_steps(*life)
    plan = plan_or_none(*life)
    if plan is None:
        assert start == 0
        assert expected == []
        return
    assert plan.num_steps == len(expected)
    for step in range(plan.num_steps):
        for rank in range(topology.world_size):
            assert list(plan.units_of_step(step, rank)) == expected[step][rank]
        assert plan.units_of_step(step) == plan.units_of_step(step, topology.rank)


@given(lives())
def test_every_rank_has_the_same_steps_and_says_the_same_of_them(
    life: tuple[Recipe, int, Topology, int],
) -> None:
    recipe, total, topology, start = life
    plans = [plan_or_none(recipe, total, seen, start) for seen in on_every_rank(topology)]
    views = {
        None
        if plan is None
        else (plan.num_steps, tuple(plan.units_delivered_after(t) for t in range(plan.num_steps + 1)))
        for plan in plans
    }
    assert len(views) == 1


@given(lives())
def test_ranks_share_out_a_prefix_of_the_rest(life: tuple[Recipe, int, Topology, int]) -> None:
    recipe, _, topology, start = life
    plan = plan_or_none(*life)
    if plan is None:
        return
    delivered: list[int] = []
    for step in range(plan.num_steps):
        assert plan.units_delivered_after(step) == start + len(delivered)
        for rank in range(topology.world_size):
            units = plan.units_of_step(step, rank)
            assert len(units) > 0
            if units.start == start + len(delivered):  # else it is padding
                delivered += units
    assert delivered == list(range(start, start + len(delivered)))
    assert plan.units_delivered_after(plan.num_steps) == start + len(delivered)
    lost = plan.num_units - start - len(delivered)
    dropped_by_batch = (plan.num_units - start) % recipe.units_per_batch if recipe.drop_last else 0
    if recipe.tail == "pad" or topology.world_size == 1:
        assert lost == dropped_by_batch
    else:
        assert lost < topology.world_size * recipe.units_per_batch + dropped_by_batch


@given(lives())
def test_workers_share_out_the_steps(life: tuple[Recipe, int, Topology, int]) -> None:
    plan = plan_or_none(*life)
    if plan is None:
        return
    workers = [list(plan.steps_of_worker(w)) for w in range(max(1, plan.topology.num_workers))]
    # A stock DataLoader takes the workers' batches in turn, and leaves out those that have ended.
    merged = []
    for turn in range(plan.num_steps):
        merged += [steps[turn] for steps in workers if turn < len(steps)]
    assert merged == list(range(plan.num_steps))


@given(
    st.integers(1, 200),
    st.integers(1, 5),
    st.sampled_from([(1, 24), (2, 12), (4, 6), (3, 8), (6, 4)]),
    st.data(),
)
def test_global_batches_stay_the_same_when_the_world_changes(
    total: int, unit: int, shape: tuple[int, int], data: st.DataObject
) -> None:
    """With a unit below the batch, world size and batch size may change together: the same global batches."""
    world_size, units_per_batch = shape
    whole = total // unit // 24 * 24
    start = data.draw(st.integers(0, whole))
    recipe = Recipe(seed=0, batch_size=unit * units_per_batch, unit=unit, drop_last=True)
    plan = plan_or_none(recipe, total, Topology(0, world_size), start)
    if plan is None:
        assert total // unit < 24
        return
    for step in range((whole - start) // 24):
        global_batch = [u for rank in range(world_size) for u in plan.units_of_step(step, rank)]
        assert global_batch == list(range(start + 24 * step, start + 24 * step + 24))


def test_padding_repeats_the_start_of_the_epoch_wherever_the_life_began() -> None:
    recipe = Recipe(seed=0, batch_size=2, unit=1, tail="pad")
    for start in (0, 4, 6):
        plan = Plan.of(recipe, 9, Topology(0, 4), start)
        last = [list(plan.units_of_step(plan.num_steps - 1, rank)) for rank in range(4)]
        assert [7, 8] not in last
        assert last[last.index([8]) + 1 :] == [[0, 1], [2, 3], [4, 5]][: 3 - last.index([8])]


def test_padding_goes_round_an_epoch_of_one_batch() -> None:
    plan = Plan.of(Recipe(seed=0, batch_size=8, tail="pad"), 3, Topology(0, 4))
    assert [plan.units_of_step(0, rank) for rank in range(4)] == [range(1)] * 4
    assert plan.units_delivered_after(1) == 1


def test_an_epoch_without_a_step_says_so() -> None:
    recipe = Recipe(seed=0, batch_size=8)
    with pytest.raises(TopologyError, match=r"no step: its 1 batches of 8 samples.* 2 ranks.*tail='pad'"):
        Plan.of(recipe, 5, Topology(0, 2))
    with pytest.raises(RecipeError, match=r"no batch: drop_last=True.*drop_last=False"):
        Plan.of(Recipe(seed=0, batch_size=8, drop_last=True), 5, Topology(0, 1))
    assert Plan.of(recipe, 5, Topology(0, 1)).num_steps == 1
    assert Plan.of(recipe, 5, Topology(0, 2), start_unit=1).num_steps == 0, (
        "the rest of an epoch may be nothing"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": -1}, "rank must be an integer of at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, "rank must be below world_size, got rank=2 and world_size=2"),
        ({"world_size": 0}, "world_size .* got 0"),
        ({"num_workers": -1}, "num_workers .* got -1"),
        ({"num_workers": 1.5}, r"num_workers .* got 1\.5"),
        ({"rank": True}, "rank .* got True"),
    ],
)
def test_a_topology_that_contradicts_itself_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        Topology(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start_unit": 11}, "start_unit must be from 0 to the 10 units of the epoch, got 11"),
        ({"start_unit": -1}, "start_unit .* got -1"),
        ({"num_units": -1}, "num_units .* got -1"),
        ({"unit": 3}, "unit must divide batch_size"),
        ({"tail": "wrap"}, "tail"),
        ({"drop_last": 1}, "drop_last"),
    ],
)
def test_a_plan_that_no_run_could_honour_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Plan(**({"num_units": 10, "unit": 4, "batch_size": 8} | values))


def test_steps_and_workers_that_are_not_there_are_refused() -> None:
    plan = Plan.of(Recipe(seed=0, batch_size=8), 100, Topology(1, 2, 3))
    for step, rank in ((plan.num_steps, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(TopologyError, match=f"got step {step} of rank {rank}"):
            plan.units_of_step(step, rank)
    for worker in (-1, 3):
        with pytest.raises(TopologyError, match=f"from 0 to 2, got {worker}"):
            plan.steps_of_worker(worker)
    for count in (-1, plan.num_steps + 1):
        with pytest.raises(TopologyError, match=f"got {count}"):
            plan.units_delivered_after(count)
