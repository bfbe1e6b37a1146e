"""Joined operations give the bits of the operations done one by one, in pipelines of any transforms in any order."""

from __future__ import annotations

from typing import Any

import catalogue_geometry
import catalogue_pixels
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import augstream as A
from augstream.images.encoded import EncodedImage
from augstream.images.pixels import decode_image

HEIGHT, WIDTH = 212, 251  # more than 40,000 pixels: large enough to be decoded in parts

Case = tuple[str, dict[str, Any]]
# What waits on a canvas, and what asks for its pixels, come equally often.
VIEWS: list[Case] = [
    ("HorizontalFlip", {"p": 0.5}),
    ("VerticalFlip", {"p": 0.5}),
    ("Transpose", {"p": 0.5}),
    ("RandomRotate90", {"p": 1}),
    ("D4", {"p": 1}),
    ("RandomCrop", {"height": 60, "width": 70, "pad_if_needed": True}),
    ("CenterCrop", {"height": 50, "width": 40, "pad_if_needed": True}),
    ("RandomResizedCrop", {"size": (48, 56)}),
    ("RandomBrightnessContrast", {"p": 0.7}),
    ("InvertImg", {"p": 0.5}),
    ("Solarize", {"p": 0.5}),
    ("Posterize", {"p": 0.5}),
    ("RandomGamma", {"p": 0.5}),
    ("RGBShift", {"p": 0.5}),
    ("ChannelShuffle", {"p": 0.5}),
]
OTHERS: list[Case] = [
    case
    for case in [*catalogue_geometry.CASES, *catalogue_pixels.CASES, *catalogue_geometry.RGB_CASES]
    if case[0] not in {"ToTensorV2", "Normalize", "ToFloat", "Crop", "FromFloat"}
]
ENDS: list[list[Case]] = [
    [],
    [("Normalize", {})],
    [("ToTensorV2", {})],
    [("Normalize", {}), ("ToTensorV2", {})],
    [("ToFloat", {}), ("ToTensorV2", {})],
    [("Normalize", {"normalization": "image"}), ("ToTensorV2", {"transpose_mask": True})],
]


def made(case: Case) -> Any:
    return getattr(A, case[0])(**case[1])


@st.composite
def nodes(draw: st.DrawFn) -> Any:
    """A transform, or now and then a composition of some."""
    case = st.one_of(st.sampled_from(VIEWS), st.sampled_from(OTHERS))
    kind = draw(st.sampled_from(["one"] * 6 + ["OneOf", "SomeOf", "Sequential"]))
    if kind == "one":
        return made(draw(case))
    inner = [made(one) for one in draw(st.lists(case, min_size=1, max_size=3))]
    if kind == "SomeOf":
        return A.SomeOf(inner, n=min(2, len(inner)), p=1)
    return getattr(A, kind)(inner, p=0.8)


@st.composite
def pipelines(draw: st.DrawFn) -> list[Any]:
    body = draw(st.lists(nodes(), min_size=1, max_size=6))
    return [*body, *[made(case) for case in draw(st.sampled_from(ENDS))]]


