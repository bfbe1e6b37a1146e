"""Tables, look-ups, histograms, kernels and words: the functions below the pixel transforms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from noises import whole_noise

import augstream as A
from augstream.digest import digest
from augstream.errors import RecipeError
from augstream.transforms import grains, lookup
from augstream.transforms.channels import in_turns, shuffled, to_grey
from augstream.transforms.colour import hue_table
from augstream.transforms.equalizing import contrast_table, equalize_table_cv, histogram
from augstream.transforms.holes import filled
from augstream.transforms.kernels import gaussian_kernel, motion_kernel, sharpening_kernel
from augstream.transforms.pointwise import (
    INVERTED,
    affine_table,
    as_bytes,
    as_floats,
    gamma_table,
    posterize_table,
    shift_tables,
    solarize_table,
)

LEVELS = np.arange(256)
factors = st.floats(-3, 3, width=32)
offsets = st.floats(-300, 300, width=32)
shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7)),
)
images = shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape))


@given(factors, offsets)
def test_affine_tables_clip_and_truncate(alpha, beta):
    expected = [int(min(max(np.float32(v) * np.float32(alpha) + np.float32(beta), 0), 255)) for v in LEVELS]
    assert affine_table(alpha, beta).tolist() == expected


def test_truncated_not_rounded():
    assert affine_table(1, 1.989)[100] == 101


@given(st.floats(0.01, 5))
def test_gamma_tables_keep_the_ends_and_the_order(gamma):
    table = gamma_table(gamma)
    assert table[0] == 0
    assert table[255] == 255
    assert (np.diff(table.astype(int)) >= 0).all()


@given(st.floats(0, 1))
def test_solarizing_twice_changes_only_what_came_below(threshold):
    table = solarize_table(threshold)
    assert (table == np.where(threshold * 255.0 <= LEVELS, 255 - LEVELS, LEVELS)).all()


@given(st.integers(1, 7))
def test_posterizing_keeps_the_high_bits(bits):
    table = posterize_table(bits)
    assert len(np.unique(table)) == 2**bits
    assert (table >> (8 - bits) == LEVELS >> (8 - bits)).all()
    assert (posterize_table([bits, 7])[:, 0] == table).all()


@given(st.lists(st.floats(-300, 300), min_size=1, max_size=4))
def test_shifts_are_truncated_towards_zero(shifts):
    table = shift_tables(shifts)
    assert table.shape == (256, len(shifts))
    for column, shift in zip(table.T, shifts, strict=True):
        assert (column == np.clip(LEVELS + int(shift), 0, 255)).all()


def test_inverting():
    assert (INVERTED == 255 - LEVELS).all()


@given(st.floats(-400, 400))
def test_hue_goes_round(shift):
    assert (hue_table(shift)[:180] == np.floor(np.mod(LEVELS[:180] + np.floor(shift), 180))).all()


@given(hnp.arrays(np.uint8, (5, 6, 3)))
def test_bytes_survive_floats(image):
    assert (as_bytes(as_floats(image)) == image).all()


def test_floats_beyond_the_range_are_clipped_in_bytes():
    assert as_bytes(np.array([[-1.0, 0.5, 2.0]], np.float32)).tolist() == [[0, 128, 255]]


# Look-ups


def without_stringzilla(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The room of look-ups as it is where stringzilla is not installed."""
    monkeypatch.setitem(sys.modules, "stringzilla", None)
    spec = importlib.util.spec_from_file_location("augstream.transforms.plain_lookup", Path(lookup.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module._translate is None
    return module


@given(images, st.randoms(use_true_random=False))
def test_looking_up_is_indexing(image, random):
    rng = np.random.default_rng(random.getrandbits(32))
    num_channels = image.shape[2] if image.ndim == 3 else 1
    with pytest.MonkeyPatch.context() as monkeypatch:
        rooms = [lookup, without_stringzilla(monkeypatch)]
    before = image.copy()
    for dtype in (np.uint8, np.float32):
        one = rng.integers(0, 256, 256).astype(dtype)
        many = rng.integers(0, 256, (256, num_channels)).astype(dtype)
        expected = many[image[..., None] if image.ndim == 2 else image, np.arange(num_channels)]
        for room in rooms:
            for array in (image, image[::-1, ::2]):
                found = room.look_up(array, one)
                np.testing.assert_array_equal(found, one[array])
                assert found.dtype == dtype
                assert found.flags.c_contiguous
                assert not np.shares_memory(found, image)
            np.testing.assert_array_equal(room.look_up(image, one[:, None]), one[image])
            np.testing.assert_array_equal(room.look_up(image, many), expected.reshape(image.shape))
    np.testing.assert_array_equal(image, before)


def test_looking_up_in_nothing():
    assert lookup.look_up(np.zeros((0, 5, 3), np.uint8), INVERTED).shape == (0, 5, 3)


def test_a_table_for_other_channels_is_refused():
    with pytest.raises(RecipeError, match="for 3 channels, and the image has 4"):
        lookup.look_up(np.zeros((2, 2, 4), np.uint8), shift_tables([1, 2, 3]))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))))
