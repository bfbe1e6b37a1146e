"""Other people's augmentations: pure functions of an address, and nothing global moved."""
# ruff: noqa: NPY002  (numpy's global generator is what much of this is about)

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch
from clients import client
from hypothesis import given, settings
from hypothesis import strategies as st

import augstream as A
from augstream.ambient import GlobalGenerators
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError
from augstream.foreign import adapt
from augstream.seeding import Draws, seed_key, subkey

ROOT = seed_key(137)
PLACES = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
NOISE = np.random.Generator(np.random.Philox(7)).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def key(number: int) -> bytes:
    return subkey(ROOT, number)


def ambient() -> tuple[Any, ...]:
    """What the global generators of random, numpy and torch hold."""
    name, words, *rest = np.random.get_state()
    return random.getstate(), (name, words.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def opencv_draw() -> int:
    """The next number of OpenCV's generator, which shows whether it was moved since it was seeded."""
    drawn = np.zeros((1, 1), dtype=np.int32)
    cv2.randu(drawn, -(2**31), 2**31 - 1)
    return int(drawn[0, 0])


# The global generators


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_draws=st.integers(0, 700),
    num_normals=st.integers(0, 3),
    fails=st.booleans(),
)
def test_lent_generators_come_back_as_they_were(
    seed: int, num_draws: int, num_normals: int, fails: bool
) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    np.random.rand(num_draws)
    random.gauss(0, 1)
    np.random.randn(num_normals)
    torch.rand(num_draws + 1)
    before = ambient()
    try:
        with GlobalGenerators().at(key(seed)):
            lent = ambient()
            drawn = random.random(), np.random.randn(3).tolist(), torch.rand(1).item()
            np.random.seed(3)
            if fails:
                raise RuntimeError  # noqa: TRY301
    except RuntimeError:
        assert fails
    assert ambient() == before != lent
    with GlobalGenerators().at(key(seed)):
        assert drawn == (random.random(), np.random.randn(3).tolist(), torch.rand(1).item())
    with GlobalGenerators().at(key(seed + 1)):
        assert drawn[0] != random.random()
        assert drawn[1] != np.random.randn(3).tolist()
        assert drawn[2] != torch.rand(1).item()


def test_another_global_bit_generator_comes_back_too() -> None:
    ours = np.random.PCG64(5)
    usual = np.random.mtrand.get_bit_generator()
    np.random.mtrand.set_bit_generator(ours)
    try:
        expected = np.random.RandomState(np.random.PCG64(5))
        np.testing.assert_equal(np.random.randn(), expected.randn())
        with GlobalGenerators().at(ROOT):
            np.random.rand()
        assert np.random.mtrand.get_bit_generator() is ours
        np.testing.assert_equal(np.random.randn(2), expected.randn(2))
    finally:
        np.random.mtrand.set_bit_generator(usual)


# albumentations


def flips(*, seed: int | None = None) -> albumentations.Compose:
    return albumentations.Compose(
        [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)], seed=seed
    )


def test_albumentations_is_a_function_of_the_key_alone() -> None:
    pipeline = [
        albumentations.RandomResizedCrop(size=(24, 24)),
        albumentations.OneOf(
            [albumentations.GaussNoise(p=1), albumentations.RandomBrightnessContrast(p=1)], p=0.8
        ),
        albumentations.SomeOf([albumentations.HorizontalFlip(), albumentations.Transpose()], n=1),
    ]
    first, second = adapt(albumentations.Compose(pipeline, seed=1)), adapt(albumentations.Compose(pipeline))
    expected = [first({"image": NOISE}, key(i))["image"] for i in range(20)]
    assert len({image.tobytes() for image in expected}) > 15
    for i in reversed(range(20)):
        random.seed(i)
        np.random.seed(i)
        cv2.setRNGSeed(i)
        np.testing.assert_array_equal(second({"image": NOISE}, key(i))["image"], expected[i])


def test_two_flips_of_one_albumentations_pipeline_are_independent() -> None:
    stage = adapt(flips(seed=137))
    versions = {name: image.tobytes() for name, image in {
        "none": PLACES, "h": PLACES[:, ::-1], "v": PLACES[::-1], "both": PLACES[::-1, ::-1],
    }.items()}  # fmt: skip
    seen = [stage({"image": PLACES}, key(i))["image"].tobytes() for i in range(400)]
    counts = {name: seen.count(data) for name, data in versions.items()}
    assert sum(counts.values()) == 400
    assert all(65 <= count <= 135 for count in counts.values()), counts


