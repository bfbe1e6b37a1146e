"""From the start of a process to its first batch, and from a saved state to the next one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import say, table
from pictures import shards

SHARES = (0.0, 0.1, 0.5, 0.9)


def once(spec: dict[str, Any], paths: list[str]) -> tuple[float, float]:
    """Seconds of the whole process up to its first batch, and of these, those after the imports."""
    command = [
        sys.executable,
        str(Path(__file__).parent / "first_batch.py"),
        json.dumps(spec),
        json.dumps(paths),
    ]
    begun = time.perf_counter()
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - begun, json.loads(ran.stdout.splitlines()[-1])


def run(arguments: Namespace) -> list[dict[str, Any]]:
    paths = shards(arguments.data, 500 if arguments.quick else 2000, arguments.side)
    specs: dict[str, dict[str, Any]] = {}
    for workers in (0, 2):
        specs[f"webdataset + albumentations 2.0.8, {workers} workers"] = {
            "kind": "webdataset",
            "workers": workers,
        }
        for share in SHARES:
            name = f"augstream, {workers} workers, " + (f"from {share:.0%} of an epoch" if share else "cold")
            specs[name] = {"kind": "augstream", "workers": workers, "share": share}
    once(specs["augstream, 0 workers, cold"], paths)  # leaves an index behind
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in specs}
    for number in range(arguments.rounds):
        for name in [*specs][number % len(specs) :] + [*specs][: number % len(specs)]:
            times[name].append(once(specs[name], paths))
            say(f"round {number + 1} of {arguments.rounds}: {name}")
    say("")
    rows = []
    for name, found in times.items():
        whole, after = ([pair[part] for pair in found] for part in (0, 1))
        rows.append(
            {
                "what": name, "process_s": statistics.median(whole), "lowest_s": min(whole),
                "first_batch_s": statistics.median(after), "first_batch_lowest_s": min(after),
            }
        )  # fmt: skip
    lines = [
        [
            row["what"], f"{row['process_s']:.2f} ({row['lowest_s']:.2f})",
            f"{row['first_batch_s']:.3f} ({row['first_batch_lowest_s']:.3f})",
        ]
        for row in rows
    ]  # fmt: skip
    print(table(lines, ["median (lowest)", "process to first batch, s", "of it after the imports, s"]))
    return rows
