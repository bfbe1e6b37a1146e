"""The conformance kit: shards to test with, and the promises as assertions on a user's own pipeline."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .seeding import generator, seed_key, subkey


def make_shards(
    directory: str | os.PathLike[str],
    num_samples: int = 64,
    num_shards: int = 4,
    *,
    size: tuple[int, int] = (40, 48),
    spread: int = 8,
    seed: int = 0,
    name: str = "train-{:06d}.tar",
) -> list[str]:
    """Write `num_shards` tar shards of small JPEGs into `directory`, and return their paths.

    Each sample has ``jpg`` (smooth colours and a little noise, `size` (H, W) give or take up to `spread`),
    ``cls`` (its number modulo 10), ``json`` (number, size and a varying number of boxes) and ``txt``. The
    same arguments give the same bytes with the same release of OpenCV.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    bounds = np.linspace(0, num_samples, num_shards + 1).astype(int)
    paths = []
    for shard in range(num_shards):
        path = directory / name.format(shard)
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(bounds[shard], bounds[shard + 1]):
                for suffix, data in _members(number, size, spread, seed).items():
                    info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        paths.append(str(path))
    return paths


def _members(number: int, size: tuple[int, int], spread: int, seed: int) -> dict[str, bytes]:
    import cv2

    rng = generator(subkey(seed_key(seed), "make_shards", int(number)))
    words = rng.bit_generator.random_raw(8 + 4 * 3)
    height, width = (
        int(side + int(word) % (2 * spread + 1) - spread) for side, word in zip(size, words, strict=False)
    )
    image = _picture(height, width, words[2:8])
    boxes = []
    for box in words[8:].reshape(3, 4)[: int(words[2]) % 4]:
        x, y = int(box[0]) % (width // 2), int(box[1]) % (height // 2)
        boxes.append([x, y, x + 2 + int(box[2]) % (width // 3), y + 2 + int(box[3]) % (height // 3)])
    _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    about = {"number": int(number), "size": [height, width], "boxes": boxes}
    return {
        "jpg": jpeg.tobytes(),
        "cls": str(number % 10).encode(),
        "json": json.dumps(about).encode(),
        "txt": f"picture {number}".encode(),
    }


def _picture(height: int, width: int, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Three smooth waves, one a channel, no two pictures alike."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = []
    for word in words[:3]:
        a, b, c = (int(word) >> shift & 1023 for shift in (0, 10, 20))
        channels.append(127.5 + 127.5 * np.sin((a * x / width + b * y / height) / 128 + c))
    return np.stack(channels, axis=-1).astype(np.uint8)
