"""Every geometric transform: names and arguments that the tests of all transforms run over."""

from __future__ import annotations

from typing import Any

import cv2

REFLECT = cv2.BORDER_REFLECT_101
CUBIC = cv2.INTER_CUBIC

CASES: list[tuple[str, dict[str, Any]]] = [
    ("HorizontalFlip", {"p": 1}),
    ("VerticalFlip", {"p": 1}),
    ("Transpose", {"p": 1}),
    ("RandomRotate90", {"p": 1}),
    ("D4", {"p": 1}),
    ("RandomCrop", {"height": 24, "width": 20, "p": 1}),
    ("RandomCrop", {"height": 90, "width": 20, "pad_if_needed": True, "pad_position": "random", "p": 1}),
    ("RandomCrop", {"height": 90, "width": 80, "pad_if_needed": True, "border_mode": REFLECT, "p": 1}),
    ("CenterCrop", {"height": 24, "width": 21, "p": 1}),
    ("CenterCrop", {"height": 90, "width": 91, "pad_if_needed": True, "fill": 3, "fill_mask": 5, "p": 1}),
    ("Crop", {"x_min": 3, "y_min": 5, "x_max": 25, "y_max": 30, "p": 1}),
    ("Crop", {"x_min": 3, "y_min": 5, "x_max": 80, "y_max": 90, "pad_if_needed": True, "p": 1}),
    ("RandomResizedCrop", {"size": (24, 28), "p": 1}),
    ("RandomResizedCrop", {"height": 24, "width": 28, "scale": (0.5, 1), "interpolation": CUBIC, "p": 1}),
    ("RandomResizedCrop", {"size": (12, 14), "area_for_downscale": "image_mask", "p": 1}),
    ("RandomSizedCrop", {"min_max_height": (10, 30), "size": (24, 20), "w2h_ratio": 1.2, "p": 1}),
    ("RandomSizedCrop", {"min_max_height": (10, 30), "height": 24, "width": 20, "p": 1}),
    ("Resize", {"height": 40, "width": 30, "p": 1}),
    ("Resize", {"height": 20, "width": 90, "interpolation": cv2.INTER_AREA, "p": 1}),
    ("Resize", {"height": 20, "width": 18, "area_for_downscale": "image", "p": 1}),
    ("RandomScale", {"scale_limit": 0.4, "p": 1}),
    ("RandomScale", {"scale_limit": (-0.5, -0.2), "interpolation": cv2.INTER_NEAREST, "p": 1}),
    ("LongestMaxSize", {"max_size": 48, "p": 1}),
    ("LongestMaxSize", {"max_size_hw": (40, 30), "p": 1}),
    ("SmallestMaxSize", {"max_size": [20, 30, 40], "p": 1}),
    ("SmallestMaxSize", {"max_size_hw": (None, 30), "area_for_downscale": "image", "p": 1}),
    ("PadIfNeeded", {"min_height": 80, "min_width": 70, "p": 1}),
    ("PadIfNeeded", {"min_height": 80, "min_width": 71, "position": "random", "fill": (1, 2, 3), "p": 1}),
    (
        "PadIfNeeded",
        {
            "min_height": None, "min_width": None, "pad_height_divisor": 32, "pad_width_divisor": 16,
            "border_mode": REFLECT, "p": 1,
        },
    ),
    ("Pad", {"padding": (1, 2, 3, 4), "border_mode": cv2.BORDER_REPLICATE, "p": 1}),
]  # fmt: skip
