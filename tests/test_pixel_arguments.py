"""What pixel transforms take: arguments, spellings, shapes and dtypes; and what they refuse."""

from __future__ import annotations

import inspect

import cv2
import numpy as np
import pytest
from catalogue_pixels import CASES, RGB_CASES

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.canvas import Canvas


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: A.RandomBrightnessContrast(brightness_limit="much"),
            "a number or a pair of numbers, got 'much'",
        ),
        (lambda: A.RandomGamma(gamma_limit=(0, 80)), "1 or more"),
        (lambda: A.Solarize(threshold_range=(0, 2)), "from 0 to 1"),
        (lambda: A.Solarize(threshold=300), "from 0 to 255"),
        (lambda: A.Posterize(num_bits=8), "from 1 to 7"),
        (lambda: A.Posterize(num_bits=(1.5, 3)), "whole number from 1 to 7"),
        (lambda: A.ToGray(method="grey"), "one of 'weighted_average'"),
        (lambda: A.ToGray(num_output_channels=0), "1 or more"),
        (lambda: A.ColorJitter(brightness=-0.1), "0 or more"),
        (lambda: A.ColorJitter(hue=0.6), "from -0.5 to 0.5"),
        (lambda: A.CLAHE(clip_limit=(0.5, 2)), "1 or more"),
        (lambda: A.CLAHE(tile_grid_size=8), "a pair of whole numbers"),
        (lambda: A.Equalize(mode="opencv"), "one of 'cv', 'pil'"),
        (lambda: A.AutoContrast(cutoff=101), "from 0 to 100"),
        (lambda: A.AutoContrast(ignore=256), "from 0 to 255"),
        (lambda: A.Blur(blur_limit=4), "odd, say 3 or"),
        (lambda: A.Blur(blur_limit=(3, 6)), r"odd, say 3 or \(3, 7\)"),
        (lambda: A.MedianBlur(blur_limit=(1, 3)), "3 or more"),
        (lambda: A.MotionBlur(angle_range=(0, 400)), "from 0 to 360"),
        (lambda: A.Sharpen(kernel_size=4, method="gaussian"), "odd, say 5"),
        (lambda: A.Sharpen(sigma=0), "greater than 0"),
        (lambda: A.GaussNoise(std_range=(0.2, 1.1)), "from 0 to 1"),
        (lambda: A.GaussNoise(noise_scale_factor=0), "greater than 0"),
        (lambda: A.ISONoise(intensity=(-0.1, 1)), "from 0"),
        (lambda: A.ImageCompression(quality_range=(0, 90)), "1 or more"),
        (lambda: A.ImageCompression(quality_range=(50, 101)), "from 1 to 100"),
        (lambda: A.ImageCompression("png"), "one of 'jpeg', 'webp'"),
        (lambda: A.Downscale(scale_range=(0, 0.5)), "greater than 0"),
        (lambda: A.Downscale(interpolation_pair={"downscale": 0}), "a dict of 'upscale' and 'downscale'"),
        (lambda: A.Normalize(mean=None), "a number, or one number for each channel"),
        (lambda: A.Normalize(std=0), "greater than 0"),
        (lambda: A.Normalize(max_pixel_value=0), "greater than 0"),
        (lambda: A.Normalize(mean=(0.1, 0.2), std=(1, 1, 1)), "one number, or 2"),
        (lambda: A.Normalize(normalization="none"), "one of 'standard'"),
        (lambda: A.ToFloat(max_value=0), "greater than 0"),
        (lambda: A.Posterize(num_bits=[]), "num_bits must be a number or a pair of numbers, got \\[\\]"),
        (lambda: A.Equalize(mask="x"), "an array of numbers or booleans, or a function"),
        (lambda: A.Equalize(mask_params="mask"), "a list of the names of targets, got 'mask'"),
        (lambda: A.Equalize(by_channels="false"), "by_channels must be True or False, got 'false'"),
        (lambda: A.LongestMaxSize(max_size_hw=224), "a pair \\(height, width\\)"),
        (lambda: A.Affine(1, fit_output=2), "Affine: fit_output must be True or False, got 2"),
        (lambda: A.Compose([], strict="no"), "strict must be True or False, got 'no'"),
        (lambda: A.BboxParams("coco", clip="no"), "clip must be True or False, got 'no'"),
        (lambda: A.KeypointParams("xy", remove_invisible=None), "must be True or False, got None"),
        (lambda: A.Pad(1, fill=()), "fill must be a number, or one number for each channel, got \\(\\)"),
    ],
)
def test_bad_arguments_say_what_is_allowed(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_no_argument_of_the_wrong_kind_is_an_error_of_another_kind():
    """Every argument of every transform, made of what configuration files may hold."""
    needed = {"height": 8, "width": 8, "x_max": 8, "y_max": 8, "size": (8, 8), "min_max_height": (4, 8)}
    values = [
        "x",
        None,
        -5,
        0.5,
        9,
        [],
        {},
        ["a", 1],
        {"x": 1},
        [[1, 2], [3]],
        np.array([1, 2]),
        float("nan"),
        object,
    ]
    messages = []
    for cls in [getattr(A, name) for name in A.__all__ if name != "Lambda"]:
        if not (isinstance(cls, type) and issubclass(cls, A.BasicTransform)):
            continue
        arguments = inspect.signature(cls).parameters
        for argument in [*arguments, *cls._legacy]:
            others = {other: needed[other] for other in arguments if other in needed and other != argument}
            if "size" in others or argument == "size":
                others = {other: value for other, value in others.items() if other not in {"height", "width"}}
            for value in values:
                try:
                    cls(**{**others, argument: value})
                except RecipeError as error:
                    messages.append(str(error))
    assert len(messages) > 2000
    assert all("got" in message for message in messages)


@pytest.mark.parametrize(
    ("make", "nearest"),
    [
        (lambda: A.RandomBrightnessContrast(brightnes_limit=0.2), "brightness_limit"),
        (lambda: A.GaussNoise(std_rang=(0.1, 0.2)), "std_range"),
        (lambda: A.ImageCompression(quality_rage=(1, 2)), "quality_range"),
        (lambda: A.Normalize(max_pixel=255), "max_pixel_value"),
    ],
)
def test_unknown_arguments_suggest_the_nearest(make, nearest):
    with pytest.raises(TypeError, match=f"did you mean '{nearest}'"):
        make()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            A.RandomBrightnessContrast(brightness_range=(0, 0.3)),
            A.RandomBrightnessContrast(brightness_limit=(0, 0.3)),
        ),
        (A.HueSaturationValue(hue_shift_range=(1, 2)), A.HueSaturationValue(hue_shift_limit=(1, 2))),
        (A.RGBShift(r_shift_range=(1, 2)), A.RGBShift(r_shift_limit=(1, 2))),
        (A.RandomGamma(gamma_range=(90, 99)), A.RandomGamma(gamma_limit=(90, 99))),
        (A.ColorJitter(hue_range=(0.1, 0.2)), A.ColorJitter(hue=(0.1, 0.2))),
        (A.CLAHE(clip_range=(2, 3)), A.CLAHE(clip_limit=(2, 3))),
        (
            A.GaussianBlur(blur_range=(3, 5), sigma_range=(1, 2)),
            A.GaussianBlur(blur_limit=(3, 5), sigma_limit=(1, 2)),
        ),
        (A.MotionBlur(blur_range=(3, 5)), A.MotionBlur(blur_limit=(3, 5))),
        (A.Solarize(threshold=51), A.Solarize(threshold_range=(0.2, 0.2))),
        (A.ImageCompression(quality_lower=70), A.ImageCompression(quality_range=(70, 100))),
        (A.Downscale(scale_min=0.2, scale_max=0.3), A.Downscale(scale_range=(0.2, 0.3))),
        (A.Sharpen(alpha_range=(0.1, 0.2)), A.Sharpen(alpha=(0.1, 0.2))),
    ],
)
def test_other_spellings_mean_the_same(old, new):
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    results = [A.Compose([transform], seed=3).at(0)(image=image)["image"] for transform in (old, new)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (A.ColorJitter(p=1), (8, 9, 4)),
        (A.HueSaturationValue(p=1), (8, 9, 2)),
        (A.CLAHE(p=1), (8, 9, 5)),
        (A.Equalize(p=1), (8, 9, 2)),
        (A.ISONoise(p=1), (8, 9)),
        (A.ISONoise(p=1), (8, 9, 4)),
        (A.ToGray(p=1), (8, 9, 4)),
    ],
)
def test_channels_without_a_meaning_are_refused(transform, shape):
    with pytest.raises(TypeError, match=r"channels|RGB"):
        transform(image=np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(8, 9, 4), (8, 9, 7)])
