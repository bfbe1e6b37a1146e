"""Look at a stream: a contact sheet as PNG, or one self-contained HTML page to browse.

The page holds everything in itself and asks the network for nothing. It shows samples before and after, with boxes,
masks and keypoints drawn on them, what was drawn for each, and statistics over all.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import StreamDataset
from ..seeding import generator, seed_key, subkey
from .explain import Explanation, drawn_numbers, explain, plain
from .pictures import (
    Picture,
    annotated,
    encoded,
    labelled,
    looks_like_a_picture,
    picture_of,
    sheet,
    size_of,
    thumbnail,
)

THUMBNAIL_PIXELS = 176
_NUM_BINS = 20
_QUALITIES = ((THUMBNAIL_PIXELS, 75), (THUMBNAIL_PIXELS, 55), (144, 55), (144, 40), (112, 40), (112, 25))
_BUDGET_BYTES = 2_700_000  # 3.6 MB in base 64: with what is said beside them, 200 samples stay below 5 MB
_LEAST_PICTURE_BYTES = 1_500
_COLUMNS = 6
Note = Callable[[Explanation], None]
_REPRESENTATIONS = {"Normalize", "ToFloat", "ToTensorV2"}


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
    dataset: StreamDataset,
    samples: Sequence[tuple[str, str]],
    epochs: Iterable[int],
    size: int = 160,
    failed: Note = lambda _: None,
) -> Picture:
    """One row a sample: first as it is on disk, then as each of `epochs` augments it; dim where that `failed`."""
    rows = []
    for shard, key in samples:
        found = [explain(dataset, epoch=epoch, shard=shard, key=key) for epoch in epochs]
        cells = [labelled(thumbnail(_before(found[0], dataset), size), key)] if found else []
        for epoch, explanation in zip(epochs, found, strict=True):
            text = f"epoch {epoch}" if explanation.error is None else f"epoch {epoch}: failed"
            if explanation.error is not None:
                failed(explanation)
            picture = thumbnail(_after(explanation, dataset), size)
            cells.append(labelled(picture if explanation.error is None else picture // 3, text))
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


def page(
    dataset: StreamDataset,
    places: Sequence[Place],
    title: str = "augstream preview",
    failed: Note = lambda _: None,
) -> str:
    """The HTML page over `places`; what failed is told there, and to `failed`."""
    album = _Album()
    entries: list[dict[str, Any]] = []
    gates: dict[str, list[bool]] = {}
    chances: dict[str, float] = {}
    drawn: dict[str, list[float]] = {}
    measured: dict[str, tuple[list[float], list[float]]] = {}
    for place in places:
        explanation = explain(dataset, epoch=place.epoch, shard=place.shard, key=place.key)
        entries.append(_entry(place, explanation, dataset, album))
        if explanation.error is not None:
            failed(explanation)
        for step in explanation.steps:
            name = f"{step.slot} {step.name}"
            chances[name] = step.p
            gates.setdefault(name, []).append(bool(step.applied))
        for name, value in drawn_numbers(explanation).items():
            drawn.setdefault(name, []).append(value)
        for side, sample in enumerate((explanation.before, _looked_at(explanation))):
            for name, value in _measures(sample).items():
                measured.setdefault(name, ([], []))[side].append(value)
    data = {
        "about": _about(dataset, places),
        "pictures": album.encoded(),
        "entries": entries,
        "gates": [
            {"name": name, "rate": sum(ran) / len(ran), "p": chances[name]} for name, ran in gates.items()
        ],
        "measures": [
            _histogram(name, {"before": before, "after": after}) for name, (before, after) in measured.items()
        ],
        "drawn": [
            _histogram(name, {"": values})
            for name, values in sorted(drawn.items(), key=lambda item: _slot_of(item[0]))
            if min(values) < max(values)
        ],
    }
    # "<" could end the script element that the data stands in
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    template, script = (
        files("augstream.tools").joinpath(name).read_text(encoding="utf-8")
        for name in ("preview.html", "preview.js")
    )
    filled = template.replace("{{title}}", escape(title)).replace("{{script}}", script)
    return filled.replace("{{data}}", text)


def _about(dataset: StreamDataset, places: Sequence[Place]) -> str:
    samples = len({(place.shard, place.key) for place in places})
    epochs = len({place.epoch for place in places})
    shards = len({place.shard for place in places})
    return (
        f"{samples} of {dataset.index.total:,} samples, from {shards} of {len(dataset.index):,} shards, in {epochs} "
        f"epoch{'' if epochs == 1 else 's'}; seed {dataset.recipe.seed}"
    )


def write_page(
    dataset: StreamDataset, places: Sequence[Place], path: Path, failed: Note = lambda _: None
) -> None:
    """Write the page to `path`."""
    path.write_text(page(dataset, places, failed=failed), encoding="utf-8")


def _formats(dataset: StreamDataset) -> dict[str, Any]:
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
    return annotated(sample, **_formats(dataset), least=THUMBNAIL_PIXELS)


def _before(explanation: Explanation, dataset: StreamDataset) -> Picture:
    return _drawn(explanation.before, dataset)


def _looked_at(explanation: Explanation) -> dict[str, Any]:
    """The sample as it is delivered, or, if only its values' range and layout changed since, when they were uint8."""
    if _dtype(explanation.after) != np.uint8:
        for step in reversed(explanation.steps):
            if _dtype(step.sample) == np.uint8:
                return step.sample
            if step.applied and step.name not in _REPRESENTATIONS:
                break
    return explanation.after


