"""Look at a stream: a contact sheet as PNG, or one self-contained HTML page to browse.

The page holds everything in itself and asks the network for nothing. It shows samples before and after, with boxes,
masks and keypoints drawn on them, what was drawn for each, and statistics over all.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import StreamDataset
from ..seeding import generator, seed_key, subkey
from .explain import Explanation, drawn_numbers, explain
from .pictures import Picture, annotated, encoded, labelled, picture_of, sheet, thumbnail

THUMBNAIL_PIXELS = 176
_NUM_BINS = 20
_COLUMNS = 6


@dataclass(frozen=True, slots=True)
class Place:
    """One sample of one epoch."""

    epoch: int
    shard: str
    key: str


def choose(dataset: StreamDataset, num_samples: int) -> list[tuple[str, str]]:
    """(shard, key) of `num_samples` different samples spread evenly at random, the same ones for one seed."""
    total = dataset.index.total
    rng = generator(subkey(seed_key(dataset.recipe.seed), "preview"))
    numbers = rng.choice(total, size=min(num_samples, total), replace=False)
    starts = dataset.index.starts
    chosen = []
    for number in numbers.tolist():
        shard = int(np.searchsorted(starts, number, side="right")) - 1
        chosen.append(
            (dataset.index.names[shard], dataset.index.table(shard).keys[number - int(starts[shard])])
        )
    return chosen


def contact_sheet(
    dataset: StreamDataset, samples: Sequence[tuple[str, str]], epochs: Iterable[int], size: int = 160
) -> Picture:
    """One row a sample: first as it is on disk, then as each of `epochs` augments it."""
    rows = []
    for shard, key in samples:
        found = [explain(dataset, epoch=epoch, shard=shard, key=key) for epoch in epochs]
        cells = [labelled(thumbnail(_before(found[0], dataset), size), key)] if found else []
        for epoch, explanation in zip(epochs, found, strict=True):
            cells.append(labelled(thumbnail(_after(explanation, dataset), size), f"epoch {epoch}"))
        rows.append(cells)
    return sheet(rows)


def stages_sheet(
    dataset: StreamDataset, explanation: Explanation, size: int = 224, columns: int = _COLUMNS
) -> Picture:
    """The sample on disk, then after each transform of the pipeline, in rows; dim where a transform did nothing."""
    cells = [labelled(thumbnail(_before(explanation, dataset), size), "on disk", "")]
    for step in explanation.steps:
        gate = (
            "always"
            if step.p == 1
            else f"p={step.p:g}, drew {step.gate:.3f}: {'ran' if step.applied else 'did not'}"
        )
        verdict = "failed" if step.error else gate
        picture = thumbnail(_drawn(step.sample, dataset), size)
        if not step.applied:
            picture //= 3
        cells.append(labelled(picture, f"{step.slot} {step.name}", verdict))
    if not explanation.steps:
        cells.append(labelled(thumbnail(_after(explanation, dataset), size), "augmented", ""))
    return sheet([cells[start : start + columns] for start in range(0, len(cells), columns)])


def page(dataset: StreamDataset, places: Sequence[Place], title: str = "augstream preview") -> str:
    """The HTML page over `places`."""
    entries, gates, numbers = [], [], []
    measures: dict[str, list[float]] = {
        "brightness before": [],
        "brightness after": [],
        "megapixels before": [],
    }
    for place in places:
        explanation = explain(dataset, epoch=place.epoch, shard=place.shard, key=place.key)
        entries.append(_entry(place, explanation, dataset))
        gates.append({f"{step.slot} {step.name}": bool(step.applied) for step in explanation.steps})
        numbers.append(drawn_numbers(explanation))
        before, after = picture_of(explanation.before["image"]), picture_of(explanation.after["image"])
        measures["brightness before"].append(float(before.mean()))
        measures["brightness after"].append(float(after.mean()))
        measures["megapixels before"].append(before.shape[0] * before.shape[1] / 1e6)
    data = {
        "title": title,
        "entries": entries,
        "gates": _rates(gates),
        "histograms": _histograms(numbers, measures),
    }
    template = files("augstream.tools").joinpath("preview.html").read_text(encoding="utf-8")
    # "<" could end the script element that the data stands in
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return template.replace("{{title}}", escape(title)).replace("{{data}}", text)


def write_page(dataset: StreamDataset, places: Sequence[Place], path: Path) -> None:
    """Write the page to `path`."""
    path.write_text(page(dataset, places), encoding="utf-8")


def _formats(dataset: StreamDataset) -> dict[str, str | None]:
    compose = dataset.transform
    bbox_params, keypoint_params = (
        getattr(compose, "bbox_params", None),
        getattr(compose, "keypoint_params", None),
    )
    return {
        "bbox_format": None if bbox_params is None else bbox_params.format,
        "keypoint_format": None if keypoint_params is None else keypoint_params.format,
    }


def _drawn(sample: dict[str, Any], dataset: StreamDataset) -> Picture:
    return annotated(sample, **_formats(dataset))


def _before(explanation: Explanation, dataset: StreamDataset) -> Picture:
    return _drawn(explanation.before, dataset)


def _after(explanation: Explanation, dataset: StreamDataset) -> Picture:
    """The sample after the last transform that leaves it fit to be looked at: before floats, if there are any."""
    looks = [step.sample for step in explanation.steps if np.asarray(step.sample["image"]).dtype == np.uint8]
    planar = np.asarray(explanation.after["image"]).dtype != np.uint8
    return _drawn(looks[-1] if planar and looks else explanation.after, dataset)


def _entry(place: Place, explanation: Explanation, dataset: StreamDataset) -> dict[str, Any]:
    pictures = (_before(explanation, dataset), _after(explanation, dataset))
    shown = [encoded(thumbnail(picture, THUMBNAIL_PIXELS), ".jpg", 70) for picture in pictures]
    return {
        "shard": place.shard,
        "key": place.key,
        "epoch": place.epoch,
        "address": explanation.address,
        "sizes": [f"{picture.shape[1]} x {picture.shape[0]}" for picture in pictures],
        "pictures": ["data:image/jpeg;base64," + b64encode(data).decode() for data in shown],
        "labels": {
            name: value for name, value in explanation.before.items() if isinstance(value, (int, str))
        },
        "steps": explanation.to_dict()["steps"],
    }


def _rates(gates: Sequence[dict[str, bool]]) -> list[dict[str, Any]]:
    """How often each transform ran."""
    names = dict.fromkeys(name for gate in gates for name in gate)
    return [
        {"name": name, "rate": sum(gate.get(name, False) for gate in gates) / len(gates)} for name in names
    ]


def _histograms(numbers: Sequence[Any], measures: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Counts in equal bins, of each measure and of each number that was drawn often and differently enough."""
    values = dict(measures)
    for drawn in numbers:
        for name, value in drawn.items():
            values.setdefault(name, []).append(value)
    histograms = []
    for name, found in values.items():
        if len(found) < 2 or min(found) == max(found):
            continue
        counts, edges = np.histogram(found, bins=_NUM_BINS)
        histograms.append(
            {"name": name, "counts": counts.tolist(), "low": float(edges[0]), "high": float(edges[-1])}
        )
    return histograms
