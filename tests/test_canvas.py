from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.canvas import Canvas
from augstream.transforms.levels import Levels
from augstream.transforms.lookup import look_up

DTYPES = [np.uint8, np.float32, np.int64, np.bool_, np.uint16]
SHAPES = [(7, 9), (20, 13, 3), (8, 8, 1), (11, 6, 5), (9, 7, 4), (1, 5, 3)]


def image(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape) * 255
    return values.astype(dtype)


def as_planes(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@st.composite
def journeys(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[str, Any]], bool]:
    array = image(draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES)))
    names = ["hflip", "vflip", "transpose", "rot90", "crop", "pixels", "table", "tables", "floats"]
    steps = [
        (name, draw(st.integers(0, 2**32 - 1))) for name in draw(st.lists(st.sampled_from(names), max_size=9))
    ]
    return array, steps, draw(st.booleans())


def plain_step(array: np.ndarray, name: str, number: int, canvas: Canvas) -> np.ndarray:
    """One step done at once with numpy, and told to the canvas."""
    rng = np.random.default_rng(number)
    num_channels = array.shape[2] if array.ndim == 3 else 1
    if name == "crop":
        height, width = array.shape[:2]
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        y1, x1 = int(rng.integers(y0 + 1, height + 1)), int(rng.integers(x0 + 1, width + 1))
        canvas.crop(y0, x0, y1, x1)
        return array[y0:y1, x0:x1]
    if name == "rot90":
        for _ in range(number % 7):
            canvas.transpose()
            canvas.vflip()
        return np.rot90(array, number % 7)
    if name == "pixels":
        assert np.array_equal(canvas.pixels(), array)
        return array
    if name in {"table", "tables", "floats"}:
        if array.dtype != np.uint8:
            return array
        if name == "table":
            table = rng.integers(0, 256, 256).astype(np.uint8)
            canvas.table(table)
            return table[array]
        columns = rng.integers(0, 256, (256, num_channels))
        columns = columns.astype(np.uint8) if name == "tables" else columns.astype(np.float32) / 3
        canvas.table(columns) if name == "tables" else canvas.levels(Levels(columns))
        flat = array.reshape(*array.shape[:2], num_channels)
        return columns[flat, np.arange(num_channels)].reshape(array.shape)
    getattr(canvas, name)()
    return {"hflip": array[:, ::-1], "vflip": array[::-1], "transpose": array.swapaxes(0, 1)}[name]


@given(journeys())
def test_pending_work_equals_the_work_done_step_by_step(
    journey: tuple[np.ndarray, list[tuple[str, Any]], bool],
) -> None:
    array, steps, planar = journey
    before = array.copy()
    canvas, expected = Canvas(array), array
    for name, number in steps:
        expected = plain_step(expected, name, number, canvas)
        assert canvas.shape == expected.shape
        assert canvas.dtype == expected.dtype
    if planar:
        canvas.layout = "chw"
        expected = as_planes(expected)
    finished = canvas.finish()
    assert finished.dtype == expected.dtype
    assert finished.flags.c_contiguous
    assert np.array_equal(finished, expected)
    assert np.array_equal(array, before), "the caller's image was changed"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("planar", [False, True])
def test_finishing_writes_into_the_memory_that_is_given(shape: tuple[int, ...], planar: bool) -> None:
    array = image(shape, np.uint8)
    num_channels = shape[2] if len(shape) == 3 else 1
    table = np.linspace(-1, 1, 256 * num_channels, dtype=np.float32).reshape(256, num_channels)
    canvas = Canvas(array)
    canvas.hflip()
    canvas.levels(Levels(table))
    expected = look_up(np.ascontiguousarray(array[:, ::-1]), table)
    if planar:
        canvas.layout = "chw"
        expected = as_planes(expected)
    out = np.full(expected.shape, 7, np.float32)
    assert canvas.finish(out) is out
    assert np.array_equal(out, expected)


def test_memory_of_another_shape_is_left_alone() -> None:
    canvas = Canvas(image((4, 5, 3), np.uint8))
    out = np.zeros((5, 5, 3), np.uint8)
    finished = canvas.finish(out)
    assert finished.shape == (4, 5, 3)
    assert not out.any()


def test_a_source_is_asked_for_the_box_alone() -> None:
    pixels = image((30, 40, 3), np.uint8)

    class Encoded:
        shape = pixels.shape
        dtype = pixels.dtype
        boxes: ClassVar[list[Any]] = []

        def decode(self, box: Any, at_least: Any = None) -> np.ndarray:
            self.boxes.append(box)
            y0, x0, y1, x1 = box
            return pixels[y0:y1, x0:x1].copy()

    source = Encoded()
    canvas = Canvas(source)
    canvas.crop(3, 4, 20, 30)
    canvas.hflip()
    canvas.crop(0, 0, 10, 10)
    assert canvas.shape == (10, 10, 3)
    assert source.boxes == [], "drawing parameters must not decode"
    assert np.array_equal(canvas.pixels(), pixels[3:20, 4:30][:, ::-1][:10, :10])
    assert source.boxes == [(3, 20, 13, 30)]


@pytest.mark.parametrize("target", ["image", "images", "mask"])
@pytest.mark.parametrize("fused", [True, False])
def test_nothing_may_follow_the_change_of_layout(target: str, fused: bool) -> None:
    pixels = image((4, 5, 3), np.uint8)
    data = {target: pixels[None] if target == "images" else pixels}
    compose = A.Compose([A.ToTensorV2(), A.HorizontalFlip(p=1)], fused=fused)
    with pytest.raises(RecipeError, match="HorizontalFlip stands after ToTensorV2, which must be the last"):
        compose(**data)


def test_a_crop_outside_the_image_is_refused() -> None:
    with pytest.raises(RecipeError, match="do not lie inside the 4 x 5 image"):
        Canvas(image((4, 5, 3), np.uint8)).crop(0, 0, 5, 5)
