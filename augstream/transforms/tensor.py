"""`ToTensorV2`: from arrays (H, W, C) to torch tensors (C, H, W)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .base import BasicTransform, Params

if TYPE_CHECKING:
    from ..seeding import Draws
    from .call import Call, View
    from .canvas import Canvas, Image


class ToTensorV2(BasicTransform):
    """Give images as torch tensors (C, H, W), and masks as tensors (H, W[, C]); a list of them as a list of tensors.

    `transpose_mask` makes masks (C, H, W), too. It stands last: nothing may follow. Pixels are written in that layout
    once, together with what waits to be done to them, and torch is imported only then.
    """

    kinds = frozenset({"image", "images", "mask", "masks"})
    plan_kind = "planes"
    _calls_no_hooks = True

    def __init__(self, transpose_mask: bool = False, p: float = 1.0) -> None:
        super().__init__(p)
        self.transpose_mask = transpose_mask

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Decide the layout in which the canvas is finished."""
        if canvas.is_mask and not (self.transpose_mask and len(canvas.shape) == 3):
            canvas.layout = "as is"
        else:
            canvas.layout = "chw"

    def apply_params(self, call: Call, params: Params) -> None:
        """Decide the layout of every image and mask; the pixels are the same whether operations are joined or not."""
        call.is_planar = True
        for canvas in call.rasters.values():
            self.fuse(canvas, params)
        for stack in call.stacks.values():
            for canvas in stack.canvases:
                self.fuse(canvas, params)


def make_tensors(call: Call, result: dict[str, Any]) -> None:
    """Turn the images and masks that ToTensorV2 met into tensors."""
    for name, canvas in call.rasters.items():
        if canvas.layout is not None:
            result[name] = _tensor(result[name])
    for name, stack in call.stacks.items():
        if stack.canvases and stack.canvases[0].layout is not None:
            result[name] = _tensor_stack(result[name])


def _tensor(array: Image) -> Any:
    import torch  # only who asks for tensors needs it

    return torch.from_numpy(np.ascontiguousarray(array))


def _tensor_stack(arrays: Any) -> Any:
    return _tensor(arrays) if isinstance(arrays, np.ndarray) else [_tensor(array) for array in arrays]
