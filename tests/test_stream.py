"""What a batch holds is a pure function of the recipe; a sample is the same alone and in company."""

from __future__ import annotations

import io
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine import ResizeByHand, crop_and_flip, dataset_of, digests

import augstream as A
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError, ShardError
from augstream.indexing import build_index
from augstream.seeding import Address, sample_key, stream_key


def images_by_key(dataset, epoch=0):
    dataset.set_epoch(epoch)
    return {
        key: digest(image)
        for batch in dataset
        for key, image in zip(batch["__key__"], batch["image"], strict=True)
    }


def test_batches_are_the_same_in_whatever_order_they_are_computed(shards):
    stream = dataset_of(shards).stream
    places = [(epoch, range(unit, unit + 1)) for epoch in (0, 1, 5) for unit in range(10)]
    alone = {place: digest(stream.batch(*place)) for place in places}
    shuffled = random.Random(0).sample(places, len(places))
    maker = stream.maker()
    assert {place: digest(maker.make(*place).batch) for place in shuffled} == alone
    assert len(set(alone.values())) == len(places)


def test_a_sample_alone_is_the_sample_in_its_batch(shards):
    dataset = dataset_of(shards, with_address=True)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        for batch in dataset:
            for row, (shard, key) in enumerate(zip(batch["__shard__"], batch["__key__"], strict=True)):
                sample = dataset.sample(epoch=epoch, shard=shard, key=key)
                assert np.array_equal(sample["image"], batch["image"][row])
                assert sample["cls"] == batch["cls"][row]
                address = Address.parse(batch["__address__"][row])
                assert sample["__address__"] == str(address)
                assert (address.epoch, address.shard, address.sample) == (epoch, shard, key)


def test_a_sample_alone_needs_no_other_shard(tmp_path):
    from augstream.testing import make_shards

    paths = make_shards(tmp_path, num_samples=20, num_shards=4)
    dataset = dataset_of(paths, cache_dir=str(tmp_path / "cache"))
    expected = digest(dataset.sample(epoch=2, shard="train-000002.tar", key="000012"))
    for path in paths[:2] + paths[3:]:
        Path(path).unlink()
    assert digest(dataset.sample(epoch=2, shard="train-000002.tar", key="000012")) == expected


@pytest.mark.parametrize(("shard", "key"), [("train-000009.tar", "000001"), ("train-000000.tar", "000036")])
def test_a_sample_that_is_not_there_is_refused(shards, shard, key):
    with pytest.raises(RecipeError, match=r"did you mean|no sample has the key"):
        dataset_of(shards).sample(epoch=0, shard=shard, key=key)


def test_randomness_is_addressed_as_the_design_says(shards):
    """The key that a stage gets is (seed, shard, worker that owns the shard, epoch), then the sample's name."""
    keys = {}

    def note(sample, key, _out=None):
        keys[sample["__key__"]] = key
        return sample

    dataset = dataset_of(shards, fields={"cls": "cls"})
    replace(dataset.stream, stage=note).batch(2, range(10))
    order = dataset.stream.order(2)
    for shard, name in enumerate(dataset.index.names):
        stream = stream_key(137, shard=name, worker=order.lane_of_shard(shard), epoch=2)
        for key in dataset.index.table(shard).keys:
            assert keys[key] == sample_key(stream, key)


def test_augmentations_depend_on_neither_batch_size_window_unit_nor_arrival(shards):
    usual = images_by_key(dataset_of(shards))
    for arguments in ({"batch_size": 7}, {"window": 3}, {"shuffle": True, "batch_size": 6, "unit": 2}):
        assert images_by_key(dataset_of(shards, **arguments)) == usual
    assert images_by_key(dataset_of(shards), epoch=1) != usual
    assert images_by_key(dataset_of(shards, seed=1)) != usual


