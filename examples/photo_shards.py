"""Shards to try the examples on: crops of the photographs beside this file, with classes, masks and boxes.

    python examples/photo_shards.py shards/

The class is the photograph's number. The mask marks what is brighter than the crop's middle (Otsu's threshold), and the
boxes, in the JSON, are those of the largest bright pieces, so that masks and boxes belong to what is seen.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np

PHOTOS = Path(__file__).resolve().parent / "photos"


def make(folder: str | Path, *, num_samples: int = 96, num_shards: int = 4, size: int = 160) -> str:
    """Write the shards, the same bytes on every run, and return their pattern."""
    photos = [cv2.imread(str(path)) for path in sorted(PHOTOS.glob("*.jpg"))]
    Path(folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(137)
    for shard in range(num_shards):
        with tarfile.open(Path(folder) / f"train-{shard:06d}.tar", "w") as tar:
            for number in range(shard * num_samples // num_shards, (shard + 1) * num_samples // num_shards):
                label = int(rng.integers(len(photos)))
                members = members_of(photos[label], label, size + int(rng.integers(40)), rng)
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return f"{Path(folder)}/train-{{000000..{num_shards - 1:06d}}}.tar"


def members_of(photo: np.ndarray, label: int, size: int, rng: np.random.Generator) -> dict[str, bytes]:
    y, x = int(rng.integers(photo.shape[0] - size)), int(rng.integers(photo.shape[1] - size))
    crop = photo[y : y + size, x : x + size]
    grey = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (9, 9), 0)
    mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    pieces = cv2.connectedComponentsWithStats(mask)[2][1:]
    largest = sorted(pieces.tolist(), key=lambda piece: -piece[4])[:3]
    boxes = [[left, top, left + width, top + height] for left, top, width, height, _ in largest]
    return {
        "jpg": cv2.imencode(".jpg", crop)[1].tobytes(),
        "cls": str(label).encode(),
        "mask.png": cv2.imencode(".png", mask)[1].tobytes(),
        "json": json.dumps({"boxes": boxes}).encode(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", default="shards", help="where they are written (default shards)")
    print(make(parser.parse_args().folder))
