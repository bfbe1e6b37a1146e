"""What a `Compose` does how, as text: which transforms are views, tables or plane writers, and which touch pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .base import BasicTransform

if TYPE_CHECKING:
    from .node import BaseCompose

_HOW = {
    "view": "a view: no pixel is touched",
    "late": "put off: resampled from the view before it, once pixels are there",
    "table": "a table: joins its neighbours, pixels are looked up once",
    "floats": "a table of floats: written once, straight into the result",
    "planes": "planes: decides the layout in which the result is written",
    "pixels": "on pixels: what waits is done first, then this",
}
_ALONE = "on pixels, by itself: fused=False"


def describe_plan(compose: BaseCompose) -> str:
    """One line a transform: its slot, its name, its probability, and how a uint8 RGB image passes it."""
    how = (
        _HOW if getattr(compose, "fused", True) else {**dict.fromkeys(_HOW, _ALONE), "planes": _HOW["planes"]}
    )
    lines = [
        f"{slot:<8} {name:<28} p={p:<5g} {how.get(kind, kind)}" for slot, name, p, kind in _rows(compose, "")
    ]
    return "\n".join(lines) or "nothing to do"


def _rows(node: Any, path: str) -> Iterator[tuple[str, str, float, str]]:
    for ordinal, child in enumerate(node.transforms):
        slot = f"{path}{ordinal}"
        if isinstance(child, BasicTransform):
            yield slot, type(child).__name__, child.p, child.plan_kind
        else:
            yield slot, type(child).__name__, child.p, "a composition:"
            yield from _rows(child, f"{slot}.")
