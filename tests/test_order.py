from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import indexes, recipes, seeds

from augstream.errors import RecipeError
from augstream.index import ShardIndex
from augstream.order import DEFAULT_WINDOW, EpochOrder, Recipe, SampleRef

epochs = st.integers(0, 3) | st.integers(0, 2**40)


def refs_of(order: EpochOrder) -> list[SampleRef]:
    return order.refs(range(order.num_units))


# GOLDEN VALUES. They pin every user's order. They may change only by a decision of the maintainers, as an
# ORDER break named in the change log; never to make a test pass.


def test_golden_order() -> None:
    recipe = Recipe(seed=137, batch_size=4, unit=2, lanes=3, window=5)
    order = EpochOrder(ShardIndex.synthetic(4, [3, 5, 0, 6]), recipe, epoch=2)
    assert [[tuple(ref) for ref in order.unit(u)] for u in range(order.num_units)] == [
        [(1, 0, 0), (1, 3, 0)],
        [(0, 0, 0), (0, 1, 0)],
        [(3, 4, 2), (3, 2, 2)],
        [(1, 2, 0), (1, 4, 0)],
        [(0, 2, 0), (3, 1, 2)],
        [(3, 5, 2), (3, 3, 2)],
        [(1, 1, 0), (3, 0, 2)],
    ]


def test_golden_default_order() -> None:
    order = EpochOrder(ShardIndex.synthetic(50, 1000), Recipe(seed=137, batch_size=64), epoch=0)
    assert [tuple(ref) for ref in order.unit(400)[:3]] == [(4, 721, 1), (39, 62, 0), (8, 110, 0)]


# The order is that of the plain loops.


@given(indexes(), recipes(), epochs)
def test_units_are_those_of_the_plain_loops(index: ShardIndex, recipe: Recipe, epoch: int) -> None:
    order = EpochOrder(index, recipe, epoch)
    expected = reference.units(index, recipe, epoch)
    assert [[tuple(ref) for ref in order.unit(u)] for u in range(order.num_units)] == expected
    assert [order.unit_size(u) for u in range(order.num_units)] == [len(unit) for unit in expected]


@given(indexes(), recipes(), st.data())
def test_any_run_of_units_is_its_units_one_after_another(
    index: ShardIndex, recipe: Recipe, data: st.DataObject
) -> None:
    order = EpochOrder(index, recipe, 0)
    start = data.draw(st.integers(0, order.num_units))
    stop = data.draw(st.integers(start, order.num_units))
    one_by_one = [ref for unit in range(start, stop) for ref in order.unit(unit)]
    assert order.refs(range(start, stop)) == one_by_one


@given(indexes(), recipes(), st.data())
def test_positions_are_a_random_access(index: ShardIndex, recipe: Recipe, data: st.DataObject) -> None:
    expected = reference.sequence(index, recipe, 1)
    asked = data.draw(st.lists(st.integers(0, index.total - 1)))
    shards, samples = EpochOrder(index, recipe, 1).shard_sample(np.array(asked, dtype=np.int64))
    assert list(zip(shards.tolist(), samples.tolist(), strict=True)) == [expected[p][:2] for p in asked]


@given(indexes(), recipes(), epochs)
def test_an_epoch_holds_every_sample_once(index: ShardIndex, recipe: Recipe, epoch: int) -> None:
    seen = Counter(ref[:2] for ref in refs_of(EpochOrder(index, recipe, epoch)))
    everything = {(s, i) for s, count in enumerate(index.num_samples.tolist()) for i in range(count)}
    assert set(seen.values()) <= {1}
    assert set(seen) <= everything
    left_out = len(everything) - len(seen)
    assert left_out == (index.total % recipe.samples_per_unit if recipe.drop_last else 0)


@given(indexes(), recipes())
def test_only_the_end_of_the_last_run_is_short(index: ShardIndex, recipe: Recipe) -> None:
    order = EpochOrder(index, recipe, 0)
    short = [u for u in range(order.num_units) if order.unit_size(u) < recipe.samples_per_unit]
    if recipe.drop_last or index.total % recipe.samples_per_unit == 0:
        assert short == []
    else:
        last_run = min(order.num_units, recipe.lanes) - 1
        last_of_it = max(u for u in range(order.num_units) if u % recipe.lanes == last_run)
        assert short == [last_of_it]