def test_the_scope_says_what_augmentations_depend_on(shards):
    frozen = dataset_of(shards, scope=("shard",))
    assert images_by_key(frozen) == images_by_key(frozen, epoch=5)
    assert images_by_key(frozen) == images_by_key(dataset_of(shards, scope=("shard",), lanes=1))
    any_lane = {
        lanes: images_by_key(dataset_of(shards, lanes=lanes, scope=("shard", "epoch"))) for lanes in (1, 4)
    }
    assert any_lane[1] == any_lane[4]
    by_lane = {lanes: images_by_key(dataset_of(shards, lanes=lanes)) for lanes in (1, 4)}
    assert by_lane[1] != by_lane[4]


def test_a_frozen_order_is_file_order(shards):
    dataset = dataset_of(shards, shuffle=False, lanes=1)
    for _ in range(2):
        assert [key for batch in dataset for key in batch["__key__"]] == [
            f"{number:06d}" for number in range(37)
        ]


def test_no_transform_is_allowed_where_pictures_are_equal(tmp_path):
    from augstream.testing import make_shards

    dataset = dataset_of(make_shards(tmp_path, 8, 2, spread=0), cache_dir=str(tmp_path))
    dataset = A.StreamDataset(dataset.index, batch_size=4, seed=1)
    assert next(iter(dataset))["image"].shape == (4, 40, 48, 3)


def test_a_lone_transform_is_a_pipeline_of_one(shards):
    alone = dataset_of(shards, A.RandomResizedCrop(size=(8, 8)))
    assert digests(alone) == digests(dataset_of(shards, A.Compose([A.RandomResizedCrop(size=(8, 8))])))


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def good(shards):
    """A sample's members."""
    with tarfile.open(shards[0]) as tar:
        return {
            suffix: tar.extractfile(f"000000.{suffix}").read() for suffix in ("jpg", "cls", "json", "txt")
        }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"jpg": b"\xff\xd8\xff\xe0 nothing"}, "could not decode sample 'b' of shard 'x.tar' in epoch 0"),
        ({"json": b"{'single': 1}"}, "'json'"),
        ({"cls": b"seven"}, "b'seven'"),
        ({"txt": b"\xff\xfe"}, "'txt'"),
    ],
)
def test_a_damaged_member_is_named_or_its_sample_skipped(tmp_path, good, damage, message):
    samples = {"a": good, "b": {**good, **damage}, "c": good}
    path = write_shard(tmp_path / "x.tar", samples)
    arguments = {"cache_dir": str(tmp_path), "shuffle": False}
    with pytest.raises(SampleError, match=message) as caught:
        list(dataset_of(path, **arguments))
    assert (caught.value.shard, caught.value.key, caught.value.epoch) == ("x.tar", "b", 0)
    assert f"augstream replay '{caught.value.address}'" in str(caught.value)
    (batch,) = dataset_of(path, on_error="skip", **arguments)
    assert batch["__key__"] == ["a", "c"]


def test_a_member_that_some_samples_lack_is_named_or_its_sample_skipped(tmp_path, good):
    poor = {suffix: data for suffix, data in good.items() if suffix != "cls"}
    path = write_shard(tmp_path / "x.tar", {"a": good, "b": poor, "c": good})
    arguments = {"cache_dir": str(tmp_path), "shuffle": False}
    with pytest.raises(SampleError, match=r"'b'.*cls") as caught:
        list(dataset_of(path, **arguments))
    assert caught.value.key == "b"
    with pytest.raises(SampleError, match="has no member cls"):
        list(dataset_of(path, fields={"image": "jpg", "label": "cls"}, **arguments))
    (batch,) = dataset_of(path, on_error="skip", **arguments)
    assert batch["__key__"] == ["a", "c"]
    (batch,) = dataset_of(path, fields={"image": "jpg"}, **arguments)
    assert batch["__key__"] == ["a", "b", "c"]


