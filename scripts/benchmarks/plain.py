"""What a transform's work costs in plain OpenCV and numpy calls, with the parameters that the transform drew.

Each function takes an image and parameters, and writes a result of its own, as one would who needs no framework.
A transform that OpenCV has no call for has none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

import augstream as A

Image = np.ndarray
Params = dict[str, Any]
Plain = Callable[[Image, Params], Any]

LEVELS = np.arange(256, dtype=np.float32)
MEAN = np.array((0.485, 0.456, 0.406)) * 255
STD = np.array((0.229, 0.224, 0.225)) * 255
NORMAL = ((np.arange(256.0)[:, None] - MEAN) / STD).astype(np.float32)
WHOLE = NORMAL[None]
COLUMNS = np.ascontiguousarray(NORMAL.T)
TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
SHARPER = np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]], np.float32) / 2


def _cropped(image: Image, p: Params) -> Image:
    x0, y0, x1, y1 = p["crop_coords"]
    return image[y0:y1, x0:x1].copy()


def _resized_crop(image: Image, p: Params) -> Image:
    x0, y0, x1, y1 = p["crop_coords"]
    return cv2.resize(image[y0:y1, x0:x1], (224, 224))


def _turned(image: Image, p: Params) -> Image:
    return cv2.rotate(image, TURNS[p["factor"]]) if p["factor"] else image.copy()


def _line(alpha: float, beta: float) -> Image:
    return np.clip(LEVELS * alpha + beta, 0, 255).astype(np.uint8)


def _jittered(image: Image, p: Params) -> Image:
    for step in p["order"]:
        if step == 0:
            image = cv2.LUT(image, _line(p["brightness"], 0))
        elif step == 1:
            mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
            image = cv2.LUT(image, _line(p["contrast"], mean * (1 - p["contrast"])))
        elif step == 2:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, p["saturation"], grey, 1 - p["saturation"], 0)
        else:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hue = cv2.LUT(cv2.extractChannel(hsv, 0), np.mod(LEVELS + 180 * p["hue"], 180).astype(np.uint8))
            image = cv2.cvtColor(cv2.insertChannel(hue, hsv, 0), cv2.COLOR_HSV2RGB)
    return image


def _noisy(image: Image, p: Params) -> Image:
    noise = np.empty(image.shape, np.int16)
    cv2.randn(noise, 0, p["sigma"] * 255)
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def _planes(image: Image, _: Params) -> Image:
    out = np.empty((3, *image.shape[:2]), np.float32)
    for channel, plane in enumerate(cv2.split(image)):
        cv2.LUT(plane, COLUMNS[channel], out[channel])
    return out


def _other_hsv(image: Image, p: Params) -> Image:
    table = np.stack(
        [np.mod(LEVELS + p["hue_shift"], 180), LEVELS + p["sat_shift"], LEVELS + p["val_shift"]], 1
    )
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.clip(table, 0, 255).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _warped(image: Image, p: Params) -> Image:
    height, width = p["output_shape"]
    return cv2.warpAffine(image, np.array(p["matrix"])[:2], (width, height))


def _projected(image: Image, p: Params) -> Image:
    warped = cv2.warpPerspective(image, np.array(p["matrix"]), (p["max_width"], p["max_height"]))
    return cv2.resize(warped, image.shape[1::-1])


def _scaled(image: Image, p: Params) -> Image:
    return cv2.resize(image, None, fx=p["scale"], fy=p["scale"])


def _padded(image: Image, p: Params) -> Image:
    sides = (p["pad_top"], p["pad_bottom"], p["pad_left"], p["pad_right"])
    return cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT)


def _with_holes(image: Image, p: Params) -> Image:
    image = image.copy()
    for x0, y0, x1, y1 in p["holes"]:
        image[y0:y1, x0:x1] = 0
    return image


def _compressed(image: Image, p: Params) -> Image:
    return cv2.imdecode(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, p["quality"]))[1], 1)


def _coarser(image: Image, p: Params) -> Image:
    small = cv2.resize(image, None, fx=p["scale"], fy=p["scale"], interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _equalized(image: Image, _: Params) -> Image:
    return cv2.merge([cv2.equalizeHist(plane) for plane in cv2.split(image)])


def _clahe(image: Image, p: Params) -> Image:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    light = cv2.createCLAHE(p["clip_limit"], (8, 8)).apply(cv2.extractChannel(lab, 0))
    return cv2.cvtColor(cv2.insertChannel(light, lab, 0), cv2.COLOR_LAB2RGB)


def _blurred(image: Image, p: Params) -> Image:
    kernel = cv2.getGaussianKernel(2 * int(3.5 * p["sigma"]) + 1, p["sigma"])
    return cv2.sepFilter2D(image, -1, kernel, kernel)


PLAIN: dict[str, Plain] = {
    "RandomCrop": _cropped,
    "CenterCrop": _cropped,
    "HorizontalFlip": lambda image, _: cv2.flip(image, 1),
    "VerticalFlip": lambda image, _: cv2.flip(image, 0),
    "Transpose": lambda image, _: cv2.transpose(image),
    "RandomRotate90": _turned,
    "RandomBrightnessContrast": lambda image, p: cv2.LUT(image, _line(p["alpha"], p["beta"])),
    "RandomResizedCrop": _resized_crop,
    "RandomSizedCrop": _resized_crop,
    "ColorJitter": _jittered,
    "GaussNoise": _noisy,
    "Normalize": lambda image, _: cv2.LUT(image, WHOLE),
    "Normalize, ToTensorV2": _planes,
    "resized crop, flip, Normalize, ToTensorV2": lambda image, p: _planes(
        cv2.flip(_resized_crop(image, p), 1), p
    ),
    "HueSaturationValue": _other_hsv,
    "ShiftScaleRotate": _warped,
    "Affine": _warped,
    "Rotate": _warped,
    "SafeRotate": _warped,
    "Perspective": _projected,
    "Resize": lambda image, _: cv2.resize(image, (256, 256)),
    "RandomScale": _scaled,
    "LongestMaxSize": _scaled,
    "SmallestMaxSize": _scaled,
    "PadIfNeeded": _padded,
    "CoarseDropout": _with_holes,
    "RandomGamma": lambda image, p: cv2.LUT(
        image, ((LEVELS / 255) ** p["gamma"] * 255).clip(0, 255).astype(np.uint8)
    ),
    "RGBShift": lambda image, p: cv2.add(image, (*p["shifts"], 0)),
    "CLAHE": _clahe,
    "Equalize": _equalized,
    "Posterize": lambda image, _: image & 240,
    "Solarize": lambda image, _: np.where(image >= 128, 255 - image, image),
    "InvertImg": lambda image, _: cv2.bitwise_not(image),
    "ToGray": lambda image, _: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "Sharpen": lambda image, _: cv2.filter2D(image, -1, SHARPER),
    "GaussianBlur": _blurred,
    "Blur": lambda image, p: cv2.blur(image, (p["kernel"], p["kernel"])),
    "MedianBlur": lambda image, p: cv2.medianBlur(image, p["kernel"]),
    "ImageCompression": _compressed,
    "Downscale": _coarser,
    "ToFloat": lambda image, _: cv2.LUT(image, LEVELS / 255),
    "ChannelShuffle": lambda image, p: image[:, :, p["channels_shuffled"]],
}


NUM_DRAWS = 50
SEED = 137


def plain(name: str, compose: A.Compose, image: Image) -> Callable[[], Any] | None:
    """So many plain calls for the transform of that name, with the parameters of the pipeline's first calls."""
    work = PLAIN.get(name)
    if work is None:
        return None
    drawn = []
    compose.set_random_seed(SEED)
    for _ in range(NUM_DRAWS):
        records = compose._execute(compose._sequence.next_key(), {"image": image}, record=True).records or []
        drawn.append(records[0].params)

    def calls() -> None:
        for params in drawn:
            work(image, params)

    return calls


def same_draws(compose: A.Compose, image: Image) -> Callable[[], Any]:
    """So many first calls of the pipeline, with the parameters that `plain` has."""

    def calls() -> None:
        compose.set_random_seed(SEED)
        for _ in range(NUM_DRAWS):
            compose(image=image)

    return calls