def test_more_channels_than_constants_are_refused(shape):
    for transform in (A.Normalize(), A.RGBShift(p=1)):
        with pytest.raises(RecipeError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
            transform(image=np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int32])
@pytest.mark.parametrize(
    "transform", [A.RandomGamma(p=1), A.Blur(p=1), A.ColorJitter(p=1), A.GaussNoise(p=1)]
)
def test_other_dtypes_are_refused(transform, dtype):
    with pytest.raises(RecipeError, match=r"takes uint8 and float32 images, got .* ToFloat"):
        transform(image=np.zeros((8, 9, 3), dtype))


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1)])
def test_grey_images_keep_what_they_have(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert (A.ToGray(p=1)(image=image)["image"] == image).all()
    assert (A.ChannelShuffle(p=1)(image=image)["image"] == image).all()
    jitter = A.ColorJitter((1, 1), (1, 1), p=1)
    assert (jitter(image=image)["image"] == image).all()
    shift = A.HueSaturationValue(val_shift_limit=(10.7, 10.7), p=1)
    assert (shift(image=image)["image"] == np.clip(image.astype(int) + 10, 0, 255)).all()
    for clahe in (A.CLAHE(p=1), A.Equalize(p=1)):
        assert clahe(image=image)["image"].shape == shape


def test_two_channels_are_compressed():
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 2), np.uint8), (50, 40)).reshape(
        40, 50, 2
    )
    for number in (2, 5):
        many = np.dstack([image] * 3)[:, :, :number]
        stored = A.ImageCompression(quality_range=(90, 90), p=1)(image=many)["image"]
        assert stored.shape == many.shape
        assert np.abs(stored.astype(int) - many).mean() < 12