def photograph() -> np.ndarray:
    coarse = np.random.default_rng(4).integers(0, 256, (30, 33, 3), np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


JPEG = cv2.imencode(".jpg", photograph())[1].tobytes()
PIXELS = decode_image(JPEG)
MASK = (PIXELS[:, :, 0] // 50).astype(np.uint8)


def outcome(transforms: list[Any], number: int, image: Any, *, fused: bool) -> Any:
    compose = A.Compose(
        transforms, seed=11, fused=fused, bbox_params=A.BboxParams("coco", label_fields=["names"])
    )
    stage = compose.stage()
    data = {"image": image, "mask": MASK, "bboxes": [[20, 30, 90, 80]], "names": ["box"]}
    try:
        return stage(data, number.to_bytes(16, "little"))
    except (A.AugstreamError, ValueError, cv2.error) as error:
        return type(error)


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, type) or isinstance(second, type):
        assert first is second
        return
    assert list(first) == list(second)
    for name in ("image", "mask"):
        assert first[name].dtype == second[name].dtype
        assert np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
    assert first["bboxes"] == second["bboxes"]
    assert first["names"] == second["names"]


@settings(max_examples=150)
@given(pipelines(), st.integers(0, 2**64))
def test_joined_or_one_by_one_the_bits_are_the_same(transforms: list[Any], number: int) -> None:
    expected = outcome(transforms, number, PIXELS, fused=False)
    assert_same(outcome(transforms, number, PIXELS, fused=True), expected)
    encoded = EncodedImage.of(JPEG, "region")
    assert_same(outcome(transforms, number, encoded, fused=True), expected)


@given(pipelines(), st.integers(0, 2**64))
def test_a_result_written_into_given_memory_is_the_same(transforms: list[Any], number: int) -> None:
    stage = A.Compose(transforms, seed=11).stage()
    key = number.to_bytes(16, "little")
    try:
        alone = stage({"image": PIXELS}, key)["image"]
    except (A.AugstreamError, ValueError, cv2.error):
        return
    room = np.zeros((2, *alone.shape), alone.dtype)
    there = stage({"image": PIXELS}, key, room[1])["image"]
    assert np.array_equal(alone, there, equal_nan=alone.dtype.kind == "f")
    assert not room[0].any()


def test_a_call_gives_the_stages_numbers_as_tensors() -> None:
    compose = A.Compose([made(VIEWS[7]), made(("Normalize", {})), made(("ToTensorV2", {}))], seed=3)
    tensor = compose.at("x")(image=PIXELS)["image"]
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (3, 48, 56)
    assert tensor.is_contiguous()


def test_the_plan_says_what_is_joined() -> None:
    compose = A.Compose(
        [
            A.RandomResizedCrop(size=(224, 224)),
            A.HorizontalFlip(p=0.5),
            A.OneOf([A.InvertImg(p=1), A.GaussianBlur(p=1)], p=0.3),
            A.Normalize(),
            A.ToTensorV2(),
        ]
    )
    lines = compose.plan().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "2.0", "2.1", "3", "4"]
    assert "put off" in lines[0]
    assert "a view" in lines[1]
    assert "a table" in lines[3]
    assert "on pixels" in lines[4]
    assert "a table of floats" in lines[5]
    assert "planes" in lines[6]


def test_without_joining_the_plan_says_so() -> None:
    plan = A.Compose([A.HorizontalFlip(), A.OneOf([A.InvertImg()]), A.ToTensorV2()], fused=False).plan()
    assert [line.count("by itself") for line in plan.splitlines()] == [1, 0, 1, 0]


class Counted:
    """The photograph as a source that counts how often its pixels were asked for."""

    shape = PIXELS.shape
    dtype = PIXELS.dtype

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, box: Any, at_least: Any = None) -> np.ndarray:
        self.asked += 1
        y0, x0, y1, x1 = box or (0, 0, HEIGHT, WIDTH)
        return PIXELS[y0:y1, x0:x1]


# These read the image to decide what to do with it, or pad an image that is too small for the crop.
READERS = {
    "RandomBrightnessContrast": "brightness_by_max",
    "Normalize": "normalization",
    "RandomCrop": "pad_if_needed",
    "CenterCrop": "pad_if_needed",
    "Crop": "pad_if_needed",
}
PUT_OFF = [
    (name, {**arguments, "p": 1})
    for name, arguments in [*VIEWS, *OTHERS, *ENDS[1], *ENDS[2], *ENDS[4]]
    if getattr(A, name).plan_kind != "pixels" and READERS.get(name, "none") not in arguments
]


@pytest.mark.parametrize("case", PUT_OFF, ids=str)
def test_what_the_plan_puts_off_touches_no_pixel(case: Case) -> None:
    stage, source = A.Compose([made(case)], seed=1).stage(), Counted()
    begun = stage.begin({"image": source}, bytes(16))
    assert source.asked == 0
    stage.finish(begun, {"image": source})
    assert source.asked == 1
