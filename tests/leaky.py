"""Pipelines that are broken on purpose, one way each: what `strict` and `verify` must find.

A module of its own, so that spawned workers can import it.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from cv2 import randn
from numpy import empty
from torch.utils.data import get_worker_info

import augstream as A
from augstream.collate import collate


def python_draw(image: Any, **_: Any) -> Any:
    return image + np.uint8(random.randint(0, 9))


def numpy_draw(image: Any, **_: Any) -> Any:
    return image + np.uint8(np.random.rand() * 9)  # noqa: NPY002  # meant


def torch_draw(image: Any, **_: Any) -> Any:
    return image + np.uint8(torch.randint(9, ()))


def opencv_draw(image: Any, **_: Any) -> Any:
    noise = np.zeros(image.shape, np.int16)
    cv2.randn(noise, 0, 5)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def hidden_opencv_draw(image: Any, **_: Any) -> Any:
    noise = np.zeros(image.shape, np.int16)
    randn(noise, 0, 5)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def clock(image: Any, **_: Any) -> Any:
    return image + np.uint8(time.time_ns() // 1000 % 251)


def year(image: Any, **_: Any) -> Any:
    return image + np.uint8(time.gmtime().tm_year % 251)


def days(image: Any, **_: Any) -> Any:
    return image + np.uint8(int(time.time()) // 86_400 % 251)


def process(image: Any, **_: Any) -> Any:
    return image + np.uint8(os.getpid() % 251)


def set_order(image: Any, **_: Any) -> Any:
    first = next(iter({f"colour {number}" for number in range(64)}))
    return image + np.uint8(int(first.split()[1]))


def unfilled(image: Any, **_: Any) -> Any:
    canvas = np.empty(image.shape, np.uint8)
    canvas[2:] = image[2:]
    return canvas


def unfilled_elsewhere(image: Any, **_: Any) -> Any:
    canvas = empty((1024, 1024), np.uint8)  # of a size that malloc makes anew
    canvas[4:] = 0
    return image + canvas[: len(image), : image.shape[1], None]


def entropy(image: Any, **_: Any) -> Any:
    return image + np.uint8(np.random.default_rng().integers(9))


def unseeded(image: Any, **_: Any) -> Any:
    return image + np.uint8(random.Random().randrange(256))


def clock_id(image: Any, **_: Any) -> Any:
    return image + np.uint8(uuid.uuid1().int // 2**100 % 251)


class Counting(A.ImageOnlyTransform):
    """Knows how many samples it has seen."""

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p)
        self.count = 0

    def draw(self, rng: Any, view: Any) -> dict[str, Any]:
        self.count += 1
        return {"add": self.count % 251}

    def apply(self, img: Any, add: int = 0, **_: Any) -> Any:
        return img + np.uint8(add)


def pipeline(function: Any = None) -> A.Compose:
    """A sound pipeline, with what `function` does to its image in the middle, in a group."""
    broken = [] if function is None else [A.Sequential([function], p=1)]
    return A.Compose([A.Resize(24, 32), *broken, A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()])


def of(function: Any) -> A.Compose:
    return pipeline(A.Lambda(image=function))


class Shift(A.ImageOnlyTransform):
    """Somebody's own, and right."""

    def get_params(self) -> dict[str, Any]:
        return {
            "by": self.py_random.randrange(8),
            "grain": self.random_generator.integers(0, 9, (24, 32, 3), np.uint8),
        }

    def apply(self, img: Any, by: int = 0, grain: Any = 0, **_: Any) -> Any:
        return np.roll(img // 2, by, axis=1) + grain


def sound() -> A.Compose:
    noises = A.OneOf([A.GaussNoise(p=1), A.Sequential([Shift(p=0.9)], p=1)], p=0.8)
    return A.Compose([A.RandomResizedCrop((24, 32)), noises, A.Normalize(), A.ToTensorV2()])


def counting_pipeline() -> A.Compose:
    return pipeline(Counting())


def set_order_pipeline() -> A.Compose:
    return of(set_order)


def process_pipeline() -> A.Compose:
    return of(process)


def calendar(image: Any, **_: Any) -> Any:
    return image + np.uint8(datetime.now(tz=UTC).microsecond % 251)


def worker(image: Any, **_: Any) -> Any:
    found = get_worker_info()
    return image + np.uint8(0 if found is None else found.id)


def opencv_threads(image: Any, **_: Any) -> Any:
    return image + np.uint8(cv2.getNumThreads())


SETTINGS = {"offset": 0}  # which others change after the module was imported


def settings(image: Any, **_: Any) -> Any:
    return image + np.uint8(SETTINGS["offset"])


SEEN: dict[str, int] = {}


def first_seen(image: Any, **_: Any) -> Any:
    return image + np.uint8(SEEN.setdefault("sum", int(image.sum())) % 251)


def drawing_collate(samples: Any) -> Any:
    return {**collate(samples), "drawn": random.random()}


class Drifting(torch.nn.Module):
    """Somebody's module that knows how many images it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, image: Any) -> Any:
        self.count += 1
        return image[:, :24, :32].float() + self.count


class TheirCounting(albumentations.ImageOnlyTransform):
    """Another library's, with a counter."""

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.count = 0

    def apply(self, img: Any, **_: Any) -> Any:
        self.count += 1
        return img + np.uint8(self.count)


def unmade() -> A.Compose:
    return of(1 // 0)


THEIRS = albumentations.Compose([albumentations.Resize(24, 32), TheirCounting(p=1), albumentations.D4()])