def test_planes_are_the_channels(image):
    found = lookup.planes(image)
    assert all(plane.flags.c_contiguous for plane in found)
    np.testing.assert_array_equal(np.stack(found, axis=2), image)
    for plane in found:
        np.add(plane, 1, out=plane)  # they are ours
    np.testing.assert_array_equal(np.stack(found, axis=2), image + np.uint8(1))


@pytest.mark.parametrize("num_channels", [2, 3, 4, 5, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_channels_in_another_order(num_channels, dtype):
    image = np.arange(6 * num_channels).reshape(2, 3, num_channels).astype(dtype)
    order = list(np.random.default_rng(0).permutation(num_channels))
    np.testing.assert_array_equal(shuffled(image, order), image[:, :, order])


@pytest.mark.parametrize("num_channels", [1, 3, 4, 5, 8, 9])
def test_channels_in_turns(num_channels):
    image = np.random.default_rng(0).integers(0, 256, (6, 7, num_channels), dtype=np.uint8)
    widths = []

    def work(part: np.ndarray) -> np.ndarray:
        widths.append(part.shape[2])
        return cv2.flip(part, 1)

    np.testing.assert_array_equal(in_turns(image, work), image[:, ::-1])
    assert max(widths) <= 4
    assert sum(widths) == num_channels


@pytest.mark.parametrize("num_outputs", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["average", "max", "desaturation", "pca"])
def test_grey_of_many_channels(method, num_outputs):
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 5), dtype=np.uint8)
    grey = to_grey(image, method, num_outputs)
    assert grey.shape == (6, 7, num_outputs)
    assert grey.dtype == np.uint8
    assert (grey == grey[:, :, :1]).all()


