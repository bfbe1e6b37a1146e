"""Images a second of the whole stream, as a share of a naked decode loop over the same bytes.

R1: RandomResizedCrop(224), flip, normalise, planar float32, batches of 64. R2: R1 with ColorJitter(p=0.8) and
GaussNoise(p=0.2) before normalising.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import Burst, race, race_table
from pictures import shards

PEER = "webdataset + albumentations 2.0.8"


class Contender:
    """A contender's process."""

    def __init__(self, spec: dict[str, Any], paths: list[str], images: int) -> None:
        command = [
            sys.executable,
            str(Path(__file__).parent / "contender.py"),
            json.dumps(spec),
            json.dumps(paths),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.images = images

    def __call__(self) -> Burst:
        if self.process.stdin is None or self.process.stdout is None or self.process.poll() is not None:
            msg = f"the contender's process ended with {self.process.returncode}"
            raise RuntimeError(msg)
        self.process.stdin.write(f"{self.images}\n")
        self.process.stdin.flush()
        return Burst(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def specs(arguments: Namespace) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"naked cv2.imdecode": {"kind": "naked"}}
    for recipe in arguments.recipes.split(","):
        for workers in map(int, arguments.workers.split(",")):
            setting = {"recipe": recipe, "workers": workers}
            tail = f"{recipe}, {workers} workers"
            found[f"{PEER}: {tail}"] = {"kind": "webdataset", **setting}
            found[f"augstream: {tail}"] = {"kind": "augstream", **setting}
            if arguments.full:
                found[f"augstream, decode='full': {tail}"] = {
                    "kind": "augstream",
                    "decode": "full",
                    **setting,
                }
    return found


def run(arguments: Namespace) -> list[dict[str, Any]]:
    paths = shards(arguments.data, 500 if arguments.quick else 2000, arguments.side)
    images = min(arguments.images, 640) if arguments.quick else arguments.images
    contenders = {name: Contender(spec, paths, images) for name, spec in specs(arguments).items()}
    try:
        for contender in contenders.values():
            contender()  # the first burst warms up, and counts for nothing
        result = race(contenders, reference="naked cv2.imdecode", rounds=arguments.rounds)
    finally:
        for contender in contenders.values():
            contender.close()
    print(race_table(result, "images"))
    return result.rows()
