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
    ("Affine", {"p": 1}),
    ("Affine", {"scale": (0.7, 1.4), "rotate": (-40, 40), "shear": (-10, 10), "translate_percent": 0.1, "p": 1}),
    ("Affine", {"scale": {"x": (0.8, 1.2)}, "shear": {"x": 5, "y": (-3, 3)}, "translate_px": (-6, 6), "p": 1}),
    ("Affine", {"rotate": 30, "fit_output": True, "fill": 9, "rotate_method": "ellipse", "p": 1}),
    ("Affine", {"rotate": (-90, 90), "border_mode": REFLECT, "interpolation": CUBIC, "p": 1}),
    ("Affine", {"scale": (0.5, 2), "balanced_scale": True, "keep_ratio": True, "p": 1}),
    ("ShiftScaleRotate", {"p": 1}),
    ("ShiftScaleRotate", {"shift_limit": 0.1, "scale_limit": 0.2, "rotate_limit": 30, "p": 1}),
    ("ShiftScaleRotate", {"shift_limit_x": 0.3, "border_mode": cv2.BORDER_REFLECT, "fill": (1, 2, 3), "p": 1}),
    ("Rotate", {"p": 1}),
    ("Rotate", {"limit": 45, "crop_border": True, "p": 1}),
    ("Rotate", {"limit": (20, 70), "rotate_method": "ellipse", "border_mode": cv2.BORDER_WRAP, "p": 1}),
    ("SafeRotate", {"p": 1}),
    ("SafeRotate", {"limit": (30, 60), "interpolation": cv2.INTER_NEAREST, "fill": 200, "fill_mask": 3, "p": 1}),
    ("Perspective", {"p": 1}),
    ("Perspective", {"scale": 0.2, "keep_size": False, "interpolation": CUBIC, "p": 1}),
    ("Perspective", {"fit_output": True, "fill": 50, "fill_mask": 7, "p": 1}),
    ("Perspective", {"fit_output": True, "keep_size": False, "border_mode": REFLECT, "p": 1}),
    ("ElasticTransform", {"p": 1}),
    ("ElasticTransform", {"alpha": 60, "sigma": 5, "p": 1}),
    ("ElasticTransform", {"alpha": 90, "sigma": 8, "same_dxdy": True, "noise_distribution": "uniform", "p": 1}),
    ("ElasticTransform", {"alpha": 40, "approximate": True, "border_mode": REFLECT, "p": 1}),
    ("GridDistortion", {"p": 1}),
    ("GridDistortion", {"num_steps": 3, "distort_limit": 0.6, "normalized": False, "fill": 60, "p": 1}),
    ("GridDistortion", {"keypoint_remapping_method": "direct", "p": 1}),
    ("OpticalDistortion", {"p": 1}),
    ("OpticalDistortion", {"distort_limit": 0.6, "interpolation": CUBIC, "p": 1}),
    ("OpticalDistortion", {"distort_limit": (0.2, 0.5), "mode": "fisheye", "p": 1}),
    ("CoarseDropout", {"p": 1}),
    ("CoarseDropout", {"num_holes_range": (3, 6), "hole_height_range": (4, 9), "fill": 77, "fill_mask": 2, "p": 1}),
    ("CoarseDropout", {"num_holes_range": (2, 4), "fill": "random", "p": 1}),
    ("CoarseDropout", {"num_holes_range": (2, 4), "fill": "random_uniform", "fill_mask": 1, "p": 1}),
    ("CoarseDropout", {"hole_width_range": (0.3, 0.5), "fill": (1, 2, 3), "p": 1}),
    ("CoarseDropout", {"max_holes": 4, "max_height": 9, "max_width": 0.3, "p": 1}),
    ("Erasing", {"p": 1}),
    ("Erasing", {"scale": (0.1, 0.2), "ratio": (0.5, 2), "fill": 3, "p": 1}),
    ("RandomErasing", {"value": "random", "p": 1}),
]  # fmt: skip

# Two that only some images fit: gray and RGB ones.
RGB_CASES: list[tuple[str, dict[str, Any]]] = [
    ("CoarseDropout", {"fill": "inpaint_telea", "p": 1}),
    ("Erasing", {"fill": "inpaint_ns", "p": 1}),
]
