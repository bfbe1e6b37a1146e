"""What boxes and keypoints share: label fields, containers, and the way into the inner form and back.

The inner form is one float64 array per target: the coordinates, then the user's further columns, then one
column for each label field. A label field of plain numbers travels as its values, so that a custom
transform can read and change them; any other (strings, booleans, objects, integers too large for a float)
travels as row numbers, and is picked from the original at the end. Either way labels come back with the
types they came with.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from .arguments import check_flag
from .values import shortened

Array = npt.NDArray[Any]
ParamsT = TypeVar("ParamsT")
_FLOAT64 = np.dtype(np.float64)
_TARGETS = frozenset({"image", "images", "mask", "masks", "bboxes", "keypoints"})


# A label field on its way: its name, the original values, and the type of the values in its column, or None if the
# column holds row numbers.
Label = tuple[str, Any, type | np.dtype[Any] | None]
# What `finish` must know of what `prepare` was given: whether it was a list, or else its dtype, how many columns it
# had, and its labels. (Plain tuples: a call makes some, and named ones cost five times as much.)
State = tuple[bool, np.dtype[Any], int, list[Label]]


class KnownArguments(type):
    """The type of parameter classes: an unknown argument is a `TypeError` that names the nearest known one."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """What help and documentation show, for they would show `__call__`'s."""
        whole = inspect.signature(cast(Any, cls).__init__)
        return whole.replace(parameters=[*whole.parameters.values()][1:], return_annotation=cls)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance."""
        known = [field.name for field in fields(cast(Any, cls))] + ["coord_format"]
        for name in kwargs:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                msg = f"{cls.__name__}() has no argument {name!r}{hint} (it takes: {', '.join(known)})"
                raise TypeError(msg)
        made = super().__call__(*args, **kwargs)
        for field in fields(cast(Any, cls)):
            if field.type == "bool":
                check_flag(cls.__name__, field.name, getattr(made, field.name))
        return made


def params_from(cls: type[ParamsT], given: ParamsT | Mapping[str, Any] | None) -> ParamsT | None:
    """`given` as an instance of `cls`: itself, made from a dict of its arguments, or None."""
    if given is None or isinstance(given, cls):
        return given
    if not isinstance(given, Mapping):
        msg = f"expected {cls.__name__}(...) or a dict of its arguments, got {given!r}"
        raise RecipeError(msg)
    return cls(**{str(name): value for name, value in given.items()})


def checked_format(cls: str, format_: str | None, coord_format: str | None, known: Sequence[str]) -> str:
    """The format that is named by either of the two arguments, checked."""
    if format_ is not None and coord_format is not None and format_ != coord_format:
        msg = f"{cls}() got format={format_!r} and coord_format={coord_format!r}; give one of the two"
        raise RecipeError(msg)
    found = coord_format if format_ is None else format_
    if found is None or found not in known:
        msg = f"{cls}: format must be one of {', '.join(map(repr, known))}, got {found!r}"
        raise RecipeError(msg)
    return found


def checked_fields(cls: str, label_fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of label fields as a tuple, checked; None stays None."""
    if label_fields is None:
        return None
    if isinstance(label_fields, str) or not all(isinstance(name, str) for name in label_fields):
        msg = f"{cls}: label_fields must be a list of names, got {label_fields!r}; pass ['labels'], say"
        raise RecipeError(msg)
    targets = sorted(_TARGETS.intersection(label_fields))
    if targets:
        msg = f"{cls}: label_fields must be names of their own, got {targets}, which are targets"
        raise RecipeError(msg)
    return tuple(label_fields)


