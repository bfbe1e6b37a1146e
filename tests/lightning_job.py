"""A Lightning training that may kill itself: run by test_lightning in processes of its own.

Usage: lightning_job.py SHARDS WORK LOG [kill after this step] [--resume]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch

import augstream as A
from augstream.digest import digest

NUM_EPOCHS = 3


class Model(lightning.LightningModule):
    """Learns the class from a picture's mean colours; logs what it is given."""

    def __init__(self, log: Path, kill_after: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 10)
        self.log_file, self.kill_after = log, kill_after

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        with self.log_file.open("a") as log:
            log.write(json.dumps([self.current_epoch, batch_idx, digest(batch)]) + "\n")
        if self.global_step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        means = batch["image"].float().mean(dim=(1, 2)) / 255
        return torch.nn.functional.cross_entropy(self.layer(means), batch["cls"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(shards: str, work: str, log: str, kill_after: str, num_workers: str, resume: str) -> None:
    transform = A.Compose([A.RandomCrop(24, 24), A.HorizontalFlip(p=0.5)])
    dataset = A.StreamDataset(
        shards, transform, batch_size=4, seed=137, fields={"image": "jpg", "cls": "cls"}
    )
    loader = A.StreamLoader(dataset, num_workers=int(num_workers))
    keep = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=work, every_n_train_steps=1, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=NUM_EPOCHS, accelerator="cpu", logger=False, callbacks=[keep], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=work,
    )  # fmt: skip
    model = Model(Path(log), int(kill_after))
    trainer.fit(model, loader, ckpt_path=f"{work}/last.ckpt" if resume == "resume" else None)
    torch.save(model.layer.state_dict(), f"{log}.pt")
    loader.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
