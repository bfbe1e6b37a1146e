"""Each transform against albumentations 2.0.8 and plain OpenCV: microseconds of a `Compose` call, one thread.

Plain calls draw their parameters, too, and use their memory again. Where the cost depends much on what is drawn, all
are given one value to draw, so that they do the same work.
"""

from __future__ import annotations

import math
import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.pytorch import ToTensorV2 as TheirToTensorV2
from harness import Burst, keep_memory, race, say, table, timed
from plain import PLAIN

import augstream as A

SIZES = {"224x224": (224, 224), "500x375": (375, 500)}

# Name in the table: the transforms, as names and arguments that both libraries know.
Case = list[tuple[str, dict[str, Any]]]
GUIDE: dict[str, Case] = {
    "RandomCrop": [("RandomCrop", {"height": 180, "width": 180, "p": 1})],
    "HorizontalFlip": [("HorizontalFlip", {"p": 1})],
    "RandomRotate90": [("RandomRotate90", {"p": 1})],
    "RandomBrightnessContrast": [("RandomBrightnessContrast", {"p": 1})],
    "RandomResizedCrop": [("RandomResizedCrop", {"size": (224, 224), "p": 1})],
    "ColorJitter": [
        ("ColorJitter", {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1, "p": 1})
    ],
    "GaussNoise": [("GaussNoise", {"p": 1})],
    "Normalize": [("Normalize", {"p": 1})],
    "HueSaturationValue": [("HueSaturationValue", {"p": 1})],
    "ShiftScaleRotate": [("ShiftScaleRotate", {"p": 1})],
}
OTHERS: dict[str, Case] = {
    name: [(name, {"p": 1, **more})]
    for name, more in {
        "VerticalFlip": {}, "Transpose": {}, "D4": {}, "CenterCrop": {"height": 180, "width": 180},
        "Resize": {"height": 256, "width": 256}, "RandomScale": {"scale_limit": (0.1, 0.1)},
        "LongestMaxSize": {"max_size": 200}, "SmallestMaxSize": {"max_size": 200},
        "PadIfNeeded": {"min_height": 600, "min_width": 600},
        "RandomSizedCrop": {"min_max_height": (100, 200), "size": (224, 224)}, "Rotate": {}, "SafeRotate": {},
        "Affine": {"rotate": (-30, 30), "scale": (0.8, 1.2)}, "Perspective": {}, "ElasticTransform": {},
        "GridDistortion": {}, "OpticalDistortion": {}, "CoarseDropout": {}, "RGBShift": {}, "ChannelShuffle": {},
        "RandomGamma": {}, "CLAHE": {}, "Equalize": {}, "AutoContrast": {}, "Posterize": {}, "Solarize": {},
        "InvertImg": {}, "ToGray": {}, "Sharpen": {}, "GaussianBlur": {"sigma_limit": (1.5, 1.5)},
        "Blur": {"blur_limit": (5, 5)}, "MotionBlur": {"blur_limit": (5, 5)}, "MedianBlur": {"blur_limit": (5, 5)},
        "ISONoise": {}, "ImageCompression": {"quality_range": (99, 99)}, "Downscale": {}, "ToFloat": {}, "NoOp": {},
    }.items()
}  # fmt: skip
SPECIAL: dict[str, Case] = {
    "(empty)": [],
    "five NoOps": [("NoOp", {"p": 1})] * 5,
    "HorizontalFlip and one box": [("HorizontalFlip", {"p": 1})],
    "Normalize, ToTensorV2": [("Normalize", {"p": 1}), ("ToTensorV2", {"p": 1})],
    "resized crop, flip, Normalize, ToTensorV2": [
        ("RandomResizedCrop", {"size": (224, 224), "p": 1}), ("HorizontalFlip", {"p": 1}), ("Normalize", {"p": 1}),
        ("ToTensorV2", {"p": 1}),
    ],
    "crop, flip, turn": [
        ("RandomCrop", {"height": 180, "width": 180, "p": 1}), ("HorizontalFlip", {"p": 1}),
        ("RandomRotate90", {"p": 1}),
    ],
}  # fmt: skip
WANTED = {  # issue of the project: at least so many times as fast as 2.0.8
    "HorizontalFlip and one box": 5.0, "RandomRotate90": 5.0, "Normalize, ToTensorV2": 3.0, "GaussNoise": 2.0,
    "ColorJitter": 1.8,
}  # fmt: skip
MOST_OVER_PLAIN_US = 10.0


