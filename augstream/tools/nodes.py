"""The command `plan`: what each node of a run would read, computed from the index alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ..cli import add_command, add_shards, progress_bar, say
from ..index import ShardIndex
from ..indexing import build_index
from ..layout import Layout, compare_lanes
from ..order import DEFAULT_WINDOW, Recipe, lanes_or_default

_MAX_NODES_SHOWN = 16


def register_plan(subparsers: Any) -> None:
    """``augstream plan SHARDS --world-size N``: what each node would read, and which lanes suit it."""
    parser = add_command(subparsers, "plan")
    add_shards(parser)
    parser.add_argument("--world-size", type=int, required=True, help="ranks of the run")
    parser.add_argument("--num-workers", type=int, default=0, help="workers of each rank (default 0)")
    parser.add_argument(
        "--ranks-per-node", type=int, help="ranks that share a node's disk and cache (default 8, or all)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="samples a rank gets at once (default 64)")
    parser.add_argument("--unit", type=int, help="samples that stay together (default the batch)")
    parser.add_argument("--lanes", type=int, help="the stream's lanes (default 8, or 1 with --no-shuffle)")
    parser.add_argument(
        "--try-lanes", type=int, nargs="+", default=[], metavar="N", help="more lane counts to compare"
    )
    parser.add_argument(
        "--window",
        type=int,
        default=DEFAULT_WINDOW,
        help=f"samples shuffled together (default {DEFAULT_WINDOW})",
    )
    parser.add_argument("--no-shuffle", action="store_true", help="the stream is made with shuffle=False")
    parser.add_argument(
        "--tail", choices=["drop", "pad"], default="drop", help="what becomes of the last step (default drop)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the stream's seed (default 0)")
    parser.add_argument("--epoch", type=int, default=0, help="which epoch (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, with every node")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    recipe = Recipe(
        seed=parsed.seed,
        batch_size=parsed.batch_size,
        unit=parsed.unit,
        lanes=lanes_or_default(parsed.lanes, shuffle=not parsed.no_shuffle),
        shuffle=not parsed.no_shuffle,
        window=parsed.window,
        tail=parsed.tail,
    )
    with progress_bar("indexing", "shard") as progress:
        index = build_index(parsed.shards, progress=progress)
    ranks_per_node = min(8, parsed.world_size) if parsed.ranks_per_node is None else parsed.ranks_per_node
    layouts = compare_lanes(
        index,
        recipe,
        parsed.try_lanes,
        world_size=parsed.world_size,
        num_workers=parsed.num_workers,
        ranks_per_node=ranks_per_node,
        epoch=parsed.epoch,
    )
    if parsed.json:
        say(json.dumps([_as_data(layout) for layout in layouts], indent=1))
        return 0
    say(*report(index, recipe, layouts, ranks_per_node=ranks_per_node))
    return 0


def _as_data(layout: Layout) -> dict[str, Any]:
    return {
        "lanes": layout.lanes,
        "steps": layout.num_steps,
        "samples_of_rank": layout.samples_of_rank.tolist(),
        "shards_of_node": layout.shards_of_node.tolist(),
        "bytes_of_node": layout.bytes_of_node.tolist(),
        "cache_bytes_of_node": layout.cache_bytes_of_node.tolist(),
        "open_shards_of_worker": layout.open_shards_of_worker,
        "shared_shards": layout.shared_shards,
        "fetches": layout.fetches,
    }


def report(index: ShardIndex, recipe: Recipe, layouts: list[Layout], *, ranks_per_node: int) -> Iterator[str]:
    """Lines that say what the nodes read under the recipe's lanes, and how that is under other lanes."""
    (own,) = [layout for layout in layouts if layout.lanes == recipe.lanes]
    ranks, nodes = len(own.samples_of_rank), len(own.shards_of_node)
    yield f"{len(index):,} shards, {index.total:,} samples, {_gb(index.sizes_bytes.sum())}"
    size = ranks * recipe.batch_size
    yield f"{ranks:,} ranks on {nodes:,} nodes; an epoch has {own.num_steps:,} steps of {size:,} samples"
    low, high = own.samples_of_rank.min(), own.samples_of_rank.max()
    yield f"a rank gets {low:,} to {high:,} samples: {high - low:,} between the least and the most"
    yield ""
    yield "with 1 lane" if own.lanes == 1 else f"with {own.lanes} lanes"
    yield f"{'node':>8}{'ranks':>16}{'shards':>10}{'reads':>12}{'cache':>12}"
    for node in range(min(nodes, _MAX_NODES_SHOWN)):
        first, last = node * ranks_per_node, min((node + 1) * ranks_per_node, ranks) - 1
        yield (
            f"{node:>8}{f'{first} to {last}':>16}{own.shards_of_node[node]:>10,}"
            f"{_gb(own.bytes_of_node[node]):>12}{_gb(own.cache_bytes_of_node[node]):>12}"
        )
    if nodes > _MAX_NODES_SHOWN:
        yield f"{'…':>8}  and {nodes - _MAX_NODES_SHOWN:,} more; --json has them all"
    yield ""
    yield f"{'lanes':>8}{'shards a node':>18}{'cache':>12}{'on several nodes':>18}{'read in all':>14}{'open':>8}"
    for layout in layouts:
        most, least = layout.shards_of_node.max(), layout.shards_of_node.min()
        yield (
            f"{layout.lanes:>8}{f'{least:,} to {most:,}':>18}{_gb(layout.cache_bytes_of_node.max()):>12}"
            f"{layout.shared:>18.1%}{layout.fetches / layout.num_shards:>12.2f} x{layout.open_shards_of_worker:>8,}"
        )
    yield ""
    yield from _advice(own, layouts)


def _advice(own: Layout, layouts: list[Layout]) -> Iterator[str]:
    """What the numbers mean, and what to do."""
    yield "cache: so much on a node never fetches a shard twice. on several nodes: the share of shards that more than"
    yield "one node reads. read in all: shards that the nodes read together, by the number there are. open: shards that"
    yield "one worker may have open at a time."
    yield ""
    best = min(layouts, key=lambda layout: (layout.fetches, layout.cache_bytes_of_node.max()))
    if own.fetches <= 1.05 * best.fetches:
        yield f"lanes={own.lanes} suits this run."
        return
    less = own.fetches / best.fetches
    yield f"lanes={best.lanes}: the nodes together read {less:.2g} times less. Lanes are part of the recipe: choose"
    yield "them before a run begins, for a state cannot be continued under others."


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB"
