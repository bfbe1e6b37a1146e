"""Explaining, picturing and previewing samples of a real stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import augstream as A
from augstream.cli import main
from augstream.testing import make_shards
from augstream.tools.explain import explain, explain_address
from augstream.tools.pictures import annotated, encoded, picture_of, sheet, size_of, thumbnail
from augstream.tools.preview import (
    THUMBNAIL_PIXELS,
    Place,
    _Album,
    _histogram,
    choose,
    contact_sheet,
    page,
    stages_sheet,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    make_shards(tmp_path, num_samples=12, num_shards=2)
    transform = A.Compose(
        [
            A.RandomResizedCrop(size=(24, 32)),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(p=0.7),
            A.OneOf([A.VerticalFlip(p=1), A.ChannelShuffle(p=1)], p=0.5),
            A.Normalize(),
            A.ToTensorV2(),
        ]
    )
    return A.StreamDataset(str(tmp_path), transform, batch_size=4, seed=137)


def test_the_last_step_is_what_the_stream_delivers(dataset: Any) -> None:
    for batch in dataset:
        for place, (shard, key) in enumerate(zip(batch["__shard__"], batch["__key__"], strict=True)):
            found = explain(dataset, epoch=0, shard=shard, key=key)
            assert np.array_equal(found.after["image"], batch["image"][place].numpy())
            assert len(found.steps) == 6


def test_gates_and_records_agree(dataset: Any) -> None:
    ran = []
    for shard, key in choose(dataset, 12):
        for step in explain(dataset, epoch=3, shard=shard, key=key).steps:
            assert bool(step.applied) == (step.gate < step.p or step.p == 1)
            ran.append(bool(step.applied))
    assert not all(ran), "a pipeline of gates should close some"


def test_explaining_is_json_able(dataset: Any) -> None:
    shard, key = choose(dataset, 1)[0]
    found = explain(dataset, epoch=1, shard=shard, key=key)
    assert json.loads(json.dumps(found.to_dict()))["address"] == found.address


def test_an_address_of_another_stream_is_refused(dataset: Any) -> None:
    shard, key = choose(dataset, 1)[0]
    with pytest.raises(A.RecipeError, match="seed 5, and this stream has seed 137"):
        explain_address(dataset, A.Address(5, epoch=0, shard=shard, sample=key))
    with pytest.raises(A.RecipeError, match="names no single sample"):
        explain_address(dataset, A.Address(137, epoch=0, shard=shard))
    with pytest.raises(A.RecipeError, match="needs epoch"):
        explain_address(dataset, A.Address(137, shard=shard, sample=key))


def test_an_address_from_a_batch_is_explained(dataset: Any) -> None:
    shard, key = choose(dataset, 1)[0]
    wanted = explain(dataset, epoch=2, shard=shard, key=key)
    found = explain_address(dataset, A.Address.parse(wanted.address))
    assert np.array_equal(found.after["image"], wanted.after["image"])


def test_choosing_is_repeatable_and_without_repetition(dataset: Any) -> None:
    assert choose(dataset, 7) == choose(dataset, 7)
    assert len(set(choose(dataset, 100))) == 12


def test_the_sheets_have_a_cell_for_each_picture(dataset: Any) -> None:
    chosen = choose(dataset, 2)
    picture = contact_sheet(dataset, chosen, range(3), size=40)
    assert picture.shape == (2 * (40 + 18 + 4), 4 * (40 + 4), 3)
    found = explain(dataset, epoch=0, shard=chosen[0][0], key=chosen[0][1])
    assert stages_sheet(dataset, found, size=40).shape == (2 * (40 + 34 + 4), 6 * (40 + 4), 3)


def test_the_page_holds_everything_in_itself(dataset: Any) -> None:
    places = [Place(epoch, shard, key) for epoch in range(2) for shard, key in choose(dataset, 10)]
    text = page(dataset, places)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert len(text) / len(places) < 25_000, "200 samples must stay below 5 MB"
    data = json.loads(data_of(text))
    assert len(data["entries"]) == 20
    assert {gate["name"] for gate in data["gates"]} >= {"0 RandomResizedCrop", "1 HorizontalFlip"}
    rate = next(gate["rate"] for gate in data["gates"] if gate["name"] == "1 HorizontalFlip")
    assert 0 < rate < 1


def test_two_hundred_samples_stay_below_five_megabytes(tmp_path: Path) -> None:
    """Of noise, which compresses worse than any photograph; with four epochs of each, as is usual."""
    make_shards(tmp_path, num_samples=200, num_shards=2, size=(160, 200))
    transform = A.Compose([A.RandomResizedCrop(size=(160, 160)), A.GaussNoise(std_range=(0.4, 0.4), p=1)])
    dataset = A.StreamDataset(str(tmp_path), transform, batch_size=4, seed=137)
    text = page(dataset, [Place(0, shard, key) for shard, key in choose(dataset, 200)])
    assert len(text) < 5_000_000
    noise = np.random.default_rng(0).integers(0, 256, (16, 160, 160, 3), np.uint8)
    album = _Album()
    for number in range(1000):
        album.add(noise[number % 16])
    others = len(text) - sum(map(len, json.loads(data_of(text))["pictures"]))
    assert sum(map(len, album.encoded())) + 4 * others < 5_000_000


def data_of(text: str) -> str:
    start = text.index('type="application/json">') + len('type="application/json">')
    return text[start : text.index("</script>", start)]


def test_an_original_is_in_the_page_once(dataset: Any) -> None:
    places = [Place(epoch, shard, key) for epoch in range(3) for shard, key in choose(dataset, 4)]
    data = json.loads(data_of(page(dataset, places)))
    assert len(data["pictures"]) == 4 * (1 + 3)
    assert len({entry["pictures"][0] for entry in data["entries"]}) == 4


def test_statistics_count_what_is_there(dataset: Any) -> None:
    places = [Place(epoch, shard, key) for epoch in range(2) for shard, key in choose(dataset, 12)]
    data = json.loads(data_of(page(dataset, places)))
    found = [explain(dataset, epoch=place.epoch, shard=place.shard, key=place.key) for place in places]
    brightness = next(measure for measure in data["measures"] if measure["name"] == "brightness")
    before, after = (series["mean"] for series in brightness["series"])
    assert before == pytest.approx(np.mean([one.before["image"].mean() for one in found]))
    assert after == pytest.approx(np.mean([one.steps[3].sample["image"].mean() for one in found]))
    widths = next(measure for measure in data["measures"] if measure["name"] == "width in pixels")
    assert widths["series"][1]["mean"] == 32
    assert all(sum(series["counts"]) == 24 for series in widths["series"])
    names = [drawn["name"] for drawn in data["drawn"]]
    assert names[:4] == [f"0 RandomResizedCrop.crop_coords[{place}]" for place in range(4)]
    assert "2 RandomBrightnessContrast.alpha" in names


@pytest.mark.parametrize(
    "values", [[3.0, 3.0], [0.0, 0.0], [1e20, 1e20], [81.36380567407558, 81.36380567407559]]
)
def test_values_that_are_next_to_equal_have_a_histogram(values: list[float]) -> None:
    found = _histogram("x", {"": values})
    assert sum(found["series"][0]["counts"]) == 2
    assert found["low"] < values[0] < found["high"]


def test_text_of_the_data_cannot_leave_its_element(tmp_path: Path) -> None:
    make_shards(tmp_path, num_samples=2, num_shards=1)
    dataset = A.StreamDataset(str(tmp_path), None, batch_size=1, seed=1)
    shard, key = choose(dataset, 1)[0]
    text = page(dataset, [Place(0, shard, key)], title="</script><script>alert(1)</script>")
    assert "<script>alert" not in text


class Odd(A.ImageOnlyTransform):
    """Fails at pictures that are darker than others; draws numbers of many types."""

    def get_params(self) -> dict[str, Any]:
        numbers = {
            "number": np.int64(self.py_random.randrange(9)),
            "far": float("inf"),
            "none": np.float32("nan"),
        }
        return {
            **numbers,
            "few": np.array([[1, 2], [3, 4]]),
            "many": np.zeros((50, 50), np.float32),
            "raw": b"a",
        }

    def apply(self, img: Any, **_: Any) -> Any:
        if img.mean() < 110:
            raise ValueError
        return img


ODD = A.Compose([Odd(p=1)])


@pytest.fixture
def odd(tmp_path: Path) -> A.StreamDataset:
    make_shards(tmp_path, num_samples=12, num_shards=1, size=(40, 56))
    return A.StreamDataset(str(tmp_path), ODD, batch_size=1, seed=5)


def test_what_failed_is_dim_and_what_was_drawn_is_told_in_json(odd: Any) -> None:
    chosen = choose(odd, 12)
    sheet_of_all = contact_sheet(odd, chosen, [0], size=40)
    failed = [explain(odd, epoch=0, shard=shard, key=key).error is not None for shard, key in chosen]
    assert 0 < sum(failed) < 12
    for row, has_failed in enumerate(failed):
        top = row * (40 + 18 + 4) + 2
        before, after = sheet_of_all[top : top + 40, 2:42], sheet_of_all[top : top + 40, 46:86]
        assert np.array_equal(after, before // 3 if has_failed else before)
    data = json.loads(data_of(page(odd, [Place(0, shard, key) for shard, key in chosen])))
    ran = next(step for entry in data["entries"] for step in entry["steps"] if "error" not in step)
    params = ran["applied"][0]["params"]
    assert params.pop("number") in range(9)
    few = [[1, 2], [3, 4]]
    assert params == {
        "far": "inf",
        "none": "nan",
        "few": few,
        "many": "float32 array of 50 x 50",
        "raw": "61",
    }
    assert "0 Odd.number" in [drawn["name"] for drawn in data["drawn"]]


@pytest.mark.parametrize("name", ["sheet.png", "page.html"])
def test_the_command_says_how_many_failed(odd: Any, tmp_path: Path, capsys: Any, name: str) -> None:
    command = ["preview", str(tmp_path), "--out", str(tmp_path / name), "--epochs", "2", "--samples", "12"]
    assert main([*command, "--pipeline", "test_preview:ODD", "--seed", "5"]) == 1
    wrote, said, see = capsys.readouterr().out.splitlines()
    chosen = choose(odd, 12)
    by_sample, by_epoch = (
        [(e, *one) for one in chosen for e in (0, 1)],
        [(e, *one) for e in (0, 1) for one in chosen],
    )
    shown = [
        explain(odd, epoch=epoch, shard=shard, key=key)
        for epoch, shard, key in (by_sample if name == "sheet.png" else by_epoch)
    ]
    failed = [one for one in shown if one.error is not None]
    assert wrote == f"wrote {tmp_path / name}: 12 samples, 2 epochs"
    assert said == f"{len(failed)} of 24 failed, the first by ValueError: "
    assert see == f"to see it: augstream replay '{failed[0].address}' SHARDS --pipeline ..."
    assert main(command) == 0


def test_what_is_done_to_floats_is_shown(tmp_path: Path) -> None:
    """Only `Normalize` and its like at the very end are left out of the picture, and of its statistics."""
    make_shards(tmp_path, num_samples=2, num_shards=1, size=(40, 56))
    for last in ([A.RandomCrop(20, 30), A.HorizontalFlip(p=1)], [A.ToTensorV2(), A.NoOp(p=0)]):
        transform = A.Compose([A.VerticalFlip(p=1), A.Normalize(), *last])
        dataset = A.StreamDataset(str(tmp_path), transform, batch_size=1, seed=5)
        shard, key = choose(dataset, 1)[0]
        found = explain(dataset, epoch=0, shard=shard, key=key)
        shown = contact_sheet(dataset, [(shard, key)], [0], size=40)[2:42, 46:86]
        is_float = isinstance(last[0], A.RandomCrop)
        wanted = found.after if is_float else found.steps[0].sample
        assert np.array_equal(shown, thumbnail(annotated(wanted, least=THUMBNAIL_PIXELS), 40))
        data = json.loads(data_of(page(dataset, [Place(0, shard, key)])))
        assert data["entries"][0]["sizes"] == [
            size_of(found.before),
            "30 x 20" if is_float else size_of(found.before),
        ]


@pytest.mark.parametrize(
    "image", [None, [np.zeros((4, 4, 3))], np.float32(3), np.zeros((2, 3, 4, 5)), np.zeros((0, 4, 3))]
)
def test_a_sample_without_a_picture_is_a_dark_square(tmp_path: Path, image: Any) -> None:
    make_shards(tmp_path, num_samples=2, num_shards=1)
    fields = {"label": "cls"} if image is None else None
    transform = None if image is None else lambda sample: {**sample, "image": image}
    dataset = A.StreamDataset(str(tmp_path), transform, batch_size=1, seed=1, fields=fields)
    chosen = choose(dataset, 2)
    assert (contact_sheet(dataset, chosen, [0], size=40)[2:42, 46:86] == 24).all()
    data = json.loads(data_of(page(dataset, [Place(0, *one) for one in chosen])))
    assert data["entries"][0]["sizes"][1] == "no image"
    assert all(len(measure["series"]) == 1 for measure in data["measures"])


@pytest.mark.parametrize("image", [
    np.full((5, 7, 3), np.nan), np.array([[[np.inf, -np.inf, np.nan]] * 7] * 5), np.zeros((4, 5, 7), np.uint8),
    np.zeros((5, 7), np.uint8), np.zeros((5, 7, 1), np.float32), np.full((3, 5, 7), -2.0, np.float32),
    np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7, 6), np.uint8),
])  # fmt: skip
def test_any_image_becomes_a_picture(image: np.ndarray) -> None:
    picture = picture_of(image)
    assert picture.shape == (5, 7, 3)
    assert picture.dtype == np.uint8


def test_transparency_is_left_out_of_a_picture() -> None:
    image = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)
    assert np.array_equal(picture_of(image), image[:, :, :3])
    assert np.array_equal(picture_of(image.transpose(2, 0, 1)), image[:, :, :3])


def test_boxes_are_drawn_where_they_are_whatever_the_format() -> None:
    sample = {"image": np.zeros((40, 60, 3), np.uint8)}
    pictures = [
        annotated({**sample, "bboxes": [box]}, bbox_format=name)
        for name, box in {
            "pascal_voc": (10, 20, 40, 30), "coco": (10, 20, 30, 10),
            "albumentations": (10 / 60, 0.5, 40 / 60, 0.75), "yolo": (25 / 60, 25 / 40, 0.5, 0.25),
        }.items()
    ]  # fmt: skip
    assert pictures[0][20, 10].any()
    for picture in pictures[1:]:
        assert np.array_equal(picture, pictures[0])


def test_thumbnails_and_sheets_become_files() -> None:
    picture = sheet(
        [
            [thumbnail(np.full((4, 8, 3), 200, np.uint8), 16)] * 2,
            [thumbnail(np.zeros((8, 4, 3), np.uint8), 16)],
        ]
    )
    back = cv2.imdecode(np.frombuffer(encoded(picture), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(back, picture)
