"""The contract between a call and what turns users' boxes or keypoints into the inner form and back."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


class Processor(Protocol):
    """Prepares, filters and finishes the annotations of one target name; keeps nothing of a call."""

    name: str
    """The target, "bboxes" or an alias of it."""

    @property
    def kind(self) -> str:
        """ "bboxes" or "keypoints"."""
        ...

    label_fields: tuple[str, ...]
    """The fields that hold one label for each row."""

    check_each_transform: bool
    """Whether `filter` runs after every transform, or at the end only."""

    def prepare(self, data: MutableMapping[str, Any], shape: tuple[int, ...]) -> Any:
        """Replace the user's annotations in `data` by the inner array; return what `finish` needs of the original."""
        ...

    def filter(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The rows that are still to be kept on an image of `shape`."""
        ...

    def finish(
        self, data: MutableMapping[str, Any], state: Any, shape: tuple[int, ...], *, is_filtered: bool = False
    ) -> None:
        """Filter, unless that was done last, and put the annotations back into the user's format and container."""
        ...
