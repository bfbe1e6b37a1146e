"""Train a small network, get killed in mid-epoch, resume in a new process: the loss curve is the same, to the last bit.

    python examples/train_resume.py                      # all three runs, compared
    python examples/train_resume.py --shards "shards/train-{000000..000003}.tar" --checkpoint run.pt

On the CPU, with one thread, torch computes the same floats each time; what is shown here is that the data do not
differ either, although the resumed run has another number of workers.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import photo_shards
import torch
from torch import nn

import augstream as A


def make_loader(shards: str, num_workers: int) -> A.StreamLoader:
    transform = A.Compose(
        [A.RandomResizedCrop(size=(48, 48)), A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()]
    )
    fields = {"image": "jpg;png", "label": "cls"}
    dataset = A.StreamDataset(shards, transform, fields=fields, batch_size=8, seed=137)
    return A.StreamLoader(dataset, num_workers=num_workers)


def make_model() -> nn.Module:
    torch.manual_seed(137)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 14),
    )  # fmt: skip


def save(path: Path, checkpoint: dict[str, object]) -> None:
    """Write a checkpoint whole or not at all, whatever happens meanwhile."""
    torch.save(checkpoint, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def train(args: argparse.Namespace) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses: list[float] = []
    with make_loader(args.shards, args.workers) as loader:
        if args.checkpoint.exists():
            saved = torch.load(args.checkpoint, weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            loader.load_state_dict(saved["loader"])
            losses = saved["losses"]
        for epoch in range(loader.epoch, args.epochs):
            for batch in loader:
                loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                if len(losses) % 5 == 0:
                    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    save(args.checkpoint, {**parts, "loader": loader.state_dict(), "losses": losses})
                if len(losses) == args.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            print(f"epoch {epoch}: loss {losses[-1]:.6f}", flush=True)
    torch.save(losses, args.checkpoint.with_suffix(".losses"))


def show(folder: Path) -> None:
    """An uninterrupted run; one that is killed; one that goes on from its checkpoint; and the comparison."""
    shards = photo_shards.make(folder)

    def run(name: str, workers: int, kill_at: int = 0) -> int:
        print(f"-- {name}, {workers} workers", flush=True)
        command = [sys.executable, __file__, "--shards", shards, "--checkpoint", str(folder / f"{name}.pt")]
        return subprocess.run(  # noqa: S603  # this very file
            [*command, "--workers", str(workers), "--kill-at", str(kill_at)], check=False
        ).returncode

    assert run("whole", workers=1) == 0
    assert run("resumed", workers=2, kill_at=17) == -signal.SIGKILL
    assert run("resumed", workers=1) == 0
    whole, resumed = (torch.load(folder / f"{name}.losses") for name in ("whole", "resumed"))
    assert whole == resumed, "the loss curves should be the same to the last bit"
    print(
        f"{len(whole)} losses of the run that was killed after 17 equal those of the uninterrupted one, bit by bit"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards")
    parser.add_argument("--checkpoint", type=Path, default=Path("run.pt"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.shards is not None:
        train(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        show(Path(temporary))


if __name__ == "__main__":
    main()
