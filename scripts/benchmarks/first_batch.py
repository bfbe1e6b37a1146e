"""A process that says how long its first batch took after the imports: `first_batch.py SPEC PATHS`, both JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"


def ours(paths: list[str], spec: dict[str, Any]) -> tuple[float, float]:
    import contender

    import augstream as A

    compose = contender.transforms(A, "R1", A.ToTensorV2)
    A.StreamLoader  # noqa: B018  # the door opens when it is knocked at: the import belongs to the imports
    imported = time.perf_counter()
    dataset = A.StreamDataset(paths, compose, batch_size=64, seed=1)
    loader = A.StreamLoader(dataset, num_workers=spec["workers"])
    if spec.get("share"):
        steps = int(len(loader) * spec["share"])
        loader.load_state_dict(dataset.state_dict(epoch=0, num_batches=steps))
    next(iter(loader))
    ready = time.perf_counter()
    loader.close()
    return imported, ready


def theirs(paths: list[str], spec: dict[str, Any]) -> tuple[float, float]:
    import contender

    contender.calm()
    contender.Peer("R1")
    import webdataset  # noqa: F401

    imported = time.perf_counter()
    next(contender.webdataset(paths, "R1", spec["workers"]))
    return imported, time.perf_counter()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    given = json.loads(sys.argv[1])
    imported, ready = (ours if given["kind"] == "augstream" else theirs)(json.loads(sys.argv[2]), given)
    print(json.dumps(ready - imported), flush=True)
    os._exit(0)
