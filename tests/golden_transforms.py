"""Every transform at fixed addresses, on a picture made by whole numbers alone: what golden values are taken from.

As a program it prints them, and ``> tests/golden/transforms_v1.json`` renews them. With a file's name it saves the
pixels there instead, for `scripts/compat --pixels`; ``--plain`` turns OpenCV's optimised paths off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import catalogue_geometry
import catalogue_pixels
import cv2
import numpy as np

import augstream as A
from augstream.digest import digest

FILE = Path(__file__).parent / "golden" / "transforms_v1.json"
HEIGHT, WIDTH = 151, 203  # odd, so that vector instructions have a rest to do
NUM_ADDRESSES = 4
SIGNIFICANT_DIGITS = 10  # of the drawn numbers: the last bit of a logarithm is the C library's
RECIPES = [("RandAugment", {}), ("TrivialAugmentWide", {}), ("AutoAugment", {})]

# Whole numbers, tables of them and single float operations: the same pixels whatever the processor and the releases of
# numpy and OpenCV. `scripts/compat --pixels` measures what the others depend on.
EXACT = {
    "HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90", "D4", "RandomCrop", "CenterCrop", "Crop",
    "PadIfNeeded", "Pad", "CoarseDropout", "Erasing", "RandomErasing", "RandomBrightnessContrast", "InvertImg",
    "Solarize", "Posterize", "ChannelShuffle", "RGBShift", "Equalize", "AutoContrast", "MedianBlur", "Normalize",
    "ToFloat", "ToTensorV2", "NoOp", "GaussNoise",
}  # fmt: skip
# but for these arguments, which interpolate or pool
NOT_EXACT = ("inpaint_telea", "inpaint_ns", "normalization=", "mask=", "noise_scale_factor=")


def picture() -> np.ndarray:
    """(151, 203, 3) uint8: slopes, edges, and a texture."""
    y, x, channel = np.ogrid[:HEIGHT, :WIDTH, :3]
    slope = x * (3 - channel) // 2 + y * (channel + 1) // 2
    texture = (x * y * 7 + channel * 31) % 23
    blocks = ((x // 19 + y // 23) % 2) * 40
    return np.clip(slope + texture + blocks - 20, 0, 255).astype(np.uint8)


def cases() -> Iterator[tuple[str, str, A.Compose]]:
    """(how it is written, its name, a Compose of it) of every transform of the catalogue."""
    geometry = [*catalogue_geometry.CASES, *catalogue_geometry.RGB_CASES]
    pixels = [*catalogue_pixels.CASES, *catalogue_pixels.RGB_CASES, ("NoOp", {"p": 1})]
    for name, arguments in [*geometry, *pixels, *RECIPES]:
        written = ", ".join(
            f"{key}={value!r}" for key, value in arguments.items() if (key, value) != ("p", 1)
        )
        yield (
            f"{name}({written})",
            name,
            A.Compose([getattr(A, name)(**arguments)], seed=137, save_applied_params=True),
        )


def results(compose: A.Compose) -> tuple[list[Any], list[np.ndarray]]:
    """What was drawn, and the pixels, at each address."""
    image = picture()
    given = [compose.at(number)(image=image) for number in range(NUM_ADDRESSES)]
    drawn = [
        [[one["slot"], one["name"], one["params"]] for one in result["applied_transforms"]]
        for result in given
    ]
    return drawn, [np.asarray(result["image"]) for result in given]


def short(value: Any) -> str:
    """A digest of what was drawn, JSON-able, its numbers rounded."""
    text = json.dumps(rounded(value), sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}") + 0.0  # and no negative zero
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def golden() -> dict[str, dict[str, str]]:
    """By how it is written: digests of what every transform draws, and of its pixels where they are exact."""
    found = {}
    for written, name, compose in cases():
        drawn, pixels = results(compose)
        found[written] = {"draws": short(drawn)}
        if name in EXACT and not any(argument in written for argument in NOT_EXACT):
            found[written]["pixels"] = digest(pixels)[:16]
    return found


def main() -> None:
    if len(sys.argv) == 1:
        print(json.dumps(golden(), indent=0))  # noqa: T201  # that is what it is started for
    else:
        cv2.setUseOptimized("--plain" not in sys.argv)
        arrays = {
            f"{written}|{number}": array
            for written, _, compose in cases()
            for number, array in enumerate(results(compose)[1])
        }
        np.savez(sys.argv[1], **arrays)


if __name__ == "__main__":
    main()
