"""Every transform, applied to a photograph at a few addresses: one PNG a family, and the page that shows them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import augstream as A
from augstream.tools.pictures import Picture, labelled, picture_of, sheet, thumbnail

PHOTO = Path(__file__).resolve().parent.parent / "examples" / "photos" / "coffee.jpg"
CELL_PIXELS = 104
NUM_ADDRESSES = 5

FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "Crops": {
        "RandomCrop": {"height": 110, "width": 110},
        "CenterCrop": {"height": 110, "width": 110},
        "Crop": {"x_min": 20, "y_min": 20, "x_max": 150, "y_max": 120},
        "RandomResizedCrop": {"size": (110, 110)},
        "RandomSizedCrop": {"min_max_height": (60, 180), "size": (110, 110)},
    },
    "Flips and right angles": {
        "HorizontalFlip": {}, "VerticalFlip": {}, "Transpose": {}, "RandomRotate90": {}, "D4": {},
    },
    "Sizes and borders": {
        "Resize": {"height": 90, "width": 200},
        "RandomScale": {"scale_limit": 0.7},
        "LongestMaxSize": {"max_size": 120},
        "SmallestMaxSize": {"max_size": 60},
        "PadIfNeeded": {"min_height": 300, "min_width": 300, "border_mode": cv2.BORDER_REFLECT_101},
        "Pad": {"padding": (10, 40), "fill": (200, 120, 40)},
    },
    "Affine and perspective": {
        "Rotate": {},
        "SafeRotate": {},
        "ShiftScaleRotate": {"shift_limit": 0.1, "scale_limit": 0.3, "rotate_limit": 45},
        "Affine": {"scale": (0.6, 1.2), "shear": (-20, 20), "rotate": (-30, 30)},
        "Perspective": {"scale": (0.08, 0.2)},
    },
    "Distortions": {
        "ElasticTransform": {"alpha": 120, "sigma": 8},
        "GridDistortion": {"distort_limit": 0.5},
        "OpticalDistortion": {"distort_limit": 0.6},
    },
    "Holes": {
        "CoarseDropout": {"num_holes_range": (3, 8)},
        "Erasing": {"scale": (0.05, 0.3)},
        "RandomErasing": {"value": "random"},
    },
    "Brightness": {
        "RandomBrightnessContrast": {"brightness_limit": 0.4, "contrast_limit": 0.4},
        "RandomGamma": {"gamma_limit": (40, 220)},
        "RGBShift": {"r_shift_limit": 60, "g_shift_limit": 60, "b_shift_limit": 60},
        "InvertImg": {}, "Solarize": {}, "Posterize": {"num_bits": (1, 4)}, "ChannelShuffle": {}, "ToGray": {},
    },
    "Colour": {
        "ColorJitter": {},
        "HueSaturationValue": {"hue_shift_limit": 60, "sat_shift_limit": 80, "val_shift_limit": 60},
    },
    "Histograms": {"CLAHE": {"clip_limit": (1, 8)}, "Equalize": {}, "AutoContrast": {}},
    "Blur and sharpness": {
        "Blur": {"blur_limit": (3, 15)},
        "GaussianBlur": {"sigma_limit": (1, 6)},
        "MedianBlur": {"blur_limit": (3, 11)},
        "MotionBlur": {"blur_limit": (7, 25)},
        "Sharpen": {"alpha": (0.3, 0.9)},
    },
    "Noise": {"GaussNoise": {}, "ISONoise": {"color_shift": (0.05, 0.2), "intensity": (0.3, 0.9)}},
    "Compression": {
        "ImageCompression": {"quality_range": (3, 15)},
        "Downscale": {"scale_range": (0.1, 0.3)},
    },
    "Floats and tensors": {"ToFloat": {}, "Normalize": {"normalization": "min_max_per_channel"}, "ToTensorV2": {}},
    "Recipes": {"RandAugment": {}, "TrivialAugmentWide": {}, "AutoAugment": {}, "AugMix": {}},
}  # fmt: skip


def row(name: str, arguments: dict[str, Any], photo: Picture) -> list[Picture]:
    """The photograph, and what the transform makes of it at a few addresses."""
    pipeline = A.Compose([getattr(A, name)(**arguments, p=1)], seed=137)
    pictures = [
        picture_of(pipeline.at("gallery", number)(image=photo)["image"]) for number in range(NUM_ADDRESSES)
    ]
    cells = [thumbnail(picture, CELL_PIXELS) for picture in [photo, *pictures]]
    return [
        labelled(cells[0], name[:20]),
        *[labelled(cell, f"at {number}") for number, cell in enumerate(cells[1:])],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("docs/gallery"), help="default docs/gallery"
    )
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    photo = cv2.imread(str(PHOTO), cv2.IMREAD_COLOR_RGB)
    photo = np.ascontiguousarray(cv2.resize(photo[:, 80:480], (200, 200), interpolation=cv2.INTER_AREA))
    lines = [
        "# Gallery",
        "",
        "Every transform at a few addresses; the first column is the photograph itself.",
        "",
    ]
    for family, transforms in FAMILIES.items():
        file = folder / (family.lower().replace(" ", "-") + ".png")
        picture = sheet([row(name, arguments, photo) for name, arguments in transforms.items()])
        # 256 colours are enough to see what a transform does, at a third of the size
        Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
        lines += [f"## {family}", "", f"![{family}]({file.name})", ""]
        print(file)
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
