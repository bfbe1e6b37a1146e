"""Pixels, boxes and keypoints under the pure functions, held against numpy and against each other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from catalogue_geometry import CASES
from hypothesis import given
from hypothesis import strategies as st

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms import geometry, raster
from augstream.transforms.arguments import BORDER_MODES, fill_value, image_size, integer, number_range
from augstream.transforms.canvas import Canvas
from augstream.transforms.raster import Sampling

DTYPES = [
    bool,
    np.int8,
    np.uint8,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
    np.float16,
    np.float32,
]
SHAPES = [(31, 41), (31, 41, 1), (31, 41, 3), (31, 41, 4), (31, 41, 5), (31, 41, 6), (31, 41, 11)]

symmetries = st.tuples(st.booleans(), st.booleans(), st.booleans())


def some_array(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    numbers = np.random.default_rng(len(shape)).integers(0, 2**62, shape)
    return (numbers % 2 if dtype in {bool, np.float16} else numbers).astype(dtype)


def some_boxes(num: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((num, 2, 2)), axis=1).reshape(num, 4)
    return np.column_stack([corners, np.arange(num)])


def some_keypoints(num: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = rng.random(num) * (shape[1] - 1), rng.random(num) * (shape[0] - 1)
    return np.column_stack(
        [x, y, np.zeros(num), rng.random(num) * 2 * np.pi, rng.random(num) + 1, np.arange(num)]
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_and_any_number_of_channels_is_moved_bit_by_bit(dtype, shape):
    image = some_array(shape, dtype)
    rows, columns = np.arange(17) * 31 // 17, np.arange(23) * 41 // 23
    resized = raster.resize(image, (17, 23), cv2.INTER_NEAREST)
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized, image[rows][:, columns])

    fill = 1
    padded = raster.pad(image, (1, 2, 3, 4), cv2.BORDER_CONSTANT, fill)
    np.testing.assert_array_equal(
        padded, np.pad(image, [(1, 2), (3, 4)] + [(0, 0)] * (len(shape) - 2), constant_values=fill)
    )

    shifted = np.full_like(image, fill)
    shifted[3:, 2:] = image[:-3, :-2]
    matrix = np.float64([[1, 0, 2], [0, 1, 3], [0, 0, 1]])
    sampling = Sampling(cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, fill)
    np.testing.assert_array_equal(raster.warp_affine(image, matrix[:2], shape[:2], sampling), shifted)
    np.testing.assert_array_equal(raster.warp_perspective(image, matrix, shape[:2], sampling), shifted)
    map_y, map_x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    np.testing.assert_array_equal(raster.remap(image, map_x - 2, map_y - 3, sampling), shifted)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_a_negative_or_large_label_fills_as_itself(dtype):
    fill = 2**31 + 5 if dtype is np.uint32 else -123_456
    padded = raster.pad(np.zeros((2, 2), dtype), (1, 0, 0, 0), cv2.BORDER_CONSTANT, fill)
    assert padded[0, 0] == fill


@pytest.mark.parametrize("num_channels", [5, 6, 7, 9])
@pytest.mark.parametrize("interpolation", [cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA])
def test_many_channels_are_as_each_by_itself(num_channels, interpolation):
    image = some_array((31, 41, num_channels), np.uint8)
    resized = raster.resize(image, (17, 23), interpolation).astype(int)
    for channel in range(num_channels):
        alone = cv2.resize(np.ascontiguousarray(image[:, :, channel]), (23, 17), interpolation=interpolation)
        assert (
            np.abs(resized[:, :, channel] - alone).max() <= 1
        )  # OpenCV's code for few and for one may differ


def test_a_crop_is_read_where_it_lies():
    image = some_array((60, 50, 3), np.uint8)
    view = image[7:40, 5:45]
    np.testing.assert_array_equal(
        raster.resize(view, (20, 20), cv2.INTER_LINEAR),
        raster.resize(view.copy(), (20, 20), cv2.INTER_LINEAR),
    )
    np.testing.assert_array_equal(  # nothing of the surroundings leaks into a border
        raster.pad(view, (3, 3, 3, 3), cv2.BORDER_REFLECT_101, 0),
        raster.pad(view.copy(), (3, 3, 3, 3), cv2.BORDER_REFLECT_101, 0),
    )


def test_blending_labels_is_refused_with_a_way_out():
    with pytest.raises(RecipeError, match="mask_interpolation=0"):
        raster.resize(np.zeros((4, 4), np.int64), (2, 2), cv2.INTER_LINEAR)


def test_a_fill_for_another_number_of_channels_is_refused():
    with pytest.raises(RecipeError, match="3 numbers"):
        raster.pad(np.zeros((4, 4), np.uint8), (1, 1, 1, 1), cv2.BORDER_CONSTANT, (1, 2, 3))


def test_an_image_without_channels_keeps_its_place():
    assert raster.resize(np.zeros((4, 4, 0), np.uint8), (2, 3), cv2.INTER_LINEAR).shape == (2, 3, 0)


@pytest.mark.parametrize("border_mode", BORDER_MODES)
@pytest.mark.parametrize("fill", [7, (250, 3, 90)])
def test_a_warp_of_three_channels_is_opencvs(border_mode, fill):
    image = cv2.GaussianBlur(some_array((80, 70, 3), np.uint8), (5, 5), 1)[3:67, 5:66]  # enough to go as four
    matrix = np.float64([[0.9, 0.3, -4], [-0.2, 1.1, 3], [0.001, 0.0005, 1]])
    map_x, map_y = np.random.default_rng(0).uniform(-20, 90, (2, 55, 83)).astype(np.float32)
    border = {"borderMode": border_mode, "borderValue": fill if isinstance(fill, tuple) else (fill,) * 3}
    for interpolation in (cv2.INTER_LINEAR, cv2.INTER_AREA):
        sampling = Sampling(interpolation, border_mode, fill)
        np.testing.assert_array_equal(
            raster.warp_affine(image, matrix[:2], (55, 83), sampling),
            cv2.warpAffine(image, matrix[:2], (83, 55), flags=interpolation, **border),
        )
        np.testing.assert_array_equal(
            raster.warp_perspective(image, matrix, (55, 83), sampling),
            cv2.warpPerspective(image, matrix, (83, 55), flags=interpolation, **border),
        )
        np.testing.assert_array_equal(
            raster.remap(image, map_x, map_y, sampling),
            cv2.remap(image, map_x, map_y, interpolation, **border),
        )


# Symmetries


def oriented(image: np.ndarray, symmetry: tuple[bool, bool, bool]) -> np.ndarray:
    transposed, flip_y, flip_x = symmetry
    image = image.swapaxes(0, 1) if transposed else image
    image = image[::-1] if flip_y else image
    return image[:, ::-1] if flip_x else image


@given(symmetries, st.integers(1, 9), st.integers(1, 9))
def test_boxes_and_keypoints_follow_their_pixels(symmetry, height, width):
    for y in range(height):
        for x in range(width):
            image = np.zeros((height, width))
            image[y, x] = 1
            turned = oriented(image, symmetry)
            (new_y,), (new_x,) = np.nonzero(turned)
            keypoint = np.array([[x, y, 0, 0, 1]], float)
            moved = geometry.orient_keypoints(keypoint, symmetry, image.shape)
            assert (moved[0, 0], moved[0, 1]) == (new_x, new_y)
            box = np.array([[x / width, y / height, (x + 1) / width, (y + 1) / height]])
            new_height, new_width = turned.shape
            np.testing.assert_allclose(
                geometry.orient_bboxes(box, symmetry)[0] * [new_width, new_height, new_width, new_height],
                [new_x, new_y, new_x + 1, new_y + 1],
                atol=1e-12,
            )


@given(symmetries, st.floats(0, 2 * np.pi))
def test_an_angle_turns_as_the_line_between_two_points_does(symmetry, angle):
    ends = np.array([[5, 5, 0, angle, 1], [5 + np.cos(angle), 5 + np.sin(angle), 0, angle, 1]])
    moved = geometry.orient_keypoints(ends, symmetry, (20, 30))
    x, y = moved[1, :2] - moved[0, :2]
    assert np.cos(moved[0, 3]) == pytest.approx(x, abs=1e-9)
    assert np.sin(moved[0, 3]) == pytest.approx(y, abs=1e-9)
    assert 0 <= moved[0, 3] <= 2 * np.pi  # the remainder of a tiny negative angle rounds to a full turn


@pytest.mark.parametrize("name", ["HorizontalFlip", "VerticalFlip", "Transpose"])
def test_twice_is_nothing(name):
    flip = getattr(A, name)(p=1)
    keypoints, boxes = some_keypoints(20, (30, 40)), some_boxes(20)
    once = flip.apply_to_keypoints(keypoints, shape=(30, 40, 3))
    other = (40, 30, 3) if name == "Transpose" else (30, 40, 3)
    np.testing.assert_allclose(flip.apply_to_keypoints(once, shape=other), keypoints, atol=1e-12)
    np.testing.assert_allclose(flip.apply_to_bboxes(flip.apply_to_bboxes(boxes)), boxes, atol=1e-12)


@pytest.mark.parametrize("factor", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 1), (7, 9, 3), (7, 9, 5)])
def test_quarter_turns_are_numpys(factor, shape):
    image = some_array(shape, np.uint8)
    np.testing.assert_array_equal(A.RandomRotate90(p=1).apply(image, factor=factor), np.rot90(image, factor))


def test_the_eight_elements_are_eight():
    image = some_array((6, 6, 3), np.uint8)
    turn = A.D4(p=1)
    names = ["e", "r90", "r180", "r270", "v", "hvt", "h", "t"]
    assert len({turn.apply(image, group_element=name).tobytes() for name in names}) == 8


@pytest.mark.parametrize(
    ("name", "params"),
    [("RandomRotate90", {"factor": 0}), ("Crop", {"crop_coords": (0, 0, 9, 7), "pad_params": None})],
)
def test_nothing_done_is_still_an_array_of_its_own(name, params):
    image = some_array((7, 9, 3), np.uint8)
    assert not np.may_share_memory(getattr(A, name)(p=1).apply(image, **params), image)


# Crops and borders


@given(st.data())
def test_a_crop_of_boxes_and_keypoints_is_a_shift(data):
    height, width = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    boxes = some_boxes(5)
    pixels = boxes[:, :4] * [width, height, width, height]
    cropped = geometry.crop_bboxes(boxes, (x0, y0, x1, y1), (height, width))
    back = cropped[:, :4] * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
    np.testing.assert_allclose(back, pixels - [x0, y0, x0, y0], atol=1e-9)
    np.testing.assert_array_equal(cropped[:, 4], boxes[:, 4])


@pytest.mark.parametrize("mode", [cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_WRAP])
def test_borders_move_boxes_and_keypoints(mode):
    boxes, keypoints = some_boxes(5), some_keypoints(5, (10, 20))
    padded = geometry.pad_bboxes(boxes, (1, 2, 3, 4), mode, (10, 20))
    np.testing.assert_allclose(
        padded[:, :4] * [27, 13, 27, 13], boxes[:, :4] * [20, 10, 20, 10] + [3, 1, 3, 1], atol=1e-9
    )
    moved = geometry.pad_keypoints(keypoints, (1, 2, 3, 4), mode, (10, 20))
    np.testing.assert_allclose(moved[:, :2], keypoints[:, :2] + [3, 1])


def test_mirrored_borders_show_boxes_where_their_pixels_appear():
    image = np.zeros((10, 12), np.uint8)
    image[2:5, 3:7] = 1
    box = np.array([[3 / 12, 2 / 10, 7 / 12, 5 / 10]])
    borders = (4, 0, 6, 9)
    padded = raster.pad(image, borders, cv2.BORDER_REFLECT, 0)
    boxes = geometry.pad_bboxes(box, borders, cv2.BORDER_REFLECT, image.shape)
    drawn = np.zeros_like(padded)
    height, width = padded.shape
    for x0, y0, x1, y1 in np.clip(np.rint(boxes * [width, height, width, height]).astype(int), 0, None):
        drawn[y0:y1, x0:x1] = 1
    np.testing.assert_array_equal(drawn, padded)


@given(
    st.integers(1, 60), st.integers(1, 60), st.sampled_from(["center", "top_left", "bottom_right", "random"])
)
def test_padding_reaches_the_size_and_no_further(height, width, position):
    pad = A.Compose([A.PadIfNeeded(32, 20, position=position, p=1)], seed=1)
    image = pad(image=np.ones((height, width), np.uint8))["image"]
    assert image.shape == (max(height, 32), max(width, 20))
    assert image.sum() == height * width


def test_padding_to_a_multiple():
    pad = A.PadIfNeeded(None, None, pad_height_divisor=32, pad_width_divisor=8, p=1)
    assert pad(image=np.ones((33, 16, 3), np.uint8))["image"].shape == (64, 16, 3)


# Sizes


@given(st.integers(1, 50), st.integers(1, 50))
def test_longest_and_smallest_side(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    assert max(A.LongestMaxSize(32)(image=image)["image"].shape[:2]) == 32
    assert min(A.SmallestMaxSize(32)(image=image)["image"].shape[:2]) == 32


def test_a_crop_larger_than_the_image_is_refused_with_a_way_out():
    with pytest.raises(RecipeError, match="pad_if_needed=True"):
        A.RandomCrop(40, 40)(image=np.zeros((30, 50, 3), np.uint8))


@pytest.mark.parametrize("make", [A.RandomResizedCrop, lambda **k: A.RandomSizedCrop((5, 9), **k)])
def test_a_size_is_given_in_one_of_two_ways(make):
    assert make(size=(8, 9)).size == make(height=8, width=9).size == (8, 9)
    for wrong in ({}, {"size": 8}, {"height": 8}, {"size": (8, 9), "height": 8}, {"size": (8, 9, 3)}):
        with pytest.raises(RecipeError, match=r"height=224, width=224"):
            make(**wrong)


def test_fusing_changes_no_bit():
    image = some_array((61, 47, 3), np.uint8)
    steps = [
        A.VerticalFlip(p=1), A.RandomCrop(50, 40), A.RandomRotate90(p=1), A.Transpose(p=1), A.Resize(30, 31),
        A.CenterCrop(25, 20), A.D4(p=1), A.PadIfNeeded(40, 40, border_mode=cv2.BORDER_WRAP),
        A.RandomResizedCrop((9, 8)),
    ]  # fmt: skip
    fused, plain = A.Compose(steps, seed=3), A.Compose(steps, seed=3, fused=False)
    for _ in range(20):
        np.testing.assert_array_equal(fused(image=image)["image"], plain(image=image)["image"])


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_fusing_what_went_before_changes_no_bit(name, arguments):
    image, mask = some_array((97, 83, 3), np.uint8), some_array((97, 83), np.uint8)
    steps = [A.RandomCrop(70, 60), A.D4(p=1), getattr(A, name)(**arguments), A.HorizontalFlip(p=0.5)]
    fused, plain = A.Compose(steps, seed=3), A.Compose(steps, seed=3, fused=False)
    for _ in range(5):
        found, expected = fused(image=image, mask=mask), plain(image=image, mask=mask)
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(found["mask"], expected["mask"])
        assert found["image"].flags.c_contiguous
    np.testing.assert_array_equal(image, some_array((97, 83, 3), np.uint8))


def test_masks_have_their_own_interpolation_and_fill():
    canvas = Canvas(np.array([[0, 200]], np.uint8), is_mask=True)
    A.Resize(1, 9).fuse(canvas, {})
    assert set(canvas.pixels().ravel()) == {0, 200}
    assert A.Pad(1, fill=7, fill_mask=9).apply_to_mask(np.zeros((1, 1), np.uint8), **_pads(1)).max() == 9


def _pads(width: int) -> dict[str, int]:
    return {f"pad_{side}": width for side in ("top", "bottom", "left", "right")}


class Brightening(A.HorizontalFlip):
    """What a user makes of a finished transform."""

    def apply(self, img, **params):
        return super().apply(img, **params) + np.uint8(1)


class InTheCorner(A.RandomCrop):
    def get_params_dependent_on_data(self, params, data):
        return {"crop_coords": (0, 0, self.width, self.height), "pad_params": None}


def test_what_a_subclass_overrides_counts():
    image = some_array((8, 9, 3), np.uint8)
    result = A.Compose([Brightening(p=1), InTheCorner(4, 5)], seed=1)(image=image)["image"]
    np.testing.assert_array_equal(result, image[:4, ::-1][:, :5] + np.uint8(1))


# Arguments


def test_a_number_is_read_as_a_range():
    owner = object()
    assert number_range(owner, "x", 3) == (-3, 3)
    assert number_range(owner, "x", -3) == (-3, 3)
    assert number_range(owner, "x", 3, scalar="from_zero") == (0, 3)
    assert number_range(owner, "x", 3, scalar="fixed") == (3, 3)
    assert number_range(owner, "x", (5, 2)) == (2, 5)
    assert number_range(owner, "x", 0.25, bias=1) == (0.75, 1.25)
    assert number_range(owner, "x", np.float32(0.5)) == (-0.5, 0.5)


@pytest.mark.parametrize(
    "wrong", [None, "3", (1,), (1, 2, 3), float("nan"), True, (1, "2"), (1, float("inf"))]
)
def test_what_is_no_range_is_refused(wrong):
    with pytest.raises(RecipeError, match="x must be a number or a pair of numbers, got"):
        number_range(object(), "x", wrong)


def test_bounds_are_named_as_the_user_counts():
    with pytest.raises(RecipeError, match="from -1 to 1"):
        number_range(object(), "x", 2, 0, 2, bias=1)


@pytest.mark.parametrize("wrong", [True, 1.5, "1", None, 0])
def test_what_is_no_count_is_refused(wrong):
    with pytest.raises(RecipeError):
        integer(object(), "n", wrong, 1)


def test_fills():
    assert fill_value(object(), "fill", None) == 0
    assert fill_value(object(), "fill", [1, 2, 3]) == (1, 2, 3)
    with pytest.raises(RecipeError):
        fill_value(object(), "fill", "red")
    assert image_size(object(), (np.int64(3), 4), None, None) == (3, 4)


@pytest.mark.parametrize(
    ("name", "params"),
    [(name, params) for name, params in CASES if hasattr(getattr(A, name)(**params), "mask_interpolation")],
)
def test_the_pipelines_mask_interpolation_is_that_of_each_transform(name, params):
    image, mask = np.zeros((36, 40, 3), np.uint8), some_array((36, 40), np.uint8)
    make = getattr(A, name)

    def masks(transform, **more):
        compose = A.Compose([transform], seed=5, **more)
        return [compose(image=image, mask=mask)["mask"] for _ in range(3)]

    nearest, smooth = (
        masks(make(**{**params, "mask_interpolation": code}))
        for code in (cv2.INTER_NEAREST, cv2.INTER_LINEAR)
    )
    assert all(map(np.array_equal, masks(make(**params), mask_interpolation=cv2.INTER_LINEAR), smooth))
    if "area_for_downscale" not in params and not np.array_equal(nearest[0], mask):
        assert not all(map(np.array_equal, nearest, smooth))
