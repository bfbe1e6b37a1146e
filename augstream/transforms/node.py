"""Compositions of transforms: nodes that run other nodes, each at a slot of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import RecipeError
from .base import BasicTransform, TransformMeta
from .call import Call

Node = Any  # a BasicTransform, a composition of them, or a nested Compose: whatever has `run`


def child_slot(slot: bytes, ordinal: int) -> bytes:
    """The slot of the child number `ordinal` of the node at `slot`: slots are paths of positions."""
    return slot + ordinal.to_bytes(2, "little")


class BaseCompose(metaclass=TransformMeta):
    """A node that runs other nodes, each at a slot of its own."""

    init_arguments: dict[str, Any]
    _legacy: Mapping[str, str] = {}

    def __init__(self, transforms: Iterable[Node], p: float = 1.0) -> None:
        if isinstance(transforms, (BasicTransform, BaseCompose)):
            transforms = [transforms]
        self._set_transforms(tuple(transforms))
        for position, transform in enumerate(self.transforms):
            if not callable(getattr(transform, "run", None)):
                msg = (
                    f"{type(self).__name__}: transforms[{position}] is {transform!r}, which is no transform; "
                    "wrap a function in augstream.Lambda(image=...)"
                )
                raise RecipeError(msg)
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
            msg = f"{type(self).__name__}: p is a probability from 0 to 1, got {p!r}"
            raise RecipeError(msg)
        self.p = float(p)

    def _set_transforms(self, transforms: tuple[Node, ...]) -> None:
        self.transforms = transforms
        # Whatever is no transform or composition of ours may have custom transforms below it.
        self.is_custom = any(getattr(child, "is_custom", True) for child in transforms)
        self._placed = [(child_slot(b"", ordinal), child) for ordinal, child in enumerate(transforms)]

    def __repr__(self) -> str:
        inner = ", ".join(repr(transform) for transform in self.transforms)
        others = [
            f", {name}={value!r}" for name, value in self.init_arguments.items()
            if name != "transforms" and value is not None
        ]  # fmt: skip
        return f"{type(self).__name__}([{inner}]{''.join(others)})"

    def __len__(self) -> int:
        return len(self.transforms)

    def __getitem__(self, position: int) -> Node:
        return self.transforms[position]

    def __iter__(self) -> Any:
        return iter(self.transforms)

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Run the children one after the other, if this node's gate at `slot` lets them."""
        if force or self.p >= 1.0 or self.is_open(call, slot):
            for ordinal, transform in self._placed:
                transform.run(call, slot + ordinal)
                if call.unsettled:
                    call.settle()

    def is_open(self, call: Call, slot: bytes, *, force: bool = False) -> bool:
        """Whether the gate of the node at `slot` lets the call through."""
        if force or self.p >= 1.0:
            return True
        call.draws.move(call.key, slot)
        return call.draws.gate < self.p

    def _with_transforms(self, transforms: Sequence[Node]) -> Any:
        changed = {**self.init_arguments, "transforms": list(transforms)}
        return type(self)(**changed)

    def __add__(self, other: Node | Sequence[Node]) -> Any:
        return self._with_transforms([*self.transforms, *_as_list(other)])

    def __radd__(self, other: Node | Sequence[Node]) -> Any:
        return self._with_transforms([*_as_list(other), *self.transforms])

    def __sub__(self, other: type[BasicTransform] | Node) -> Any:
        """The same pipeline without the first transform of class `other`."""
        wanted = other if isinstance(other, type) else type(other)
        for position, transform in enumerate(self.transforms):
            if transform is other or type(transform) is wanted:
                return self._with_transforms([*self.transforms[:position], *self.transforms[position + 1 :]])
        msg = f"there is no {wanted.__name__} to take away from {[type(t).__name__ for t in self.transforms]}"
        raise RecipeError(msg)


def _as_list(nodes: Node | Sequence[Node]) -> list[Node]:
    return list(nodes) if isinstance(nodes, (list, tuple)) else [nodes]


def with_mask_interpolation(node: Node, interpolation: int) -> Node:
    """A copy of `node` and all below it that resamples masks by `interpolation`."""
    if isinstance(node, BaseCompose):
        changed = copy.copy(node)
        changed._set_transforms(tuple(with_mask_interpolation(t, interpolation) for t in node.transforms))
        return changed
    if not hasattr(node, "mask_interpolation"):
        return node
    changed = copy.copy(node)
    changed.mask_interpolation = interpolation
    return changed