@pytest.mark.parametrize("shape", [(1, 1), (1, 5, 3), (2, 1, 1)])
@pytest.mark.parametrize(
    "transform",
    [
        A.Downscale((0.1, 0.1), p=1),
        A.GaussNoise(noise_scale_factor=0.1, p=1),
        A.Blur(p=1),
        A.AutoContrast(p=1),
    ],
)
def test_tiny_images(transform, shape):
    assert transform(image=np.full(shape, 9, np.uint8))["image"].shape == shape


@pytest.mark.parametrize("case", [*CASES, *RGB_CASES], ids=lambda case: case[0])
def test_floats_that_interpolation_overshot_stay_numbers(case):
    image = np.random.default_rng(1).uniform(-0.2, 1.2, (9, 11, 3)).astype(np.float32)
    transform = getattr(A, case[0])(**case[1])
    for seed in range(4):
        compose = A.Compose([transform], seed=seed)
        assert np.isfinite(np.asarray(compose(image=image)["image"])).all()


def test_statistics_of_an_image_without_contrast():
    for normalization in ("image", "image_per_channel", "min_max", "min_max_per_channel"):
        for dtype in (np.uint8, np.float32):
            flat = np.ones((4, 5, 3), dtype)
            assert not A.Normalize(normalization=normalization)(image=flat)["image"].any()


def test_a_mask_that_does_not_fit_is_refused():
    image = np.zeros((8, 9, 3), np.uint8)
    for mask, by_channels in (
        (np.ones((8, 8)), True),
        (np.ones((8, 9, 3)), False),
        (np.ones((8, 9, 2)), True),
    ):
        with pytest.raises(RecipeError, match="does not fit"):
            A.Equalize(mask=mask, by_channels=by_channels, p=1)(image=image)


def test_a_mask_of_large_or_small_numbers_is_none_of_zeros():
    image = np.random.default_rng(0).integers(0, 99, (8, 9, 3), np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (8, 9))
    expected = A.Equalize(mask=mask, p=1)(image=image)["image"]
    for scale in (256, -1, 0.25):
        assert np.array_equal(A.Equalize(mask=mask * scale, p=1)(image=image)["image"], expected)