def test_replacing_one_albumentations_transform_changes_no_others_draws() -> None:
    def crops_with(middle: Any) -> list[Any]:
        stage = adapt(albumentations.Compose(
            [albumentations.RandomCrop(40, 40), middle, albumentations.RandomCrop(8, 8)], save_applied_params=True
        ))  # fmt: skip
        applied = [stage({"image": NOISE}, key(i))["applied_transforms"] for i in range(20)]
        return [
            [params["crop_coords"] for name, params in one if name == "RandomCrop"] for one in applied
        ]  # fmt: skip

    plain = crops_with(albumentations.NoOp())
    assert (
        plain
        == crops_with(albumentations.GaussNoise(p=1))
        == crops_with(albumentations.ElasticTransform(p=1))
    )
    nested = albumentations.OneOf([albumentations.Blur(p=1), albumentations.RandomGamma(p=1)], p=1)
    assert plain == crops_with(nested)
    assert len({str(crop) for crop in plain}) > 15


def test_a_failed_albumentations_call_shifts_nothing() -> None:
    stage = adapt(
        albumentations.Compose([albumentations.HorizontalFlip(), albumentations.RandomCrop(32, 32)])
    )
    expected = [stage({"image": NOISE}, key(i))["image"].tobytes() for i in range(8)]
    with pytest.raises(Exception, match="exceeds image"):
        stage({"image": NOISE[:8, :8]}, key(3))
    assert [stage({"image": NOISE}, key(i))["image"].tobytes() for i in range(8)] == expected


def test_the_users_albumentations_pipeline_keeps_its_own_sequence() -> None:
    used, untouched = flips(seed=3), flips(seed=3)
    stage = adapt(used)
    for i in range(5):
        stage({"image": PLACES}, key(i))
        np.testing.assert_array_equal(used(image=PLACES)["image"], untouched(image=PLACES)["image"])


def test_albumentations_targets_labels_and_strangers() -> None:
    stage = adapt(albumentations.Compose(
        [albumentations.HorizontalFlip(p=1)],
        bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["names"]),
        additional_targets={"image2": "image"},
        strict=True,
    ))  # fmt: skip
    sample = {
        "image": PLACES, "image2": PLACES[::-1], "mask": PLACES[..., 0], "bboxes": [[0, 0, 16, 8]], "names": ["cat"],
        "cls": 3, "__key__": "k",
    }  # fmt: skip
    found = stage(sample, ROOT)
    np.testing.assert_array_equal(found["image"], PLACES[:, ::-1])
    np.testing.assert_array_equal(found["image2"], PLACES[::-1, ::-1])
    np.testing.assert_array_equal(found["mask"], PLACES[:, ::-1, 0])
    np.testing.assert_allclose(found["bboxes"], [[48, 0, 64, 8]])
    assert (found["names"], found["cls"], found["__key__"]) == (["cat"], 3, "k")
    assert sample["bboxes"] == [[0, 0, 16, 8]]


def test_a_lone_albumentations_transform_is_a_pipeline() -> None:
    stage = adapt(albumentations.HorizontalFlip(p=0.5))
    kept = [bool((stage({"image": PLACES}, key(i))["image"] == PLACES).all()) for i in range(100)]
    assert 30 <= sum(kept) <= 70


def every_albumentations_transform() -> list[Any]:
    """One instance of each transform that can be made without arguments and applied to a bare image."""
    found = []
    for name in sorted(dir(albumentations)):
        cls = getattr(albumentations, name)
        is_transform = isinstance(cls, type) and issubclass(cls, albumentations.BasicTransform)
        if not is_transform or name in {"Lambda", "Transform3D"}:
            continue
        try:
            transform = cls(p=1)
            transform(image=NOISE)
        except Exception:  # noqa: BLE001, S112  # it needs arguments, references or other targets
            continue
        found.append(pytest.param(transform, id=name))
    return found


@pytest.mark.parametrize("transform", every_albumentations_transform())
def test_every_albumentations_transform_repeats_and_moves_nothing_global(transform: Any) -> None:
    stage = adapt(copy.deepcopy(transform))
    cv2.setRNGSeed(7)
    expected_draw = opencv_draw()
    before = ambient()
    cv2.setRNGSeed(7)
    first = stage({"image": NOISE}, ROOT)["image"]
    assert opencv_draw() == expected_draw
    assert ambient() == before
    random.seed(1)
    np.random.seed(1)
    stage({"image": NOISE}, key(1))
    np.testing.assert_array_equal(stage({"image": NOISE}, ROOT)["image"], first)


