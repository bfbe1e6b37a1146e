"""Lightning's Trainer, stopped in mid-epoch and resumed with `ckpt_path`: the remaining batches come, none twice.

    pip install lightning
    python examples/lightning_resume.py

Lightning saves the place of every loader that has `state_dict` and `load_state_dict` in its checkpoints.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import lightning
import photo_shards
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import augstream as A


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(137)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8, 14)
        self.seen: list[str] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen += [f"{self.current_epoch}/{key}" for key in batch["__key__"]]
        return nn.functional.cross_entropy(self.head(self.layers(batch["image"])), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    shards: str, folder: Path, *, max_steps: int = -1, resume: bool = False, num_workers: int = 0
) -> list[str]:
    """Train for two epochs, or some steps of them, and return what was seen, in order."""
    transform = A.Compose(
        [A.RandomResizedCrop(size=(64, 64)), A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()]
    )
    fields = {"image": "jpg;png", "label": "cls"}
    dataset = A.StreamDataset(shards, transform, fields=fields, batch_size=8, seed=137)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=2, max_steps=max_steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
        callbacks=[ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_last=True)],
    )  # fmt: skip
    with A.StreamLoader(dataset, num_workers=num_workers) as loader:
        trainer.fit(model, loader, ckpt_path=folder / "last.ckpt" if resume else None)
    return model.seen


def main(folder: Path) -> None:
    shards = photo_shards.make(folder / "shards")
    whole = fit(shards, folder / "whole")
    begun = fit(shards, folder / "run", max_steps=5, num_workers=1)
    rest = fit(shards, folder / "run", resume=True, num_workers=2)
    assert begun + rest == whole, "the resumed run should see what the uninterrupted one saw"
    assert len(set(whole)) == len(whole) == 2 * 96
    print(
        f"stopped after {len(begun)} samples and resumed for {len(rest)}: as the uninterrupted run, each sample once"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", help="where the shards are written (default: somewhere temporary)"
    )
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(given or temporary))
