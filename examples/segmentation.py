"""Pictures, masks and boxes that move together, from a shard to a batch; a few steps of a segmentation network.

python examples/segmentation.py [sheet.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import photo_shards
import torch
from torch import nn

import augstream as A


def make_dataset(shards: str) -> A.StreamDataset:
    transform = A.Compose(
        [
            A.RandomResizedCrop(size=(96, 96), scale=(0.5, 1.0)),
            A.HorizontalFlip(p=0.5),
            A.Rotate(limit=15, p=0.5),
        ],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=[], min_visibility=0.2),
    )
    fields = {"image": "jpg", "mask": "mask.png", "bboxes": "json:boxes"}
    return A.StreamDataset(shards, transform, fields=fields, batch_size=8, seed=137)


def train(loader: A.StreamLoader, num_epochs: int) -> list[float]:
    """Learn the mask: which pixels are bright."""
    torch.manual_seed(137)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(num_epochs):
        for batch in loader:
            images = batch["image"].permute(0, 3, 1, 2).float() / 255
            loss = nn.functional.cross_entropy(model(images), batch["mask"].long())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def drawn(batch: dict[str, Any], number: int) -> np.ndarray:
    """One picture of a batch with its mask in red and its boxes in green, BGR."""
    picture = batch["image"][number].numpy()[..., ::-1].copy()
    mask = batch["mask"][number].numpy() > 0
    picture[mask] = picture[mask] // 2 + np.array([0, 0, 127], np.uint8)
    for x0, y0, x1, y1, *_ in np.asarray(batch["bboxes"][number]).reshape(-1, 4).round().astype(int).tolist():
        cv2.rectangle(picture, (x0, y0), (x1, y1), (0, 255, 0), 1)
    return picture


def main(folder: Path, sheet: Path | None) -> None:
    dataset = make_dataset(photo_shards.make(folder))
    with A.StreamLoader(dataset, num_workers=1) as loader:
        losses = train(loader, num_epochs=4)
        batch = next(iter(loader))
    print(
        f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; {sum(map(len, batch['bboxes']))} boxes in a batch"
    )
    assert sum(losses[-6:]) < sum(losses[:6])
    for mask, boxes in zip(batch["mask"].numpy(), batch["bboxes"], strict=True):
        for x0, y0, x1, y1 in np.asarray(boxes).reshape(-1, 4).round().astype(int).tolist():
            assert mask[y0:y1, x0:x1].any(), "a box should hold some of the mask that it was drawn around"
    if sheet is not None:
        cv2.imwrite(str(sheet), np.hstack([drawn(batch, number) for number in range(8)]))
        print(f"look at {sheet}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "sheet", nargs="?", type=Path, help="a picture to write of the last batch, sheet.png say"
    )
    given = parser.parse_args().sheet
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), given)
