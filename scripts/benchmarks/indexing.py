"""Indexing and reading shards, against webdataset iterating over the same ones: samples a second, no decoding."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import webdataset as wds
from harness import Burst, race, race_table, table, timed
from pictures import shards

from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.tars.scan import scan_file

KINDS = {"4 kB": (4_000, 3_000), "113 kB": (113_000, 600)}  # bytes an image, samples


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Race the header walk and the reader against webdataset, on shards of three members a sample."""
    results = []
    for kind, (image_bytes, num_samples) in KINDS.items():
        count = num_samples // 10 if arguments.quick else num_samples
        shard = make_shard(arguments.data / f"index-{image_bytes}-{count}.tar", image_bytes, count)
        result = race(contenders(shard, count), reference="webdataset", rounds=arguments.rounds)
        print(f"### samples of {kind}\n\n{race_table(result, 'samples')}\n")
        results.append({"samples": kind, "rows": result.rows()})
    return [*results, checksums(arguments)]


def checksums(arguments: argparse.Namespace) -> dict[str, Any]:
    """What comparing checksums costs beside decoding: photographs read, read and verified, and decoded."""
    paths = shards(arguments.data, 100 if arguments.quick else 300, arguments.side)
    index = build_index(paths, cache_dir=arguments.data / "checksums", checksums=True)
    places = [
        (shard, sample) for shard in range(len(index)) for sample in range(int(index.num_samples[shard]))
    ]
    plain, verifying = ShardReader(index), ShardReader(index, verify_checksums=True)
    images = [np.frombuffer(plain.read(*place)["jpg"], np.uint8) for place in places]

    def read(reader: ShardReader) -> None:
        for place in places:
            reader.read(*place)

    def decode() -> None:
        for image in images:
            cv2.imdecode(image, cv2.IMREAD_COLOR_RGB)

    functions = {"read": lambda: read(plain), "read, verify": lambda: read(verifying), "decode": decode}
    timers = {name: timed(function, scale=len(places)) for name, function in functions.items()}
    result = race(timers, reference="decode", rounds=arguments.rounds)
    bursts = [
        [1e6 * burst.cpu_s / burst.items for burst in result.bursts[name]]
        for name in ("read", "read, verify", "decode")
    ]
    shares = sorted(
        (verified - read_us) / decoded for read_us, verified, decoded in zip(*bursts, strict=True)
    )
    us = [sorted(column)[len(column) // 2] for column in bursts]
    row = {
        "samples": f"photographs of {sum(map(len, images)) / len(images) / 1000:.0f} kB",
        "read_us": us[0], "verify_us": us[1] - us[0],
        "decode_us": us[2], "share_of_decode": shares[len(shares) // 2], "highest": shares[-1], "limit": 0.1,
    }  # fmt: skip
    print(f"### checksums of {row['samples']}\n")
    share = f"{row['share_of_decode']:.3f} (at most {shares[-1]:.3f})"
    cells = [f"{us[0]:.0f}", f"{us[1] - us[0]:.0f}", f"{us[2]:.0f}", share, "0.1"]
    print(table([cells], ["us to read", "to verify", "to decode", "verify / decode", "limit"]))
    return row


def make_shard(path: Path, image_bytes: int, num_samples: int) -> Path:
    """A shard as `webdataset.TarWriter` makes it, once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        filler = random.Random(0)
        with wds.TarWriter(str(part)) as writer:
            for i in range(num_samples):
                image = filler.randbytes(image_bytes)
                writer.write({"__key__": f"{i:08d}", "jpg": image, "cls": b"7", "json": b'{"x": 1}'})
        part.rename(path)
    return path


def contenders(shard: Path, num_samples: int) -> dict[str, Callable[[], Burst]]:
    """Each goes over all samples of the shard, which lies in the page cache."""
    index = build_index(shard, cache_dir=shard.parent / "index")
    reader = ShardReader(index)
    shuffled = random.Random(1).sample(range(num_samples), num_samples)
    checked = build_index(shard, cache_dir=shard.parent / "checksums", checksums=True)
    verifying = ShardReader(checked, verify_checksums=True)

    def iterate() -> None:
        seen = sum(1 for _ in wds.WebDataset(str(shard), shardshuffle=False))
        if seen != num_samples:
            raise SystemExit(f"webdataset found {seen} of {num_samples} samples")

    def walk() -> None:
        if len(scan_file(shard)[0]) != num_samples:
            raise SystemExit("the header walk lost samples")

    def read(reader: ShardReader, samples: Iterable[int]) -> None:
        for sample in samples:  # one at a time: holding them all would measure the memory allocator
            reader.read(0, sample)

    return {
        name: timed(function, scale=num_samples)
        for name, function in {
            "webdataset": iterate,
            "header walk": walk,
            "open a known index": lambda: build_index(shard, cache_dir=shard.parent / "index").table(0),
            "read in order": lambda: read(reader, range(num_samples)),
            "read shuffled": lambda: read(reader, shuffled),
            "read shuffled, verify": lambda: read(verifying, shuffled),
        }.items()
    }
