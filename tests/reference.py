"""The order as slow, plain loops: what the fast one is held against. It shares no arithmetic with it.

Keys come from `augstream.seeding`, whose own golden values pin it.
"""

from __future__ import annotations

import numpy as np

from augstream.index import ShardIndex
from augstream.order import Recipe
from augstream.seeding import seed_key, subkey

Sample = tuple[int, int, int]
"""(shard, place in the shard, lane that owns the shard)"""


def permuted(key: bytes, count: int) -> list[int]:
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count).tolist()
    return sorted(range(count), key=lambda item: (words[item], item))


def sequence(index: ShardIndex, recipe: Recipe, epoch: int) -> list[Sample]:
    """All samples in the order of their positions."""
    root = subkey(seed_key(recipe.seed), "order", epoch)
    shards = list(range(len(index.names)))
    if recipe.shuffle:
        shards = permuted(subkey(root, "shards"), len(shards))
    laid_out: list[Sample] = []
    for turn, shard in enumerate(shards):
        lane = turn * recipe.lanes // len(shards)
        laid_out += [(shard, sample, lane) for sample in range(int(index.num_samples[shard]))]
    if not recipe.shuffle:
        return laid_out
    mixed: list[Sample] = []
    number = 0
    while laid_out:
        window, laid_out = laid_out[: recipe.window], laid_out[recipe.window :]
        mixed += [window[i] for i in permuted(subkey(root, "window", number), len(window))]
        number += 1
    return mixed


def units(index: ShardIndex, recipe: Recipe, epoch: int) -> list[list[Sample]]:
    """The canonical units of an epoch, in their order."""
    assert recipe.unit is not None
    rest = sequence(index, recipe, epoch)
    blocks: list[list[Sample]] = []
    while rest:
        blocks.append(rest[: recipe.unit])
        rest = rest[recipe.unit :]
    if recipe.drop_last and len(blocks[-1]) < recipe.unit:
        blocks.pop()
    runs: list[list[list[Sample]]] = []
    for lane in range(recipe.lanes):
        longer = lane < len(blocks) % recipe.lanes
        size = len(blocks) // recipe.lanes + longer
        taken = sum(len(run) for run in runs)
        runs.append(blocks[taken : taken + size])
    dealt: list[list[Sample]] = []
    while any(runs):
        dealt += [run.pop(0) for run in runs if run]
    return dealt


def steps(
    num_units: int, units_per_batch: int, *, drop_last: bool, tail: str, world_size: int, start: int
) -> list[list[list[int]]]:
    """The units of each batch of each step of a life: steps of ranks of units."""

    def batches_from(first: int) -> list[list[int]]:
        rest = list(range(first, num_units))
        batches = []
        while rest:
            batches.append(rest[:units_per_batch])
            rest = rest[units_per_batch:]
        if drop_last and batches and len(batches[-1]) < units_per_batch:
            batches.pop()
        return batches

    batches = batches_from(start)
    result = []
    while batches:
        step, batches = batches[:world_size], batches[world_size:]
        spare = batches_from(0)
        while len(step) < world_size and tail == "pad":
            step.append(spare[0])
            spare = spare[1:] + spare[:1]
        if len(step) == world_size:
            result.append(step)
    return result
