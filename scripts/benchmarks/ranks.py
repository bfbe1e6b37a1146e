"""A thousand ranks that need not exist: what planning costs, how even it is, and what nodes share.

Nothing runs but arithmetic, each number of lanes in a fresh process: the index is synthetic, of as many shards and
samples as it says. A rank plans its epoch by itself, from a state in the middle of it, up to knowing the first batch
of each of its workers; that, and nothing of the others', is what a real rank does. What all nodes would read is
computed beside it, as ``augstream plan`` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import table

RANKS, WORKERS, RANKS_PER_NODE = 1024, 8, 8
SHARDS, SAMPLES = 200_000, 2_000_000_000


def resident_bytes(*, peak: bool) -> int:
    """The memory of this process: the most it has had since `forget_peak`, or what it has now."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return next(int(line[1]) for line in lines if line[0] == wanted) * 1024


def forget_peak() -> None:
    """Begin to note the most memory anew (proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def simulate(lanes: int, num_shards: int) -> dict[str, Any]:
    """What the last rank's planning costs, and what the nodes read, in an epoch of `SAMPLES` samples."""
    from augstream.index import ShardIndex
    from augstream.layout import lay_out
    from augstream.order import EpochOrder, Recipe
    from augstream.plan import Plan, Topology

    recipe = Recipe(seed=137, batch_size=64, lanes=lanes)
    started = time.perf_counter()
    index = ShardIndex.synthetic(num_shards, SAMPLES // num_shards)
    index_s = time.perf_counter() - started
    forget_peak()
    before_bytes = resident_bytes(peak=False)

    started = time.perf_counter()
    plan = Plan.of(
        recipe,
        index.total,
        Topology(RANKS - 1, RANKS, WORKERS),
        start_unit=recipe.num_units(index.total) // 2,
    )
    order = EpochOrder(index, recipe, epoch=3)
    num_samples = [
        len(order.refs(plan.units_of_step(plan.steps_of_worker(worker)[0]))) for worker in range(WORKERS)
    ]
    plan_s, plan_bytes = time.perf_counter() - started, resident_bytes(peak=True) - before_bytes
    if num_samples != [recipe.batch_size] * WORKERS:
        msg = f"the first batches held {num_samples} samples"
        raise RuntimeError(msg)

    started = time.perf_counter()
    layout = lay_out(
        index, recipe, world_size=RANKS, num_workers=WORKERS, ranks_per_node=RANKS_PER_NODE, epoch=3
    )
    return {
        "lanes": lanes,
        "index_s": index_s,
        "plan_s": plan_s,
        "plan_bytes": plan_bytes,
        "process_bytes": resident_bytes(peak=False),
        "layout_s": time.perf_counter() - started,
        "steps": layout.num_steps,
        "imbalance_samples": layout.imbalance,
        "shared": layout.shared,
        "fetches": layout.fetches / layout.num_shards,
        "shards_of_node": int(layout.shards_of_node.max()),
        "open_shards_of_worker": layout.open_shards_of_worker,
    }


def run(arguments: Namespace) -> list[dict[str, Any]]:
    num_shards = 20_000 if arguments.quick else SHARDS
    rows = []
    for lanes in (8, 128, RANKS, RANKS * WORKERS):
        command = [sys.executable, str(Path(__file__)), str(lanes), str(num_shards)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(
        f"{RANKS:,} ranks of {WORKERS} workers, {RANKS_PER_NODE} to a node; {num_shards:,} shards, {SAMPLES:,} samples,"
    )
    print(f"{rows[0]['steps']:,} steps an epoch\n")
    head = [
        "lanes",
        "a rank plans",
        "in",
        "the process has",
        "all nodes",
        "imbalance",
        "on several nodes",
        "read in all",
        "open",
    ]
    lines = [
        [
            f"{row['lanes']:,}",
            f"{row['plan_s']:.2f} s",
            f"{row['plan_bytes'] / 1e6:.0f} MB",
            f"{row['process_bytes'] / 1e6:.0f} MB",
            f"{row['layout_s']:.2f} s",
            f"{row['imbalance_samples']} samples",
            f"{row['shared']:.1%}",
            f"{row['fetches']:.2f} x",
            f"{row['open_shards_of_worker']}",
        ]
        for row in rows
    ]
    print(table(lines, head))
    return rows


if __name__ == "__main__":
    print(json.dumps(simulate(*map(int, sys.argv[1:]))))
