"""`scripts/bench`: what augstream costs, measured against plain OpenCV and against what it replaces."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from harness import machine, save

BENCHMARKS = {
    "throughput": "images a second of the whole stream, against webdataset + albumentations",
    "workers": "CPU seconds per image with two workers, against one process",
    "transforms": "each transform against albumentations 2.0.8",
    "overhead": "what the framework itself costs a call",
    "ledger": "what keeping a ledger costs a stream",
    "strict": "what looking for draws from global generators costs a stream",
    "indexing": "indexing and reading shards, against webdataset",
    "start": "from process start, and from a saved state, to the first batch",
    "recovery": "how long the stream stands still when a worker is killed",
    "soak": "hundreds of epochs with kills, resumes and failing servers: memory, descriptors, digests",
    "decoding": "what decoding a part of an image, or a smaller one, gains and changes",
    "measuring": "what the stopwatches of augstream bench cost",
    "scaling": "what grows with what; --plot draws it",
    "ranks": "a thousand ranks that need not exist: what planning costs, and what nodes would read",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=7, help="how many turns each contender has")
    parser.add_argument(
        "--quick", action="store_true", help="less data and fewer rounds, to see that it works"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures are added")
    parser.add_argument(
        "--data", type=Path, default=Path.home() / ".cache" / "augstream-bench", help="made once"
    )
    parser.add_argument("--recipes", default="R1,R2", help="throughput: which")
    parser.add_argument("--workers", default="0,2", help="throughput: with how many workers")
    parser.add_argument(
        "--images", type=int, default=2560, help="throughput: images a burst; workers need long ones"
    )
    parser.add_argument("--side", type=int, default=480, help="throughput: width of the pictures, about")
    parser.add_argument("--full", action="store_true", help="throughput: full decoding of ours as well")
    parser.add_argument("--only", default="", help="transforms: those with this in their name")
    parser.add_argument(
        "--plot",
        action="store_true",
        help="scaling: draw the curves beside the JSON file; alone if no benchmark is named",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.benchmarks) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if arguments.quick:
        arguments.rounds = min(arguments.rounds, 2)
    print(machine())
    for name in arguments.benchmarks or (["scaling"] if arguments.plot else BENCHMARKS):
        print(f"\n## {name}: {BENCHMARKS[name]}\n", flush=True)
        save(arguments.json, name, importlib.import_module(name).run(arguments))


if __name__ == "__main__":
    main()
