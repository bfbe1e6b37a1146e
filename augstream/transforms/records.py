"""Transforms as data: what they were made with, and what of them a call applied.

Written by class name and constructor arguments. The names are those under which `serialization` finds the
classes again: augstream's own, and the registered ones.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .base import TransformMeta
from .bboxes import BboxParams
from .keypoints import KeypointParams
from .values import encode

if TYPE_CHECKING:
    from .call import Call, Record

_BASES = frozenset({"BasicTransform", "DualTransform", "ImageOnlyTransform", "BaseCompose"})
_OWN_PACKAGE = __name__.partition(".")[0]


def registered_name(cls: type) -> str | None:
    """The name under which files may speak of `cls`, or None."""
    if _is_own(cls):
        return None if cls.__name__ in _BASES or cls.__name__.startswith("_") else cls.__name__
    name: str | None = cls.__dict__.get("registered_name")
    return name


def _is_own(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == _OWN_PACKAGE


def encode_node(node: Any, where: str) -> Any:
    """A transform or composition as ``{"$class": name, argument: value, ...}``."""
    if isinstance(node, (BboxParams, KeypointParams)):
        return encode(asdict(node), where, plain=True)
    if not isinstance(type(node), TransformMeta):
        return encode(node, where)  # whose error says what is wrong
    name = registered_name(type(node))
    if name is None:
        msg = (
            f"{type(node).__name__} is not registered, so that no file can name it; "
            "decorate its class with @augstream.register"
        )
        raise RecipeError(msg)
    if name == "Lambda":
        if node.init_arguments["name"] is None:
            msg = "a Lambda is saved by its name; give it one: Lambda(image=function, name='function')"
            raise RecipeError(msg)
        return {"$class": name, "name": node.init_arguments["name"]}
    return {"$class": name, **encode_arguments(node)}


def encode_arguments(node: Any, *, children: bool = True) -> dict[str, Any]:
    """The constructor arguments of a transform or composition as data, with or without its `transforms`."""
    arguments = dict(node.init_arguments)
    if arguments.get("transforms") is not None:
        arguments["transforms"] = list(node.transforms) if children else []
    if isinstance(getattr(type(node), "seed", None), property):
        arguments["seed"] = node.seed  # a pipeline may have been given another since it was made
    name = type(node).__name__
    plain = _is_own(type(node))  # ours take lists wherever they take tuples
    return {
        argument: encode(value, f"{name}({argument})", plain=plain, other=encode_node)
        for argument, value in arguments.items()
    }


def applied_records(call: Call) -> list[dict[str, Any]]:
    """The transforms that `call` applied, as data: slot, name, params and arguments of each."""
    return [_encode_record(record) for record in call.records or ()]


def _encode_record(record: Record) -> dict[str, Any]:
    transform: Any = record.transform
    name = registered_name(type(transform))
    shown = type(transform).__name__
    params = {
        param: encode(value, f"{shown}: the parameter {param!r}", other=_encode_nested)
        for param, value in record.params.items()
        if param != "shape"  # is always that of the image at hand
    }
    entry = {"slot": slot_text(record.slot), "name": name or shown, "params": params}
    if name is not None and name != "Lambda":
        arguments = encode_arguments(
            transform, children=False
        )  # a composition's children are recorded as applied
        if "mask_interpolation" in arguments:  # which Compose(mask_interpolation=...) overrides
            arguments["mask_interpolation"] = transform.mask_interpolation
        entry["arguments"] = arguments
    return entry


def _encode_nested(value: Any, where: str) -> Any:
    if hasattr(value, "slot") and hasattr(value, "params"):
        return {"$applied": _encode_record(value)}
    return encode(value, where)  # whose error says what is wrong


def slot_text(slot: bytes) -> str:
    """The slot as people write it: "2.0" is the first child of the third transform."""
    ordinals = [int.from_bytes(slot[start : start + 2], "little") for start in range(0, len(slot), 2)]
    return ".".join(map(str, ordinals))
