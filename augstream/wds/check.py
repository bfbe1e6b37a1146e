"""Look at a webdataset pipeline, stage by stage, and say what of it cannot be repeated, and what mends it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import webdataset
from torch.utils.data import DataLoader
from webdataset import filters, shardlists

from .shards import ShardSource
from .stage import Augment
from .traits import KINDS, Finding, Trait, arguments, name_of, trait


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a pipeline: its place (``"3"``, or ``"0.2"`` for one inside another), and what is known of it."""

    place: str
    stage: Any
    trait: Trait


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found: the stages, and what each leaves open. Print it."""

    stages: tuple[Stage, ...]
    of_the_whole: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, those of the whole first."""
        return (*self.of_the_whole, *[finding for stage in self.stages for finding in stage.trait.findings])

    @property
    def is_repeatable(self) -> bool:
        """Whether nothing was seen that would make another run of the same program get other samples."""
        return not any(finding.kind in {"chance", "loses"} for finding in self.findings)

    def __str__(self) -> str:
        lines = []
        for stage in self.stages:
            lines += [f"{stage.place:>4}  {stage.trait.label}", *map(_lines, stage.trait.findings)]
        if self.of_the_whole:
            lines += ["   *  the pipeline as a whole", *map(_lines, self.of_the_whole)]
        blind = sum(finding.kind == "unknown" for finding in self.findings)
        unseen = f"; {blind} things could not be seen" if blind else ""
        verdict = "nothing seen is left to chance" if self.is_repeatable else "it cannot be repeated as it is"
        return "\n".join([*lines, verdict + unseen])


def _lines(finding: Finding) -> str:
    return f"      {KINDS[finding.kind]}\n        {finding.what}\n        mend: {finding.mend}"


def check(pipeline: Any) -> Report:
    """Say of every stage of `pipeline` what it leaves to chance, to the workers or to the epoch, and what mends it.

    pipeline: a ``wds.WebDataset``, ``wds.DataPipeline``, ``wds.WebLoader``, ``wds.RandomMix`` or a DataLoader over one.
    Nothing is run or read. Not promised: anything about functions that users wrote, into which it cannot look.
    """
    loaders = [pipeline, *[stage for _, stage in walk(pipeline)]]
    lives_on = any(
        isinstance(one, DataLoader) and (one.persistent_workers or not one.num_workers) for one in loaders
    )
    pardoned = {"fresh"} if lives_on else set()
    if any(isinstance(stage, ShardSource) for _, stage in walk(pipeline)):
        pardoned.add("workers")  # lanes take the place of workers
    stages = []
    for place, stage in walk(pipeline):
        found = trait(stage)
        findings = tuple([finding for finding in found.findings if finding.kind not in pardoned])
        stages.append(Stage(place, stage, replace(found, findings=findings)))
    return Report(tuple(stages), tuple(_of_the_whole(pipeline, stages)))


def walk(pipeline: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, stage) of every stage of a pipeline, and of the pipelines inside it, in the order in which they run."""
    for number, stage in enumerate(_inside(pipeline)):
        below = f"{place}.{number}" if place else str(number)
        yield from walk(stage, below)
        if isinstance(stage, DataLoader) or not _inside(stage):
            yield below, stage
    if isinstance(pipeline, _MIXES):
        yield place or "*", pipeline


_MIXES = (webdataset.RandomMix, webdataset.RoundRobin)


def _inside(stage: Any) -> list[Any]:
    """The stages that `stage` is made of."""
    if isinstance(stage, webdataset.DataPipeline):
        return list(stage.pipeline)
    if isinstance(stage, DataLoader):
        return [stage.dataset]
    return list(stage.datasets) if isinstance(stage, _MIXES) else []


def _of_the_whole(pipeline: Any, places: list[Stage]) -> Iterator[Finding]:
    stages = [place.stage for place in places]
    if "WORKER" in os.environ and "NUM_WORKERS" in os.environ and shardlists.split_by_worker in stages:
        what = (
            f"the environment has WORKER={os.environ['WORKER']} and NUM_WORKERS={os.environ['NUM_WORKERS']}, which "
            "webdataset believes before it asks torch: every worker takes the same share, and the rest is never read"
        )
        yield Finding("loses", what, "unset both: env -u WORKER -u NUM_WORKERS python train.py")
    for one in _pipelines(pipeline):
        if isinstance(one, webdataset.WebDataset) and any(
            _is_seeded_shuffle(stage) for stage in one.pipeline[:4]
        ):
            what = f"whether seed={one.seed!r} was given; without, wds.WebDataset draws one when it is made"
            yield Finding("unknown", what, "pass seed= to wds.WebDataset, if you did not")
    yield from _of_splitting(stages)
    alike = Counter(
        (place.place.rpartition(".")[0], place.stage.seed, place.stage.name)
        for place in places
        if isinstance(place.stage, Augment)
    )
    for (_, seed, name), count in alike.items():
        if count > 1:
            what = f"{count} stages augment(seed={seed}, name={name!r}) draw the same numbers for the same sample"
            yield Finding("repeats", what, "give each a name: augment(..., name='second')")


def _pipelines(pipeline: Any) -> Iterator[Any]:
    yield pipeline
    for stage in _inside(pipeline):
        yield from _pipelines(stage)


def _of_splitting(stages: list[Any]) -> Iterator[Finding]:
    if not any(isinstance(stage, shardlists.SimpleShardList) for stage in stages):
        return
    for split, argument, many in (
        (shardlists.split_by_worker, "workersplitter", "workers"),
        (shardlists.split_by_node, "nodesplitter", "ranks"),
    ):
        refuses = split is shardlists.split_by_node and shardlists.single_node_only in stages
        if split not in stages and not refuses:
            what = f"no stage deals the shards out: with several {many}, each sample comes once from every one of them"
            mend = f"put wds.{name_of(split)} behind the shard list ({argument}=), if there are several"
            yield Finding("workers", what, mend)


def _is_seeded_shuffle(stage: Any) -> bool:
    if isinstance(stage, filters.detshuffle):
        return True
    if not isinstance(stage, filters.FilterFunction) or stage.f.__name__ != "_shuffle":
        return False
    given = arguments(stage)
    return given["seed"] is not None and not isinstance(given["bufsize"], bool) and given["bufsize"] > 1
