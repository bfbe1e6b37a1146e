"""Train on any number of ranks, be killed, and go on with another number: the same batches, the same losses.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1    # or torchrun's restarts meet what the ranks before them left
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/train_ddp.py shards/ --checkpoint run.pt

A rank always takes `--batch-size` samples at once, and a step of the optimizer `--global-batch-size`: so many ranks as
there are share it, and take several batches a step where they are few. A step is the same samples in the same order on
any number of ranks that divides it, so the run may be stopped and started on 1, 2 or 4 of them, by hand or by torchrun.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import augstream as A


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="+")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="written every few steps, and resumed from"
    )
    parser.add_argument("--save-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--steps", type=int, default=100, help="how many to train altogether")
    parser.add_argument("--batch-size", type=int, default=8, help="samples that a rank computes at once")
    parser.add_argument(
        "--global-batch-size", type=int, default=32, help="samples of a step, on all ranks together"
    )
    parser.add_argument("--workers", type=int, default=1, help="worker processes of each rank")
    parser.add_argument(
        "--record", type=Path, help="write what each step saw: one file a rank, one line a step"
    )
    return parser.parse_args()


def make_loader(args: argparse.Namespace) -> A.StreamLoader:
    """The stream. Rank and world size come from torch.distributed."""
    transform = A.Compose(
        [A.RandomResizedCrop(size=(32, 32)), A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()]
    )
    dataset = A.StreamDataset(
        args.shards, transform, batch_size=args.batch_size, seed=137, drop_last=True,
        fields={"image": "jpg;png", "label": "cls"},
    )  # fmt: skip
    return A.StreamLoader(dataset, num_workers=args.workers)


def make_model() -> nn.Module:
    """A small network whose output for a sample does not depend on the rest of its batch, as batch norm's would."""
    torch.manual_seed(137)
    layers = [
        nn.Conv2d(3, 16, 3, stride=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def global_batches(loader: A.StreamLoader, batches_a_step: int) -> Iterator[list[dict[str, Any]]]:
    """This rank's batches of each step, epoch after epoch; what is left of an epoch and fills no step is left out."""
    while True:
        batches = iter(loader)
        while len(step := list(islice(batches, batches_a_step))) == batches_a_step:
            yield step


def train_step(
    model: DistributedDataParallel, optimizer: torch.optim.Optimizer, step: list[dict[str, Any]]
) -> Tensor:
    """One step of the optimizer; return the mean loss over all of its samples, on all ranks."""
    losses = []
    for number, batch in enumerate(step, start=1):
        model.require_backward_grad_sync = number == len(step)  # as model.no_sync() does
        loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"]) / len(step)
        loss.backward()
        losses.append(loss.detach())
    optimizer.step()
    optimizer.zero_grad()
    total = torch.stack(losses).sum()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all, whatever happens meanwhile."""
    torch.save(checkpoint, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def train(args: argparse.Namespace) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    batches_a_step, rest = divmod(args.global_batch_size, args.batch_size * world_size)
    if rest or not batches_a_step:
        msg = f"--global-batch-size must be a multiple of --batch-size times {world_size} ranks"
        raise SystemExit(msg)

    loader = make_loader(args)
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    done = 0
    if args.checkpoint.exists():
        checkpoint = torch.load(args.checkpoint, weights_only=True)
        model.module.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        loader.load_state_dict(checkpoint["loader"])
        done = checkpoint["done"]

    with loader:
        for step in islice(global_batches(loader, batches_a_step), args.steps - done):
            loss = train_step(model, optimizer, step)
            done += 1
            if args.record is not None:
                record(args.record, rank, done, loss, step)
            if rank == 0:
                print(f"step {done} on {world_size} ranks: loss {loss:.6f}", flush=True)
            if done % args.save_every == 0 or done == args.steps:
                loader.assert_in_step()  # all ranks have had as many batches: one state serves them all
                if rank == 0:
                    parts = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
                    save(args.checkpoint, {**parts, "loader": loader.state_dict(), "done": done})


def record(folder: Path, rank: int, done: int, loss: Tensor, step: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    keys = [list(zip(batch["__shard__"], batch["__key__"], strict=True)) for batch in step]
    with open(folder / f"rank-{rank}-of-{dist.get_world_size()}.jsonl", "a") as file:
        file.write(json.dumps({"step": done, "loss": float(loss), "keys": keys, "pid": os.getpid()}) + "\n")


if __name__ == "__main__":
    given = arguments()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(given)
    dist.destroy_process_group()
