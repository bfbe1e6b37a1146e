"""What a `Compose` does how, as text: which transforms are views, tables or plane writers, and which touch pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .base import BasicTransform

if TYPE_CHECKING:
    from .node import BaseCompose

_HOW = {
    "view": "a view: no pixel is touched",
    "table": "a table: joins its neighbours, pixels are looked up once",
    "floats": "a table of floats: written once, straight into the result",
    "planes": "planes: decides the layout in which the result is written",
    "pixels": "on pixels: what waits is done first, then this",
}


def describe_plan(compose: BaseCompose) -> str:
    """One line a transform: its slot, its name, its probability, and how a uint8 RGB image passes it."""
    lines = [f"{slot:<8} {name:<28} p={p:<5g} {how}" for slot, name, p, how in _rows(compose, "")]
    return "\n".join(lines) or "nothing to do"


def _rows(node: Any, path: str) -> Iterator[tuple[str, str, float, str]]:
    for ordinal, child in enumerate(node.transforms):
        slot = f"{path}{ordinal}"
        if isinstance(child, BasicTransform):
            yield slot, type(child).__name__, child.p, _HOW[child.plan_kind]
        else:
            yield slot, type(child).__name__, child.p, "a composition:"
            yield from _rows(child, f"{slot}.")
