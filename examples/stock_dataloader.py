"""A stream in torch's own DataLoader: the same batches on any number of workers, epoch after epoch, and resumed.

python examples/stock_dataloader.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from typing import Any

import photo_shards
from torch.utils.data import DataLoader

import augstream as A
from augstream.digest import digest


def dataset(shards: str) -> A.StreamDataset:
    transform = A.Compose(
        [A.RandomResizedCrop(size=(96, 96)), A.HorizontalFlip(p=0.5), A.Normalize(), A.ToTensorV2()]
    )
    fields = {"image": "jpg;png", "label": "cls"}
    return A.StreamDataset(shards, transform, fields=fields, batch_size=16, seed=137)


def stock(data: A.StreamDataset, num_workers: int) -> DataLoader[Any]:
    # batch_size=None: the dataset gives batches already
    return DataLoader(data, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)


def digests(batches: Any) -> list[str]:
    return [digest(batch) for batch in batches]


def main(folder: str) -> None:
    shards = photo_shards.make(folder)
    here, workers = stock(dataset(shards), 0), stock(dataset(shards), 2)
    for epoch in range(2):
        found = digests(here)
        assert found == digests(workers), "the number of workers should not matter"
        print(f"epoch {epoch}: {len(found)} batches, the first {found[0][:16]}, on 0 and on 2 workers")

    # Only who consumes the batches knows how many he had; the dataset makes that into a state.
    data = dataset(shards)
    had = digests(islice(stock(data, 2), 3))
    state = json.dumps(data.state_dict(epoch=0, num_batches=len(had)))

    resumed = dataset(shards)
    resumed.load_state_dict(json.loads(state))
    rest = digests(stock(resumed, 1))
    assert had + rest == digests(stock(dataset(shards), 0))
    print(
        f"resumed after {len(had)} batches on another number of workers: the {len(rest)} others came, and no more"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", help="where the shards are written (default: somewhere temporary)"
    )
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        main(given or temporary)
