"""What was applied, as data, and doing it again.

A record is a list of ``{"slot", "name", "params", "arguments"}``, one for each transform that was applied,
in order: its position in the pipeline ("2.0" is the first child of the third transform), its class, what it
drew, and what it was made with. That is JSON-able and complete: noise is recorded by its key, not its
values. `replay` applies a record to any data, without any randomness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RecipeError
from .base import Params
from .call import Call, Record
from .compose import Compose
from .node import BaseCompose
from .records import registered_name
from .serialization import Builder
from .values import decode

RECORD_VERSION = 1


def replay(
    record: Sequence[Mapping[str, Any]] | Mapping[str, Any],
    compose: BaseCompose | None = None,
    /,
    *,
    bbox_params: Any = None,
    keypoint_params: Any = None,
    additional_targets: Mapping[str, str] | None = None,
    **data: Any,
) -> dict[str, Any]:
    """Apply to `data` exactly what `record` says was applied; nothing is drawn.

    `record` is ``result["applied_transforms"]`` of a ``Compose(save_applied_params=True)``, straight or
    from JSON, or what `ReplayCompose` saved. On the data it was made with, it gives the same bytes; on
    other data it does the same to it, where it fits (a crop must lie inside the image).

    Transforms are made anew from the record, of registered classes only. With `compose`, the pipeline that
    made the record, its own transforms are used: needed for a `Lambda` and for classes that are not
    registered. Boxes and keypoints are handled as `compose` says, or as `bbox_params` and
    `keypoint_params`.
    """
    settings: dict[str, Any] = {
        "bbox_params": bbox_params,
        "keypoint_params": keypoint_params,
        "additional_targets": additional_targets,
    }
    entries: Any = record
    if isinstance(record, Mapping):
        if record.get("version") != RECORD_VERSION:
            msg = f"the record has version {record.get('version')!r}, and this release reads {RECORD_VERSION}"
            raise RecipeError(msg)
        entries = record.get("applied")
        settings = {
            name: value if value is not None else record.get(name) for name, value in settings.items()
        }
    elif isinstance(compose, Compose):
        settings = {
            name: getattr(compose, name) if value is None else value for name, value in settings.items()
        }
    if not isinstance(entries, (list, tuple)):
        msg = f"not a record: {str(record)[:200]}; a record is result['applied_transforms'] of a Compose"
        raise RecipeError(msg)
    reader = _Reader(compose)
    steps = [reader.step(entry, f"record[{position}]") for position, entry in enumerate(entries)]
    return Compose(steps, **settings, is_check_shapes=False)(**data)


class _Step:
    """One recorded transform, as a node of a pipeline."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Apply the transform with the recorded parameters."""
        self._record.transform.apply_params(call, self._record.params)


class _Reader:
    """Turns entries of a record back into transforms and parameters."""

    def __init__(self, compose: BaseCompose | None) -> None:
        self._compose = compose
        self._builder = Builder() if compose is None else None

    def step(self, entry: Any, where: str) -> _Step:
        """The node that repeats `entry`."""
        return _Step(self._record(entry, where))

    def _record(self, entry: Any, where: str) -> Record:
        fits = isinstance(entry, Mapping) and isinstance(entry.get("params"), Mapping) and "name" in entry
        if not fits:
            msg = f"{where} is no applied transform: {str(entry)[:200]}"
            raise RecipeError(msg)
        params: Params = decode(dict(entry["params"]), where, other=self._nested)
        slot = str(entry.get("slot", ""))
        transform = self._made(entry, where) if self._compose is None else self._found(entry, slot, where)
        return Record(_slot_bytes(slot, where), transform, params)

    def _nested(self, value: Mapping[str, Any], where: str) -> Any:
        return self._record(value.get("$applied"), where)

    def _made(self, entry: Mapping[str, Any], where: str) -> Any:
        arguments = entry.get("arguments")
        if self._builder is None or not isinstance(arguments, Mapping):
            msg = (
                f"{where}: {entry['name']!r} was not registered when it was recorded; "
                "pass the pipeline that has it: replay(record, compose, image=...)"
            )
            raise RecipeError(msg)
        return self._builder.build({**arguments, "$class": entry["name"]}, where)

    def _found(self, entry: Mapping[str, Any], slot: str, where: str) -> Any:
        node: Any = self._compose
        for part in slot.split("."):
            children = getattr(node, "transforms", ())
            # Chosen a second time (SomeOf), a transform stands beyond the first round of its siblings.
            node = children[int(part) % len(children)] if children and part.isdecimal() else None
        found = None if node is None else registered_name(type(node)) or type(node).__name__
        if found != entry["name"]:
            msg = f"{where}: at slot {slot} the pipeline has {found}, and the record has {entry['name']!r}"
            raise RecipeError(msg)
        return node


def _slot_bytes(slot: str, where: str) -> bytes:
    try:
        return b"".join(int(part).to_bytes(2, "little") for part in slot.split(".") if part)
    except (ValueError, OverflowError) as error:
        msg = f"{where}: no slot: {slot!r}"
        raise RecipeError(msg) from error
