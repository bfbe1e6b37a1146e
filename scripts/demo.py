"""The main job on real photographs: make shards, stream them, kill a worker, kill the trainer, resume, compare."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

import augstream as A
from augstream.digest import digest
from augstream.seeding import generator, seed_key, subkey
from augstream.shards import ShardReader

PHOTOS = Path(__file__).resolve().parent.parent / "examples" / "photos"
SAMPLES_PER_SHARD = 100
BATCH_SIZE = 32
SEED = 137


def recipe() -> A.Compose:
    """The classic recipe of ImageNet training."""
    return A.Compose(
        [A.RandomResizedCrop(size=(224, 224)), A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()]
    )


def make_shards(folder: Path, num_samples: int) -> None:
    """Crop the photographs at ImageNet-like sizes into shards of JPEG, class and JSON; the same bytes on every run."""
    photos = [cv2.imread(str(path)) for path in sorted(PHOTOS.glob("*.jpg"))]
    folder.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=num_samples, desc="making shards", unit="sample")
    for start in range(0, num_samples, SAMPLES_PER_SHARD):
        with tarfile.open(folder / f"train-{start // SAMPLES_PER_SHARD:06d}.tar", "w") as shard:
            for number in range(start, min(start + SAMPLES_PER_SHARD, num_samples)):
                rng = generator(subkey(seed_key(SEED), "demo", number))
                label = int(rng.integers(len(photos)))
                photo = photos[label]
                height = min(photo.shape[0], int(rng.integers(340, 480)))
                width = min(photo.shape[1], int(rng.integers(400, 560)))
                y0 = int(rng.integers(photo.shape[0] - height + 1))
                x0 = int(rng.integers(photo.shape[1] - width + 1))
                crop = photo[y0 : y0 + height, x0 : x0 + width]
                jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
                about = json.dumps({"y0": y0, "x0": x0, "height": height, "width": width}).encode()
                for suffix, data in (("jpg", jpeg), ("cls", str(label).encode()), ("json", about)):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(data)
                    shard.addfile(member, BytesIO(data))
                bar.update()
    bar.close()


def dataset(folder: Path) -> A.StreamDataset:
    """The shards as a stream; every byte that is read is held against the checksums that were made with the index."""
    return A.StreamDataset(str(folder), recipe(), batch_size=BATCH_SIZE, seed=SEED, verify_checksums=True)


def stream(loader: A.StreamLoader, epochs: int, desc: str, kill_at: int | None = None) -> list[list[str]]:
    """Run whole epochs, and return each batch's digest; optionally kill one of the loader's workers on the way."""
    digests: list[list[str]] = []
    bar = tqdm(total=epochs * len(loader.dataset.index.names) * SAMPLES_PER_SHARD, desc=desc, unit="image")
    for _ in range(epochs):
        digests.append([])
        for step, batch in enumerate(loader):
            if step == kill_at:
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            digests[-1].append(digest(batch))
            bar.update(len(batch["__key__"]))
    bar.close()
    return digests


def train_in_another_process(
    folder: Path, state: Path, num_workers: int, stop_after: int | None
) -> dict[str, Any]:
    """Run `train` as a process of its own; with `stop_after` it kills itself with SIGKILL on the way."""
    command = [
        sys.executable,
        __file__,
        "--train",
        str(folder),
        str(state),
        str(num_workers),
        str(stop_after or 0),
    ]
    done = subprocess.run(command, check=False)
    expected = -signal.SIGKILL if stop_after else 0
    if done.returncode != expected:
        sys.exit(f"the training process ended with {done.returncode}, expected {expected}")
    result: dict[str, Any] = json.loads(state.read_text())
    return result


def train(folder: Path, state: Path, num_workers: int, stop_after: int) -> None:
    """A training loop that saves its state after every batch, and continues from it if there is one."""
    with A.StreamLoader(dataset(folder), num_workers=num_workers) as loader:
        digests: list[str] = []
        if state.exists():
            saved = json.loads(state.read_text())
            loader.load_state_dict(saved["loader"])
            digests = saved["digests"]
        for step, batch in enumerate(loader, start=1):
            digests.append(digest(batch))
            temporary = state.with_suffix(".new")
            temporary.write_text(json.dumps({"loader": loader.state_dict(), "digests": digests}))
            temporary.replace(state)
            if step == stop_after:
                os.kill(os.getpid(), signal.SIGKILL)


def streaming_rate(data: A.StreamDataset) -> float:
    """Images per second of an epoch with two workers, from the second batch on, and nothing done with them."""
    with A.StreamLoader(data, num_workers=2) as loader:
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        num_images = sum(len(batch["__key__"]) for batch in batches)
        return num_images / (time.perf_counter() - start)


def naked_decode_rate(data: A.StreamDataset, num_images: int = 400) -> float:
    """Images per second of a one-thread loop of cv2.imdecode over the same bytes."""
    reader = ShardReader(data.index)
    places = [divmod(number, SAMPLES_PER_SHARD) for number in range(min(num_images, data.index.total))]
    buffers = [np.frombuffer(reader.read(*place)["jpg"], np.uint8) for place in places]
    start = time.perf_counter()
    for buffer in buffers:
        cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    return len(buffers) / (time.perf_counter() - start)


def contact_sheet(data: A.StreamDataset, path: Path, rows: int = 6, epochs: int = 8) -> None:
    """One row a sample, one column an epoch: the same photograph, differently each time, the same way on every run."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    sheet = []
    for row in range(rows):
        place, number = divmod(row * 173 % data.index.total, SAMPLES_PER_SHARD)
        shard, key = data.index.names[place], data.index.table(place).keys[number]
        cells = [data.sample(epoch=epoch, shard=shard, key=key)["image"] for epoch in range(epochs)]
        pixels = [(np.asarray(cell).transpose(1, 2, 0) * std + mean) * 255 for cell in cells]
        sheet.append(np.hstack([np.pad(cell.clip(0, 255), ((2, 2), (2, 2), (0, 0))) for cell in pixels]))
    cv2.imwrite(str(path), np.vstack(sheet)[:, :, ::-1].astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where shards and results go")
    parser.add_argument("--samples", type=int, default=1200, help="how many samples to make")
    parser.add_argument(
        "--train", nargs=4, metavar=("SHARDS", "STATE", "WORKERS", "STOP"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.train:
        folder, state, num_workers, stop_after = arguments.train
        train(Path(folder), Path(state), int(num_workers), int(stop_after))
        return
    cv2.setNumThreads(1)
    sys.exit(show(arguments.out, arguments.samples))


def show(out: Path, num_samples: int) -> int:
    """Run every act, print the table, and return the exit status: 1 if any digest differs."""
    folder, state = out / "shards", out / "state.json"
    state.unlink(missing_ok=True)
    make_shards(folder, num_samples)
    subprocess.run([sys.executable, "-m", "augstream", "index", "--checksums", str(folder)], check=True)
    data = dataset(folder)
    with A.StreamLoader(data, num_workers=2) as loader:
        num_steps = len(loader)
        plain = stream(loader, 2, "two epochs, two workers")
    naked = naked_decode_rate(data)
    rate = streaming_rate(data)
    with A.StreamLoader(dataset(folder), num_workers=2) as loader:
        killed = stream(loader, 1, "a worker killed on the way", kill_at=num_steps // 3)
        respawns = loader.stats.respawns
    print("a training process that kills itself in mid-epoch, then one that resumes with 3 workers …")
    train_in_another_process(folder, state, num_workers=1, stop_after=num_steps // 2)
    resumed = train_in_another_process(folder, state, num_workers=3, stop_after=None)
    contact_sheet(data, out / "contact-sheet.png")

    first, second = (digest(digests) for digests in plain)
    rows = [
        ("epoch 0, uninterrupted", len(plain[0]), first, ""),
        (
            "epoch 1, uninterrupted",
            len(plain[1]),
            second,
            "differs" if second != first else "EQUAL",
        ),
        (f"epoch 0, {respawns} worker killed", num_steps, digest(killed[0]), "same"),
        ("epoch 0, trainer killed, resumed", len(resumed["digests"]), digest(resumed["digests"]), "same"),
    ]
    wrong = [
        name for name, _, hexes, claim in rows if (claim == "same" and hexes != first) or claim == "EQUAL"
    ]
    print(f"\n{'run':<36}{'batches':>8}  {'digest':<18}as epoch 0")
    for name, num_batches, hexes, claim in rows:
        verdict = "" if not claim else ("DIFFERENT BYTES" if name in wrong else claim)
        print(f"{name:<36}{num_batches:>8}  {hexes[:16]:<18}{verdict}")
    if respawns < 1:
        wrong.append("no worker was killed")
    print(
        f"\n{rate:.0f} images/s, {rate / naked:.2f} of a naked one-thread cv2.imdecode loop ({naked:.0f} images/s)"
    )
    print(f"look at {out / 'contact-sheet.png'}: rows are samples, columns are epochs")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
