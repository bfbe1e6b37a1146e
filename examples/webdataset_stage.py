"""A webdataset pipeline that stays as it is, but for one stage: augmentation at addresses.

    python examples/webdataset_stage.py

Shards, splitting, shuffling and decoding are webdataset's own, with an unseeded shuffle even. The augmentation of a
sample is the same in every run, and on any number of workers, for it follows from (seed, shard, epoch, key) alone.
"""

from __future__ import annotations

import argparse
import tempfile

import photo_shards
import webdataset as wds

import augstream as A
from augstream.digest import digest


def augmentation() -> A.wds.Augment:
    transform = A.Compose([A.RandomResizedCrop(size=(96, 96)), A.HorizontalFlip(p=0.5), A.ColorJitter(p=0.8)])
    # without "worker" in the scope, the number of workers does not matter
    return A.wds.augment(transform, seed=137, fields={"image": "jpg"}, scope=("shard", "epoch"))


def pipeline(shards: str, stage: A.wds.Augment) -> wds.WebDataset:
    return (
        wds.WebDataset(shards, shardshuffle=100, nodesplitter=wds.split_by_node)
        .shuffle(1000)
        .decode("rgb8")
        .compose(stage)
        .to_tuple("__key__", "jpg", "cls")
    )


def as_it_is(sample: object) -> object:
    return sample


def pictures(shards: str, num_workers: int, num_epochs: int) -> list[dict[str, str]]:
    """Key -> digest of what the loader gave, for each epoch."""
    dataset = pipeline(shards, augmentation())
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=num_workers, collate_fn=as_it_is)
    return [{key: digest(image) for key, image, _ in loader} for _ in range(num_epochs)]


def main(folder: str) -> None:
    shards = photo_shards.make(folder)
    print(A.wds.check(pipeline(shards, augmentation())))

    once, twice = pictures(shards, num_workers=0, num_epochs=2), pictures(shards, num_workers=2, num_epochs=2)
    assert once == twice, "the pictures of a sample should follow from its address"
    for epoch, found in enumerate(once):
        print(
            f"epoch {epoch}: {len(found)} samples, the first of them {min(found)}: {found[min(found)][:16]}"
        )
    assert not set(once[0].values()) & set(once[1].values())
    print("0 and 2 workers gave the same pictures, and each epoch others")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", help="where the shards are written (default: somewhere temporary)"
    )
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        main(given or temporary)
