"""Measuring a stream on the user's data: the figures add up, the results stay the same, the advice fits."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import augstream as A
from augstream.cli import main
from augstream.digest import digest
from augstream.testing import make_shards
from augstream.tools.bench import advice, flames
from augstream.tools.profiling import Crew, Frame, Profile, Watch, WatchedStage, crew, profile


def pipeline() -> A.Compose:
    return A.Compose(
        [
            A.RandomResizedCrop(size=(64, 64)),
            A.OneOf([A.GaussianBlur(p=1), A.InvertImg(p=1)], p=1),
            A.Normalize(),
            A.ToTensorV2(),
        ]
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    shards = make_shards(tmp_path_factory.mktemp("bench"), 32, 2, size=(220, 240))
    return A.StreamDataset(shards, pipeline(), batch_size=8, seed=1)


def test_the_figures_add_up(dataset: Any) -> None:
    found = profile(dataset, min_s=0.3)
    assert found.samples >= 8
    assert found.samples % 8 == 0
    for _, frame in found.tree.walk():
        assert frame.own_ns >= 0, frame.name
    assert list(found.tree.inside) == ["read", "decode", "augment", "collate"]
    steps = found.tree.inside["augment"].inside
    assert list(steps) == [
        "0 RandomResizedCrop", "1 OneOf", "2 Normalize", "3 ToTensorV2", "what was put off",
    ]  # fmt: skip
    assert steps["0 RandomResizedCrop"].calls == found.samples
    assert sum(frame.calls for frame in steps["1 OneOf"].inside.values()) == found.samples
    decoded = [frame for _, frame in found.tree.walk() if frame.name == "decode"]
    assert sum(frame.calls for frame in decoded[1:]) == found.samples  # inside of what needed the pixels
    assert found.share_of_naked is not None
    assert found.after == (64, 64)


def test_a_watched_stage_gives_the_same_and_leaves_the_other_alone(dataset: Any) -> None:
    stage = dataset.stream.stage
    watched = WatchedStage(stage, Watch())
    sample = dataset.stream.fields.decode({"__key__": "a", "jpg": first_jpeg(dataset)}, encoded={"image"})
    key = b"k" * 16
    assert digest(watched(sample, key)["image"]) == digest(stage(sample, key)["image"])
    assert all("run" not in transform.__dict__ for transform in stage.compose.transforms)


def first_jpeg(dataset: Any) -> bytes:
    from augstream.shards import ShardReader

    return ShardReader(dataset.index).read(0, 0)["jpg"]


def test_a_stream_without_compose_is_measured_as_a_whole(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 16, 1)
    plain = A.StreamDataset(shards, lambda sample: {"image": sample["image"][:20, :20]}, batch_size=4, seed=1)
    found = profile(plain, min_s=0.1)
    assert found.tree.inside["augment"].inside == {}
    assert found.tree.inside["decode"].ns > 0


@pytest.mark.processes
def test_a_crew_is_measured(dataset: Any) -> None:
    found = crew(dataset, 2, min_s=0.5)
    assert found.num_workers == 2
    assert found.samples_per_s > 0
    assert found.cpu_s > 0
    assert 0 < found.transfer_s < found.cpu_s
    assert 0 <= found.idle < 1


def measured(shares: dict[str, float], before: tuple[float, float] = (400, 500)) -> Profile:
    tree = Frame("all", 1000)
    for name, share in shares.items():
        tree.at(name).ns = round(share * 1000)
    return Profile(1, 1e-6, 1e-6, tree, 1e-6, before, (224, 224))


def test_the_advice_fits() -> None:
    assert 'decode="region"' in advice(measured({"decode": 0.8}), [], "full")[0]
    assert "faster disk" in advice(measured({"read": 0.6, "decode": 0.3}), [], "region")[0]
    assert "store them" in advice(measured({"decode": 0.8}, (2000, 3000)), [], "region")[0]
    assert "'2 Slow' takes 50%" in advice(measured({"decode": 0.4, "2 Slow": 0.5}), [], "region")[0]
    assert advice(measured({"decode": 0.6}), [Crew(0, 1.0, 1.0, 1.0)], "region")[0].startswith("use more")
    slower = [Crew(10**6, 1.0, 1.0, 1.0), Crew(1, 2.0, 1.0, 1.0)]
    assert advice(measured({"decode": 0.6}), slower, "region")[0].startswith("use 1 workers: 1000000 were")
    waiting = [Crew(1, 1000.0, 1.0, 1e-3, idle=0.81)]
    assert advice(measured({"decode": 0.6}), waiting, "region") == [
        "pass larger batches: 1 workers spend 81% of their time waiting"
    ]
    idle = [Crew(2, 1000.0, 1e-6, 1e-3)]
    assert advice(measured({"decode": 0.6}), idle, "region")[0].startswith("nothing")


def test_the_picture_is_as_wide_as_the_time() -> None:
    tree = Frame("all", 1000)
    tree.at("a <b>").ns = 250
    tree.at("c").ns = 500
    tree.at("c").at("d").ns = 100
    bars = [element for element in ET.fromstring(flames(tree)).iter() if element.tag.endswith("rect")]  # noqa: S314
    assert [float(bar.get("width", 0)) for bar in bars] == [1199, 299, 599, 119]
    assert [float(bar.get("x", 0)) for bar in bars] == [0, 0, 300, 300]


@pytest.mark.processes
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_shards(tmp_path / "shards", 24, 1, size=(220, 240))
    saved = tmp_path / "pipeline.json"
    A.save(pipeline(), str(saved))
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    command = [
        "bench",
        str(tmp_path / "shards"),
        "--pipeline",
        str(saved),
        "--seconds",
        "0.2",
        "--batch-size",
        "8",
    ]
    assert main([*command, "--workers", "0,1", "--json", str(figures), "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "0 RandomResizedCrop" in shown
    assert "next: " in shown
    assert [one["workers"] for one in json.loads(figures.read_text())["workers"]] == [0, 1]
    assert picture.read_text().startswith("<svg")
    for option in ("--json", "--picture"):  # before anything is measured
        assert main([*command, option, str(tmp_path / "absent" / "file")]) == 2
        assert main([*command, option, str(tmp_path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            f"augstream: {tmp_path}/absent/file: No such file or directory; nothing can be written there\n"
            f"augstream: {tmp_path}: Is a directory; nothing can be written there\n"
        )
    assert main([*command, "--workers", "-1"]) == 2
    assert capsys.readouterr().out == ""
    assert main([*command, "--workers", "two"]) == 2
    assert "--workers takes numbers" in capsys.readouterr().err