@given(indexes(), recipes())
def test_every_lane_reads_one_contiguous_run(index: ShardIndex, recipe: Recipe) -> None:
    order = EpochOrder(index, recipe, 0)
    sequence = [sample[:2] for sample in reference.sequence(index, recipe, 0)]
    lengths = []
    for lane in range(recipe.lanes):
        units = [u for u in range(order.num_units) if order.lane_of_unit(u) == lane]
        read = [ref[:2] for u in units for ref in order.unit(u)]
        run = order.run_of_lane(lane)
        assert read == sequence[run.start : run.stop]
        lengths.append(len(units))
    assert max(lengths) - min(lengths) <= 1


@given(indexes(), recipes(), epochs)
def test_shards_are_owned_by_lanes_in_even_and_contiguous_shares(
    index: ShardIndex, recipe: Recipe, epoch: int
) -> None:
    order = EpochOrder(index, recipe, epoch)
    owners = [order.lane_of_shard(shard) for shard in order.shard_order.tolist()]
    assert owners == sorted(owners)
    assert owners == [turn * recipe.lanes // len(index) for turn in range(len(index))]
    assert all(ref.lane == order.lane_of_shard(ref.shard) for ref in refs_of(order))


@given(indexes(), recipes(), recipes(), seeds, epochs)
def test_owners_depend_on_neither_batches_nor_window(
    index: ShardIndex, recipe: Recipe, other: Recipe, seed: int, epoch: int
) -> None:
    def owners(values: dict[str, Any]) -> set[SampleRef]:
        fixed = {"seed": seed, "lanes": recipe.lanes, "shuffle": recipe.shuffle, "drop_last": False}
        return set(refs_of(EpochOrder(index, Recipe(**(values | fixed)), epoch)))

    assert owners(recipe.to_dict()) == owners(other.to_dict())


@given(indexes(), recipes(shuffle=False, drop_last=False, lanes=1))
def test_without_shuffle_the_order_is_that_of_the_files(index: ShardIndex, recipe: Recipe) -> None:
    in_file_order = [(s, i) for s, count in enumerate(index.num_samples.tolist()) for i in range(count)]
    for epoch in (0, 5):
        assert [ref[:2] for ref in refs_of(EpochOrder(index, recipe, epoch))] == in_file_order


def test_epochs_and_seeds_differ() -> None:
    index = ShardIndex.synthetic(10, 100)
    orders = {
        tuple(refs_of(EpochOrder(index, Recipe(seed=seed, batch_size=10), epoch)))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


# How well it mixes, as the docstring says.


def test_a_sample_moves_a_third_of_the_window() -> None:
    index = ShardIndex.synthetic(1, DEFAULT_WINDOW * 4)
    order = EpochOrder(index, Recipe(seed=1, batch_size=64, lanes=1), 0)
    positions = np.arange(index.total)
    moved = np.abs(order.shard_sample(positions)[1] - positions)
    assert abs(moved.mean() - DEFAULT_WINDOW / 3) < 50
    assert moved.max() < DEFAULT_WINDOW


def test_a_lane_holds_as_many_shards_open_as_the_window_spans() -> None:
    index = ShardIndex.synthetic(200, 1000)
    order = EpochOrder(index, Recipe(seed=1, batch_size=64, lanes=1), 0)
    for start in range(0, index.total, DEFAULT_WINDOW):
        stop = min(start + DEFAULT_WINDOW, index.total)
        shards, _ = order.shard_sample(np.arange(start, stop))
        assert len(set(shards.tolist())) <= DEFAULT_WINDOW // 1000 + 2


def test_windows_are_computed_once_in_a_run_of_all_lanes() -> None:
    index = ShardIndex.synthetic(8, 100)
    order = EpochOrder(index, Recipe(seed=1, batch_size=5, lanes=8, window=30), 0)
    made = 0
    for unit in range(order.num_units):
        kept = set(order._windows)
        order.unit(unit)
        made += len(set(order._windows) - kept)
        assert len(order._windows) <= 9
    assert made <= 27 + 8, "27 windows, and those at the runs' edges, where two lanes come at different times"


# Recipes.


@given(recipes())
def test_a_recipe_is_plain_data(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.units_per_batch * recipe.samples_per_unit == recipe.batch_size


def test_the_unit_is_the_batch_where_it_is_left_out() -> None:
    assert Recipe(seed=0, batch_size=64) == Recipe(seed=0, batch_size=64, unit=64)


@given(recipes(), st.integers(0, 200))
def test_units_are_counted_as_dealt(recipe: Recipe, total: int) -> None:
    sizes = [recipe.samples_per_unit] * (total // recipe.samples_per_unit)
    if sum(sizes) < total and not recipe.drop_last:
        sizes.append(total - sum(sizes))
    assert recipe.num_units(total) == len(sizes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.0}, r"batch_size .* got 2\.0"),
        ({"batch_size": True}, "batch_size .* got True"),
        ({"lanes": 0}, "lanes .* got 0"),
        ({"lanes": None}, "lanes .* got None"),
        ({"window": 0}, "window .* got 0; pass shuffle=False"),
        ({"unit": 0}, "unit .* got 0"),
        ({"unit": 3}, "unit must divide batch_size, got unit=3 and batch_size=8"),
        ({"unit": 16}, "unit=16 and batch_size=8"),
        ({"seed": -1}, "seed .* got -1"),
        ({"shuffle": 1}, "shuffle must be True or False, got 1"),
        ({"drop_last": None}, "drop_last must be True or False, got None"),
        ({"tail": "wrap"}, "tail must be one of 'drop', 'pad', got 'wrap'"),
    ],
)
def test_a_recipe_that_no_run_could_honour_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**({"seed": 1, "batch_size": 8} | values))


