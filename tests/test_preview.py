"""Explaining, picturing and previewing samples of a real stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import augstream as A
from augstream.testing import make_shards
from augstream.tools.explain import explain, explain_address
from augstream.tools.pictures import annotated, encoded, picture_of, sheet, thumbnail
from augstream.tools.preview import Place, _Album, choose, contact_sheet, page, stages_sheet


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


def test_text_of_the_data_cannot_leave_its_element(tmp_path: Path) -> None:
    make_shards(tmp_path, num_samples=2, num_shards=1)
    dataset = A.StreamDataset(str(tmp_path), None, batch_size=1, seed=1)
    shard, key = choose(dataset, 1)[0]
    text = page(dataset, [Place(0, shard, key)], title="</script><script>alert(1)</script>")
    assert "<script>alert" not in text


@pytest.mark.parametrize("image", [
    np.zeros((5, 7), np.uint8), np.zeros((5, 7, 1), np.float32), np.full((3, 5, 7), -2.0, np.float32),
    np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7, 6), np.uint8),
])  # fmt: skip
def test_any_image_becomes_a_picture(image: np.ndarray) -> None:
    picture = picture_of(image)
    assert picture.shape == (5, 7, 3)
    assert picture.dtype == np.uint8


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