def _dtype(sample: dict[str, Any]) -> Any:
    image = sample.get("image")
    return np.asarray(image).dtype if looks_like_a_picture(image) else None


def _after(explanation: Explanation, dataset: StreamDataset) -> Picture:
    return _drawn(_looked_at(explanation), dataset)


class _Album:
    """The pictures of a page, each once, in whatever quality makes them small enough together."""

    def __init__(self) -> None:
        self._pictures: list[Picture] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def add(self, picture: Picture) -> int:
        """The number of a picture."""
        self._pictures.append(thumbnail(picture, THUMBNAIL_PIXELS))
        return len(self._pictures) - 1

    def original(self, shard: str, key: str, picture: Picture) -> int:
        """The number of a sample's picture as it is on disk, which is the same in all epochs."""
        if (shard, key) not in self._numbers:
            self._numbers[shard, key] = self.add(picture)
        return self._numbers[shard, key]

    def encoded(self) -> list[str]:
        """The pictures as JPEGs in base 64: the first quality at which they fit, else the last."""
        budget = max(_BUDGET_BYTES, _LEAST_PICTURE_BYTES * len(self._pictures))
        found: list[bytes] = []
        for size, quality in _QUALITIES:
            small = [p if size == THUMBNAIL_PIXELS else thumbnail(p, size) for p in self._pictures]
            found = [encoded(picture, ".jpg", quality) for picture in small]
            if sum(map(len, found)) <= budget:
                break
        return [b64encode(data).decode() for data in found]


def _entry(place: Place, explanation: Explanation, dataset: StreamDataset, album: _Album) -> dict[str, Any]:
    before, after = _before(explanation, dataset), _after(explanation, dataset)
    return {
        "shard": place.shard,
        "key": place.key,
        "epoch": place.epoch,
        "address": explanation.address,
        "sizes": [size_of(explanation.before), size_of(_looked_at(explanation))],
        "pictures": [album.original(place.shard, place.key, before), album.add(after)],
        "labels": {
            name: value
            for name, value in explanation.before.items()
            if isinstance(value, (int, str)) and not name.startswith("__")
        },
        "steps": [
            {
                "name": step.name,
                "p": step.p,
                "gate": round(step.gate, 6),
                "applied": [
                    {"name": record["name"], "params": _rounded(plain(record["params"]))}
                    for record in step.applied
                ],
                **({} if step.error is None else {"error": f"{type(step.error).__name__}: {step.error}"}),
            }
            for step in explanation.steps
        ],
    }


def _rounded(value: Any) -> Any:
    """A parameter with as many digits as a reader wants, and as JSON has words for."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def _measures(sample: dict[str, Any]) -> dict[str, float]:
    """What is counted of a sample before and after: brightness and contrast of 255, width, height, boxes."""
    found = {}
    if looks_like_a_picture(sample.get("image")):
        picture = picture_of(sample["image"])
        found = {
            "brightness": float(picture.mean()),
            "contrast (standard deviation)": float(picture.std()),
            "width in pixels": float(picture.shape[1]),
            "height in pixels": float(picture.shape[0]),
        }
    for name in ("bboxes", "keypoints"):
        if name in sample:
            found[f"number of {name}"] = float(len(sample[name]))
    return found


def _histogram(name: str, series: dict[str, list[float]]) -> dict[str, Any]:
    """Counts in equal bins, the same ones for all series."""
    values = [value for found in series.values() for value in found]
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size:  # too close together for bins of their own
        low, high = low - 0.5 - 1e-6 * size, high + 0.5 + 1e-6 * size
    counted = [
        {
            "label": label,
            "counts": np.histogram(found, bins=_NUM_BINS, range=(low, high))[0].tolist(),
            "mean": float(np.mean(found)),
        }
        for label, found in series.items()
        if found
    ]
    return {"name": name, "low": low, "high": high, "series": counted}


def _slot_of(name: str) -> tuple[list[int], str]:
    """What parameters are in order by: the slot of their transform, then their name."""
    slot, _, rest = name.partition(" ")
    return [int(part) for part in slot.split(".")], rest
