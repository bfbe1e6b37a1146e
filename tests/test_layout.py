from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import indexes, recipes

from augstream.errors import RecipeError, TopologyError
from augstream.index import ShardIndex
from augstream.layout import compare_lanes, lay_out
from augstream.order import EpochOrder, Recipe
from augstream.plan import Plan, Topology


def with_bytes(index: ShardIndex) -> ShardIndex:
    """`index` with shards of different sizes."""
    sizes = np.arange(1, len(index) + 1) * 1000
    return ShardIndex(names=index.names, urls=index.urls, num_samples=index.num_samples, sizes_bytes=sizes)


def shards_by_window(index: ShardIndex, recipe: Recipe) -> list[set[int]]:
    sequence = [sample[0] for sample in reference.sequence(index, recipe, 0)]
    window = recipe.window if recipe.shuffle else 1
    return [set(sequence[start : start + window]) for start in range(0, len(sequence), window)]


def lanes_met(recipe: Recipe, world_size: int, rank: int, worker: int = 0, num_workers: int = 1) -> set[int]:
    """The lanes of a rank's or a worker's batches, step by step until they repeat."""
    units_per_batch = recipe.units_per_batch
    steps = [worker + turn * num_workers for turn in range(recipe.lanes)]
    batches = [step * world_size + rank for step in steps]
    return {(batch * units_per_batch + i) % recipe.lanes for batch in batches for i in range(units_per_batch)}


worlds = st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(1, 4))