def test_albumentations_code_that_draws_globally_is_repeatable_too() -> None:
    def shifted(image: Any, **_: Any) -> Any:
        return np.roll(image, np.random.randint(64), axis=1)

    stage = adapt(albumentations.Compose([albumentations.Lambda(image=shifted, p=1)]))
    before = ambient()
    first = [stage({"image": PLACES}, key(i))["image"].tobytes() for i in range(8)]
    assert ambient() == before
    np.random.seed(0)
    assert [stage({"image": PLACES}, key(i))["image"].tobytes() for i in range(8)] == first
    assert len(set(first)) > 4


class LikeAlbumentationsX:
    """What AlbumentationsX looks like from outside: a seed for each call among its arguments."""

    def __call__(self, *, invocation_seed: int | None = None, **data: Any) -> dict[str, Any]:
        rng = np.random.default_rng(invocation_seed)
        return {**data, "image": np.roll(data["image"], int(rng.integers(64)), axis=1)}


def test_an_invocation_seed_follows_from_the_key() -> None:
    stage = adapt(LikeAlbumentationsX())
    first = [stage({"image": PLACES, "cls": 1}, key(i)) for i in range(8)]
    assert len({sample["image"].tobytes() for sample in first}) > 4
    for i in range(8):
        np.testing.assert_array_equal(stage({"image": PLACES}, key(i))["image"], first[i]["image"])
    assert first[0]["cls"] == 1


# torch


class Shift(torch.nn.Module):
    """A module that draws from torch's global generator, as torchvision does, and has a weight to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.roll(image, int(torch.randint(64, ())), dims=2) * self.weight


def test_a_torch_module_draws_at_the_address_and_moves_nothing() -> None:
    stage = adapt(Shift())
    before = ambient()
    first = [stage({"image": PLACES}, key(i))["image"] for i in range(8)]
    assert ambient() == before
    assert first[0].shape == (3, 64, 64)
    assert not first[0].requires_grad
    torch.manual_seed(99)
    for i in range(8):
        assert torch.equal(
            stage({"image": torch.from_numpy(PLACES).permute(2, 0, 1)}, key(i))["image"], first[i]
        )
    assert len({image.numpy().tobytes() for image in first}) > 4


def test_older_torchvision_transforms_get_pictures() -> None:
    v1 = client("torchvision.transforms")
    stage = adapt(v1.RandomHorizontalFlip(p=0.5))
    found = [stage({"image": PLACES}, key(i))["image"] for i in range(20)]
    assert {image.tobytes() for image in found} == {PLACES.tobytes(), PLACES[:, ::-1].tobytes()}


def test_torchvision_moves_masks_and_boxes_with_the_image() -> None:
    v2 = client("torchvision.transforms.v2")
    boxes = client("torchvision.tv_tensors").BoundingBoxes
    stage = adapt(
        v2.Compose([v2.RandomHorizontalFlip(p=0.5), v2.RandomCrop(40), v2.GaussianNoise(clip=True)])
    )
    inside = np.zeros((64, 64), np.uint8)
    inside[28:36, 30:38] = 255
    sample = {
        "image": np.repeat(inside[..., None], 3, axis=2), "mask": inside,
        "bboxes": boxes([[30, 28, 38, 36]], format="XYXY", canvas_size=(64, 64)),
    }  # fmt: skip
    before = ambient()
    first = [stage(sample, key(i)) for i in range(12)]
    assert ambient() == before
    torch.manual_seed(5)
    for i in reversed(range(12)):
        again = stage(sample, key(i))
        assert all(torch.equal(again[name], first[i][name]) for name in sample)
        x0, y0, x1, y1 = again["bboxes"][0].tolist()
        drawn = torch.zeros(40, 40, dtype=torch.bool)
        drawn[y0:y1, x0:x1] = True
        assert torch.equal(again["mask"][0] > 0, drawn)
        assert (again["image"].float().mean(0)[drawn] > 128).float().mean() > 0.9
    assert len({found["image"].numpy().tobytes() for found in first}) == 12
    assert len({tuple(found["bboxes"][0].tolist()) for found in first}) > 8


# Functions and objects


class Seeded:
    """What imgaug looks like from outside."""

    def seed_(self, entropy: int) -> None:
        self.rng = np.random.RandomState(entropy)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return np.roll(kwargs["image"], self.rng.randint(64), axis=1)


def of_image(image: Any, rng: np.random.Generator) -> Any:
    return np.roll(image, rng.integers(64), axis=1)


def of_image_generator(picture: Any, *, generator: np.random.Generator) -> Any:
    return np.roll(picture, generator.integers(64), axis=1)


def of_image_seed(image: Any, seed: int) -> Any:
    return np.roll(image, seed % 64, axis=1)


def of_sample(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    sample["image"] = np.roll(sample["image"], rng.integers(64), axis=1)
    sample["rolled"] = True
    return sample


def of_sample_global(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "image": np.roll(sample["image"], random.randrange(64), axis=1)}


@pytest.mark.parametrize(
    "function", [Seeded(), of_image, of_image_generator, of_image_seed, of_sample, of_sample_global]
)
def test_functions_and_objects_are_functions_of_the_key(function: Any) -> None:
    stage = adapt(function)
    sample = {"image": PLACES, "cls": 5}
    before = ambient()
    first = [stage(sample, key(i)) for i in range(8)]
    assert ambient() == before
    random.seed(5)
    again = pickle.loads(pickle.dumps(stage))  # noqa: S301  # our own
    for i in reversed(range(8)):
        np.testing.assert_array_equal(again(sample, key(i))["image"], first[i]["image"])
    assert len({found["image"].tobytes() for found in first}) > 4
    assert all(found["cls"] == 5 for found in first)
    assert sample.keys() == {"image", "cls"}


def test_two_stages_of_one_function_draw_apart() -> None:
    first, second = adapt(of_image, 0), adapt(of_image, 1)
    pairs = [
        (first({"image": PLACES}, key(i))["image"], second({"image": PLACES}, key(i))["image"])
        for i in range(20)
    ]
    assert sum(np.array_equal(a, b) for a, b in pairs) < 5


def test_the_image_lands_in_the_memory_given() -> None:
    out = np.zeros((64, 64, 3), dtype=np.uint8)
    found = adapt(of_image)({"image": PLACES}, ROOT, out)
    assert found["image"] is out
    np.testing.assert_array_equal(out, adapt(of_image)({"image": PLACES}, ROOT)["image"])
    small = np.zeros((3, 3, 3), dtype=np.uint8)
    assert adapt(of_image)({"image": PLACES}, ROOT, small)["image"] is not small


class Undecoded:
    """An image that is not decoded yet, as streams hand them to a pipeline."""

    shape, dtype = PLACES.shape, PLACES.dtype

    def decode(self, box: Any, at_least: Any = None) -> Any:
        assert box is None
        return PLACES


def test_images_are_decoded_for_those_who_know_nothing_of_it() -> None:
    np.testing.assert_array_equal(adapt(lambda sample: sample)({"image": Undecoded()}, ROOT)["image"], PLACES)


def test_what_nobody_could_call_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be called"):
        adapt(3)
    with pytest.raises(RecipeError, match="strength"):
        adapt(lambda image, strength: image + strength)
    with pytest.raises(RecipeError, match="an image"):
        adapt(lambda: 3)


def test_what_a_function_returns_is_checked() -> None:
    with pytest.raises(SampleError, match="returned None"):
        adapt(lambda image: image.sort())({"image": PLACES.copy()}, ROOT)
    with pytest.raises(SampleError, match="dict"):
        adapt(lambda sample: sample["image"])({"image": PLACES}, ROOT)
    with pytest.raises(SampleError, match="no field 'image'"):
        adapt(lambda image: image)({"jpg": PLACES}, ROOT)


def cut(image: Any, rng: np.random.Generator) -> Any:
    y, x = rng.integers(4, size=2)
    return image[y : y + 24, x : x + 24]


class Cut(torch.nn.Module):
    """A crop by torch's global generator."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        y, x = torch.randint(4, (2,)).tolist()
        return image[:, y : y + 24, x : x + 24]


