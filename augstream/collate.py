"""From samples to a batch: arrays stacked, numbers made arrays, all else kept in lists, one entry a sample.

What becomes of a field follows from its name and the types of its values, never from whether their sizes
happen to agree, so that every batch of a stream has the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import SampleError

Array = npt.NDArray[Any]
Sample = Mapping[str, Any]
Batch = dict[str, Any]
Empty = Callable[[tuple[int, ...], npt.DTypeLike], Array]

IMAGE = "image"
NAMES = ("__key__", "__shard__", "__source__", "__address__")
RAGGED = frozenset({"bboxes", "keypoints"})
"""Fields that have another number of rows in every sample: their arrays stay in lists."""


class Rows:
    """One field of a batch, each sample's array written straight to its row of the finished stack.

    `empty` gives the memory; `guess` is the shape and dtype of a row, if the last batch told it. If the
    first array is of another, the rows are made anew; if a later one is, there is no stack.
    """

    __slots__ = ("_empty", "_filled", "_fits", "_out", "_rows", "_size")

    def __init__(self, empty: Empty, size: int, guess: tuple[tuple[int, ...], np.dtype[Any]] | None) -> None:
        self._empty = empty
        self._size = size
        self._rows: Array | None = None if guess is None else empty((size, *guess[0]), guess[1])
        self._filled = 0
        self._fits = True
        self._out: Array | None = None

    def out(self) -> Array | None:
        """Where the next array may be written, if its shape is known by now."""
        self._out = None if self._rows is None else self._rows[self._filled]
        return self._out

    def put(self, array: Array) -> Array:
        """The array at its row, copied unless it was written there; the array itself if it does not fit."""
        rows, filled = self._rows, self._filled
        if filled == 0 and (rows is None or rows.shape[1:] != array.shape or rows.dtype != array.dtype):
            rows = self._rows = self._empty((self._size, *array.shape), array.dtype)
            self._out = None
        if rows is None or rows.shape[1:] != array.shape or rows.dtype != array.dtype:
            self._fits = False
            return array
        self._filled = filled + 1
        if array is self._out:
            return array
        rows[filled] = array
        return rows[filled]  # type: ignore[no-any-return]  # a row of an array of unknown rank

    @property
    def guess(self) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """The shape and dtype of a row."""
        return None if self._rows is None else (self._rows.shape[1:], self._rows.dtype)

    def stack(self, num_samples: int) -> Array | None:
        """The stack, if it holds the arrays of all samples of the batch."""
        if self._rows is None or not self._fits or self._filled != num_samples:
            return None
        return self._rows[:num_samples]


def collate(
    samples: Sequence[Sample], *, empty: Empty = np.empty, stacked: Mapping[str, Array] | None = None
) -> Batch:
    """The batch of `samples`, a dict with one entry a field, in the order of the first sample's fields.

    Arrays and tensors are stacked (B, …), into memory that `empty` gives; numbers and booleans become an
    array (B,) of int64, float64, bool or their own numpy type; dicts that hold arrays are collated field by
    field; text, bytes, lists, other dicts, and the arrays of bboxes and keypoints, are kept in a list, one
    entry a sample. Of fields named ``__…__``, key, shard, source and address are kept. `stacked` gives fields that
    are stacked already.

    Raises `SampleError` where samples differ in fields, or arrays of one field in shape or dtype, naming
    them. Not promised: anything about fields that a `collate_fn` of the user's own makes.

    >>> batch = collate([{"cls": 1, "txt": "a"}, {"cls": 2, "txt": "b"}])
    >>> batch["cls"].tolist(), batch["txt"]
    ([1, 2], ['a', 'b'])
    """
    batch = _collate_fields(samples, empty, stacked or {}, "")
    for name in NAMES:
        if name in samples[0]:
            batch[name] = [sample[name] for sample in samples]
    return batch


def _collate_fields(
    samples: Sequence[Sample], empty: Empty, stacked: Mapping[str, Array], path: str
) -> Batch:
    fields = _fields(samples[0])
    for sample in samples:
        if sample.keys() != samples[0].keys() and set(_fields(sample)) != set(fields):
            raise _unequal_fields(sample, samples[0], path)
    batch: Batch = {}
    for name in fields:
        found = stacked.get(name)
        batch[name] = (
            _collate_values([sample[name] for sample in samples], samples, empty, path + str(name))
            if found is None
            else found
        )
    return batch


def _collate_values(values: list[Any], samples: Sequence[Sample], empty: Empty, field: str) -> Any:
    if field in RAGGED:
        return [
            array_of(value, field, sample) if is_array(value) else value
            for value, sample in zip(values, samples, strict=True)
        ]
    if is_array(values[0]):
        return _stack(values, samples, empty, field)
    if all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in values):
        numbers = np.array(values)
        return values if numbers.dtype.hasobject else numbers
    if any(map(_holds_arrays, values)):
        if not all(isinstance(value, Mapping) for value in values):
            raise _unequal(values, samples, field)
        return _collate_fields(values, empty, {}, f"{field}.")
    return values


def _stack(values: list[Any], samples: Sequence[Sample], empty: Empty, field: str) -> Array:
    if not all(is_array(value) for value in values):
        raise _unequal(values, samples, field)
    arrays = [array_of(value, field, sample) for value, sample in zip(values, samples, strict=True)]
    first = arrays[0]
    if any(array.shape != first.shape or array.dtype != first.dtype for array in arrays):
        raise _unequal(arrays, samples, field)
    return np.stack(arrays, out=empty((len(arrays), *first.shape), first.dtype))


def odd_ones(samples: Sequence[Sample]) -> list[int]:
    """The positions of the samples whose fields, image's shape or dtype are not those of most samples.

    Of two forms that are equally frequent, the one that comes first counts as usual.
    """
    forms = [(frozenset(_fields(sample)), _form(sample.get(IMAGE))) for sample in samples]
    usual = max(forms, key=forms.count) if forms else None
    return [position for position, form in enumerate(forms) if form != usual]


def _fields(sample: Sample) -> list[Any]:
    """The names of a sample's fields, without those like ``__key__``, which are about it."""
    return [name for name in sample if not (isinstance(name, str) and name[:2] == "__" == name[-2:])]


