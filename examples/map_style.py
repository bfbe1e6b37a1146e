"""A map-style dataset of one's own: `compose.at(epoch, index)` makes its augmentation independent of workers and order.

python examples/map_style.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import photo_shards
import torch
from torch.utils.data import DataLoader, Dataset

import augstream as A
from augstream.digest import digest


class Photos(Dataset[dict[str, Any]]):
    """The photographs of a folder; an index carries its epoch, so that live workers need not be told."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.transform = A.Compose(
            [A.RandomResizedCrop(size=(128, 128)), A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()],
            seed=137,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        image = cv2.cvtColor(cv2.imread(str(self.paths[index])), cv2.COLOR_BGR2RGB)
        return {"image": self.transform.at(epoch, index)(image=image)["image"], "index": index}


class EpochOrder:
    """A sampler: every index once, in an order that follows from the epoch, with the epoch beside it."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self.epoch))
        epoch, self.epoch = self.epoch, self.epoch + 1
        return iter([(epoch, index) for index in order.tolist()])


def pictures(num_workers: int, num_epochs: int) -> list[dict[int, str]]:
    data = Photos(photo_shards.PHOTOS)
    loader = DataLoader(
        data,
        batch_size=4,
        sampler=EpochOrder(len(data)),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    epochs = []
    for _ in range(num_epochs):
        found: dict[int, str] = {}
        for batch in loader:
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                found[index] = digest(image)
        epochs.append(found)
    return epochs


def main() -> None:
    alone, shared = pictures(num_workers=0, num_epochs=2), pictures(num_workers=2, num_epochs=2)
    assert alone == shared, "the number of workers should not matter"
    assert all(alone[0][index] != alone[1][index] for index in alone[0])
    print(
        f"{len(alone[0])} photographs, two epochs: the same pictures on 0 and on 2 workers, other ones in each epoch"
    )


if __name__ == "__main__":
    main()
