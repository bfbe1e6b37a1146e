"""Images that end in a table of floats, told by the bytes that were looked up: a quarter of what a ledger has to read.

A `Compose` that ends in `Normalize` or `ToFloat` with constants, and `ToTensorV2`, delivers floats of which each plane
has at most 256 that are known beforehand. Such planes are told exactly by uint8 numbers, their code, and those floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from ..augment import image_of
from ..transforms.call import Call
from ..transforms.compose import ComposeStage
from ..transforms.deferral import IMAGE, OtherEnd, ends_in_floats
from ..transforms.levels import Levels
from ..transforms.lookup import plane_stride
from ..transforms.normalize import FloatTableTransform
from .content import Array

TOLD = "__told__"
"""The field of a sample that holds what its image is told by."""

_TAG_BYTES = 8
_LEVELS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """The floats that uint8 numbers stand for: row c of `columns`, (C, 256) float32 in rising order, in plane c."""

    columns: npt.NDArray[np.float32]
    tag: int

    @classmethod
    def of(cls, levels: Levels | None, num_channels: int) -> Code | None:
        """The code of constant levels; None if different numbers give equal floats, or are not found from them."""
        if levels is None:
            return None
        columns = np.ascontiguousarray(np.broadcast_to(levels.table.T, (num_channels, _LEVELS)))
        tag = blake2b(columns.tobytes(), digest_size=_TAG_BYTES, person=b"augstream/codes").digest()
        code = cls(columns, int.from_bytes(tag, "little"))
        found = code.numbers(columns[:, None])
        return (
            code
            if found is not None and np.array_equal(found[:, 0], [range(_LEVELS)] * num_channels)
            else None
        )

    def numbers(self, image: Array) -> npt.NDArray[np.uint8] | None:
        """The planes of uint8 that stand for an image (C, H, W); None if none do."""
        if image.dtype != np.float32 or len(image) != len(self.columns):
            return None
        found = np.empty(image.shape, np.uint8)
        for plane, column, numbers in zip(image, self.columns, found, strict=True):
            low, high = float(column[0]), float(column[-1])
            with np.errstate(invalid="ignore", over="ignore"):
                near = np.rint((plane.astype(np.float64) - low) * (255 / (high - low)))
                numbers[:] = np.clip(near, 0, 255).astype(np.uint8)
            if column[numbers].tobytes() != plane.tobytes():
                return None
        return found


class Room:
    """Where the planes of uint8 of one image after the other are put, and read: `told` is what the last is told by."""

    __slots__ = ("_memory", "_planes", "code", "told")

    def __init__(self, code: Code) -> None:
        self.code = code
        self._memory = memoryview(b"")
        self._planes = np.empty((0, 0, 0), np.uint8)
        self.told: bytes | None = None

    def planes(self, shape: tuple[int, ...]) -> Array:
        """Where planes of this shape (C, H, W) are to be put: as `plane_stride` says, with zeros between them."""
        if self._planes.shape != shape:
            num, height, width = shape
            stride = plane_stride(height * width)
            self._memory = np.zeros(num * stride, np.uint8).data
            self._planes = np.ndarray(shape, np.uint8, self._memory, 0, (stride, width, 1))
        return self._planes

    def seen(self) -> None:
        """Read the planes, which are there, and are about to be looked up."""
        # what `content` gives, without the three microseconds that it takes to ask what kind of array it is
        self.told = xxh3_128_digest(self._memory, self.code.tag)


class CodedStage(OtherEnd):
    """A stage that `ends_in_floats`, with the same results, and in `__told__` what a ledger reads of the image.

    That is the `content` of the image's code, with zeros between its planes as `plane_stride` says, and the code's tag
    as seed. The bytes that are looked up are read just before they are; where the stage does not do that in one step,
    as with ``fused=False``, they are found again from the floats. An image that is not of these floats, as one that was
    of floats before the last step, is told by its own bytes.

    Not seen: floats that are changed after, or by, the look-up, in memory.
    """

    __slots__ = ("_rooms",)

    def __init__(self, stage: ComposeStage) -> None:
        super().__init__(stage)
        self._rooms: dict[int, Room | None] = {}

    def finish(self, begun: Call, sample: Mapping[str, Any], out: Array | None = None) -> dict[str, Any]:
        """The augmented sample, with what its image is told by."""
        canvas = begun.rasters.get(IMAGE)
        room = None if canvas is None else self._room(canvas.shape)
        if canvas is None or room is None:
            return self._stage.finish(begun, sample, out)
        canvas.room, room.told = room, None
        result = self._stage.finish(begun, sample, out)
        if room.told is None:
            _find(result, room)
        if room.told is not None:
            result[TOLD] = room.told
        return result

    def _room(self, shape: tuple[int, ...]) -> Room | None:
        num_channels = shape[2] if len(shape) == 3 else 1
        if num_channels not in self._rooms:
            last = self._stage.compose.transforms[-2]
            levels = last.constants(num_channels) if isinstance(last, FloatTableTransform) else None
            code = Code.of(levels, num_channels)
            self._rooms[num_channels] = None if code is None else Room(code)
        return self._rooms[num_channels]


def _find(result: Mapping[str, Any], room: Room) -> None:
    """Read the planes of uint8 that the image is found to have been made from, if it was."""
    image = image_of(result, IMAGE)
    numbers = None if image is None else room.code.numbers(image)
    if numbers is not None:
        room.planes(numbers.shape)[:] = numbers
        room.seen()


def coded(stage: Any) -> Any:
    """The stage with what a ledger reads of its images, if it is one of which all end in floats; else the stage."""
    return CodedStage(stage) if ends_in_floats(stage) else stage