class AnnotationProcessor(ABC):
    """Turns the annotations of one target name into the inner form and back; keeps nothing of a call.

    One is made for each target name: `name` is "bboxes" or "keypoints" (that is `kind`), or an alias from
    `additional_targets`. Label fields belong to the target called as its kind; where a call has none such,
    to the alias. Call `prepare` once, `filter` after each transform that moved the annotations or changed
    the shape (unless `check_each_transform` is false), and `finish` once, which filters if that is still to do. The
    label fields stay in `data`, untouched, until `finish` replaces them.
    """

    kind: str  # "bboxes" or "keypoints"
    num_inner: ClassVar[int]
    num_outer: int  # the columns that the user's format needs
    check_each_transform: bool

    def __init__(self, name: str, label_fields: tuple[str, ...] | None) -> None:
        self.name = name
        self.label_fields = label_fields or ()

    @abstractmethod
    def inward(self, array: Array, inner: Array, shape: tuple[int, ...]) -> Array:
        """Fill `inner`, (N, …) float64, from the user's numbers, `array`; check; return the rows to keep.

        Further columns of the user's array go after them; the columns of labels come filled.
        """

    @abstractmethod
    def outward(self, inner: Array, num_columns: int, shape: tuple[int, ...]) -> Array:
        """The user's `num_columns` columns of `inner`, which may be overwritten."""

    @abstractmethod
    def filter(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The rows of `array` that are still to be kept on an image of `shape` (H, W[, C])."""

    def prepare(self, data: MutableMapping[str, Any], shape: tuple[int, ...]) -> State:
        """Replace the user's annotations in `data` by the inner array; return what `finish` needs.

        Raises `RecipeError` for annotations or labels that are no such thing.
        """
        given = data[self.name]
        is_list = isinstance(given, (list, tuple)) or not hasattr(given, "__array__")
        array, dtype = self._as_array(given)
        num_rows, num_columns = array.shape
        fields = () if self.name != self.kind and self.kind in data else self.label_fields
        first_label = self.num_inner + num_columns - self.num_outer
        inner = np.empty((num_rows, first_label + len(fields)))
        labels = []
        for index, field in enumerate(fields, first_label):
            labels.append(self._take_label(data, field, num_rows, inner[:, index]))
        if num_rows:
            inner = self.inward(array, inner, shape)
        data[self.name] = inner
        return is_list, dtype, num_columns, labels

    def finish(
        self,
        data: MutableMapping[str, Any],
        state: State,
        shape: tuple[int, ...],
        *,
        is_filtered: bool = False,
    ) -> None:
        """Filter, unless that was the last that was done, and put annotations and label fields back into the user's
        format, types and containers."""
        inner = data[self.name] if is_filtered else self.filter(data[self.name], shape)
        is_list, dtype, num_columns, labels = state
        first_label = self.num_inner + num_columns - self.num_outer
        if inner.shape[1] != first_label + len(labels):
            inner = self._with_columns(inner, first_label + len(labels))
        for index, label in enumerate(labels, first_label):
            data[label[0]] = _restored(label, inner[:, index])
        array = self.outward(inner, num_columns, shape) if len(inner) else np.empty((0, num_columns))
        data[self.name] = array.tolist() if is_list else array.astype(dtype, copy=False)

    def _as_array(self, given: Any) -> tuple[Array, np.dtype[Any]]:
        try:
            array = given if isinstance(given, np.ndarray) else np.asarray(given)
        except (ValueError, TypeError) as error:
            raise RecipeError(self._not_numbers(given)) from error
        kind = array.dtype.kind
        if kind not in "biuf":
            raise RecipeError(self._not_numbers(given))
        dtype = array.dtype if kind == "f" else _FLOAT64
        if array.size == 0:
            return np.empty((0, max(self.num_outer, array.shape[1] if array.ndim == 2 else 0))), dtype
        if array.ndim != 2 or array.shape[1] < self.num_outer:
            msg = f"{self.name} must be rows of at least {self.num_outer} numbers, got {shortened(given)}"
            raise RecipeError(msg)
        return array, dtype

    def _not_numbers(self, given: Any) -> str:
        return (
            f"{self.name} must be rows of numbers, all of one length, got {shortened(given)}; "
            "pass labels in fields of their own, named in label_fields"
        )

    def _take_label(self, data: Mapping[str, Any], field: str, num_rows: int, column: Array) -> Label:
        if field not in data:
            msg = f"{self.name} have the label field {field!r}, which was not given; pass {field}=... too"
            raise RecipeError(msg)
        values = data[field]
        if not isinstance(values, np.ndarray):
            try:
                values = list(values)
            except TypeError:
                msg = f"the labels in {field!r} must be a list or an array, one for each of {self.name}, got {values!r}"
                raise RecipeError(msg) from None
        if len(values) != num_rows:
            msg = f"{num_rows} {self.name} and {len(values)} labels in {field!r}; give one for each"
            raise RecipeError(msg)
        numbers, holds = _plain_numbers(values)
        if holds is not None:
            column[:] = numbers
            if column.tolist() == numbers:
                return field, values, holds
        column[:] = range(num_rows)
        return field, values, None

    def _with_columns(self, inner: Array, num_columns: int) -> Array:
        if len(inner) == 0:
            return np.empty((0, num_columns))
        msg = (
            f"a transform returned {self.name} of {inner.shape[1]} columns, and was given {num_columns}; "
            "coordinates are followed by further columns, which must be kept"
        )
        raise RecipeError(msg)


def _plain_numbers(values: Any) -> tuple[list[Any], type | np.dtype[Any] | None]:
    """The values as a list, and their type if they are plain numbers of one type."""
    if isinstance(values, np.ndarray):
        is_plain = values.ndim == 1 and values.dtype.kind in "iuf"
        return (values.tolist(), values.dtype) if is_plain else ([], None)
    types = set(map(type, values))
    return (values, types.pop()) if types in ({int}, {float}) else ([], None)


def _restored(label: Label, column: Array) -> Any:
    _, values, holds = label
    if isinstance(values, np.ndarray):
        return values[column.astype(np.intp)] if holds is None else column.astype(cast(Any, holds))
    rows = column.tolist()
    if holds is None:
        return [values[int(row)] for row in rows]
    return list(map(int, rows)) if holds is int else rows
