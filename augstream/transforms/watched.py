"""Pipelines whose leaves are tapped: something is done around each transform that runs, wherever it is nested."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from threading import active_count
from typing import Any

from ..seeding import CallKey
from .call import Call
from .leaks import Culprit, Line, Watch, guarded, moved_by, moving_line
from .node import BaseCompose, Node
from .records import slot_text

_CONFIRMATIONS = 8

Around = Callable[[bytes, Any, Call, Callable[[], None]], None]
"""Called for each transform that runs, with its slot, itself, the call, and what runs it."""


class Tap:
    """A transform that is run by `around`; else the transform."""

    __slots__ = ("_around", "_node")

    def __init__(self, node: Node, around: Around) -> None:
        self._node, self._around = node, around

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Run the transform, through `around`."""
        self._around(slot, self._node, call, partial(self._node.run, call, slot, force=force))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


def tapped(node: Node, around: Around) -> Any:
    """A copy of `node` in which every transform below it is tapped; it draws and does the same."""
    if not isinstance(node, BaseCompose):
        return Tap(node, around)
    changed = copy.copy(node)
    changed._set_transforms(tuple(tapped(child, around) for child in node.transforms))
    return changed


def node_text(slot: bytes, node: Node) -> str:
    """How messages name a transform: by its slot and class, and a `Lambda` by its functions as well."""
    functions = getattr(node, "_functions", None) or {}
    names = ", ".join(getattr(f, "__qualname__", type(f).__name__) for f in functions.values())
    return f"transform {slot_text(slot)} {type(node).__name__}" + (f"({names})" if names else "")


def execute_guarded(
    compose: Any, watch: Watch, key: CallKey, data: Mapping[str, Any], *, force: bool = False
) -> Call:
    """``compose._execute``; `LeakError` if a transform moves a global generator."""
    run: Callable[[], Call] = partial(compose._execute, key, data, force=force)
    return guarded(
        watch,
        run,
        lambda: _culprit(compose, key, data, force),
        lambda: f"one of {[type(node).__name__ for node in compose.transforms]}",
    )


def _culprit(compose: Any, key: CallKey, data: Mapping[str, Any], force: bool) -> Culprit | None:
    """The first transform that moves a generator whenever the call is made again."""
    watch = Watch()
    found = _movers(compose, watch, key, data, force)
    for _ in range(
        _CONFIRMATIONS if active_count() > 1 else 0
    ):  # another thread may have drawn while one ran
        again = _movers(compose, watch, key, data, force) if found else {}
        found = {place: names for place, names in found.items() if again.get(place) == names}
    if not found:
        return None
    (slot, what), moved = next(iter(found.items()))
    lines: list[Line | None] = []

    def trace(at: bytes, _node: Any, _call: Call, run: Callable[[], None]) -> None:
        if at == slot and not lines:
            lines.append(moving_line(run, watch, moved))
        else:
            run()

    tapped(compose, trace)._execute(key, data, force=force)
    return Culprit(what, moved, lines[0] if lines else None)


def _movers(
    compose: Any, watch: Watch, key: CallKey, data: Mapping[str, Any], force: bool
) -> dict[tuple[bytes, str], tuple[str, ...]]:
    """The transforms during which generators are moved, by slot and name, and which, when the call is made again."""
    found: dict[tuple[bytes, str], tuple[str, ...]] = {}

    def look(slot: bytes, node: Any, _call: Call, run: Callable[[], None]) -> None:
        moved = moved_by(run, watch)
        if moved:
            found[slot, node_text(slot, node)] = moved

    tapped(compose, look)._execute(key, data, force=force)
    return found
