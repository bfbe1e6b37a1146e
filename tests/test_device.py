"""Batches on a device: the numbers are those of the loader without it, wherever the floats are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import dataset_of

import augstream as A
from augstream.device import gathered, look_up
from augstream.digest import digest
from augstream.testing import make_shards
from augstream.transforms.deferral import can_defer


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("device"), 32, 2)


def recipe(*between: Any, normalize: Any = None) -> A.Compose:
    first = [A.RandomResizedCrop(size=(24, 32)), A.HorizontalFlip(p=0.5)]
    return A.Compose([*first, *between, normalize or A.Normalize(), A.ToTensorV2()])


PIPELINES = {
    "R1": recipe(),
    "tables of its own for each image": recipe(A.RandomBrightnessContrast(p=0.8), A.InvertImg(p=0.5)),
    "pixels between": recipe(A.GaussianBlur(p=0.5), A.GaussNoise(p=0.5)),
    "ToFloat": recipe(normalize=A.ToFloat()),
    "constants of the image's own": recipe(normalize=A.Normalize(normalization="image_per_channel")),
    "one constant": recipe(normalize=A.Normalize(mean=0.5, std=0.2)),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_numbers_are_the_same(name: str, shards: list[str]) -> None:
    dataset = dataset_of(shards, PIPELINES[name])
    assert can_defer(dataset.stream.stage)
    expected = [digest(batch) for batch in A.StreamLoader(dataset)]
    for defer in (True, False):
        loader = A.StreamLoader(dataset).to("cpu", defer=defer)
        assert [digest(batch) for batch in loader] == expected


@pytest.mark.processes
@pytest.mark.parametrize("workers", ["process", "thread"])
def test_workers_send_bytes(workers: Any, shards: list[str]) -> None:
    dataset = dataset_of(shards, PIPELINES["tables of its own for each image"])
    with A.StreamLoader(dataset, num_workers=2, workers=workers) as plain:
        expected = [digest(batch) for batch in plain]
    with A.StreamLoader(dataset, num_workers=2, workers=workers).to("cpu") as loader:
        sent = loader._stream.maker().make(0, range(1)).batch
        assert sent["image"].dtype == np.uint8
        assert sent["image.table"].shape == (4, 256, 3)
        assert [digest(batch) for batch in loader] == expected


def test_in_the_middle_of_an_epoch_the_place_is_kept(shards: list[str]) -> None:
    dataset = dataset_of(shards, PIPELINES["R1"])
    expected = [digest(batch) for batch in A.StreamLoader(dataset)]
    loader = A.StreamLoader(dataset)
    found = []
    for batch in loader:
        found.append(digest(batch))
        if len(found) == 3:
            break
    state = loader.state_dict()
    found += [digest(batch) for batch in loader.to("cpu")]
    assert found == expected
    other = A.StreamLoader(dataset).to("cpu")
    other.load_state_dict(state)
    assert [digest(batch) for batch in other] == expected[3:]


@pytest.mark.parametrize(
    "compose",
    [
        A.Compose([A.CenterCrop(20, 20), A.ToTensorV2()]),
        A.Compose([A.CenterCrop(20, 20), A.Normalize()]),
        A.Compose([A.CenterCrop(20, 20), A.Normalize(p=0.5), A.ToTensorV2()]),
        A.Compose([A.CenterCrop(20, 20), A.Normalize(), A.ToTensorV2()], fused=False),
    ],
)
def test_other_pipelines_are_moved_as_they_are(compose: A.Compose, shards: list[str]) -> None:
    dataset = dataset_of(shards, compose, on_error="raise")
    assert not can_defer(dataset.stream.stage)
    try:
        expected = [digest(batch) for batch in A.StreamLoader(dataset)]
    except A.SampleError:
        return  # now floats, now bytes: no batch, on any device
    assert [digest(batch) for batch in A.StreamLoader(dataset).to("cpu")] == expected


def test_what_is_float_before_the_last_step_says_so(shards: list[str]) -> None:
    compose = A.Compose([A.CenterCrop(20, 20), A.Lambda(image=halved, p=1), A.Normalize(), A.ToTensorV2()])
    loader = A.StreamLoader(dataset_of(shards, compose)).to("cpu")
    with pytest.raises(A.SampleError, match=r"float32, not uint8; call loader.to\(device, defer=False\)"):
        next(iter(loader))
    assert next(iter(loader.to("cpu", defer=False)))["image"].dtype == torch.float32


def halved(image: np.ndarray, **_: Any) -> np.ndarray:
    return (image / 510).astype(np.float32)


def test_everything_goes_to_the_device(shards: list[str]) -> None:
    loader = A.StreamLoader(dataset_of(shards, PIPELINES["R1"])).to("meta")
    batch = next(iter(loader))
    assert batch["image"].device.type == "meta"
    assert batch["image"].shape == (4, 3, 24, 32)
    assert batch["image"].dtype == torch.float32
    assert batch["cls"].device.type == "meta"
    assert isinstance(batch["__key__"], list)


class Heavy(torch.Tensor):
    """A tensor that a device has room for a few times."""

    num_left = 0

    def to(self, *args: Any, **kwargs: Any) -> Any:
        if Heavy.num_left == 0:
            msg = "out of memory"
            raise RuntimeError(msg)
        Heavy.num_left -= 1
        return super().to(*args, **kwargs)


def heavy(samples: list[dict[str, Any]]) -> Any:
    return torch.tensor([int(sample["__key__"]) for sample in samples]).as_subclass(Heavy)


@pytest.mark.parametrize("arguments", [{}, {"num_workers": 2, "workers": "thread"}, {"num_workers": 2}])
def test_a_batch_that_did_not_arrive_was_not_delivered(arguments: dict[str, Any], shards: list[str]) -> None:
    dataset = dataset_of(shards, collate_fn=heavy)
    with A.StreamLoader(dataset, **arguments) as loader:
        whole = [batch.tolist() for batch in loader]
        loader.set_epoch(0)
        loader.to("cpu")
        got: list[list[int]] = []
        for Heavy.num_left in (0, 2, 3):
            with pytest.raises(RuntimeError, match="out of memory"):
                got.extend(batch.tolist() for batch in loader)
            assert loader.state_dict()["units"] == len(got)
        Heavy.num_left = -1
        assert got + [batch.tolist() for batch in loader] == whole
        assert loader.stats.batches == 2 * len(whole)


def test_tables_are_looked_up_by_image_and_channel() -> None:
    images = torch.randint(0, 256, (3, 2, 4, 5), dtype=torch.uint8)
    tables = torch.randn(3, 256, 2)
    found = look_up(images, tables)
    for i, c, y, x in np.ndindex(3, 2, 4, 5):
        assert found[i, c, y, x] == tables[i, int(images[i, c, y, x]), c]
    assert torch.equal(gathered(images, tables.transpose(1, 2)), found)  # as other devices do it
    assert look_up(images[:0], tables[:0]).shape == (0, 2, 4, 5)
    assert torch.equal(
        look_up(images, tables[:, :, :1])[:, 1], look_up(images[:, 1:], tables[:, :, :1])[:, 0]
    )


def mixture(shards: list[str], *composes: A.Compose) -> A.Mixture:
    datasets = {str(number): dataset_of(shards, compose) for number, compose in enumerate(composes)}
    return A.Mixture(datasets, weights=dict.fromkeys(datasets, 1.0), seed=5)


def test_a_mixture_sends_bytes_if_all_its_sources_can(shards: list[str]) -> None:
    both = mixture(shards, recipe(), recipe(A.InvertImg(p=1)))
    loader = A.StreamLoader(both).to("cpu")
    assert loader._stream.maker().make(0, range(1)).batch["image"].dtype == np.uint8
    assert [digest(batch) for batch in loader] == [digest(batch) for batch in A.StreamLoader(both)]
    one = mixture(shards, recipe(), A.Compose([A.RandomResizedCrop(size=(24, 32)), A.Normalize()]))
    assert A.StreamLoader(one).to("cpu")._stream is one.stream
