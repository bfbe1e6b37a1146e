"""One contender of the throughput race, alive from round to round in a process of its own.

Started with a name and the shards' paths as JSON; for each number that it reads from its input it makes so many
images, and answers with what that took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
from harness import descendants_cpu_s, settle
from pictures import jpegs

BATCH_SIZE = 64
PREFETCH = 2


def transforms(library: Any, recipe: str, tensor: Any) -> Any:
    """The pipeline: R1, or R2 with colours and noise between, of albumentations or of ours."""
    between = []
    if recipe == "R2":
        between = [library.ColorJitter(0.2, 0.2, 0.2, 0.1, p=0.8), library.GaussNoise(p=0.2)]
    return library.Compose(
        [
            library.RandomResizedCrop(size=(224, 224)),
            library.HorizontalFlip(p=0.5),
            *between,
            library.Normalize(),
            tensor(),
        ]
    )


def forever(make: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from make()


def naked(paths: list[str], **_: Any) -> Iterator[int]:
    """Decode what is in memory already, and nothing else."""
    images = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs(paths, 1000)]
    size = min(BATCH_SIZE, len(images))
    while True:
        for start in range(0, len(images) - size + 1, size):
            for image in images[start : start + size]:
                cv2.imdecode(image, cv2.IMREAD_COLOR)
            yield size


class Peer:
    """What webdataset maps over the samples, for albumentations: one sample's bytes to a tensor and a label."""

    def __init__(self, recipe: str) -> None:
        import albumentations
        from albumentations.pytorch import ToTensorV2

        self.transform = transforms(albumentations, recipe, ToTensorV2)

    def __call__(self, sample: dict[str, Any]) -> tuple[Any, int]:
        image = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR_RGB)
        return self.transform(image=image)["image"], int(sample["cls"])


def calm(_: int = 0) -> None:
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def webdataset(paths: list[str], recipe: str, workers: int) -> Iterator[int]:
    """webdataset and albumentations in a stock DataLoader."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    dataset = wds.WebDataset(paths, shardshuffle=False).map(Peer(recipe)).repeat()
    more: dict[str, Any] = {"prefetch_factor": PREFETCH, "persistent_workers": True} if workers else {}
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=workers, worker_init_fn=calm, **more)
    for images, _ in loader:
        yield len(images)


def augstream(
    paths: list[str], recipe: str, workers: int, batch_size: int = BATCH_SIZE, **options: Any
) -> Iterator[int]:
    """augstream's own loader."""
    import augstream as A

    compose = transforms(A, recipe, A.ToTensorV2)
    dataset = A.StreamDataset(paths, compose, batch_size=batch_size, seed=1, drop_last=True, **options)
    loader = A.StreamLoader(
        dataset, num_workers=workers, **({"prefetch_factor": PREFETCH} if workers else {})
    )
    for batch in forever(lambda: loader):
        yield len(batch["image"])


KINDS: dict[str, Callable[..., Iterator[int]]] = {
    "naked": naked,
    "webdataset": webdataset,
    "augstream": augstream,
}


def main() -> None:
    calm()
    spec, paths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    kind = spec.pop("kind")
    batches = KINDS[kind](paths, **spec)
    ahead = spec.get("workers", 0) * PREFETCH
    for line in sys.stdin:
        print(json.dumps(burst(batches, int(line), ahead)), flush=True)


def burst(batches: Iterator[int], wanted: int, ahead: int) -> list[float]:
    """How many images were made, `wanted` or a few more, and the seconds that they took by the clock and of CPUs.

    By the clock, what workers had ready before is taken first. CPU time counts from rest to rest, where all that may
    be made ahead has been made, so that it is exactly the time of what is taken in between.
    """
    settle()
    workers, here, before = descendants_cpu_s(), time.process_time(), 0
    for _ in range(ahead + 1):
        before += next(batches)
    wall, images = time.perf_counter(), 0
    while images < wanted:
        images += next(batches)
    wall = time.perf_counter() - wall
    here = time.process_time() - here
    settle()
    return [images, wall, (here + descendants_cpu_s() - workers) * images / (before + images)]


if __name__ == "__main__":
    main()