@pytest.mark.parametrize("change", [{"unit": 8, "extra": 1}, {"lanes": 0}])
def test_a_dict_that_is_no_recipe_is_refused(change: dict[str, Any]) -> None:
    data = Recipe(seed=1, batch_size=8).to_dict()
    with pytest.raises(RecipeError):
        Recipe.from_dict(data | change)
    data.pop("tail")
    with pytest.raises(RecipeError, match="a recipe has the fields"):
        Recipe.from_dict(data)


# What is out of range is refused, and never wraps round.


@given(indexes(), recipes())
@example(ShardIndex.synthetic(1, 1), Recipe(seed=0, batch_size=2, drop_last=True))
def test_there_are_no_units_or_positions_beyond(index: ShardIndex, recipe: Recipe) -> None:
    order = EpochOrder(index, recipe, 0)
    for units in (range(-1, 0), range(order.num_units, order.num_units + 1)):
        with pytest.raises(RecipeError, match="units must be"):
            order.refs(units)
    for position in (-1, index.total):
        with pytest.raises(RecipeError, match="positions must be"):
            order.shard_sample(np.array([position]))
    assert order.refs(range(0)) == []


def test_an_epoch_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="the 3 shards of the index hold no samples"):
        EpochOrder(ShardIndex.synthetic(3, 0), Recipe(seed=0, batch_size=1), 0)
    for epoch in (-1, 1.0, None):
        with pytest.raises(RecipeError, match="epoch must be"):
            EpochOrder(ShardIndex.synthetic(3, 1), Recipe(seed=0, batch_size=1), epoch)


# Scale.

AT_SCALE = """
import resource, tracemalloc
from augstream.index import ShardIndex
from augstream.order import EpochOrder, Recipe

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
index = ShardIndex.synthetic(200_000, 10_000)
order = EpochOrder(index, Recipe(seed=137, batch_size=64), 3)
unit = 7 + 8 * ((1_900_000_000 - order.run_of_lane(7).start) // 64)
refs = order.unit(unit)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(refs), tracemalloc.get_traced_memory()[1], after - before)
"""


def test_two_billion_samples_take_memory_by_the_shard() -> None:
    ran = subprocess.run([sys.executable, "-c", AT_SCALE], capture_output=True, text=True, check=True)
    num_refs, traced_bytes, resident_kb = map(int, ran.stdout.split())
    assert num_refs == 64
    assert traced_bytes < 200e6
    assert resident_kb < 200_000


@given(indexes(), recipes(), st.data())
def test_shards_after_are_those_that_a_lane_comes_to(
    index: ShardIndex, recipe: Recipe, data: st.DataObject
) -> None:
    order = EpochOrder(index, recipe, 1)
    assume(order.num_units > 0)
    unit = data.draw(st.integers(0, order.num_units - 1))
    run = order.run_of_lane(order.lane_of_unit(unit))
    turn = unit // recipe.lanes
    last = min(run.start + (turn + 1) * recipe.samples_per_unit, index.total) - 1
    position_of = order.shard_order.tolist().index
    if recipe.shuffle:
        later = [p for p in run if p // recipe.window > last // recipe.window]
    else:
        here = int(order.shard_sample(np.array([last]))[0][0])
        later = [p for p in run if p > last and order.shard_sample(np.array([p]))[0][0] != here]
    expected = set(order.shard_sample(np.array(later, dtype=np.int64))[0].tolist()) if later else set()
    told = order.shards_after(range(unit, unit + 1), len(index))
    assert expected <= set(told)
    assert bool(expected) == bool(told)
    assert told == sorted(told, key=position_of)
    assert order.shards_after(range(unit, unit + 1), 1) == told[:1]
