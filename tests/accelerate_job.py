"""A training loop with Accelerate that may kill itself: run by test_accelerate in processes of its own.

Usage: accelerate_job.py SHARDS WORK LOG KILL_IN_STEP NUM_WORKERS fresh|resume
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator

import augstream as A
from augstream.digest import digest

NUM_EPOCHS = 3


def main(shards: str, work: str, log: str, kill_in_step: str, num_workers: str, resume: str) -> None:
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 10)
    transform = A.Compose([A.RandomCrop(24, 24), A.HorizontalFlip(p=0.5)])
    dataset = A.StreamDataset(
        shards, transform, batch_size=4, seed=137, fields={"image": "jpg", "cls": "cls"}
    )
    loader = A.StreamLoader(dataset, num_workers=int(num_workers))
    model, optimizer, prepared = accelerator.prepare(
        layer, torch.optim.SGD(layer.parameters(), lr=0.1), loader
    )
    assert prepared is loader  # Accelerate leaves alone what is no DataLoader; the ranks share the stream out
    accelerator.register_for_checkpointing(loader)
    if resume == "resume":
        accelerator.load_state(work)
    step = 0
    for epoch in range(loader.epoch, NUM_EPOCHS):
        for batch in loader:
            with Path(f"{log}.{rank}").open("a") as file:
                file.write(json.dumps([epoch, digest(batch)]) + "\n")
            if step == int(kill_in_step):
                os.kill(os.getpid(), signal.SIGKILL)
            means = batch["image"].float().mean(dim=(1, 2)) / 255
            loss = torch.nn.functional.cross_entropy(model(means.to(accelerator.device)), batch["cls"])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.save_state(work)
            step += 1
    if rank == 0:
        torch.save(accelerator.unwrap_model(model).state_dict(), f"{log}.pt")
    loader.close()
    accelerator.end_training()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