def is_array(value: Any) -> bool:
    """Whether `value` is an array or a tensor."""
    return isinstance(value, np.ndarray) or (
        hasattr(value, "numpy") and hasattr(value, "dtype") and hasattr(value, "device")
    )


def array_of(value: Any, field: str, sample: Sample) -> Array:
    """The array that `value`, a field of `sample`, is; of a tensor, the same memory if it is the processor's.

    Raises `SampleError` for tensors of which numpy can make nothing, as sparse ones and bfloat16 are.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        array: Array = value.numpy(force=True)
    except (TypeError, RuntimeError) as error:
        msg = (
            f"field {field!r} of sample {_named(sample)} is a {value.dtype} tensor, which no batch of arrays can hold "
            f"({error}); make it dense, of a type that numpy has, in the transform, and convert batches; or pass "
            "collate_fn="
        )
        raise _error(msg, sample) from error
    return array


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_arrays, value.values()))
    return is_array(value)


def _form(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if is_array(value) else type(value).__name__


def _unequal(values: Sequence[Any], samples: Sequence[Sample], field: str) -> SampleError:
    """The error for arrays of one field that cannot be stacked."""
    by_form: dict[str, list[int]] = {}
    for position, value in enumerate(values):
        by_form.setdefault(_form(value), []).append(position)
    usual = max(by_form, key=lambda form: len(by_form[form]))
    listed = []
    for form, positions in sorted(by_form.items(), key=lambda item: -len(item[1])):
        keys = ", ".join(repr(samples[position].get("__key__", position)) for position in positions[:3])
        more = f" and {len(positions) - 3} more" if len(positions) > 3 else ""
        listed.append(f"{form} in {keys}{more}")
    mend = (
        "end the transform with a fixed size: A.RandomResizedCrop(size=(224, 224)) or A.Resize(224, 224), say"
        if field.endswith((IMAGE, "mask"))
        else "make them equal in the transform, or lists, which are not stacked"
    )
    odd = next(position for position, value in enumerate(values) if _form(value) != usual)
    msg = f"the arrays of field {field!r} don't stack: {'; '.join(listed[:8])}; {mend}; or pass collate_fn="
    return _error(msg, samples[odd])


def _named(sample: Sample) -> str:
    """A sample as messages call it."""
    shard = sample.get("__shard__")
    return f"{sample.get('__key__')!r}" if shard is None else f"{sample.get('__key__')!r} of {shard!r}"


def _unequal_fields(sample: Sample, first: Sample, path: str) -> SampleError:
    lacks = [name for name in _fields(first) if name not in sample]
    has = [name for name in _fields(sample) if name not in first]
    said = [f"lacks {', '.join(map(repr, lacks))}"] if lacks else []
    said += [f"has {', '.join(map(repr, has))} besides"] if has else []
    msg = (
        f"samples of one batch have different fields{f' in {path[:-1]!r}' if path else ''}: compared with "
        f"{_named(first)}, {_named(sample)} {' and '.join(said)}; "
        "name the fields that all have with fields={...}, or give the missing ones a value in the transform"
    )
    return _error(msg, sample)


def _error(msg: str, sample: Sample) -> SampleError:
    shard, key, address = (sample.get(name) for name in ("__shard__", "__key__", "__address__"))
    return SampleError(msg, shard=shard, key=key, address=address)
