"""What worker processes cost: CPU seconds per image, of all processes together, beside those of a single process."""

from __future__ import annotations

import statistics
from argparse import Namespace
from typing import Any

from harness import race, table
from pictures import shards
from throughput import Contender

LIMIT = 1.05
DECODES = ("full", "region")


def run(arguments: Namespace) -> list[dict[str, Any]]:
    """Race each stream with workers against itself without; and a second one without, to tell what chance does."""
    paths = shards(arguments.data, 500 if arguments.quick else 2000, arguments.side)
    images = min(arguments.images, 1280) if arguments.quick else arguments.images
    rows = []
    for recipe in arguments.recipes.split(","):
        for decode in DECODES:
            spec = {"kind": "augstream", "recipe": recipe, "decode": decode}
            alone, again, crew = "alone", "alone, again", "2 workers"
            contenders = {
                name: Contender({**spec, "workers": workers}, paths, images)
                for name, workers in ((alone, 0), (again, 0), (crew, 2))
            }
            try:
                for contender in contenders.values():
                    contender()  # the first burst warms up, and counts for nothing
                result = race(contenders, reference=alone, rounds=arguments.rounds)
            finally:
                for contender in contenders.values():
                    contender.close()
            row: dict[str, Any] = {"recipe": recipe, "decode": decode, "limit": LIMIT}
            for name, at in ((again, "chance"), (crew, "workers")):
                costs = sorted(1 / ratio for ratio in result.ratios(name, "cpu_s"))
                row[at] = {"cost": statistics.median(costs), "lowest": costs[0], "highest": costs[-1]}
            row["us"] = {name: 1e6 / result.rate(name, "cpu_s") for name in (alone, crew)}
            rows.append(row)
    lines = [
        [
            row["recipe"], row["decode"], *(f"{us:,.0f}" for us in row["us"].values()),
            *(
                f"{row[at]['cost']:.3f} ({row[at]['lowest']:.3f}-{row[at]['highest']:.3f})"
                for at in ("workers", "chance")
            ),
            f"{row['limit']:g}",
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "recipe",
        "decode=",
        "alone, CPU us/image",
        "2 workers",
        "ratio",
        "ratio of alone to itself",
        "limit",
    ]
    print(table(lines, header))
    return rows
