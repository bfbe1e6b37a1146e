"""A training script that is killed in the middle: prints each batch's digest, the state after it and its workers."""

from __future__ import annotations

import json
import sys

import soak

import augstream as A
from augstream.digest import digest


def main() -> None:
    job = json.load(sys.stdin)
    dataset = soak.dataset_of(job["shards"])
    with A.StreamLoader(dataset, num_workers=job["workers"]) as loader:
        loader.load_state_dict(job["state"])
        while loader.epoch < job["until"]:
            for batch in loader:
                line = {"digest": digest(batch), "state": loader.state_dict(), "pids": loader.worker_pids}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
