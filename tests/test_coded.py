"""Codes: what images that end in a table of floats are told by, whichever way they were made."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from engine import dataset_of

import augstream as A
from augstream.augment import as_stage
from augstream.ledgers.coded import TOLD, Code, CodedStage, coded
from augstream.ledgers.marks import marks_of

KEY = bytes(16)
PICTURE = np.random.default_rng(5).integers(0, 256, (61, 47, 3), np.uint8)
ENDS = [
    A.Normalize(), A.Normalize(mean=0.4, std=0.3), A.ToFloat(), A.ToFloat(max_value=200.0),
    A.Normalize(mean=(0.5, 0.25, 0.5), std=(0.5, 0.1, 0.9)),
]  # fmt: skip
BEFORE = [
    [],
    [A.RandomResizedCrop(size=(24, 32)), A.HorizontalFlip(p=1)],  # too small for arithmetic
    [A.RandomResizedCrop(size=(40, 50)), A.RandomBrightnessContrast(p=1)],  # a table that waits
    [A.ColorJitter(0.3, 0.3, 0.3, 0.1, p=1), A.Transpose(p=1)],
]


def told(transforms, image=PICTURE, **arguments):
    """What the image is told by, and the image."""
    stage = coded(as_stage(A.Compose([*transforms, A.ToTensorV2()], **arguments)))
    made = stage({"image": image}, KEY)
    return made.get(TOLD), made["image"]


@pytest.mark.parametrize("end", ENDS, ids=repr)
@pytest.mark.parametrize("before", BEFORE, ids=len)
@pytest.mark.parametrize("image", [PICTURE, PICTURE[..., :1], PICTURE[..., 0]], ids=["rgb", "one", "grey"])
def test_an_image_is_told_by_the_same_whichever_way_it_was_made(end, before, image) -> None:
    if image.shape[2:] != (3,):
        before = [one for one in before if not isinstance(one, A.ColorJitter)]
        end = A.Normalize(mean=0.4, std=0.3) if isinstance(end, A.Normalize) else end
    fused, pixels = told([*before, end], image)
    unfused, others = told([*before, end], image, fused=False)
    assert np.array_equal(pixels, others)
    assert fused is not None
    assert fused == unfused
    other, others = told([*before, A.HorizontalFlip(p=1), end], image)
    assert not np.array_equal(pixels, others)
    assert other not in {None, fused}


def test_other_floats_are_other_codes() -> None:
    assert len({told([end])[0] for end in ENDS}) == len(ENDS)
    assert told([A.Normalize(mean=0.4, std=0.3)])[0] == told([A.Normalize(mean=(0.4,) * 3, std=0.3)])[0]


@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_a_code_is_found_from_its_floats_alone(end) -> None:
    code = Code.of(end.constants(3), 3)
    floats = np.stack([column[PICTURE[..., channel]] for channel, column in enumerate(code.columns)])
    assert np.array_equal(code.numbers(floats), PICTURE.transpose(2, 0, 1))
    for odd in (np.nextafter(floats[1, 3, 4], np.float32(9)), np.float32(np.nan), np.float32(np.inf)):
        changed = floats.copy()
        changed[1, 3, 4] = odd
        assert code.numbers(changed) is None


def test_what_has_no_code_is_told_by_its_bytes() -> None:
    assert told([A.Normalize(normalization="image")])[0] is None
    assert told([A.Normalize()], (PICTURE / 255).astype(np.float32))[0] is None
    assert told([A.Normalize(mean=1e9, std=1.0, max_pixel_value=1)])[0] is None, "its floats are not 256"


@pytest.mark.parametrize("compose", [
    A.Compose([A.Normalize()]), A.Compose([A.Normalize(), A.ToTensorV2()], p=0.5), A.Compose([A.ToTensorV2()]),
    A.Compose([A.Normalize(p=0.5), A.ToTensorV2()]), A.Compose([A.Sequential([A.Normalize(), A.ToTensorV2()])]),
])  # fmt: skip
def test_a_stage_that_may_end_otherwise_is_left_alone(compose) -> None:
    stage = as_stage(compose)
    assert coded(stage) is stage
    assert isinstance(coded(as_stage(A.Compose([A.Normalize(), A.ToTensorV2()]))), CodedStage)


def test_marks_are_those_of_the_floats_that_are_delivered(shards) -> None:
    """The ledger's digests, whether floats were made in one step or one by one; and found from them afterwards."""
    transforms = [A.RandomResizedCrop(size=(40, 50)), A.ColorJitter(p=0.5), A.Normalize(), A.ToTensorV2()]
    made = []
    for fused in (True, False):
        stream = dataset_of(shards, A.Compose(transforms, fused=fused)).stream
        made.append(dataclasses.replace(stream, marks=True).maker().make(0, range(2)))
    assert made[0].marks == made[1].marks
    assert np.array_equal(made[0].batch["image"], made[1].batch["image"])
    names = list(zip(made[0].batch["__shard__"], made[0].batch["__key__"], strict=True))
    batch = {name: value for name, value in made[0].batch.items() if name != "image"}
    fields = dict(marks_of(batch, names, len(names)).fields)
    assert {name: short for name, short in made[0].marks.fields if name != "image"} == fields


def test_arithmetic_that_goes_astray_is_seen_in_the_first_image() -> None:
    stage = coded(as_stage(A.Compose([A.Normalize(), A.ToTensorV2()])))
    rows = [stage({"image": PICTURE}, KEY) for _ in range(2)]
    images = np.stack([np.asarray(row["image"]) for row in rows])
    ready = {"image": [row[TOLD] for row in rows]}
    names = [("a.tar", "0"), ("a.tar", "1")]
    before = marks_of({"image": images}, names, 2, ready)
    images[0, 0, 1, 3] = np.nextafter(images[0, 0, 1, 3], np.float32(9))
    after = marks_of({"image": images}, names, 2, ready)
    assert after.digest != before.digest
    assert after.samples == before.samples
