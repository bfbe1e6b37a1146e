"""Other readers of the format on shards made as each makes them: they read what we index, and we what they make."""

from __future__ import annotations

import io
import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pipelines
import pytest
import webdataset as wds
from clients import client
from PIL import Image
from pipelines import collected, crop_and_flip, plain
from webdataset.tariterators import tar_file_expander, url_opener

import augstream.wds
from augstream.cli import main
from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.testing import make_shards

pytestmark = pipelines.PARDON
__all__ = ["collected"]

Members = Counter[tuple[str, str, bytes]]
"""How often each (key, suffix, digest of the data) comes."""


def members(samples: Iterable[Mapping[str, Any]]) -> Members:
    return Counter(
        (sample["__key__"], suffix.removeprefix(".").lower(), blake2b(data).digest())
        for sample in samples
        for suffix, data in sample.items()
        if not suffix.startswith("__") and isinstance(data, bytes)
    )


def raw(shards: Any, cache: Path) -> list[dict[str, Any]]:
    """All samples as we read them."""
    index = build_index(shards, cache_dir=cache)
    reader = ShardReader(index)
    return [
        reader.read(shard, sample)
        for shard in range(len(index))
        for sample in range(index.num_samples[shard])
    ]


# Shards


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    paths = make_shards(tmp_path_factory.mktemp("photographs"), num_samples=30, num_shards=1)
    return [
        {suffix: data for suffix, data in sample.items() if isinstance(data, bytes)}
        for sample in plain(paths, nodesplitter=None)
    ]


