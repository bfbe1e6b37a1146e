"""One call of a pipeline: its data on the way through, its key, and what to do with each target.

Everything that a call needs lives here, and dies with it. That is why pipelines are re-entrant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from ..seeding import CallKey, Draws
from .base import BasicTransform, Params, returned_array
from .canvas import Canvas, Image

if TYPE_CHECKING:
    from .targets import Processor

RASTER_KINDS = frozenset({"image", "mask"})
STACK_KINDS = {"images": "image", "masks": "mask"}
PIXEL_KINDS = RASTER_KINDS | STACK_KINDS.keys()
ANNOTATION_KINDS = frozenset({"bboxes", "keypoints"})
KINDS = PIXEL_KINDS | ANNOTATION_KINDS

_NONE: Mapping[str, Any] = MappingProxyType({})


class View(Protocol):
    """What a transform may look at while it draws its parameters."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C) of the image as it will be when this transform sees it; needs no pixels."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the image."""
        ...

    def __contains__(self, name: object) -> bool: ...

    def __getitem__(self, name: str) -> Any:
        """The target `name` as it now is; images and masks are computed for it."""
        ...

    def data(self) -> dict[str, Any]:
        """All targets as they now are."""
        ...


def first_image(view: View) -> Image:
    """The image that data-dependent parameters are read from: `image`, else the first of `images`."""
    image: Image = view["image"] if "image" in view else view["images"][0]
    return image


def check_raster(name: str, value: Any) -> None:
    """Raise unless `value` can be an image or a mask."""
    if isinstance(value, np.ndarray):
        if value.ndim not in {2, 3}:
            msg = f"{name} must have shape (H, W) or (H, W, C), got {value.shape}"
            raise ValueError(msg)
    elif not hasattr(value, "decode") or isinstance(value, (bytes, str)):
        msg = f"{name} must be a numpy array (H, W) or (H, W, C), got {type(value).__name__}"
        raise TypeError(msg)


def check_stack(name: str, value: Any) -> None:
    """Raise unless `value` can be images or masks."""
    if not isinstance(value, (np.ndarray, list, tuple)) or not all(
        isinstance(item, np.ndarray) and item.ndim in {2, 3} for item in value
    ):
        msg = f"{name} must be an array (N, H, W[, C]) or a list of arrays (H, W[, C]), got {type(value).__name__}"
        raise TypeError(msg)


class Record:
    """One transform that was applied: at which slot, which one, with which parameters."""

    __slots__ = ("params", "slot", "transform")

    def __init__(self, slot: bytes, transform: BasicTransform, params: Params) -> None:
        self.slot = slot
        self.transform = transform
        self.params = params


class Stack:
    """The images of `images`, or the masks of `masks`: one canvas each, all treated alike.

    An array of none, (0, H, W[, C]), has the canvas of a blank one, by which it gets its new shape and dtype.
    """

    __slots__ = ("canvases", "given", "is_blank")

    def __init__(self, arrays: Sequence[Image] | Image, *, is_mask: bool) -> None:
        self.given = arrays
        self.is_blank = False
        if isinstance(arrays, np.ndarray) and len(arrays) == 0 and arrays.ndim in {3, 4}:
            self.is_blank = True
            arrays = np.zeros((1, *arrays.shape[1:]), arrays.dtype)
        self.canvases = [Canvas(array, is_mask=is_mask) for array in arrays]

    def finish(self) -> Any:
        """The images in the container they came in."""
        if not self.canvases and isinstance(self.given, np.ndarray):
            return self.given
        arrays = [canvas.finish() for canvas in self.canvases]
        return self._stacked(arrays) if isinstance(self.given, np.ndarray) else arrays

    def pixels(self) -> Any:
        """The images as they now are: an array, or an empty list."""
        arrays = [canvas.pixels() for canvas in self.canvases]
        return self._stacked(arrays) if arrays else arrays

    def _stacked(self, arrays: list[Image]) -> Image:
        stacked = np.stack(arrays)
        return stacked[:0] if self.is_blank else stacked


class Call:
    """The targets of one call, and the draws that its transforms share one after the other."""

    __slots__ = (
        "draws", "filtered", "fused", "is_planar", "key", "kinds", "others", "processors", "rasters", "records",
        "stacks", "states", "unsettled",
    )  # fmt: skip

    def __init__(
        self, draws: Draws, key: CallKey, kinds: Mapping[str, str], fused: bool, record: bool
    ) -> None:
        self.draws = draws
        self.key = key
        self.kinds = kinds
        self.fused = fused
        self.rasters: dict[str, Canvas] = {}
        self.stacks: dict[str, Stack] = {}
        self.others: dict[str, Any] = {}
        self.processors: Mapping[str, Processor] = _NONE
        self.records: list[Record] | None = [] if record else None
        self.unsettled = False  # whether annotations wait for `settle`
        self.is_planar = False  # whether a transform has decided the layout of a canvas

    def prepare(self, processors: Mapping[str, Processor]) -> None:
        """Bring annotations into the form that transforms work on."""
        self.states: dict[str, Any] = {}
        self.filtered: dict[str, tuple[Any, Any]] = {}  # what the last filter left, and for what shape
        self.processors = {
            name: processor for name, processor in processors.items() if self.others.get(name) is not None
        }
        for name, processor in self.processors.items():
            self.states[name] = processor.prepare(self.others, self.shape)
            self.unsettled = True

    def check_labels(self) -> None:
        """Raise if two targets have a label field together: of each, others may be dropped."""
        owners: dict[str, str] = {}
        for name, (_, _, _, labels) in self.states.items():
            for field, _, _ in labels:
                if field in owners:
                    msg = (
                        f"the label field {field!r} is that of {owners[field]!r} and of {name!r}, and not the same "
                        "ones of them may be dropped; give each a field of its own, under another name"
                    )
                    raise RecipeError(msg)
                owners[field] = name

    def take(self, data: Mapping[str, Any]) -> None:
        """Sort the user's data by kind, checked; None and what no transform knows pass through."""
        kinds = self.kinds
        for name, value in data.items():
            kind = kinds.get(name)
            if kind is None or value is None:
                self.others[name] = value
            elif kind in RASTER_KINDS:
                if not isinstance(value, np.ndarray) or value.ndim not in {2, 3}:
                    check_raster(name, value)
                self.rasters[name] = Canvas(value, is_mask=kind == "mask")
            elif kind in STACK_KINDS:
                check_stack(name, value)
                self.stacks[name] = Stack(value, is_mask=kind == "masks")
            else:
                self.others[name] = value

    # What a transform may look at

    @property
    def first(self) -> Canvas:
        """The canvas whose shape is the shape of the call: the image, else the first raster there is."""
        if "image" in self.rasters:
            return self.rasters["image"]
        for canvas in self.rasters.values():
            return canvas
        for stack in self.stacks.values():
            if stack.canvases:
                return stack.canvases[0]
        msg = f"no image or mask among {sorted(self.others)}; call the Compose with image=..."
        raise RecipeError(msg)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C) as the image will be, without computing it."""
        image = self.rasters.get("image")
        return self.first.shape if image is None else image.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the image."""
        return self.first.dtype

    def __contains__(self, name: object) -> bool:
        return name in self.rasters or name in self.stacks or name in self.others

    def __getitem__(self, name: str) -> Any:
        if name in self.rasters:
            return self.rasters[name].pixels()
        if name in self.stacks:
            return self.stacks[name].pixels()
        return self.others[name]

    def data(self) -> dict[str, Any]:
        """All targets as they now are."""
        return {name: self[name] for name in (*self.rasters, *self.stacks, *self.others)}

    @property
    def size_bytes(self) -> int:
        """The memory that its images keep."""
        stacked = [canvas for stack in self.stacks.values() for canvas in stack.canvases]
        return sum([canvas.size_bytes for canvas in (*self.rasters.values(), *stacked)])

    # What a transform does

    def record(self, slot: bytes, transform: BasicTransform, params: Params) -> None:
        """Note that `transform` is applied at `slot` with `params`."""
        if self.records is not None:
            self.records.append(Record(slot, transform, params))

    def apply(self, transform: BasicTransform, params: Params) -> None:
        """Apply `transform` with `params` to every target of a kind that it knows."""
        kinds, known = self.kinds, transform.kinds
        if self.is_planar and not known.isdisjoint(PIXEL_KINDS):
            msg = f"{type(transform).__name__} stands after ToTensorV2, which must be the last one of its Compose"
            raise RecipeError(msg)
        full: Params = {**params, "shape": self.shape}
        fuse = transform.fuse if self.fused else partial(BasicTransform.fuse, transform)
        for name, canvas in self.rasters.items():
            if kinds[name] in known:
                fuse(canvas, full)
        if self.stacks:
            for name, stack in self.stacks.items():
                if kinds[name] in known:
                    _apply_to_stack(transform, kinds[name], stack, full, fuse)
        if self.processors:
            for name, processor in self.processors.items():
                if kinds[name] in known:
                    self._apply_to_annotations(transform, name, processor, full)

    def apply_functions(
        self, transform: BasicTransform, functions: Mapping[str, Callable[..., Any]], params: Params
    ) -> None:
        """Apply to each target the function under its name, or under that of its kind; targets of no kind as well."""
        full: Params = {**params, "shape": self.shape}
        for name in [*self.rasters, *self.stacks, *self.others]:
            function = functions.get(name) or functions.get(self.kinds.get(name, name))
            if function is None:
                continue
            if name in self.rasters:
                canvas = self.rasters[name]
                canvas.set(returned_array(transform, name, function(canvas.pixels(), **full)))
            elif name in self.stacks:
                _apply_function_to_stack(self.stacks[name], function, full)
            elif name in self.processors:
                self._apply_to_annotations(transform, name, self.processors[name], full, function)
            elif self.others[name] is not None:
                self.others[name] = function(self.others[name], **full)

    def settle(self) -> None:
        """Filter the annotations after the first transform, whether it moved them or not; later ones filter theirs.

        So it is in albumentations, and so it depends on nobody's coin whether a box that is too small meets a
        transform that would have enlarged it.
        """
        self.unsettled = False
        shape = self.shape
        for name, processor in self.processors.items():
            if processor.check_each_transform and not self._is_filtered(name, shape):
                self._filter(name, processor, self.others[name], shape)

    def finish_annotations(self) -> None:
        """Bring annotations back into the user's form, filtered."""
        shape = self.shape
        for name, processor in self.processors.items():
            is_filtered = self._is_filtered(name, shape)
            processor.finish(self.others, self.states[name], shape, is_filtered=is_filtered)

    def _is_filtered(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the annotations are as the filter left them, on an image of this shape: it would change nothing."""
        kept, filtered_for = self.filtered.get(name, (None, None))
        return kept is self.others[name] and filtered_for == shape

    def _filter(
        self, name: str, processor: Processor, array: npt.NDArray[Any], shape: tuple[int, ...]
    ) -> None:
        kept = self.others[name] = processor.filter(array, shape)
        self.filtered[name] = (kept, shape)

    def _apply_to_annotations(
        self, transform: BasicTransform, name: str, processor: Processor, params: Params,
        function: Callable[..., Any] | None = None,
    ) -> None:  # fmt: skip
        before: npt.NDArray[Any] = self.others[name]
        if len(before) == 0:
            return
        is_bboxes = processor.kind == "bboxes"
        hook = function or (transform.apply_to_bboxes if is_bboxes else transform.apply_to_keypoints)
        after = hook(before, **params)
        if not isinstance(after, np.ndarray):
            returned_array(transform, "apply_to_bboxes" if is_bboxes else "apply_to_keypoints", after)
        if processor.check_each_transform:
            self._filter(name, processor, after, self.shape)
        else:
            self.others[name] = after


def _apply_to_stack(
    transform: BasicTransform, kind: str, stack: Stack, params: Params, fuse: Callable[[Canvas, Params], None]
) -> None:
    hook = "apply_to_images" if kind == "images" else "apply_to_masks"
    if getattr(type(transform), hook) is getattr(BasicTransform, hook):
        for canvas in stack.canvases:
            fuse(canvas, params)
    else:
        _apply_function_to_stack(stack, getattr(transform, hook), params)


def _apply_function_to_stack(stack: Stack, function: Callable[..., Any], params: Params) -> None:
    if stack.canvases:
        arrays = np.stack([canvas.pixels() for canvas in stack.canvases])
        for canvas, array in zip(stack.canvases, function(arrays, **params), strict=True):
            canvas.set(array)