def test_the_principal_component_is_bright_where_the_channels_are():
    ramp = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    grey = to_grey(np.dstack([ramp, ramp // 2, ramp // 3]), "pca", 1)[:, :, 0]
    assert (np.diff(grey.ravel().astype(int)) > 0).all()
    assert grey.min() == 0
    assert grey.max() == 255


# Histograms


@given(hnp.arrays(np.uint8, (8, 9)))
def test_equalizing_by_table_is_opencvs(plane):
    np.testing.assert_array_equal(equalize_table_cv(histogram(plane))[plane], cv2.equalizeHist(plane))


def test_contrast_by_table_is_pillows():
    from PIL import Image, ImageOps

    plane = np.random.default_rng(0).integers(20, 90, (64, 80), dtype=np.uint8)
    table = contrast_table(histogram(plane), 0, "pil")
    assert table is not None
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(plane)))
    assert np.abs(table[plane].astype(int) - expected).max() <= 1  # it truncates, and 2.0.8 rounds


@pytest.mark.parametrize("method", ["cdf", "pil"])
@pytest.mark.parametrize("cutoff", [0, 3])
def test_one_level_cannot_be_stretched(method, cutoff):
    plane = np.full((5, 6, 3), 77, np.uint8)
    assert (A.AutoContrast(cutoff, method=method, p=1)(image=plane)["image"] == plane).all()


# Kernels


@given(st.floats(0.1, 8), st.integers(0, 21))
def test_gaussian_kernels(sigma, size):
    kernel = gaussian_kernel(sigma, size)
    assert len(kernel) % 2 == 1
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    assert kernel.argmax() == len(kernel) // 2


def test_a_gaussian_of_no_width_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert (A.GaussianBlur(sigma_limit=(0, 0), p=1)(image=image)["image"] == image).all()


@given(st.sampled_from([3, 5, 9]), st.floats(0, 360), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_motion_kernels(size, angle, direction, shift_x, shift_y):
    kernel = motion_kernel(size, angle, direction, shift_x, shift_y)
    assert kernel.shape == (size, size)
    assert kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, rel=1e-5)
    assert len(np.unique(kernel[kernel > 0])) == 1


@given(st.floats(0, 1), st.floats(0, 2))
def test_sharpening_kernels_add_up_to_their_brightness(alpha, lightness):
    assert sharpening_kernel(alpha, lightness).sum() == pytest.approx(1 - alpha + alpha * lightness, abs=1e-5)


# Words


def test_golden_words_and_noise():
    """Golden: whoever changes these changes every noise map of every user: a SEED break of the change log."""
    assert grains.words(b"golden key 12345").random_raw(3).tolist() == GOLDEN_WORDS
    steps = grains.truncated_normal_steps(0, 77.5)
    assert grains.discrete(b"golden key 12345", 12, steps).tolist() == GOLDEN_STEPS
    far = grains.discrete(b"golden key 12345", 200_000, steps)
    assert far[196606:196612].tolist() == GOLDEN_FAR  # over the edge of a block
    np.testing.assert_allclose(grains.normals(b"golden key 12345", 4), GOLDEN_NORMALS, atol=1e-6)
    noise = whole_noise(b"golden key 12345", 200_000, 0, 77.5)
    assert noise[:12].tolist() == GOLDEN_NOISE
    assert noise[196606:196612].tolist() == GOLDEN_FAR_NOISE
    assert digest(noise) == GOLDEN_NOISE_DIGEST


GOLDEN_WORDS = [9992591616818040829, 6936969434503444391, 17056120167089707293]
GOLDEN_STEPS = [-37, 107, 70, 8, 146, -10, -115, -24, -99, 50, 2, 112]
GOLDEN_FAR = [-47, -5, 75, -8, -49, -112]
GOLDEN_NOISE = [-90, -80, -88, -60, 33, -40, 17, -138, 15, 77, 82, -113]
GOLDEN_FAR_NOISE = [-7, -77, -74, 98, -41, -95]
GOLDEN_NOISE_DIGEST = "bb435c84a5578a273de1b64d6726f263b8ef04552ab3b881e0385906f37ed10d"
GOLDEN_NORMALS = [-0.396842, -0.788139, 0.149507, 0.777769]


def test_older_opencv_draws_the_same(monkeypatch):
    """OpenCV 4 does not look words up; numpy does, with the same result."""
    steps = grains.truncated_normal_steps(3, 40)
    expected = grains.discrete(b"k" * 16, 200_000, steps)
    monkeypatch.setattr(grains, "_LUT_TAKES_WORDS", False)
    np.testing.assert_array_equal(grains.discrete(b"k" * 16, 200_000, steps), expected)


def test_keys_make_different_words():
    firsts = {int(grains.words(number.to_bytes(16, "little")).random_raw(1)[0]) for number in range(2000)}
    assert len(firsts) == 2000


# Holes


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "int8", "<i4", ">i4", "int64"])
def test_a_fill_that_a_dtype_cannot_hold_is_refused(dtype):
    image, holes = np.zeros((4, 5, 3), dtype), [(1, 1, 3, 2)]
    limits = np.iinfo(dtype)
    for number in (limits.min, limits.max):
        assert filled(image, holes, number)[1, 1:3].tolist() == [[number] * 3] * 2
    for number in (limits.min - 1, limits.max + 1):
        for fill in (number, (0, 0, number)):
            with pytest.raises(RecipeError, match="cannot hold it"):
                filled(image, holes, fill)