def as_img2dataset(directory: Path, photographs: list[dict[str, bytes]]) -> list[str]:
    """Keys of nine digits with gaps where a download failed, indented JSON, and files of its own beside the tars."""
    for shard in range(3):
        with wds.TarWriter(str(directory / f"{shard:05d}.tar")) as tar:
            for number, photograph in enumerate(photographs[shard * 10 : shard * 10 + 10]):
                if number == 4 + shard:
                    continue
                key, caption = f"{shard:05d}{number:04d}", photograph["txt"].decode()
                about = {
                    "caption": caption,
                    "url": "http://x.org/a.jpg",
                    "key": key,
                    "status": "success",
                    "width": 48,
                }
                tar.write(
                    {
                        "__key__": key,
                        "jpg": photograph["jpg"],
                        "txt": caption,
                        "json": json.dumps(about, indent=4),
                    }
                )
        (directory / f"{shard:05d}_stats.json").write_text('{"count": 10, "successes": 9}')
        (directory / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return sorted(str(path) for path in directory.glob("*.tar"))


def as_timm(directory: Path, photographs: list[dict[str, bytes]]) -> list[str]:
    """ImageNet's names, a class and its description, written by webdataset's own writer of shards."""
    with wds.ShardWriter(str(directory / "tiny-train-%04d.tar"), maxcount=12, verbose=0) as shards:
        for number, photograph in enumerate(photographs):
            about = {"filename": f"n{number:08d}_{number}.JPEG", "label": number % 10}
            shards.write(
                {
                    "__key__": f"n{number:08d}_{number}",
                    "jpg": photograph["jpg"],
                    "cls": number % 10,
                    "json": about,
                }
            )
    return sorted(str(path) for path in directory.glob("*.tar"))


def as_tarred_folders(directory: Path, photographs: list[dict[str, bytes]]) -> list[str]:
    """What GNU tar makes of a folder: names from ``./``, folders as members, suffixes as they were."""
    paths = []
    for shard in range(2):
        folder = directory / f"folder{shard}"
        for number, photograph in list(enumerate(photographs))[shard * 9 : shard * 9 + 9]:
            where = folder / ("cat" if number % 2 else "dog")
            where.mkdir(parents=True, exist_ok=True)
            (where / f"{number:03d}.JPG").write_bytes(photograph["jpg"])
            (where / f"{number:03d}.seg.PNG").write_bytes(photograph["jpg"][:99])
            (where / f"{number:03d}.cls").write_bytes(photograph["cls"])
        paths.append(str(directory / f"train-{shard}.tar"))
        subprocess.run(["tar", "--sort=name", "-cf", paths[-1], "-C", str(folder), "."], check=True)
    return paths


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# What is in them: each reader gets the shards, and the folder with the side files that we wrote for it


def read_by_webdataset(shards: list[str], _: Path) -> Iterator[Mapping[str, Any]]:
    yield from plain(shards)


def read_by_hugging_face(shards: list[str], home: Path) -> Iterator[Mapping[str, Any]]:
    """As Hugging Face's builder reads them, before it decodes members."""
    datasets = client("datasets")
    builder = client("datasets.packaged_modules.webdataset.webdataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder.WebDataset, "DECODERS", {})
        stream = datasets.load_dataset(
            "webdataset", data_files={"train": shards}, split="train", streaming=True, cache_dir=home / "hf"
        )
        for sample in stream.decode(False):
            yield {
                name: value["bytes"] if isinstance(value, dict) else value for name, value in sample.items()
            }


def read_by_wids(_: list[str], home: Path) -> Iterator[Mapping[str, Any]]:
    """As wids finds them in the shards that our JSON lists."""
    wids = client("wids")
    dataset = wids.ShardListDataset(str(home / "shards.json"), transformations=[], keep=True, localname=str)
    for number in range(len(dataset)):
        yield {
            name: value.read() if hasattr(value, "read") else value for name, value in dataset[number].items()
        }


def read_by_energon(shards: list[str], home: Path) -> Iterator[Mapping[str, Any]]:
    """As Megatron Energon finds them, each alone, at the offsets that we wrote."""
    readers = client("megatron.energon.flavors.webdataset.itar_reader")
    structs = client("megatron.energon.flavors.webdataset.structs")
    epath = client("megatron.energon.epathlib")
    counts = json.loads((home / "sizes.json").read_text())
    infos = [
        structs.ShardInfo(name=Path(path).name, path=epath.EPath(path), count=counts[Path(path).name])
        for path in shards
    ]
    reader = readers.ShardInfosITarReader(epath.EPath(str(home)), infos)
    yield from (reader[number] for number in reversed(range(len(reader))))


@pytest.mark.parametrize("read", [read_by_webdataset, read_by_hugging_face, read_by_wids, read_by_energon])
@pytest.mark.parametrize("make", [as_img2dataset, as_timm, as_tarred_folders])
def test_every_reader_finds_the_members_that_we_find(
    make: Any, read: Any, home: Path, photographs: list[dict[str, bytes]]
) -> None:
    shards = make(home, photographs)
    ours = members(raw(home, home.parent / "cache"))
    assert len(ours) == ours.total() == 3 * {as_img2dataset: 27, as_timm: 30, as_tarred_folders: 18}[make]
    assert main(["index", str(home), "--emit", "wids", "info", "sizes", "dali", "energon"]) == 0
    assert members(read(shards, home)) == ours


# timm


def test_timm_reads_our_info_and_our_stage_stands_behind_its_pipeline(
    home: Path, photographs: list[dict[str, bytes]]
) -> None:
    timm = client("timm.data.readers.reader_wds")
    as_timm(home, photographs)
    assert main(["index", str(home), "--emit", "info", "--split", "train"]) == 0
    samples = raw(f"{home / '_info.json'}#train", home.parent / "cache")
    reader = timm.ReaderWds(root=str(home), split="train")
    assert len(reader) == len(samples) == 30
    assert reader.filenames() == [f"{sample['__key__']}.JPEG" for sample in samples]
    for (image, target), sample in zip(reader, samples, strict=True):
        assert target == int(sample["cls"])
        assert image.tobytes() == Image.open(io.BytesIO(sample["jpg"])).convert("RGB").tobytes()

    fields = {"image": "image"}
    stage = augstream.wds.augment(crop_and_flip(), seed=137, scope=("epoch",), fields=fields)
    training = timm.ReaderWds(root=str(home), split="train", is_training=True, batch_size=5)
    training.set_loader_cfg(0)
    training.filenames()  # builds the pipeline
    for epoch in range(2):
        training.set_epoch(epoch)
        keys = []
        for sample in training.ds.compose(stage).with_epoch(30):
            alone = {"__key__": sample["__key__"], "image": as_read(samples, sample["__key__"])}
            expected = stage.at(alone, f"seed=137;epoch={epoch};sample={sample['__key__']}")
            assert isinstance(sample["image"], Image.Image)
            assert sample["image"].tobytes() == expected["image"].tobytes()
            keys.append(sample["__key__"])
        assert sorted(keys) == sorted(sample["__key__"] for sample in samples)


def as_read(samples: Sequence[Mapping[str, Any]], key: str) -> Image.Image:
    (found,) = [sample for sample in samples if sample["__key__"] == key]
    return Image.open(io.BytesIO(found["jpg"])).convert("RGB")


# open_clip


def open_clip_pipeline(
    data: ModuleType, shards: list[str], stage: augstream.wds.Augment, epoch: Any, *, resampled: bool
) -> wds.DataPipeline:
    """open_clip's own training pipeline, with our stage behind its decoding.

    Its `tarfile_to_samples_nothrow` is written out: webdataset now marks the end of each shard, which that can't take.
    """

    def to_samples(source: Any) -> Any:
        files = tar_file_expander(
            url_opener(source, data.log_and_continue), data.log_and_continue, eof_value=None
        )
        return data.group_by_keys_nothrow(files, handler=data.log_and_continue)

    source = (
        [data.ResampledShards2("::".join(shards), deterministic=True, worker_seed=lambda: 7, epoch=epoch)]
        if resampled
        else [
            wds.SimpleShardList(shards),
            data.detshuffle2(bufsize=2000, initial=500, seed=3, epoch=epoch),
            wds.split_by_node,
            wds.split_by_worker,
        ]
    )
    return wds.DataPipeline(
        *source, to_samples, wds.shuffle(bufsize=5000, initial=1000), wds.select(data.filter_no_caption_or_no_image),
        wds.decode("pilrgb", handler=data.log_and_continue), stage, wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=np.asarray, text=str.upper), wds.to_tuple("__key__", "__url__", "image", "text"),
        wds.batched(4, partial=False),
    )  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize(("resampled", "num_workers"), [(False, 0), (False, 2), (True, 2)])
def test_our_stage_in_the_pipeline_of_open_clip(
    home: Path, photographs: list[dict[str, bytes]], resampled: bool, num_workers: int
) -> None:
    data = client("open_clip_train.data")
    shards = as_img2dataset(home, photographs)
    assert main(["index", str(home), "--emit", "sizes"]) == 0
    assert data.get_dataset_size(f"{home}/{{00000..00002}}.tar") == (27, 3)
    samples = {sample["__key__"]: sample for sample in plain(shards).decode("pilrgb")}
    stage = augstream.wds.augment(
        crop_and_flip(), seed=137, scope=("shard", "epoch"), fields={"image": "jpg"}
    )
    shared = data.SharedEpoch(0)
    pipeline = open_clip_pipeline(data, shards, stage, shared, resampled=resampled).with_epoch(6)
    loader = wds.WebLoader(
        pipeline, batch_size=None, shuffle=False, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    for epoch in range(2):
        shared.set_value(epoch)
        next_visit: Counter[tuple[int, str]] = Counter()
        batches = list(loader)
        assert len(batches) == 6 * max(1, num_workers)
        for number, batch in enumerate(batches):  # the workers take turns
            worker = number % max(1, num_workers)
            for key, url, image, text in zip(*batch, strict=True):
                assert text == samples[key]["txt"].upper()
                assert url.endswith(f"{key[:5]}.tar")
                # open_clip drops what does not fill a batch at the end of a pass, and a sample with it
                later = range(next_visit[worker, key], 12)
                visit = next(visit for visit in later if matches(stage, samples[key], epoch, visit, image))
                next_visit[worker, key] = visit + 1
        assert max(next_visit.values()) > 1 or not num_workers


def matches(stage: augstream.wds.Augment, sample: Any, epoch: int, visit: int, image: Any) -> bool:
    alone = stage.at(sample, stage.address(sample, epoch, visit=visit))["jpg"]
    return np.array_equal(image, np.asarray(alone))


def test_what_open_clip_leaves_to_chance_is_said() -> None:
    data = client("open_clip_train.data")
    stage = augstream.wds.augment(crop_and_flip(), seed=137, fields={"image": "jpg"})
    pipeline = open_clip_pipeline(data, ["a.tar"], stage, data.SharedEpoch(0), resampled=False)
    report = str(augstream.wds.check(pipeline))
    assert "shuffle(5000, seed=None)" in report
    assert "it cannot be repeated as it is" in report
    assert "detshuffle2" in report