def from_albumentations() -> Any:
    return albumentations.Compose([albumentations.RandomCrop(24, 24), albumentations.GaussNoise()])


def from_torchvision() -> Any:
    v2 = client("torchvision.transforms.v2")
    return v2.Compose(
        [v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    )


@pytest.mark.processes
@pytest.mark.parametrize("make", [from_albumentations, from_torchvision, Cut, lambda: cut])
def test_streams_take_them_and_keep_their_promises(shards: list[str], make: Any) -> None:
    transform = make()

    def dataset() -> A.StreamDataset:
        return A.StreamDataset(
            shards, transform, batch_size=4, seed=1, fields={"image": "jpg", "label": "cls"}
        )

    first = dataset()
    whole, second = ([digest(batch) for batch in first] for _ in range(2))
    assert not set(whole) & set(second)
    with A.StreamLoader(dataset(), num_workers=2, multiprocessing_context="fork") as loader:
        iterator = iter(loader)
        found = [digest(next(iterator)) for _ in range(3)]
        state = loader.state_dict()
    resumed = A.StreamLoader(dataset())
    resumed.load_state_dict(state)
    assert found + [digest(batch) for batch in resumed] == whole


def test_draws_are_what_albumentations_calls_for_scalars() -> None:
    stage = adapt(flips())
    node = stage._pipeline.transforms[0]
    assert isinstance(node.py_random, Draws)
    assert node.random_generator is not stage._pipeline.transforms[1].random_generator