def composed(library: Any, case: Case, image: np.ndarray, *, box: bool) -> Callable[[], Any]:
    """A call of the pipeline on the image, as a user writes it."""
    transforms = []
    for name, arguments in case:
        theirs = library is albumentations
        cls = TheirToTensorV2 if name == "ToTensorV2" and theirs else getattr(library, name)
        transforms.append(cls(**arguments))
    if not box:
        compose = library.Compose(transforms, seed=137)
        return lambda: compose(image=image)
    params = library.BboxParams(format="pascal_voc", label_fields=["labels"])
    compose = library.Compose(transforms, bbox_params=params, seed=137)
    boxes, labels = [[30, 40, 120, 160]], [1]
    return lambda: compose(image=image, bboxes=boxes, labels=labels)


def photograph(size: tuple[int, int]) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.add(image, np.random.default_rng(1).integers(0, 20, image.shape, np.uint8))


def measure(cases: dict[str, Case], image: np.ndarray, arguments: Namespace) -> list[dict[str, Any]]:
    rows = []
    for name, case in cases.items():
        calls: dict[str, Callable[[], Any]] = {
            label: composed(library, case, image, box="box" in name)
            for label, library in (("theirs", albumentations), ("ours", A))
        }
        if name in PLAIN:
            calls["plain"] = PLAIN[name](image)
        seconds = 0.01 if arguments.quick else 0.03
        contenders: dict[str, Callable[[], Burst]] = {}
        for label, call in calls.items():
            call()
            contenders[label] = timed(call, seconds=seconds)
        result = race(contenders, reference="theirs", rounds=arguments.rounds * 3, progress=False)
        ratios = result.ratios("ours", "cpu_s")
        us = {label: 1e6 / result.rate(label, "cpu_s") for label in contenders}
        row = {
            "transform": name,
            "us": us,
            "ratio": statistics.median(ratios),
            "wanted": WANTED.get(name, 1.0),
        }
        if "plain" in calls:
            row["over_plain_us"] = statistics.median(
                [
                    1e6 * (ours.cpu_s / ours.items - other.cpu_s / other.items)
                    for ours, other in zip(result.bursts["ours"], result.bursts["plain"], strict=True)
                ]
            )
        rows.append(row)
        say(name)
    say("")
    return rows


def report(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"### {title}\n")
    lines = []
    for row in rows:
        us = row["us"]
        over = row.get("over_plain_us")
        remarks = [] if row["ratio"] >= row["wanted"] else [f"wanted {row['wanted']:g}"]
        if over is not None and over > MOST_OVER_PLAIN_US:
            remarks.append(f"wanted at most {MOST_OVER_PLAIN_US:g} more")
        lines.append(
            [
                row["transform"], f"{us['theirs']:.1f}", f"{us['ours']:.1f}", f"{row['ratio']:.2f}",
                f"{us['plain']:.1f}" if "plain" in us else "", "" if over is None else f"{over:+.1f}",
                ", ".join(remarks),
            ]
        )  # fmt: skip
    print(table(lines, ["transform", "2.0.8, us", "augstream, us", "times as fast", "plain, us", "more", ""]))


def run(arguments: Namespace) -> dict[str, Any]:
    cv2.setNumThreads(0)
    keep_memory()
    found: dict[str, Any] = {}
    cases = {**SPECIAL, **GUIDE, **({} if arguments.quick else OTHERS)}
    if arguments.only:
        cases = {name: case for name, case in cases.items() if arguments.only in name}
    for title, size in SIZES.items():
        rows = found[title] = measure(cases, photograph(size), arguments)
        report(title, rows)
        guide = [row["ratio"] for row in rows if row["transform"] in GUIDE]
        if guide:
            mean = math.exp(statistics.fmean(map(math.log, guide)))
            found[f"{title}, geometric mean over the guide's"] = mean
            print(f"\ngeometric mean over the guide's {len(guide)}: {mean:.2f}\n")
    return found
