"""The check of webdataset pipelines: each trap is named, with its mend, and what is sound is left alone."""

from __future__ import annotations

from typing import Any

import albumentations
import pipelines
import pytest
import torch
import webdataset as wds
from pipelines import collected, plain, seen

import augstream as A
import augstream.wds
from augstream.wds import Finding, check

pytestmark = pipelines.PARDON
__all__ = ["collected"]
SHARDS = ["a.tar", "b.tar"]


def stage(**arguments: Any) -> augstream.wds.Augment:
    flip = A.Compose([A.HorizontalFlip()])
    return augstream.wds.augment(flip, seed=137, scope=("shard", "epoch"), **arguments)


def kinds(pipeline: Any) -> list[str]:
    return [finding.kind for finding in check(pipeline).findings]


def source(*more: Any) -> wds.DataPipeline:
    return wds.DataPipeline(
        wds.SimpleShardList(SHARDS), wds.split_by_node, wds.split_by_worker, wds.tarfile_to_samples(), *more
    )


def plain_stage(samples: Any) -> Any:
    yield from samples


def test_a_sound_pipeline_has_no_findings() -> None:
    dataset = plain(SHARDS).decode("rgb8").compose(stage()).map(seen).to_tuple("jpg", "cls")
    report = check(dataset.compose(augstream.wds.batched(4)))
    assert report.findings == ()
    assert report.is_repeatable
    assert "nothing seen is left to chance" in str(report)
    assert [stage.place for stage in report.stages] == [
        str(number) for number in range(len(dataset.pipeline) + 1)
    ]


@pytest.mark.parametrize(
    ("trap", "kind", "mend"),
    [
        (wds.shuffle(1000), "chance", "seed="),
        (wds.shuffle(1000, seed=3), "repeats", "augstream.wds.WebDataset"),
        (wds.shuffle(1000, rng=torch.Generator), "fresh", "augstream.wds.WebDataset"),
        (wds.detshuffle(1000), "fresh", "persistent_workers"),
        (wds.rsample(0.5), "chance", "select"),
        (wds.resampled(10), "chance", "deterministic=True"),
        (wds.Cached(), "repeats", "behind it"),
        (wds.map(albumentations.Compose([])), "chance", "augment(transform"),
        (wds.map_dict(jpg=albumentations.HorizontalFlip()), "chance", "augment(transform"),
        (wds.map_tuple(torch.nn.Identity()), "chance", "augment(transform"),
        (wds.map(lambda sample: sample), "fork", "functions of a module"),
        (plain_stage, "unknown", "look"),
        (wds.pipelinefilter(plain_stage)(), "unknown", "look"),
    ],
)  # fmt: skip
def test_every_trap_is_found_at_its_place(trap: Any, kind: str, mend: str) -> None:
    report = check(source(trap))
    assert [finding.kind for finding in report.findings] == [kind]
    assert mend in report.findings[0].mend
    assert report.stages[4].trait.findings == report.findings
    assert report.is_repeatable == (kind != "chance")
    assert report.findings[0].what in str(report)


@pytest.mark.parametrize("harmless", [wds.shuffle(1), wds.shuffle(False), wds.select(bool), wds.batched(3)])
def test_what_shuffles_nothing_or_only_drops_is_sound(harmless: Any) -> None:
    assert kinds(source(harmless)) == []


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (wds.ResampledShards(SHARDS), ["chance"]),
        (wds.ResampledShards(SHARDS, deterministic=True, seed=1), ["fresh"]),
        (wds.ResampledShards(SHARDS, deterministic=True, seed="1"), ["chance", "fresh"]),
        (wds.SimpleShardList(SHARDS, seed=1), ["repeats", "workers", "workers"]),
        (wds.SimpleShardList(SHARDS), ["workers", "workers"]),
    ],
)
def test_every_shard_list_is_known(shards: Any, expected: list[str]) -> None:
    assert sorted(kinds(wds.DataPipeline(shards, wds.tarfile_to_samples()))) == sorted(expected)


def test_resampled_datasets_and_their_shard_shuffles_are_known() -> None:
    assert "chance" in kinds(wds.WebDataset(SHARDS, resampled=True, shardshuffle=False))
    shuffled = check(wds.WebDataset(SHARDS, shardshuffle=100))
    assert {finding.kind for finding in shuffled.findings} == {"repeats", "unknown"}
    assert "pass seed= to wds.WebDataset" in str(shuffled)
    assert kinds(wds.WebDataset(SHARDS, shardshuffle=100, detshuffle=True, seed=3)) == ["unknown", "fresh"]


def test_random_mixes_and_loaders_are_looked_into() -> None:
    mix = wds.RandomMix([plain(SHARDS), plain(SHARDS).shuffle(9)])
    report = check(wds.WebLoader(mix, batch_size=None, num_workers=2).shuffle(5))
    assert [stage.place for stage in report.stages if stage.trait.findings] == ["0.0.1.7", "0.0", "1"]
    assert "RandomMix of 2" in str(report)
    assert "DataLoader(batch_size=None, num_workers=2, persistent_workers=False)" in str(report)
    assert kinds(mix) == ["chance", "chance"]


@pytest.mark.parametrize(("persistent", "expected"), [(False, ["fresh"]), (True, [])])
def test_counting_in_workers_is_sound_if_they_live_on(persistent: bool, expected: list[str]) -> None:
    loader = wds.WebLoader(
        source(wds.detshuffle(9)), batch_size=None, num_workers=2, persistent_workers=persistent
    )
    assert kinds(loader) == expected
    assert kinds(wds.WebLoader(source(wds.detshuffle(9)), batch_size=None)) == []


def test_generic_names_in_the_environment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER", "0")
    monkeypatch.setenv("NUM_WORKERS", "2")
    report = check(plain(SHARDS))
    assert [finding.kind for finding in report.findings] == ["loses"]
    assert "unset both" in str(report)
    assert not report.is_repeatable


def test_scopes_and_names_of_stages_are_compared() -> None:
    flip = A.Compose([A.HorizontalFlip()])
    with_worker = augstream.wds.augment(flip, seed=137)
    assert kinds(plain(SHARDS).compose(with_worker)) == ["workers"]
    assert kinds(plain(SHARDS).compose(stage(), stage())) == ["repeats"]
    assert kinds(plain(SHARDS).compose(stage(), stage(name="second"))) == []
    assert kinds(wds.RoundRobin([plain(SHARDS).compose(stage()), plain(SHARDS).compose(stage())])) == []


def test_findings_are_data() -> None:
    finding = check(source(wds.shuffle(9))).findings[0]
    assert finding == Finding("chance", finding.what, finding.mend)


def test_nothing_is_read_or_drawn() -> None:
    check(wds.WebDataset("no/such/{0..9}.tar", shardshuffle=False).shuffle(9))
