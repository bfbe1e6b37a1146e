"""Leave the last step, from uint8 to floats, to whoever gets the batch: a quarter of the bytes, and the same numbers.

A pipeline that ends in `Normalize` (or `ToFloat`) and `ToTensorV2` looks every value up in a table of floats, last of
all. The worker can send the bytes and the table instead, and the device looks them up: what point operations before it
did is in the table, too, so that a table belongs to one image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from ..errors import RecipeError
from .call import Call
from .canvas import Image
from .compose import ComposeStage
from .normalize import FloatTableTransform
from .tensor import ToTensorV2

IMAGE = "image"
TABLE = "image.table"
"""The field that holds the table, (256, C) float32, beside the image (C, H, W) uint8."""


def can_defer(stage: Any) -> TypeGuard[ComposeStage]:
    """Whether the stage's last step can be left to others: it `ends_in_floats`, and is not done one by one."""
    return ends_in_floats(stage) and stage.compose.fused


def ends_in_floats(stage: Any) -> TypeGuard[ComposeStage]:
    """Whether the stage is a `Compose` that always ends in floats and tensors."""
    if not isinstance(stage, ComposeStage) or stage.compose.p < 1:
        return False
    last = stage.compose.transforms[-2:]
    return (
        len(last) == 2
        and isinstance(last[0], FloatTableTransform)
        and last[0].plan_kind == "floats"  # what a subclass does in its own apply is no table
        and isinstance(last[1], ToTensorV2)
        and all(transform.p == 1 for transform in last)
    )


class OtherEnd:
    """A `ComposeStage` of which a subclass says how it finishes."""

    __slots__ = ("_stage",)

    def __init__(self, stage: ComposeStage) -> None:
        self._stage = stage

    @property
    def sources(self) -> frozenset[str]:
        """As the stage's."""
        return self._stage.sources

    def __call__(self, sample: Mapping[str, Any], key: bytes, out: Image | None = None) -> dict[str, Any]:
        """The augmented sample."""
        return self.finish(self.begin(sample, key), sample, out)

    def begin(self, sample: Mapping[str, Any], key: bytes) -> Call:
        """As the stage does."""
        return self._stage.begin(sample, key)

    def finish(self, begun: Call, sample: Mapping[str, Any], out: Image | None = None) -> dict[str, Any]:
        """The augmented sample, of which `begin` gave `begun`."""
        raise NotImplementedError


class DeferredStage(OtherEnd):
    """A stage that `can_defer`, without its last step: `image` stays uint8, and `image.table` has the floats."""

    __slots__ = ()

    def finish(self, begun: Call, sample: Mapping[str, Any], out: Image | None = None) -> dict[str, Any]:
        """The augmented sample, with the table that is still to be looked up."""
        canvas = begun.rasters.get(IMAGE)
        table = None if canvas is None else canvas.take_float_table()
        if table is None:
            dtype = "none" if canvas is None else str(canvas.dtype)
            msg = (
                f"the last step could not be left to the device: the image before it is {dtype}, not uint8; "
                "call loader.to(device, defer=False)"
            )
            raise RecipeError(msg)
        result = self._stage.finish(begun, sample, out)
        result[TABLE] = np.ascontiguousarray(table)
        return result
