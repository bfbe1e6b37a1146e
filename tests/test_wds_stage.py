"""The augmentation stage in real webdataset pipelines: addresses, epochs, visits, and every kind of member."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pipelines
import pytest
import torch
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pipelines import collected, crop_and_flip, loader, passed, plain, seen

import augstream as A
import augstream.wds
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError
from augstream.images.pixels import decode_image
from augstream.seeding import Address, sample_key, stream_key
from augstream.sources.remote import shard_name
from augstream.transforms.compose import Addressed
from augstream.wds.stage import Visits

pytestmark = pipelines.PARDON
__all__ = ["collected"]


def stage(transform: Any = None, **arguments: Any) -> augstream.wds.Augment:
    arguments = {"seed": 137, "fields": {"image": "jpg"}, **arguments}
    return augstream.wds.augment(crop_and_flip() if transform is None else transform, **arguments)


def raw(shards: list[str]) -> list[dict[str, Any]]:
    return list(plain(shards, nodesplitter=None).decode("rgb8"))


def by_hand(shards: list[str], **scope: Any) -> dict[str, str]:
    """What every sample should be at an epoch and worker, computed without the stage."""
    compose = crop_and_flip()
    found = {}
    for sample in raw(shards):
        key = stream_key(137, shard=shard_name(sample["__url__"]), **scope)
        place = compose.stage().key(sample_key(key, sample["__key__"]))
        found[sample["__key__"]] = digest(Addressed(compose, place)(image=sample["jpg"])["image"])
    return found


# Addresses


def test_a_sample_is_what_its_address_says(shards: list[str]) -> None:
    dataset = plain(shards).decode("rgb8").compose(stage()).map(seen)
    assert passed(dataset) == by_hand(shards, worker=0, epoch=0)
    assert passed(dataset) == by_hand(shards, worker=0, epoch=1)


def test_what_arrives_before_a_sample_does_not_matter(shards: list[str]) -> None:
    shuffled = plain(shards).shuffle(30).decode("rgb8").compose(stage()).map(seen)
    expected = by_hand(shards, worker=0, epoch=0)
    assert passed(shuffled) == expected
    some = plain(shards[1:2]).decode("rgb8").compose(stage()).map(seen)
    assert passed(some).items() < expected.items()


def test_a_sample_can_be_computed_alone(shards: list[str]) -> None:
    one = stage()
    samples = raw(shards)
    through = list(one(iter(samples)))
    address = Address(
        137, epoch=0, worker=0, shard=shard_name(samples[20]["__url__"]), sample=samples[20]["__key__"]
    )
    assert seen(one.at(samples[20], str(address))) == seen(through[20])
    assert seen(samples[20]) != seen(through[20])


def test_seed_scope_and_name_are_of_the_address(shards: list[str]) -> None:
    samples = raw(shards)

    def digests(**arguments: Any) -> list[str]:
        return [seen(sample)[1] for sample in stage(**arguments)(iter(samples))]

    kinds = [
        digests(), digests(seed=138), digests(name="second"), digests(scope=("shard", "worker")),
        digests(scope=("shard", "epoch")), digests(scope=("shard",)), digests(scope=()),
    ]  # fmt: skip
    assert digests() == digests(name=None) == kinds[0]
    for position, first in enumerate(kinds):
        for second in kinds[:position]:
            assert sum(a == b for a, b in zip(first, second, strict=True)) < len(first) / 4


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_without_the_worker_any_number_of_workers_gives_the_same(shards: list[str], num_workers: int) -> None:
    dataset = plain(shards).shuffle(10).decode("rgb8").compose(stage(scope=("shard", "epoch"))).map(seen)
    found = loader(dataset, num_workers)
    assert passed(found) == by_hand(shards, epoch=0)
    assert passed(found) == by_hand(shards, epoch=1)


@pytest.mark.processes
def test_with_the_worker_each_has_numbers_of_its_own(
    shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = plain(shards, nodesplitter=wds.split_by_node).decode("rgb8").compose(stage()).map(seen)
    two = passed(loader(dataset, 2))
    assert two == {**by_hand(shards[0::2], worker=0, epoch=0), **by_hand(shards[1::2], worker=1, epoch=0)}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dataset = plain(shards, nodesplitter=wds.split_by_node).decode("rgb8").compose(stage()).map(seen)
    assert passed(loader(dataset, 2)) == {
        **by_hand(shards[1:2], worker=2, epoch=0), **by_hand(shards[3:4], worker=3, epoch=0)
    }  # fmt: skip


def test_without_the_epoch_every_epoch_is_the_same(shards: list[str]) -> None:
    dataset = plain(shards).decode("rgb8").compose(stage(scope=("shard", "worker"))).map(seen)
    assert passed(dataset) == passed(dataset) == by_hand(shards, worker=0)


# Epochs


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_epochs_are_right_in_workers_however_they_are_started(
    shards: list[str], method: str, persistent: bool
) -> None:
    one = stage(scope=("shard", "epoch"))
    dataset = plain(shards).decode("rgb8").compose(one).map(seen)
    batches = loader(dataset, 2, persistent=persistent, method=method)
    few = method != "fork" and not persistent  # each pass imports torch in each worker
    assert passed(batches) == by_hand(shards, epoch=0)
    assert few or passed(batches) == by_hand(shards, epoch=1)
    one.set_epoch(7)
    assert passed(batches) == by_hand(shards, epoch=7)
    one.set_epoch(8)
    assert few or passed(batches) == by_hand(shards, epoch=8)


def test_set_epoch_before_each_epoch_is_counted_once(shards: list[str]) -> None:
    one = stage()
    dataset = plain(shards).decode("rgb8").compose(one).map(seen)
    for epoch in range(3):
        one.set_epoch(epoch)
        assert passed(dataset) == by_hand(shards, worker=0, epoch=epoch)
    one.set_epoch(1)
    assert passed(dataset) == by_hand(shards, worker=0, epoch=1)


# Visits


def visits(
    one: augstream.wds.Augment, shards: list[str], found: list[tuple[str, str]], epoch: int
) -> list[int]:
    """Which visit of its sample each of `found` is, from 0; fails if it is not what that visit should be."""
    samples = {sample["__key__"]: sample for sample in raw(shards)}
    counts: Counter[str] = Counter()
    numbers = []
    for key, value in found:
        address = one.address(samples[key], epoch, 0, counts[key])
        assert seen(one.at(samples[key], address)) == (key, value)
        numbers.append(counts[key])
        counts[key] += 1
    return numbers


def test_resampled_visits_differ_and_repeat_from_run_to_run(shards: list[str]) -> None:
    def run() -> tuple[augstream.wds.Augment, list[tuple[str, str]]]:
        one = stage()
        urls = wds.ResampledShards(shards, deterministic=True, seed=3)
        pipeline = wds.DataPipeline(urls, wds.tarfile_to_samples(), wds.decode("rgb8"), one, wds.map(seen))
        return one, list(pipeline.with_epoch(120))

    one, first = run()
    assert max(visits(one, shards, first, epoch=0)) >= 2
    assert run()[1] == first


def test_passes_that_repeat_within_an_iteration_are_visits_not_epochs(shards: list[str]) -> None:
    one = stage()
    dataset = plain(shards).decode("rgb8").compose(one).map(seen).with_epoch(90)
    for epoch in range(2):
        assert max(visits(one, shards, list(dataset), epoch)) == 2
    one = stage()
    dataset = plain(shards).decode("rgb8").compose(one).map(seen).repeat(2)
    assert Counter(visits(one, shards, list(dataset), 0)) == {0: 37, 1: 37}


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [False, True])
def test_with_epoch_in_workers_counts_iterations(shards: list[str], persistent: bool) -> None:
    one = stage(scope=("shard", "epoch"))
    dataset = plain(shards).decode("rgb8").compose(one).map(seen).with_epoch(40)
    batches = loader(dataset, 2, persistent=persistent)
    for epoch in range(3):
        found = list(batches)
        assert len(found) == 80
        visits(one, shards, found, epoch)


@given(st.lists(st.integers(0, 40) | st.sampled_from([2**64 - 1, 2**63])), st.integers(1, 9))
def test_visits_are_counted_as_a_counter_counts(numbers: list[int], num_recent: int) -> None:
    counted, expected = Visits(num_recent), Counter[int]()
    for number in numbers:
        assert counted.count(number) == expected[number]
        expected[number] += 1


# What goes in, and comes out


@pytest.mark.parametrize("decoder", ["rgb8", "pil", "torchrgb8", "rgb", "torchrgb"])
def test_every_decoder_of_webdataset_gets_back_its_own_kind(shards: list[str], decoder: str) -> None:
    before = next(iter(plain(shards).decode(decoder)))["jpg"]
    after = next(iter(plain(shards).decode(decoder).compose(stage())))["jpg"]
    assert type(after) is type(before)
    expected = next(iter(plain(shards).decode("rgb8").compose(stage())))["jpg"]
    array = np.asarray(after)
    if decoder.startswith("torch"):
        assert array.shape[0] == 3
        array = array.transpose(1, 2, 0)
    if decoder in {"rgb", "torchrgb"}:
        array = np.rint(array * 255).astype(np.uint8)
    np.testing.assert_array_equal(array, expected)


def test_before_decoding_the_stage_decodes_for_itself_alone(shards: list[str]) -> None:
    sample = next(iter(plain(shards).compose(stage())))
    assert sample["jpg"].shape == (16, 16, 3)
    assert isinstance(sample["cls"], bytes)
    later = next(iter(plain(shards).compose(stage()).decode("rgb8", partial=True).to_tuple("jpg", "cls")))
    np.testing.assert_array_equal(later[0], sample["jpg"])
    assert later[1] == int(sample["cls"])


@pytest.mark.parametrize(
    "transform", [crop_and_flip(), A.Compose([]), A.Compose([A.HorizontalFlip(p=0)]), pipelines.roll]
)
def test_bytes_are_augmented_as_their_pixels(shards: list[str], transform: Any) -> None:
    for sample in list(plain(shards))[:10]:
        decoded = {**sample, "jpg": decode_image(sample["jpg"])}
        address = "seed=137;epoch=0;worker=0;shard=a.tar;sample=0"
        found = stage(transform).at(sample, address)["jpg"]
        np.testing.assert_array_equal(found, stage(transform).at(decoded, address)["jpg"])


def test_tensors_with_channels_last_stay_so(shards: list[str]) -> None:
    sample = next(iter(plain(shards).decode("rgb8")))
    as_tensor = {**sample, "jpg": torch.tensor(sample["jpg"])}
    after = next(stage()(iter([as_tensor])))["jpg"]
    np.testing.assert_array_equal(after.numpy(), next(stage()(iter([sample])))["jpg"])


def test_without_fields_the_image_is_found(shards: list[str]) -> None:
    with_fields = [seen(sample) for sample in plain(shards).compose(stage())]
    assert [seen(sample) for sample in plain(shards).compose(stage(fields=None))] == with_fields
    renamed = plain(shards).rename(image="jpg").compose(stage(fields=None)).rename(jpg="image")
    assert [seen(sample) for sample in renamed] == with_fields


def test_a_transform_that_makes_tensors_makes_tensors(shards: list[str]) -> None:
    transform = A.Compose([A.RandomCrop(16, 16), A.Normalize(), A.ToTensorV2()])
    for dataset in (plain(shards), plain(shards).decode("rgb8"), plain(shards).decode("pil")):
        image = next(iter(dataset.compose(stage(transform))))["jpg"]
        assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)


def place_picture() -> np.ndarray[Any, Any]:
    """A picture in which every pixel tells where it was."""
    y, x = np.mgrid[:32, :40]
    return np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)


@pytest.fixture
def masks_and_boxes(tmp_path: Path) -> str:
    """A shard of pictures, masks that equal them, a second view, and boxes in the JSON."""
    path = tmp_path / "seg.tar"
    png = cv2.imencode(".png", place_picture()[..., ::-1])[1].tobytes()
    mask = cv2.imencode(".png", place_picture()[..., 1])[1].tobytes()
    about = json.dumps({"objects": {"boxes": [[14, 10, 26, 22]], "names": ["cat"]}, "id": 5}).encode()
    with tarfile.open(path, "w") as tar:
        for number in range(8):
            members = {"png": png, "seg.png": mask, "left.png": png, "right.png": png, "json": about}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize("decoder", [None, "rgb8"])
def test_masks_boxes_and_several_images_move_together(masks_and_boxes: str, decoder: str | None) -> None:
    transform = A.Compose(
        [A.RandomCrop(16, 20), A.HorizontalFlip()],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["names"], min_visibility=0.01),
    )
    fields = {
        "image": "png", "mask": "seg.png", "images": ["left.png", "right.png"], "bboxes": "json:objects.boxes",
        "names": "json:objects.names",
    }  # fmt: skip
    source = plain(masks_and_boxes)
    dataset = (source if decoder is None else source.decode(decoder)).compose(stage(transform, fields=fields))
    num_boxes = 0
    for sample in dataset:
        image, mask = sample["png"], sample["seg.png"]
        assert image.shape == (16, 20, 3)
        np.testing.assert_array_equal(mask if mask.ndim == 2 else mask[..., 0], image[..., 1])
        np.testing.assert_array_equal(sample["left.png"], image)
        np.testing.assert_array_equal(sample["right.png"], image)
        about = sample["json"]
        assert about["id"] == 5
        assert len(about["objects"]["boxes"]) == len(about["objects"]["names"])
        num_boxes += len(about["objects"]["boxes"])
        for x0, y0, x1, y1 in about["objects"]["boxes"]:
            # whole pixels, but for the last bits of having been shares of the image's size
            assert max(abs(value - round(value)) for value in (x0, y0, x1, y1)) < 1e-9
            places = image[round(y0) : round(y1), round(x0) : round(x1)]
            assert (places[..., 0] >= 10).all()
            assert (places[..., 0] < 22).all()
            assert (places[..., 1] >= 14).all()
            assert (places[..., 1] < 26).all()
    assert num_boxes > 0


def test_the_sample_given_is_left_as_it_is(masks_and_boxes: str) -> None:
    sample = next(iter(plain(masks_and_boxes).decode("rgb8")))
    before = pickle.dumps(sample)
    one = stage(
        A.Compose([A.HorizontalFlip(p=1)], bbox_params=A.BboxParams("pascal_voc", label_fields=[])),
        fields={"image": "png", "bboxes": "json:objects.boxes"},
    )
    after = next(one(iter([sample])))
    assert pickle.dumps(sample) == before
    assert list(map(list, after["json"]["objects"]["boxes"])) == [
        [14, 10, 26, 22]
    ]  # in the middle of 40 pixels


# Other people's augmentations


def shifted(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    assert isinstance(sample["cls"], int)
    return {**sample, "image": np.roll(sample["image"], rng.integers(30), axis=0), "moved": True}


@pytest.mark.parametrize(
    "transform",
    [
        albumentations.Compose([albumentations.RandomCrop(16, 16)]),
        pipelines.roll,
        pipelines.Jitter(),
        shifted,
    ],
    ids=["albumentations", "f(image, rng)", "torch module", "f(sample, rng)"],
)
def test_foreign_augmentations_follow_the_address_too(shards: list[str], transform: Any) -> None:
    dataset = plain(shards).decode("rgb8").compose(stage(transform)).map(seen)
    first = passed(dataset)
    np.random.seed(0)  # noqa: NPY002  # it should not matter
    torch.manual_seed(0)
    again = plain(shards).shuffle(20).decode("rgb8").compose(stage(transform)).map(seen)
    assert passed(again) == first
    second = passed(dataset)
    assert sum(second[key] == value for key, value in first.items()) < 10


def test_what_a_function_of_the_sample_adds_stays(shards: list[str]) -> None:
    sample = next(iter(plain(shards).decode("rgb8").compose(stage(shifted))))
    assert sample["moved"] is True
    assert "image" not in sample


# In pipelines of every shape


def test_in_a_data_pipeline_and_batched(shards: list[str]) -> None:
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(shards),
        wds.tarfile_to_samples(),
        stage(),
        wds.to_tuple("__key__", "jpg"),
        wds.batched(5),
    )
    found = {key: digest(image) for keys, images in pipeline for key, image in zip(keys, images, strict=True)}
    expected = plain(shards).compose(stage()).map(seen)
    assert found == passed(expected)


@pytest.mark.processes
def test_in_a_web_loader_unbatched_and_augmented_after(shards: list[str]) -> None:
    dataset = plain(shards).decode("torchrgb8").batched(4, collation_fn=dicts)
    batches = (
        wds.WebLoader(dataset, batch_size=None, num_workers=2, collate_fn=dict).unbatched().compose(stage())
    )
    for epoch in range(2):
        found = {sample["__key__"]: digest(sample["jpg"].permute(1, 2, 0)) for sample in batches}
        assert found == by_hand(shards, worker=0, epoch=epoch)


def dicts(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def test_in_a_random_mix(shards: list[str]) -> None:
    parts = [plain(some).decode("rgb8").compose(stage()).map(seen) for some in (shards[:2], shards[2:])]
    mix = wds.RandomMix(parts, longest=True)
    for epoch in range(2):
        assert passed(mix) == by_hand(shards, worker=0, epoch=epoch)


def test_two_stages_of_different_names_draw_apart(shards: list[str]) -> None:
    flip = A.Compose([A.HorizontalFlip(p=0.5)])
    once = plain(shards).decode("rgb8").compose(stage(flip)).map(seen)
    unflipped = plain(shards).decode("rgb8").map(seen)
    twice = plain(shards).decode("rgb8").compose(stage(flip), stage(flip)).map(seen)
    assert passed(twice) == passed(unflipped) != passed(once)
    named = plain(shards).decode("rgb8").compose(stage(flip), stage(flip, name="again")).map(seen)
    assert passed(named) != passed(unflipped)


def test_a_stage_pickles_and_counts_on_at_its_place(shards: list[str]) -> None:
    dataset = plain(shards).decode("rgb8").compose(stage()).map(seen)
    passed(dataset)
    copied = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # our own
    assert passed(copied) == passed(dataset) == by_hand(shards, worker=0, epoch=1)


# Errors


def test_what_is_no_sample_is_refused_with_the_place_to_put_the_stage(shards: list[str]) -> None:
    with pytest.raises(SampleError, match="before batched"):
        next(iter(plain(shards).batched(3, collation_fn=dicts).compose(stage())))
    with pytest.raises(SampleError, match="before batched"):
        next(iter(plain(shards).listed(3).compose(stage())))
    with pytest.raises(SampleError, match="before to_tuple"):
        next(iter(plain(shards).to_tuple("jpg", "cls").compose(stage())))
    with pytest.raises(SampleError, match="before to_tuple"):
        next(iter(plain(shards).rename(jpg="jpg", keep=False).compose(stage())))
    with pytest.raises(SampleError, match="'__url__'"):
        next(iter(plain(shards).map(without_url).compose(stage())))
    next(iter(plain(shards).map(without_url).compose(stage(scope=("epoch",)))))
    with pytest.raises(SampleError, match=r"no png, only __key__.*jpg"):
        next(iter(plain(shards).compose(stage(fields={"image": "png"}))))


def without_url(sample: dict[str, Any]) -> dict[str, Any]:
    return {"jpg": sample["jpg"]}


def test_arguments_are_checked() -> None:
    with pytest.raises(RecipeError, match="seed"):
        stage(seed=-1)
    with pytest.raises(RecipeError, match="scope"):
        stage(scope=("shards",))
    with pytest.raises(RecipeError, match="fields"):
        stage(fields={})
    with pytest.raises(RecipeError, match="one kind"):
        stage(fields={"image": "jpg;json"})
    with pytest.raises(RecipeError, match="cannot be called"):
        stage(3)


def test_errors_name_the_address_and_handlers_judge_them(shards: list[str]) -> None:
    failing = A.Compose([A.RandomCrop(40, 40)])
    seen_errors: list[Exception] = []

    def keep(error: Exception) -> bool:
        seen_errors.append(error)
        return True

    samples = raw(shards)
    one = stage(failing, handler=keep)
    good = list(one(iter(samples)))
    assert 0 < len(good) < len(samples)
    assert len(good) + len(seen_errors) == len(samples)
    error = seen_errors[0]
    assert isinstance(error, SampleError)
    assert f"augstream replay '{error.address}'" in str(error)
    sample = next(sample for sample in samples if sample["__key__"] == error.key)
    with pytest.raises(SampleError, match="could not augment"):
        one.at(sample, str(error.address))
    assert len(list(stage(failing, handler=wds.ignore_and_stop)(iter(samples)))) < len(good)
    with pytest.raises(SampleError):
        list(stage(failing)(iter(samples)))


def test_a_failed_sample_shifts_nothing(shards: list[str]) -> None:
    samples = raw(shards)
    broken = {**samples[3], "jpg": np.zeros((4, 4, 3), np.uint8)}
    one = stage(handler=wds.ignore_and_continue)
    found = [seen(sample) for sample in one(iter([*samples[:3], broken, *samples[4:]]))]
    expected = [seen(sample) for sample in stage()(iter(samples))]
    assert found == expected[:3] + expected[4:]


def test_pil_images_of_other_modes_survive() -> None:
    flip = stage(A.Compose([A.HorizontalFlip(p=1)]))
    for mode in ("L", "RGB", "RGBA", "1"):
        image = Image.fromarray(place_picture()).convert(mode)
        sample = {"__key__": "0", "__url__": "a.tar", "jpg": image}
        found = next(flip(iter([sample])))["jpg"]
        assert found.mode == ("L" if mode == "1" else mode)
        assert found.size == image.size


def test_batches_come_as_soon_as_they_are_full() -> None:
    taken = []

    def source() -> Any:
        for number in range(10):
            taken.append(number)
            yield {"n": number}

    batches = augstream.wds.batched(4)(source())
    assert next(batches)["n"].tolist() == [0, 1, 2, 3]
    assert taken == [0, 1, 2, 3]
    assert [len(batch["n"]) for batch in batches] == [4, 2]
    full = augstream.wds.batched(4, collation_fn=None, partial=False)(source())
    assert [len(batch) for batch in full] == [4, 4]
    with pytest.raises(RecipeError, match="batchsize"):
        augstream.wds.batched(0)