def test_a_mask_may_be_a_function():
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    mask = (image[:, :, 0] > 128).astype(np.uint8)
    transform = A.Equalize(mask=lambda image, mask: mask & (image[:, :, 1] > 50), mask_params=["mask"], p=1)
    expected = A.Equalize(mask=mask & (image[:, :, 1] > 50), p=1)(image=image)["image"]
    np.testing.assert_array_equal(transform(image=image, mask=mask)["image"], expected)
    with pytest.raises(RecipeError, match="mask"):
        transform(image=image)


def test_normalizing_and_planes_touch_pixels_once():
    """The table of floats and the layout wait on the canvas until the end."""
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    canvas = Canvas(image)
    for transform, params in ((A.InvertImg(p=1), {}), (A.Normalize(), {}), (A.ToTensorV2(), {})):
        transform.fuse(canvas, params)
    out = np.empty((3, 20, 24), np.float32)
    assert canvas.finish(out) is out
    expected = A.Normalize().apply(255 - image).transpose(2, 0, 1)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("weighted_average", "f8"), ("weighted_average", "?"), ("from_lab", "u2"), ("from_lab", "f8")],
)
def test_grey_is_refused_to_dtypes_that_opencv_has_none_for(method, dtype):
    with pytest.raises(
        RecipeError, match=rf"ToGray\(method='{method}'\) takes .*, got {np.dtype(dtype)}; put ToFloat"
    ):
        A.ToGray(method=method, p=1)(image=np.ones((4, 5, 3), dtype))
    wide = np.full((4, 5, 3), 60000, np.uint16)
    assert (A.ToGray(p=1)(image=wide)["image"] == 60000).all()


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "i8", "?"])
def test_inpainting_is_refused_to_dtypes_that_it_would_wreck(dtype):
    image = np.full((20, 20, 3), 1, dtype)
    for name in ("CoarseDropout", "Erasing"):
        with pytest.raises(
            RecipeError, match=f"uint8 images and floats of 0 to 1, got {image.dtype}; put ToFloat"
        ):
            getattr(A, name)(fill="inpaint_telea", p=1)(image=image)


@pytest.mark.parametrize(
    "case",
    [case for case in [*CASES, *RGB_CASES] if case[0] in {"RGBShift", "Solarize"} or "Random" in case[0]],
)
def test_a_second_image_of_another_dtype_is_changed_alike(case):
    image = np.random.default_rng(0).integers(60, 200, (20, 24, 3), dtype=np.uint8)
    floats = (image / 255).astype(np.float32)
    compose = A.Compose([getattr(A, case[0])(**case[1])], additional_targets={"other": "image"}, seed=1)
    for first, second in ((image, floats), (floats, image)):
        result = compose.at(1)(image=first, other=second)
        assert np.array_equal(result["image"], compose.at(1)(image=first)["image"])
        one, two = [found if found.dtype == np.uint8 else found * 255 for found in result.values()]
        assert np.abs(one - two.astype(float)).max() < 1.01


def test_a_second_image_may_be_grey():
    image = np.random.default_rng(0).integers(60, 200, (20, 24, 3), dtype=np.uint8)
    for dtype in (np.uint8, np.float32):
        for grey in (image[:, :, 0].astype(dtype), image[:, :, :1].astype(dtype)):
            targets = {"additional_targets": {"other": "image"}, "seed": 1}
            shifted = A.Compose([A.RGBShift(p=1)], **targets)(image=image.astype(dtype), other=grey)
            assert np.array_equal(shifted["image"][:, :, 0], shifted["other"].reshape(20, 24))
            shuffled = A.Compose([A.ChannelShuffle(p=1)], **targets)(image=image, other=grey)
            assert np.array_equal(shuffled["other"], grey)
    with pytest.raises(RecipeError, match="an order of 3 channels, and a target has 4"):
        A.Compose([A.ChannelShuffle(p=1)], **targets)(image=image, other=np.zeros((20, 24, 4), np.uint8))


def test_tensors_are_contiguous_and_their_own():
    import torch

    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for fused in (True, False):
        result = A.Compose([A.ToTensorV2()], fused=fused)(image=image, mask=image, masks=[image[:, :, 0]])
        assert isinstance(result["image"], torch.Tensor)
        assert result["image"].is_contiguous()
        assert result["mask"].shape == (20, 24, 3)
        assert [mask.shape for mask in result["masks"]] == [(20, 24)]
        assert isinstance(result["masks"], list)
        result["image"].zero_()
        assert image.any()
