"""The table defines what becomes of a value; arithmetic is used where it gives the table's very bits, on any image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.levels import (
    Levels,
    Line,
    Quotient,
    as_levels,
    levels_of,
    normalized_levels,
    write_levels,
)
from augstream.transforms.lookup import composed, look_up

IMAGENET = (np.array((0.485, 0.456, 0.406)) * 255, np.array((0.229, 0.224, 0.225)) * 255)


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    """uint8 images: of one value or many, as they are or a part of a larger one, around the size that counts."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    shape = (height, width, *draw(st.sampled_from([(), (1,), (3,), (4,), (5,)])))
    low = draw(st.integers(0, 255))
    high = draw(st.integers(low, 255))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(low, high + 1, shape).astype(np.uint8)
    if not draw(st.booleans()):
        return values
    larger = np.zeros((height + 3, width + 5, *shape[2:]), np.uint8)
    larger[2 : 2 + height, 1 : 1 + width] = values
    return larger[2 : 2 + height, 1 : 1 + width]


constants = st.tuples(
    st.floats(-2, 2) | st.sampled_from([0.0, -0.0, 1e-320, 1e-42, -1e-42, 1e-38]), st.floats(1e-3, 4)
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Levels, np.ndarray | None]:
    image = draw(images())
    num_channels = image.shape[2] if image.ndim == 3 else 1
    num_columns = draw(st.sampled_from([1, num_channels]))
    if draw(st.booleans()):
        found = levels_of([Quotient(draw(st.floats(0.5, 70_000, width=32))) for _ in range(num_columns)])
    else:
        pairs = [draw(constants) for _ in range(num_columns)]
        found = normalized_levels(*(np.array(numbers) * 255 for numbers in zip(*pairs, strict=True)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shape = draw(st.sampled_from([None, (256,), (256, num_channels)]))
    return image, found, None if shape is None else rng.integers(0, 256, shape).astype(np.uint8)


def bits(array: np.ndarray) -> Any:
    return np.ascontiguousarray(array).view(np.uint32)


@settings(max_examples=300)
@given(cases())
@example((np.full((60, 60, 3), 9, np.uint8), normalized_levels(*IMAGENET), None))
@example((np.full((1024, 1), 255, np.uint8), normalized_levels(np.array([3.0]), np.array([7.0])), None))
def test_whoever_does_it_the_bits_are_the_tables(case: tuple[np.ndarray, Levels, np.ndarray | None]) -> None:
    image, found, table = case
    before = image.copy()
    expected = look_up(image, found.table if table is None else composed(found.table, table))
    result = as_levels(image, table, found)
    assert result.dtype == np.float32
    assert np.array_equal(bits(result), bits(expected))
    solid = np.ascontiguousarray(image).reshape(*image.shape[:2], -1)
    out = np.full((solid.shape[2] + 2, *image.shape[:2]), 7, np.float32)
    write_levels(solid, table, found, out[1:-1])
    assert np.array_equal(bits(out[1:-1]), bits(expected.reshape(solid.shape).transpose(2, 0, 1)))
    assert (out[[0, -1]] == 7).all(), "it wrote beyond its planes"
    assert np.array_equal(image, before), "the caller's image was changed"


class Apart(Line):
    """A line on a machine without fused instructions: the product is rounded, too."""

    def write(self, plane: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, plane * np.float32(self.scale) + np.float32(self.shift))


def test_a_machine_without_the_bits_looks_them_up() -> None:
    exact = normalized_levels(np.array([111.0, 118.5, 105.25]), np.array([58.5, 57.0, 59.75]))
    found = Levels(exact.table, tuple([Apart(*step) for step in exact.steps]))
    assert not found.steps[0].is_exact()
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    assert np.array_equal(bits(as_levels(image, None, found)), bits(look_up(image, exact.table)))


def test_the_usual_constants_are_right_to_the_last_bits() -> None:
    offset, divisor = IMAGENET
    exact = (np.arange(256.0)[:, None] - offset) / divisor
    found = normalized_levels(offset, divisor)
    assert len(found.steps) == 3
    assert np.abs(found.table - exact).max() < 3e-7


def test_constants_that_no_line_holds_are_a_table() -> None:
    far = normalized_levels(np.array([1e6]), np.array([1e-3]))
    assert far.steps == ()
    assert np.array_equal(far.table[:, 0], ((np.arange(256.0) - 1e6) * (1 / 1e-3)).astype(np.float32))
    assert normalized_levels(np.array([0.0]), np.array([1e-60])).steps == ()


def test_float_is_division_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    assert np.array_equal(A.ToFloat().apply(image), image / np.float32(255))
    planar = A.Compose([A.ToFloat(max_value=300), A.ToTensorV2()], seed=0).stage()(
        {"image": image}, bytes(16)
    )
    assert np.array_equal(planar["image"], (image / np.float32(300)).transpose(2, 0, 1))


def test_other_numbers_of_channels_are_refused() -> None:
    image = np.zeros((60, 60, 4), np.uint8)
    with pytest.raises(RecipeError, match="for 3 channels, and the image has 4"):
        as_levels(image, None, normalized_levels(*IMAGENET))
