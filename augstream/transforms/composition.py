"""Compositions besides `Compose`: which of their transforms they run, and in what order.

A composition's own decisions (its gate, its choice) are drawn at its own slot; each child draws at the
child's slot, so that what one of them draws never depends on another's being chosen. The meaning of `p` is
albumentations' (2.0.8), but for two corrections: a `SomeOf` that is chosen by a `OneOf` runs (there: it
tosses its own coin again), and `n` above the number of transforms is an error (there: a warning).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any, cast

import numpy as np

from ..errors import RecipeError
from ..seeding import CallKey, Draws
from .base import Array, DualTransform, Params
from .call import Call, Record, View
from .canvas import Canvas
from .compose import Compose
from .node import BaseCompose, Node, child_slot
from .replay import RECORD_VERSION, replay

Function = Callable[..., Any]


class Sequential(BaseCompose):
    """With probability `p`, run the transforms one after the other, each by its own `p`.

    For use inside of a `Compose`, say as one of the choices of a `OneOf`.
    """

    def __init__(self, transforms: Iterable[Node], p: float = 0.5) -> None:
        super().__init__(transforms, p)


class OneOf(BaseCompose):
    """With probability `p`, run one of the transforms: their `p` are weights, and the chosen one runs."""

    def __init__(self, transforms: Iterable[Node], p: float = 0.5) -> None:
        super().__init__(transforms, p)
        self._bounds = list(accumulate(transform.p for transform in self.transforms))
        if self.transforms and not self._bounds[-1] > 0:
            msg = "OneOf: all its transforms have p=0; their p are weights, so one at least must be above 0"
            raise RecipeError(msg)

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Choose one and run it, if this node's gate at `slot` lets it."""
        if not self.transforms or not self.is_open(call, slot, force=force):
            return
        call.draws.move(call.key, slot)
        point = call.draws.random() * self._bounds[-1]
        ordinal = next(number for number, bound in enumerate(self._bounds) if point < bound)
        self._transforms[ordinal].run(call, child_slot(slot, ordinal), force=True)


class SomeOf(BaseCompose):
    """With probability `p`, choose `n` of the transforms evenly and run them in their order, each by its
    own `p`.

    With `replace`, a transform may be chosen several times; it then draws anew each time.
    """

    def __init__(self, transforms: Iterable[Node], n: int = 1, replace: bool = False, p: float = 1.0) -> None:
        super().__init__(transforms, p)
        most = len(self.transforms)
        if isinstance(n, bool) or not isinstance(n, int) or n < 0 or (n > most and not replace):
            msg = f"{type(self).__name__}: n must be from 0 to the number of transforms, {most}, got {n!r}"
            raise RecipeError(msg + ("" if replace else "; replace=True chooses some of them several times"))
        self.n = n
        self.replace = replace

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Choose some and run them, if this node's gate at `slot` lets it."""
        if not self.transforms or not self.is_open(call, slot, force=force):
            return
        call.draws.move(call.key, slot)
        times = [0] * len(self.transforms)
        for ordinal in self._chosen(call.draws):
            # Chosen a second time, a transform stands at a slot of its own, beyond those of all first times.
            place = ordinal + times[ordinal] * len(self.transforms)
            times[ordinal] += 1
            self.transforms[ordinal].run(call, child_slot(slot, place))

    def _chosen(self, draws: Draws) -> list[int]:
        return sorted(self._drawn(draws))

    def _drawn(self, draws: Draws) -> list[int]:
        """`n` ordinals in random order, by our own shuffle: the standard library's may change some day."""
        num = len(self.transforms)
        if self.replace:
            return [int(draws.random() * num) for _ in range(self.n)]
        ordinals = list(range(num))
        for place in range(self.n):
            other = place + int(draws.random() * (num - place))
            ordinals[place], ordinals[other] = ordinals[other], ordinals[place]
        return ordinals[: self.n]


class RandomOrder(SomeOf):
    """With probability `p`, run `n` evenly chosen transforms in random order, each by its own `p`."""

    def _chosen(self, draws: Draws) -> list[int]:
        return self._drawn(draws)