@given(indexes(), recipes(), worlds)
def test_a_layout_is_what_the_plain_loops_read(
    bare: ShardIndex, recipe: Recipe, world: tuple[int, int, int]
) -> None:
    index = with_bytes(bare)
    world_size, num_workers, ranks_per_node = world
    try:
        plans = [
            Plan.of(recipe, index.total, Topology(rank, world_size, num_workers))
            for rank in range(world_size)
        ]
    except (RecipeError, TopologyError) as error:
        with pytest.raises(type(error), match="an epoch has no"):
            lay_out(index, recipe, world_size=world_size, ranks_per_node=ranks_per_node)
        return
    layout = lay_out(
        index, recipe, world_size=world_size, num_workers=num_workers, ranks_per_node=ranks_per_node
    )
    order = EpochOrder(index, recipe, 0)
    windows = shards_by_window(index, recipe)
    window = recipe.window if recipe.shuffle else 1

    def windows_of(lane: int) -> list[set[int]]:
        run = order.run_of_lane(lane)
        return windows[run.start // window : -(-run.stop // window)] if run else []

    readers = Counter[int]()
    for node in range(-(-world_size // ranks_per_node)):
        ranks = range(node * ranks_per_node, min((node + 1) * ranks_per_node, world_size))
        lanes = set().union(*(lanes_met(recipe, world_size, rank) for rank in ranks))
        may_read = {shard for lane in lanes for shards in windows_of(lane) for shard in shards}
        assert layout.shards_of_node[node] == len(may_read)
        assert layout.bytes_of_node[node] == sum(int(index.sizes_bytes[shard]) for shard in may_read)
        open_bytes = [
            max((sum(int(index.sizes_bytes[s]) for s in shards) for shards in windows_of(lane)), default=0)
            for lane in lanes
        ]
        assert min(sum(open_bytes), layout.bytes_of_node[node]) <= layout.cache_bytes_of_node[node]
        assert layout.cache_bytes_of_node[node] <= layout.bytes_of_node[node]
        readers.update(may_read)
        for rank in ranks:
            batches = [plans[rank].units_of_step(step) for step in range(layout.num_steps)]
            read = [ref.shard for units in batches for ref in order.refs(units)]
            assert layout.samples_of_rank[rank] == len(read)
            if recipe.tail == "drop":  # what pads an epoch is from its start, wherever that is read
                assert set(read) <= may_read
    assert layout.shared_shards == sum(count > 1 for count in readers.values())
    assert layout.fetches == sum(readers.values())
    assert layout.num_shards == sum(index.num_samples > 0)
    for rank in range(world_size):
        for worker in range(max(1, num_workers)):
            lanes = lanes_met(recipe, world_size, rank, worker, max(1, num_workers))
            open_shards = [max(map(len, windows_of(lane)), default=0) for lane in lanes]
            assert sum(open_shards) <= layout.open_shards_of_worker


@given(indexes(), recipes(tail="drop"), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_where_lanes_are_a_multiple_of_the_ranks_no_lane_is_shared(
    index: ShardIndex, recipe: Recipe, world_size: int, multiple: int, ranks_per_node: int
) -> None:
    lanes = world_size * recipe.units_per_batch * multiple
    alone = Recipe.from_dict(recipe.to_dict() | {"lanes": lanes, "window": 1, "drop_last": False})
    try:
        layout = lay_out(index, alone, world_size=world_size, ranks_per_node=ranks_per_node)
    except TopologyError:
        return
    assert layout.imbalance <= alone.batch_size
    runs = [EpochOrder(index, alone, 0).run_of_lane(lane) for lane in range(lanes)]
    edges = sum(1 for run in runs if run)
    assert layout.fetches - layout.num_shards <= edges - 1


def test_the_imbalance_is_within_one_unit() -> None:
    index = ShardIndex.synthetic(7, 1000)
    for lanes in (1, 8, 64):
        recipe = Recipe(seed=1, batch_size=64, unit=16, lanes=lanes)
        for world_size in range(1, 12):
            layout = lay_out(index, recipe, world_size=world_size)
            full_steps = layout.num_steps * world_size * 64 <= 7000
            assert layout.imbalance <= (16 if full_steps else 64)


def test_the_numbers_that_suit_a_world_are_compared() -> None:
    index = ShardIndex.synthetic(400, 1000)
    recipe = Recipe(seed=1, batch_size=64, window=100)
    layouts = compare_lanes(index, recipe, [32], world_size=16, num_workers=4, ranks_per_node=4)
    assert [layout.lanes for layout in layouts] == [8, 16, 32, 64]
    by_lanes = {layout.lanes: layout for layout in layouts}
    assert by_lanes[8].shared == 1.0
    assert by_lanes[16].shared < 0.05
    assert by_lanes[64].open_shards_of_worker <= by_lanes[16].open_shards_of_worker <= 3
    assert by_lanes[16].fetches < by_lanes[8].fetches / 1.9, (
        "of 4 nodes, nodes 0 and 2, and 1 and 3, meet the same of 8 lanes"
    )


def test_a_world_that_contradicts_itself_is_refused() -> None:
    index = ShardIndex.synthetic(4, 100)
    recipe = Recipe(seed=1, batch_size=4)
    with pytest.raises(TopologyError, match=r"ranks_per_node .* got 0"):
        lay_out(index, recipe, world_size=2, ranks_per_node=0)
    with pytest.raises(TopologyError, match=r"world_size .* got 0"):
        lay_out(index, recipe, world_size=0)


AT_SCALE = """
import resource
from augstream.index import ShardIndex
from augstream.layout import lay_out
from augstream.order import EpochOrder, Recipe
from augstream.plan import Plan, Topology

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
index = ShardIndex.synthetic(200_000, 10_000)
recipe = Recipe(seed=137, batch_size=64, lanes=1024)
plan = Plan.of(recipe, index.total, Topology(1023, 1024, 8), start_unit=20_000_000)
refs = EpochOrder(index, recipe, 3).refs(plan.units_of_step(plan.steps_of_worker(7)[0]))
layout = lay_out(index, recipe, world_size=1024, num_workers=8, ranks_per_node=8)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(refs), layout.imbalance, layout.shared < 0.01, after - before)
"""


def test_a_thousand_ranks_plan_two_billion_samples_in_little_memory() -> None:
    ran = subprocess.run([sys.executable, "-c", AT_SCALE], capture_output=True, text=True, check=True)
    num_refs, imbalance, hardly_shared, resident_kb = ran.stdout.split()
    assert (num_refs, hardly_shared) == ("64", "True")
    assert int(imbalance) <= 64
    assert int(resident_kb) < 200_000
