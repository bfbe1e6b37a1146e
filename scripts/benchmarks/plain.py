"""What a transform's work costs who needs no framework: plain OpenCV and numpy calls, written by hand for one case.

Each entry makes, for an image, a function that draws its parameters from `random`, as the transform's arguments in the
tables of `transforms` say, and gives a result, in memory that it uses again where OpenCV lets it. A transform that
OpenCV has no call for has none here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import cv2
import numpy as np

Image = np.ndarray
Plain = Callable[[Image], Callable[[], Any]]

rng = Random(137)
random, uniform, randint = rng.random, rng.uniform, rng.randint

LEVELS = np.arange(256, dtype=np.float32)
MEAN = np.array((0.485, 0.456, 0.406)) * 255
STD = np.array((0.229, 0.224, 0.225)) * 255
NORMAL = ((np.arange(256.0)[:, None] - MEAN) / STD).astype(np.float32)
WHOLE = NORMAL[None]
COLUMNS = np.ascontiguousarray(NORMAL.T)
TURNS = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
LOG_RATIO = math.log(4 / 3)
CROP = 180
SIDE = 224


def _random_crop(image: Image) -> Callable[[], Any]:
    height, width = image.shape[:2]
    out = np.empty((CROP, CROP, 3), np.uint8)

    def call() -> Image:
        y, x = int((height - CROP + 1) * random()), int((width - CROP + 1) * random())
        np.copyto(out, image[y : y + CROP, x : x + CROP])
        return out

    return call


def _center_crop(image: Image) -> Callable[[], Any]:
    y, x = ((side - CROP) // 2 for side in image.shape[:2])
    out = np.empty((CROP, CROP, 3), np.uint8)
    return lambda: np.copyto(out, image[y : y + CROP, x : x + CROP])


def _resized_crop(image: Image) -> Callable[[], Any]:
    height, width = image.shape[:2]
    area, out = height * width, np.empty((SIDE, SIDE, 3), np.uint8)

    def call() -> Image:
        for _ in range(10):
            box_area, ratio = area * uniform(0.08, 1), math.exp(uniform(-LOG_RATIO, LOG_RATIO))
            w, h = round(math.sqrt(box_area * ratio)), round(math.sqrt(box_area / ratio))
            if w <= width and h <= height:
                y, x = int((height - h + 1) * random()), int((width - w + 1) * random())
                return cv2.resize(image[y : y + h, x : x + w], (SIDE, SIDE), out)
        return cv2.resize(image, (SIDE, SIDE), out)

    return call


def _sized_crop(image: Image) -> Callable[[], Any]:
    height, width = image.shape[:2]
    out = np.empty((SIDE, SIDE, 3), np.uint8)

    def call() -> Image:
        side = randint(100, 200)
        y, x = int((height - side + 1) * random()), int((width - side + 1) * random())
        return cv2.resize(image[y : y + side, x : x + side], (SIDE, SIDE), out)

    return call


def _rotate_90(image: Image) -> Callable[[], Any]:
    out, turned = np.empty_like(image), np.empty_like(image.swapaxes(0, 1), order="C")

    def call() -> Image:
        turns = int(4 * random())
        if turns == 0:
            np.copyto(out, image)
            return out
        return cv2.rotate(image, TURNS[turns - 1], out if turns == 2 else turned)

    return call


def _line(alpha: float, beta: float) -> Image:
    return np.clip(LEVELS * alpha + beta, 0, 255).astype(np.uint8)


def _brightness_contrast(image: Image) -> Callable[[], Any]:
    out = np.empty_like(image)
    return lambda: cv2.LUT(image, _line(1 + uniform(-0.2, 0.2), 255 * uniform(-0.2, 0.2)), out)


def _color_jitter(image: Image) -> Callable[[], Any]:
    out, spare, plane = np.empty_like(image), np.empty_like(image), np.empty(image.shape[:2], np.uint8)
    steps = [0, 1, 2, 3]

    def call() -> Image:
        found = image
        factors = uniform(0.8, 1.2), uniform(0.8, 1.2), uniform(0.8, 1.2), uniform(-0.1, 0.1)
        rng.shuffle(steps)
        for step in steps:
            factor = factors[step]
            if step == 0:
                found = cv2.LUT(found, _line(factor, 0), out)
            elif step == 1:
                mean = cv2.mean(cv2.cvtColor(found, cv2.COLOR_RGB2GRAY, plane))[0]
                found = cv2.LUT(found, _line(factor, mean * (1 - factor)), out)
            elif step == 2:
                cv2.cvtColor(cv2.cvtColor(found, cv2.COLOR_RGB2GRAY, plane), cv2.COLOR_GRAY2RGB, spare)
                found = cv2.addWeighted(found, factor, spare, 1 - factor, 0, out)
            else:
                cv2.cvtColor(found, cv2.COLOR_RGB2HSV, spare)
                hues = np.mod(LEVELS + 180 * factor, 180).astype(np.uint8)
                cv2.insertChannel(cv2.LUT(cv2.extractChannel(spare, 0, plane), hues, plane), spare, 0)
                found = cv2.cvtColor(spare, cv2.COLOR_HSV2RGB, out)
        return found

    return call


def _gauss_noise(image: Image) -> Callable[[], Any]:
    out, noise = np.empty_like(image), np.empty(image.shape, np.int16)

    def call() -> Image:
        cv2.randn(noise, 0, 255 * uniform(0.2, 0.44))
        return cv2.add(image, noise, out, dtype=cv2.CV_8U)

    return call


def _normalize(image: Image) -> Callable[[], Any]:
    out = np.empty(image.shape, np.float32)
    return lambda: cv2.LUT(image, WHOLE, out)


def _planes(image: Image) -> Callable[[], Any]:
    out = np.empty((3, *image.shape[:2]), np.float32)
    split = list(np.empty((3, *image.shape[:2]), np.uint8))

    def call() -> Image:
        cv2.split(image, split)
        for plane, column, written in zip(split, COLUMNS, out, strict=True):
            cv2.LUT(plane, column, written)
        return out

    return call


def _whole_recipe(image: Image) -> Callable[[], Any]:
    crop, flipped = _resized_crop(image), np.empty((SIDE, SIDE, 3), np.uint8)
    finish = _planes(flipped)

    def call() -> Image:
        cv2.flip(crop(), 1, flipped)
        return finish()

    return call


def _hue_saturation_value(image: Image) -> Callable[[], Any]:
    out, hsv = np.empty_like(image), np.empty_like(image)

    def call() -> Image:
        hue, saturation, value = uniform(-20, 20), uniform(-30, 30), uniform(-20, 20)
        table = np.stack([np.mod(LEVELS + hue, 180), LEVELS + saturation, LEVELS + value], 1)
        table = np.clip(table, 0, 255).astype(np.uint8)
        cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV, hsv), table[None], hsv)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, out)

    return call


def _warp(degrees: float, scale: tuple[float, float], shift: float = 0.0) -> Plain:
    def make(image: Image) -> Callable[[], Any]:
        height, width = image.shape[:2]
        center, out = (width / 2, height / 2), np.empty_like(image)

        def call() -> Image:
            matrix = cv2.getRotationMatrix2D(center, uniform(-degrees, degrees), uniform(*scale))
            if shift:
                matrix[0, 2] += width * uniform(-shift, shift)
                matrix[1, 2] += height * uniform(-shift, shift)
            return cv2.warpAffine(image, matrix, (width, height), out)

        return call

    return make


def _safe_rotate(image: Image) -> Callable[[], Any]:
    height, width = image.shape[:2]
    center, out = (width / 2, height / 2), np.empty_like(image)

    def call() -> Image:
        degrees = uniform(-90, 90)
        cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
        scale = min(width / (height * sin + width * cos), height / (height * cos + width * sin))
        return cv2.warpAffine(image, cv2.getRotationMatrix2D(center, degrees, scale), (width, height), out)

    return call


def _perspective(image: Image) -> Callable[[], Any]:
    height, width = image.shape[:2]
    out = np.empty_like(image)

    def call() -> Image:
        scale = uniform(0.05, 0.1)
        (a, b), (c, d), (e, f), (g, h) = [
            (width * min(abs(rng.gauss(0, scale)), 0.3), height * min(abs(rng.gauss(0, scale)), 0.3))
            for _ in range(4)
        ]
        corners = np.array([(a, b), (width - c, d), (width - e, height - f), (g, height - h)], np.float32)
        w, h = int(width - min(a, g) - min(c, e)), int(height - min(b, d) - min(f, h))
        whole = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
        warped = cv2.warpPerspective(image, cv2.getPerspectiveTransform(corners, whole), (w, h))
        return cv2.resize(warped, (width, height), out)

    return call


def _resize(height: int, width: int) -> Plain:
    def make(image: Image) -> Callable[[], Any]:
        out = np.empty((height, width, 3), np.uint8)
        return lambda: cv2.resize(image, (width, height), out)

    return make


def _scaled(image: Image, factor: float) -> Callable[[], Any]:
    height, width = (round(side * factor) for side in image.shape[:2])
    return _resize(height, width)(image)


def _padded(image: Image) -> Callable[[], Any]:
    rows, columns = (600 - side for side in image.shape[:2])
    sides = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    out = np.empty((600, 600, 3), np.uint8)
    return lambda: cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, out)


def _coarse_dropout(image: Image) -> Callable[[], Any]:
    height, width = image.shape[:2]
    out = np.empty_like(image)

    def call() -> Image:
        np.copyto(out, image)
        for _ in range(randint(1, 2)):
            h, w = int(height * uniform(0.1, 0.2)), int(width * uniform(0.1, 0.2))
            y, x = randint(0, height - h), randint(0, width - w)
            out[y : y + h, x : x + w] = 0
        return out

    return call


def _gamma(image: Image) -> Callable[[], Any]:
    out = np.empty_like(image)

    def call() -> Image:
        table = (LEVELS / 255) ** (uniform(80, 120) / 100) * 255
        return cv2.LUT(image, table.astype(np.uint8), out)

    return call


def _rgb_shift(image: Image) -> Callable[[], Any]:
    out = np.empty_like(image)
    return lambda: cv2.add(image, (uniform(-20, 20), uniform(-20, 20), uniform(-20, 20), 0), out)


def _shuffled(image: Image) -> Callable[[], Any]:
    channels = [0, 1, 2]

    def call() -> Image:
        rng.shuffle(channels)
        return image[:, :, channels]

    return call


def _clahe(image: Image) -> Callable[[], Any]:
    lab, out, plane = np.empty_like(image), np.empty_like(image), np.empty(image.shape[:2], np.uint8)

    def call() -> Image:
        cv2.extractChannel(cv2.cvtColor(image, cv2.COLOR_RGB2LAB, lab), 0, plane)
        cv2.insertChannel(cv2.createCLAHE(uniform(1, 4), (8, 8)).apply(plane), lab, 0)
        return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB, out)

    return call


def _equalized(image: Image) -> Callable[[], Any]:
    out = np.empty_like(image)
    return lambda: cv2.merge([cv2.equalizeHist(plane) for plane in cv2.split(image)], out)


def _grey(image: Image) -> Callable[[], Any]:
    plane, out = np.empty(image.shape[:2], np.uint8), np.empty_like(image)
    return lambda: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY, plane), cv2.COLOR_GRAY2RGB, out)


def _sharpened(image: Image) -> Callable[[], Any]:
    out = np.empty_like(image)

    def call() -> Image:
        alpha, lightness = uniform(0.2, 0.5), uniform(0.5, 1)
        kernel = np.full((3, 3), -alpha, np.float32)
        kernel[1, 1] = 1 - alpha + alpha * (8 + lightness)
        return cv2.filter2D(image, -1, kernel, out)

    return call


def _blurred(image: Image) -> Callable[[], Any]:
    out = np.empty_like(image)

    def call() -> Image:
        sigma = uniform(1.5, 1.5)
        kernel = cv2.getGaussianKernel(2 * int(3.5 * sigma) + 1, sigma, cv2.CV_32F)
        return cv2.sepFilter2D(image, -1, kernel, kernel, out)

    return call


def _compressed(image: Image) -> Callable[[], Any]:
    def call() -> Image:
        quality = (cv2.IMWRITE_JPEG_QUALITY, randint(99, 99))
        return cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)

    return call


def _coarser(image: Image) -> Callable[[], Any]:
    size, out = image.shape[1::-1], np.empty_like(image)

    def call() -> Image:
        scale = uniform(0.25, 0.25)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        return cv2.resize(small, size, out, interpolation=cv2.INTER_NEAREST)

    return call


def _into(work: Callable[[Image, Image], Any]) -> Plain:
    """Work that draws nothing, on an image and memory of its shape and dtype."""

    def make(image: Image) -> Callable[[], Any]:
        out = np.empty_like(image)
        return lambda: work(image, out)

    return make


PLAIN: dict[str, Plain] = {
    "RandomCrop": _random_crop,
    "CenterCrop": _center_crop,
    "HorizontalFlip": _into(lambda image, out: cv2.flip(image, 1, out)),
    "VerticalFlip": _into(lambda image, out: cv2.flip(image, 0, out)),
    "Transpose": lambda image: lambda: cv2.transpose(image),
    "RandomRotate90": _rotate_90,
    "RandomBrightnessContrast": _brightness_contrast,
    "RandomResizedCrop": _resized_crop,
    "RandomSizedCrop": _sized_crop,
    "ColorJitter": _color_jitter,
    "GaussNoise": _gauss_noise,
    "Normalize": _normalize,
    "Normalize, ToTensorV2": _planes,
    "resized crop, flip, Normalize, ToTensorV2": _whole_recipe,
    "HueSaturationValue": _hue_saturation_value,
    "ShiftScaleRotate": _warp(45, (0.9, 1.1), 0.0625),
    "Affine": _warp(30, (0.8, 1.2)),
    "Rotate": _warp(90, (1, 1)),
    "SafeRotate": _safe_rotate,
    "Perspective": _perspective,
    "Resize": _resize(256, 256),
    "RandomScale": lambda image: _scaled(image, 1.1),
    "LongestMaxSize": lambda image: _scaled(image, 200 / max(image.shape)),
    "SmallestMaxSize": lambda image: _scaled(image, 200 / min(image.shape[:2])),
    "PadIfNeeded": _padded,
    "CoarseDropout": _coarse_dropout,
    "RandomGamma": _gamma,
    "RGBShift": _rgb_shift,
    "ChannelShuffle": _shuffled,
    "CLAHE": _clahe,
    "Equalize": _equalized,
    "Posterize": _into(lambda image, out: np.bitwise_and(image, 240, out)),
    "Solarize": lambda image: lambda: np.where(image >= 128, 255 - image, image),
    "InvertImg": _into(cv2.bitwise_not),
    "ToGray": _grey,
    "Sharpen": _sharpened,
    "GaussianBlur": _blurred,
    "Blur": _into(lambda image, out: cv2.blur(image, (5, 5), out)),
    "MedianBlur": _into(lambda image, out: cv2.medianBlur(image, 5, out)),
    "ImageCompression": _compressed,
    "Downscale": _coarser,
    "ToFloat": lambda image: lambda: cv2.LUT(image, LEVELS / 255),
}
