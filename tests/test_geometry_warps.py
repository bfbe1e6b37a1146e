"""Matrices, maps and holes: held against 2.0.8's formulas, and pixels, boxes and keypoints against each other."""

from __future__ import annotations

import math
import random

import albumentations as oracle
import cv2
import numpy as np
import pytest
from albumentations.augmentations.geometric import functional as formulas
from hypothesis import given
from hypothesis import strategies as st

import augstream as A
from augstream.errors import RecipeError
from augstream.seeding import Draws, generator
from augstream.transforms import holes, matrices, remapping

sizes = st.tuples(st.integers(3, 60), st.integers(3, 60))
angles = st.floats(-400, 400)


def spot(shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    """An image with a soft spot around (x, y)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8).astype(np.float32)


def center_of(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    return float((columns * image).sum() / total), float((rows * image).sum() / total)


# Formulas


@given(
    sizes,
    angles,
    st.tuples(*[st.floats(-30, 30)] * 2),
    st.tuples(*[st.floats(0.2, 3)] * 2),
    st.integers(-9, 9),
)
def test_affine_matrices_are_the_oracles(shape, rotate, shear, scale, shift):
    both = matrices.affine_matrices(shape, translate=(shift, 2), shear=shear, scale=scale, rotate=rotate)
    for found, center in zip(both, (formulas.center(shape), formulas.center_bbox(shape)), strict=True):
        expected = formulas.create_affine_transformation_matrix(
            {"x": shift, "y": 2},
            {"x": shear[0], "y": shear[1]},
            {"x": scale[0], "y": scale[1]},
            rotate,
            center,
        )
        np.testing.assert_allclose(np.array(found), expected, atol=1e-9)
    found = both[0]
    fitted, size = matrices.fitted(found, shape)
    their_fitted, their_size = formulas.compute_affine_warp_output_shape(np.array(found), shape)
    np.testing.assert_allclose(np.array(fitted), their_fitted, atol=1e-9)
    assert size == their_size


@given(sizes, st.floats(-89, 89))
def test_safe_rotation_is_the_oracles(shape, angle):
    *both, (x, y) = matrices.whole_rotations(shape, angle)
    for found, center in zip(both, (formulas.center(shape), formulas.center_bbox(shape)), strict=True):
        expected, scale = oracle.SafeRotate()._create_safe_rotate_matrix(angle, center, shape)
        np.testing.assert_allclose(np.array(found), expected, atol=1e-6)
        assert (x, y) == (scale["x"], scale["y"])


@given(sizes, st.floats(-180, 180))
def test_the_rectangle_without_border_is_the_oracles(shape, angle):
    box = oracle.Rotate._rotated_rect_with_max_area(*shape, angle)
    assert matrices.largest_inside(*shape, angle) == (box["x_min"], box["y_min"], box["x_max"], box["y_max"])


@pytest.mark.parametrize("shape", [(41, 60), (100, 75), (9, 30)])
@pytest.mark.parametrize("normalized", [False, True])
def test_grid_maps_are_the_oracles(shape, normalized):
    num_steps = 3
    mine = A.GridDistortion(num_steps, 0.5, normalized=normalized)
    draws, rng = Draws(), random.Random(3)
    for seed in range(5):
        raw = [[1 + rng.uniform(-0.5, 0.5) for _ in range(num_steps + 1)] for _ in "xy"]
        steps = [list(row) for row in raw]
        if normalized:
            steps = list(formulas.normalize_grid_distortion_steps(shape, num_steps, *steps).values())
        expected = formulas.generate_grid(shape, *steps, num_steps)
        found = mine.maps({"steps_x": list(steps[0]), "steps_y": list(steps[1])}, shape)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        draws.move(bytes(16), bytes([seed]))
        assert sum(mine._steps(draws, shape[1])) > 0


@pytest.mark.parametrize("k", [-0.4, 0.0, 0.7])
def test_lens_maps_are_the_oracles(k):
    shape = (41, 60)
    camera = A.OpticalDistortion().maps({"k": k}, shape)
    np.testing.assert_array_equal(camera, formulas.get_camera_matrix_distortion_maps(shape, k))
    fisheye = A.OpticalDistortion(mode="fisheye").maps({"k": k}, shape)
    np.testing.assert_allclose(fisheye, formulas.get_fisheye_distortion_maps(shape, k), atol=1e-4)


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize("approximate", [False, True])
def test_one_field_of_displacements_is_the_oracles(noise, approximate):
    elastic = A.ElasticTransform(30, 4, approximate=approximate, same_dxdy=True, noise_distribution=noise)
    (found,) = elastic.displacements(np.random.default_rng(5), 40, 50)
    expected, _ = formulas.generate_displacement_fields(
        (40, 50), 30, 4, True, (17, 17) if approximate else (0, 0), np.random.default_rng(5), "gaussian"
    )
    if noise == "gaussian":
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:  # drawn as float32 here and float64 there, so that only the spread can be compared
        expected, _ = formulas.generate_displacement_fields(
            (40, 50), 30, 4, True, (17, 17) if approximate else (0, 0), np.random.default_rng(5), "uniform"
        )
        assert found.std() == pytest.approx(expected.std(), rel=0.2)


def test_two_fields_do_not_mix():
    elastic = A.ElasticTransform(50, 6)
    _, y = elastic.displacements(generator(bytes(16)), 60, 60)
    noise = generator(bytes(16)).standard_normal((2, 60, 60), dtype=np.float32)
    alone = cv2.GaussianBlur(noise[1], (0, 0), 6, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(y * np.abs(noise).max() / 50, alone, atol=1e-4)


# Pixels, boxes and keypoints agree

MOVES = [
    A.Affine(scale=(0.8, 1.2), rotate=(-40, 40), shear=(-8, 8), translate_percent=(-0.1, 0.1), p=1),
    A.Affine(rotate=(-90, 90), fit_output=True, p=1),
    A.ShiftScaleRotate(p=1),
    A.Rotate(45, p=1),
    A.SafeRotate(p=1),
    A.Perspective(0.1, p=1),
    A.Perspective(0.1, fit_output=True, p=1),
    A.ElasticTransform(60, 8, p=1),
    A.GridDistortion(p=1),
    A.OpticalDistortion(0.3, p=1),
    A.OpticalDistortion(0.3, mode="fisheye", p=1),
    A.GridDistortion(keypoint_remapping_method="direct", p=1),
]


@pytest.mark.parametrize("move", MOVES, ids=lambda move: type(move).__name__)
def test_a_spot_a_box_and_a_keypoint_move_together(move):
    shape, (x, y) = (90, 100), (52, 41)
    compose = A.Compose([move], A.BboxParams("pascal_voc"), A.KeypointParams("xy"), seed=5)
    num_seen = 0
    for _ in range(10):
        result = compose(image=spot(shape, x, y), bboxes=[[x - 2, y - 2, x + 3, y + 3]], keypoints=[(x, y)])
        if len(result["keypoints"]) and result["image"].sum() > 6:
            num_seen += 1
            found_x, found_y = center_of(result["image"])
            assert result["keypoints"][0] == pytest.approx((found_x, found_y), abs=2.5)
            x_min, y_min, x_max, y_max = result["bboxes"][0]
            assert x_min - 1 <= found_x <= x_max + 1
            assert y_min - 1 <= found_y <= y_max + 1
            assert max(x_max - x_min, y_max - y_min) < 16
    assert num_seen >= 5


def test_a_quarter_turn_is_a_quarter_turn():
    image = np.random.default_rng(0).integers(0, 256, (31, 31, 3), dtype=np.uint8)
    np.testing.assert_array_equal(A.Rotate((90, 90), p=1)(image=image)["image"], np.rot90(image))


def test_an_ellipse_gives_the_smaller_box():
    shape, box = (100, 100), np.array([[0.3, 0.4, 0.7, 0.6]])
    _, matrix = matrices.affine_matrices(shape, rotate=30)
    corners, ellipse = (
        matrices.affine_bboxes(box, matrix, shape, shape, ellipse=ellipse, border_mode=cv2.BORDER_CONSTANT)[0]
        for ellipse in (False, True)
    )
    assert (corners[:2] < ellipse[:2]).all()
    assert (ellipse[2:] < corners[2:]).all()
    points = [(0.2 * math.cos(turn), 0.1 * math.sin(turn)) for turn in np.linspace(0, 2 * np.pi, 5000)]
    xs = [0.5 + math.cos(math.radians(30)) * x + math.sin(math.radians(30)) * y for x, y in points]
    assert (ellipse[0], ellipse[2]) == pytest.approx((min(xs), max(xs)), abs=1e-6)


def test_a_fill_fills_all_channels():
    image = np.full((20, 20, 3), 200, np.uint8)
    for move in (
        A.Perspective(0.2, fit_output=True, fill=90, p=1),
        A.OpticalDistortion((-0.9, -0.9), fill=90, p=1),
    ):
        pixels = A.Compose([move], seed=2)(image=image)["image"]
        assert len(np.unique(pixels[0, 0])) == 1


def test_shear_of_one_axis_leaves_the_other():
    assert A.Affine(shear={"x": (5, 9)}).shear == {"x": (5, 9), "y": (0, 0)}


def test_affine_says_what_it_cannot_read():
    for wrong in (
        {"scale": {}},
        {"scale": {"z": 1}},
        {"scale": "1"},
        {"translate_px": 1, "translate_percent": 0.1},
    ):
        with pytest.raises(RecipeError, match="Affine"):
            A.Affine(**wrong)
    with pytest.raises(RecipeError, match="keep_ratio"):
        A.Affine(scale={"x": 1, "y": 2}, keep_ratio=True)


# Remapping


def test_a_keypoint_is_not_hidden_by_its_neighbour():
    map_y, map_x = np.mgrid[:20, :20].astype(np.float32)
    close = np.array([[5, 5, 0, 0, 1, 0], [6, 5, 0, 0, 1, 1], [5, 6, 0, 0, 1, 2]], float)
    moved = remapping.remap_keypoints_by_mask(close, map_x, map_y)
    assert moved[:, 5].tolist() == [0, 1, 2]
    assert np.abs(moved[:, :2] - close[:, :2]).max() <= 1


def test_a_keypoint_of_which_nothing_is_left_is_dropped():
    nowhere = np.full((20, 20), -5, np.float32)
    keypoints = np.array([[5, 5, 0, 0, 1]], float)
    assert remapping.remap_keypoints_by_mask(keypoints, nowhere, nowhere).shape == (0, 5)
    box = np.array([[0.1, 0.1, 0.5, 0.5, 7]])
    np.testing.assert_array_equal(remapping.remap_bboxes(box, nowhere, nowhere), box)


def test_directly_means_to_a_fraction_of_a_pixel():
    map_y, map_x = np.mgrid[:40, :50].astype(np.float32)
    keypoints = np.array([[10.25, 20.5, 0, 0, 1]])
    moved = remapping.remap_keypoints_directly(keypoints, map_x + 3, map_y - 2)
    assert moved[0, :2].tolist() == [7.25, 22.5]


def test_a_grid_finer_than_the_image_is_refused():
    with pytest.raises(RecipeError, match="num_steps"):
        A.GridDistortion(9, p=1)(image=np.zeros((8, 20), np.uint8))


# Holes


@given(st.integers(0, 2**32), sizes)
def test_holes_lie_inside(seed, shape):
    image = np.ones(shape, np.uint8)
    for hide in (A.CoarseDropout((1, 4), (3, 90), (0.1, 0.9), p=1), A.Erasing((0.1, 0.9), p=1)):
        pixels = A.Compose([hide], seed=seed)(image=image)["image"]
        assert pixels.shape == shape
        assert image.all()


def test_every_pixel_or_every_hole_has_its_random_colour():
    image = np.zeros((40, 40, 3), np.uint8)
    params = {"holes": [[5, 5, 25, 25]], "key": "01" * 16}
    noisy = A.CoarseDropout(fill="random").apply(image, **params)[5:25, 5:25].reshape(-1, 3)
    plain = A.CoarseDropout(fill="random_uniform").apply(image, **params)[5:25, 5:25].reshape(-1, 3)
    assert len(np.unique(noisy, axis=0)) > 350
    assert len(np.unique(plain, axis=0)) == 1
    assert len(np.unique(plain)) > 1


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1), (40, 40, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("fill", ["inpaint_telea", "inpaint_ns"])
def test_inpainting_continues_the_surroundings(shape, dtype, fill):
    image = np.full(shape, 100 if dtype is np.uint8 else 100 / 255).astype(dtype)
    damaged = image.copy()
    damaged[10:20, 10:20] = 0
    found = A.CoarseDropout(fill=fill).apply(damaged, holes=[[10, 10, 20, 20]])
    np.testing.assert_allclose(found.astype(float), image, atol=3 if dtype is np.uint8 else 3 / 255)
    with pytest.raises(RecipeError, match="gray or RGB"):
        A.CoarseDropout(fill=fill).apply(np.zeros((9, 9, 5), dtype), holes=[[1, 1, 3, 3]])


def test_boxes_are_cut_to_what_is_visible_and_dropped_below_the_limits():
    boxes = np.array([[0, 0, 0.5, 0.5, 0], [0.6, 0.6, 0.9, 0.9, 1], [0.1, 0.1, 0.2, 0.2, 2]])
    hole = [(0, 0, 50, 25)]
    found = holes.visible_bboxes(boxes, hole, (100, 100), 0, 0)
    np.testing.assert_allclose(found, [[0, 0.25, 0.5, 0.5, 0], [0.6, 0.6, 0.9, 0.9, 1]])
    assert holes.visible_bboxes(boxes, hole, (100, 100), 0, 0.6)[:, 4].tolist() == [1]
    assert holes.visible_bboxes(boxes, hole, (100, 100), 1251, 0)[:, 4].tolist() == [1]
    assert holes.visible_bboxes(boxes, hole, (100, 100), 1250, 0)[:, 4].tolist() == [0, 1]


def test_a_pipelines_limits_count_for_what_holes_hide():
    hide = A.CoarseDropout((1, 1), (40, 40), (40, 40), p=1)
    image, box = np.ones((40, 80), np.uint8), [[0, 0, 80, 40]]
    for limit, num_left in ((0.0, 1), (0.9, 0)):
        compose = A.Compose(
            [hide],
            A.BboxParams("pascal_voc", min_visibility=limit),
            A.KeypointParams("xy", remove_invisible=False),
        )
        result = compose(image=image, bboxes=box, keypoints=[(x, 20) for x in range(80)])
        assert len(result["bboxes"]) == num_left
        assert len(result["keypoints"]) == 80
    compose = A.Compose([hide], keypoint_params=A.KeypointParams("xy"))
    assert len(compose(image=image, keypoints=[(x, 20) for x in range(80)])["keypoints"]) == 40


def test_a_mask_keeps_its_pixels_unless_told_otherwise():
    mask = np.ones((9, 9), np.int64)
    params = {"holes": [[1, 1, 4, 4]]}
    assert A.CoarseDropout().apply_to_mask(mask, **params).all()
    assert A.CoarseDropout(fill_mask=-1).apply_to_mask(mask, **params).sum() == 81 - 18


@pytest.mark.parametrize("fill", [300, -1, (1, 2, 999)])
def test_a_fill_that_the_image_cannot_hold_is_refused(fill):
    with pytest.raises(RecipeError, match="cannot hold"):
        A.CoarseDropout(fill=fill).apply(np.zeros((9, 9, 3), np.uint8), holes=[[1, 1, 4, 4]])


def test_older_spellings():
    hide = A.CoarseDropout(max_holes=8, max_height=16, max_width=12, min_holes=2, fill_value=3, p=1)
    assert hide.num_holes_range == (2, 8)
    assert hide.hole_height_range == (16, 16)
    assert hide.hole_width_range == (12, 12)
    assert hide.fill == 3
    assert A.PadIfNeeded(value=(1, 2, 3)).fill == (1, 2, 3)
    assert A.ShiftScaleRotate(shift_range=0.2, scale_range=0.3, rotate_range=7).rotate_limit == (-7, 7)
    assert A.RandomErasing(value="random").fill == "random"
    with pytest.raises(TypeError, match="rotate_limit"):
        A.ShiftScaleRotate(rotation_limit=7)
