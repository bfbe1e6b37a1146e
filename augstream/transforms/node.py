"""Compositions of transforms: nodes that run other nodes, each at a slot of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import RecipeError
from .arguments import probability
from .base import Applicable, BasicTransform
from .call import Call

Node = Any  # a BasicTransform, a composition of them, or a nested Compose: whatever has `run`


def child_slot(slot: bytes, ordinal: int) -> bytes:
    """The slot of the child number `ordinal` of the node at `slot`: slots are paths of positions."""
    return slot + ordinal.to_bytes(2, "little")


class BaseCompose(Applicable):
    """A node that runs other nodes, each at a slot of its own."""

    init_arguments: dict[str, Any]
    _legacy: Mapping[str, str] = {}

    def __init__(self, transforms: Iterable[Node], p: float = 1.0) -> None:
        if isinstance(transforms, (BasicTransform, BaseCompose)):
            transforms = [transforms]
        self._set_transforms(tuple(transforms))
        for position, transform in enumerate(self.transforms):
            _check_node(f"{type(self).__name__}: transforms[{position}]", transform)
        self.p = probability(self, p)

    @property
    def transforms(self) -> Sequence[Node]:
        """The children; fixed, for what is derived from them would not follow."""
        return self._transforms

    @transforms.setter
    def transforms(self, transforms: object) -> None:
        name = type(self).__name__
        msg = f"a {name} keeps the transforms it was made of; make another: {name}([...]), or {name.lower()} + [...]"
        raise RecipeError(msg)

    def _set_transforms(self, transforms: Sequence[Node]) -> None:
        self._transforms: Sequence[Node] = transforms
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


def _check_node(where: str, node: Any) -> None:
    """Raise unless `node` can be run, and says by what is run what it does."""
    is_class = isinstance(node, type)
    if is_class or not callable(getattr(node, "run", None)):
        mend = "wrap a function in augstream.Lambda(image=...)"
        if is_class and issubclass(node, Applicable):
            mend = f"make one of the class: {node.__name__}(...)"
        msg = f"{where} is {node!r}, which is no transform; {mend}"
        raise RecipeError(msg)
    classes = type(node).__mro__ if isinstance(node, Applicable) else ()
    called = next((cls for cls in classes if "__call__" in cls.__dict__), Applicable)
    run = next((cls for cls in classes if "run" in cls.__dict__), Applicable)
    if not called.__module__.startswith(__package__) and not issubclass(run, called):
        msg = (
            f"{where}: {called.__name__} overrides __call__, which a composition never calls; override apply, or, for "
            "whatever else, run(call, slot, *, force=False)"
        )
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


def own_targets(node: Node) -> set[str]:
    """The names of the targets that custom transforms at or below `node` say they know, by `targets`."""
    names = set(getattr(node, "targets", ()))
    return names.union(*map(own_targets, getattr(node, "transforms", ())))