class OneOrOther(BaseCompose):
    """Run the first transform with probability `p`, else the second; the chosen one always runs."""

    def __init__(
        self,
        first: Node | None = None,
        second: Node | None = None,
        transforms: Sequence[Node] | None = None,
        p: float = 0.5,
    ) -> None:
        if (transforms is None) == (first is None and second is None):
            msg = (
                "OneOrOther takes two transforms, as OneOrOther(first, second) or transforms=[first, second]"
            )
            raise RecipeError(msg)
        super().__init__([first, second] if transforms is None else transforms, p)
        if len(self.transforms) != 2:
            msg = f"OneOrOther takes two transforms, got {len(self.transforms)}; OneOf takes any number"
            raise RecipeError(msg)

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Choose one of the two and run it."""
        call.draws.move(call.key, slot)
        ordinal = 0 if call.draws.gate < self.p else 1
        self._transforms[ordinal].run(call, child_slot(slot, ordinal), force=True)


class SelectiveChannelTransform(BaseCompose):
    """With probability `p`, run the transforms on some `channels` of the image, and leave all else alone.

    The transforms see an image (H, W, len(channels)), and must return one of its shape and dtype.
    """

    def __init__(
        self, transforms: Iterable[Node], channels: Sequence[int] = (0, 1, 2), p: float = 1.0
    ) -> None:
        super().__init__(transforms, p)
        self.channels = tuple(channels)
        if not all(isinstance(number, int) and number >= 0 for number in self.channels):
            msg = f"SelectiveChannelTransform: channels are numbers from 0, got {channels!r}"
            raise RecipeError(msg)

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Run the transforms on the channels, if this node's gate at `slot` lets it."""
        if "image" not in call.rasters or not self.is_open(call, slot, force=force):
            return
        part = self._part(call)
        for ordinal, transform in enumerate(self.transforms):
            transform.run(part, child_slot(slot, ordinal))
        if call.records is not None:
            call.records.append(Record(slot, cast(Any, self), {"applied": part.records}))
        self._put_back(call, part)

    def apply_params(self, call: Call, params: Params) -> None:
        """Apply the transforms recorded in `params` to the channels."""
        part = self._part(call)
        for record in params["applied"]:
            record.transform.apply_params(part, record.params)
        self._put_back(call, part)

    def _part(self, call: Call) -> Call:
        """A call on the channels alone."""
        image = call.rasters["image"].pixels()
        num_channels = image.shape[2] if image.ndim == 3 else 1
        if image.ndim != 3 or any(number >= num_channels for number in self.channels):
            msg = f"SelectiveChannelTransform: an image of {image.shape} lacks channels of {self.channels}"
            raise RecipeError(msg)
        part = Call(call.draws, call.key, call.kinds, fused=call.fused, record=call.records is not None)
        part.rasters["image"] = Canvas(np.ascontiguousarray(image[:, :, list(self.channels)]))
        return part

    def _put_back(self, call: Call, part: Call) -> None:
        whole, changed = call.rasters["image"].pixels(), part.rasters["image"].pixels()
        if changed.shape != (*whole.shape[:2], len(self.channels)) or changed.dtype != whole.dtype:
            msg = (
                f"SelectiveChannelTransform: its transforms made {changed.shape} {changed.dtype} out of "
                f"{(*whole.shape[:2], len(self.channels))} {whole.dtype}; only transforms that keep both fit"
            )
            raise RecipeError(msg)
        image = whole.copy()
        image[:, :, list(self.channels)] = changed
        call.rasters["image"].set(image)


class Lambda(DualTransform):
    """With probability `p`, call your functions: `image(image, **params)`, and so for the other targets.

    A target without a function is left alone. Boxes and keypoints come as `BasicTransform.apply_to_bboxes` and
    `apply_to_keypoints` say. Functions take keyword arguments (`shape`, and what is to come), return new arrays, and
    must be pure: nothing is promised of one that calls `random.random()`. Saving a pipeline writes a Lambda's `name`
    only; `load(..., nonserializable={name: Lambda(...)})` brings it back. To start worker processes by spawn, functions
    must be picklable: defined in a module, no lambda expressions.
    """

    def __init__(
        self,
        image: Function | None = None,
        mask: Function | None = None,
        keypoints: Function | None = None,
        bboxes: Function | None = None,
        name: str | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        functions = {"image": image, "mask": mask, "keypoints": keypoints, "bboxes": bboxes}
        self._functions = {kind: function for kind, function in functions.items() if function is not None}
        for kind, function in self._functions.items():
            if not callable(function):
                msg = f"Lambda: {kind} must be a function, got {function!r}"
                raise RecipeError(msg)
        self.name = name
        stacks = {kind + "s" for kind in ("image", "mask") if kind in self._functions}
        self.kinds = frozenset({*self._functions, *stacks})  # type: ignore[misc]  # of each Lambda, its own

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def apply(self, img: Array, **params: Any) -> Array:
        """What the image's function returns."""
        return self._call("image", img, params)

    def apply_to_mask(self, mask: Array, **params: Any) -> Array:
        """What the mask's function returns."""
        return self._call("mask", mask, params)

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """What the boxes' function returns."""
        return self._call("bboxes", bboxes, params)

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """What the keypoints' function returns."""
        return self._call("keypoints", keypoints, params)

    def _call(self, kind: str, value: Array, params: Params) -> Array:
        result = self._functions[kind](value, **params)
        if not isinstance(result, np.ndarray):
            msg = (
                f"the Lambda's function for {kind} returned {type(result).__name__}; it must return an array"
            )
            raise RecipeError(msg)
        return result


class ReplayCompose(Compose):
    """A `Compose` that adds to each result, under `save_key`, the record from which `replay` repeats it.

    The same as `Compose(..., save_applied_params=True)` and `augstream.replay`, under albumentations'
    names.
    """

    def __init__(
        self,
        transforms: Iterable[Node],
        bbox_params: Any = None,
        keypoint_params: Any = None,
        additional_targets: Any = None,
        p: float = 1.0,
        is_check_shapes: bool = True,
        save_key: str = "replay",
        strict: bool = False,
        mask_interpolation: int | None = None,
        seed: int | None = None,
        save_applied_params: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            transforms, bbox_params, keypoint_params, additional_targets, p, is_check_shapes, strict,
            mask_interpolation, seed, save_applied_params=True, name=name,
        )  # fmt: skip
        self.save_key = save_key
        self._keeps_applied = save_applied_params

    def _call(self, key: CallKey, data: dict[str, Any], force: bool = False) -> dict[str, Any]:
        result = super()._call(key, data, force=force)
        applied = result["applied_transforms"] if self._keeps_applied else result.pop("applied_transforms")
        result[self.save_key] = {
            "version": RECORD_VERSION,
            "applied": applied,
            "bbox_params": None if self.bbox_params is None else asdict(self.bbox_params),
            "keypoint_params": None if self.keypoint_params is None else asdict(self.keypoint_params),
            "additional_targets": self.additional_targets,
        }
        return result

    @staticmethod
    def replay(saved_augmentations: Mapping[str, Any], /, **data: Any) -> dict[str, Any]:
        """Apply to `data` exactly what was applied when `saved_augmentations` was recorded."""
        return replay(saved_augmentations, **data)
