"""The data that is measured on: JPEGs like ImageNet's in tar shards, the same bytes on every run."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from harness import say

from augstream.seeding import generator, seed_key, subkey

PHOTOS = Path(__file__).resolve().parents[2] / "examples" / "photos"
SAMPLES_PER_SHARD = 100
_VERSION = 1


def _photos() -> list[np.ndarray]:
    paths = [path for path in sorted(PHOTOS.glob("*.jpg")) if "gray" not in path.name]
    return [cv2.imread(str(path)) for path in paths]


def jpeg_of(photos: list[np.ndarray], number: int, side: int) -> tuple[bytes, int]:
    """A crop of a photograph, `side` pixels wide or so, with a little grain as cameras have; and its class."""
    rng = generator(subkey(seed_key(7), "bench", number))
    label = int(rng.integers(len(photos)))
    photo = photos[label]
    height, width = (
        int(rng.integers(side * 7 // 10, side)),
        int(rng.integers(side * 85 // 100, side * 115 // 100)),
    )
    scale = max(height / photo.shape[0], width / photo.shape[1], 0.8 + 0.4 * float(rng.random()))
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    y0, x0 = (
        int(rng.integers(max(1, a - b + 1))) for a, b in zip(photo.shape, (height, width), strict=False)
    )
    crop = photo[y0 : y0 + height, x0 : x0 + width].astype(np.float32)
    grain = cv2.GaussianBlur(rng.standard_normal(crop.shape, dtype=np.float32), (0, 0), 0.6) * 9
    jpeg = cv2.imencode(
        ".jpg", np.clip(crop + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 96]
    )[1]
    return jpeg.tobytes(), label


def photograph_of(photos: list[np.ndarray], number: int) -> tuple[bytes, int]:
    """A photograph as a camera or an archive gives it: 2,500 x 1,875 pixels, quality 90, 2 bits a pixel or so."""
    rng = generator(subkey(seed_key(7), "photograph", number))
    label = number % len(photos)
    photo = cv2.resize(photos[label], (2500, 1875), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = cv2.GaussianBlur(rng.standard_normal(photo.shape, dtype=np.float32), (0, 0), 0.8) * 8
    jpeg = cv2.imencode(
        ".jpg", np.clip(photo + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90]
    )[1]
    return jpeg.tobytes(), label


def photographs(folder: Path, num_samples: int) -> list[str]:
    """The paths of shards of `num_samples` photographs, made unless they are there."""
    return _shards(folder / f"v{_VERSION}-photographs-{num_samples}", num_samples, photograph_of)


def shards(folder: Path, num_samples: int, side: int = 480) -> list[str]:
    """The paths of shards of `num_samples` pictures, made unless they are there."""
    return _shards(
        folder / f"v{_VERSION}-{side}-{num_samples}",
        num_samples,
        lambda photos, number: jpeg_of(photos, number, side),
    )


def _shards(
    folder: Path, num_samples: int, make: Callable[[list[np.ndarray], int], tuple[bytes, int]]
) -> list[str]:
    paths = [folder / f"train-{number:06d}.tar" for number in range(-(-num_samples // SAMPLES_PER_SHARD))]
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        photos = _photos()
        for number, path in enumerate(paths):
            say(f"making shard {number + 1} of {len(paths)}")
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for sample in range(
                    number * SAMPLES_PER_SHARD, min((number + 1) * SAMPLES_PER_SHARD, num_samples)
                ):
                    jpeg, label = make(photos, sample)
                    for suffix, data in (("jpg", jpeg), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{sample:08d}.{suffix}")
                        member.size = len(data)
                        tar.addfile(member, BytesIO(data))
        (folder / "done").touch()
        say("")
    return [str(path) for path in paths]


def jpegs(paths: list[str], limit: int) -> list[bytes]:
    """The first `limit` JPEGs of the shards."""
    found: list[bytes] = []
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    found.append(file.read() if file else b"")
                    if len(found) == limit:
                        return found
    return found