def test_a_flipped_byte_is_found_by_its_checksum_or_its_sample_skipped(tmp_path, good):
    path = write_shard(tmp_path / "x.tar", {"a": good, "b": good, "c": good})
    index = build_index(path, cache_dir=tmp_path, checksums=True)
    status, data = Path(path).stat(), bytearray(Path(path).read_bytes())
    _, offset, size = next(member for member in index.table(0).members(1) if member[0] == "jpg")
    data[offset + size // 2] ^= 1
    Path(path).write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    arguments = {"cache_dir": str(tmp_path), "shuffle": False}
    (batch,) = dataset_of(path, **arguments)
    assert batch["__key__"] == ["a", "b", "c"]  # it still decodes, to something else, and nobody knows
    message = r"(?s)could not read sample 'b' of shard 'x\.tar' .*member 'jpg' .*checksum .*augstream replay"
    with pytest.raises(SampleError, match=message):
        list(dataset_of(path, verify_checksums=True, **arguments))
    (batch,) = dataset_of(path, verify_checksums=True, on_error="skip", **arguments)
    assert batch["__key__"] == ["a", "c"]


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_shard_replaced_after_indexing_is_refused(tmp_path, good, num_workers, on_error):
    path = write_shard(tmp_path / "x.tar", {"a": good, "b": good})
    dataset = dataset_of(path, cache_dir=str(tmp_path), on_error=on_error)
    write_shard(tmp_path / "x.tar", {"a": good, "b": good, "c": good})
    with (
        A.StreamLoader(dataset, num_workers=num_workers) as loader,
        pytest.raises(ShardError, match="replaced"),
    ):
        list(loader)


def test_a_transform_that_returns_no_sample_is_told_so(shards):
    with pytest.raises(SampleError, match="must return"):
        list(dataset_of(shards, nothing))


def nothing(sample):
    return None if sample else sample


def test_a_collate_fn_that_fails_is_told_where(shards):
    def fail(samples):
        raise KeyError(f"labels of {len(samples)}")

    with pytest.raises(
        SampleError, match=r"collate_fn .*fail failed on 4 samples of epoch 0.*KeyError: 'labels of 4'"
    ):
        list(dataset_of(shards, ResizeByHand(), collate_fn=fail))


def test_masks_and_boxes_travel_with_their_picture(tmp_path, good):
    import cv2

    image = cv2.imdecode(np.frombuffer(good["jpg"], np.uint8), cv2.IMREAD_COLOR)
    mask = cv2.imencode(".png", np.full(image.shape[:2], 3, np.uint8))[1].tobytes()
    height, width = image.shape[:2]
    boxes = b'{"boxes": [[0, 0, %d, %d]], "names": [5]}' % (width // 2, height // 2)
    samples = {key: {"jpg": good["jpg"], "seg.png": mask, "json": boxes} for key in "ab"}
    path = write_shard(tmp_path / "x.tar", samples)
    transform = A.Compose(
        [A.HorizontalFlip(p=1.0), A.Resize(16, 16)],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["names"]),
    )
    fields = {"image": "jpg", "mask": "seg.png", "bboxes": "json:boxes", "names": "json:names"}
    (batch,) = dataset_of(path, transform, fields=fields, cache_dir=str(tmp_path))
    assert batch["mask"].shape == (2, 16, 16)
    assert (batch["mask"] == 3).all()
    assert np.allclose(np.asarray(batch["bboxes"][0]), [[8, 0, 16, 8]], atol=1)
    assert [list(names) for names in batch["names"]] == [[5], [5]]


def test_the_flip_is_seen_in_the_pixels(shards):
    """What comes out is the picture: a pipeline that only flips gives the decoded picture or its mirror."""
    stage = A.Compose([A.RandomCrop(24, 24), A.HorizontalFlip(p=0.5)])
    plain = A.Compose([A.RandomCrop(24, 24)])
    flipped = 0
    for one, other in zip(dataset_of(shards, stage), dataset_of(shards, plain), strict=True):
        for after, before in zip(one["image"].numpy(), other["image"].numpy(), strict=True):
            assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
            flipped += not np.array_equal(after, before)
    assert 8 < flipped < 29


def test_crop_and_flip_is_what_other_tests_take_it_for():
    assert len(crop_and_flip().transforms) == 2
