"""How transforms read their constructor arguments: a number or a pair, a choice, a fill; checked once.

What is wrong is a `RecipeError` that says which transform, which argument, the value, and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any, Literal, NoReturn, TypeVar, cast

import cv2
import numpy as np

from ..errors import RecipeError

Fill = float | tuple[float, ...]
Scalar = Literal["symmetric", "from_zero", "from_one", "fixed", "refused"]
ChoiceT = TypeVar("ChoiceT")

INTERPOLATIONS = (
    cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4,
    cv2.INTER_LINEAR_EXACT, cv2.INTER_NEAREST_EXACT,
)  # fmt: skip
WARP_INTERPOLATIONS = INTERPOLATIONS[:5]
BORDER_MODES = (
    cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT, cv2.BORDER_WRAP, cv2.BORDER_REFLECT_101,
)  # fmt: skip


def refuse(owner: object, name: str, value: object, allowed: str) -> NoReturn:
    """Raise the `RecipeError` of a bad argument."""
    msg = f"{type(owner).__name__}: {name} must be {allowed}, got {value!r}"
    raise RecipeError(msg)


def is_number(value: Any) -> bool:
    """Whether `value` is one finite real number (True and False are none)."""
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, Real) and math.isfinite(value)


def number_range(
    owner: object,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    scalar: Scalar = "symmetric",
    bias: float = 0.0,
) -> tuple[float, float]:
    """`value` as a pair (smallest, largest) within [low, high], after `bias` was added to both.

    A single number v is (-v, v), (0, v), (1, v) or (v, v), as `scalar` says; a pair may come in either order.
    """
    if is_number(value) and scalar != "refused":
        start = {"symmetric": -value, "from_zero": 0, "from_one": 1, "fixed": value}[scalar]
        pair = (start, value)
    elif isinstance(value, (Sequence, np.ndarray)) and len(value) == 2 and all(map(is_number, value)):
        pair = (value[0], value[1])
    else:
        refuse(owner, name, value, f"{'' if scalar == 'refused' else 'a number or '}a pair of numbers")
    first, second = _plain(pair[0]) + bias, _plain(pair[1]) + bias
    smallest, largest = min(first, second), max(first, second)
    if smallest < low or largest > high:
        refuse(owner, name, value, f"{_bounds(low - bias, high - bias)}")
    return smallest, largest


def integer_range(
    owner: object, name: str, value: Any, low: int, *, scalar: Scalar = "from_one"
) -> tuple[int, int]:
    """`value` as a pair of integers (smallest, largest), none below `low`."""
    first, second = number_range(owner, name, value, low, scalar=scalar)
    if first != int(first) or second != int(second):
        refuse(owner, name, value, "a whole number or a pair of them")
    return int(first), int(second)


def number(owner: object, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a number within [low, high]; an int stays an int."""
    if not is_number(value) or not low <= value <= high:
        refuse(owner, name, value, f"a number, {_bounds(low, high)}")
    return _plain(value)


def integer(owner: object, name: str, value: Any, low: int) -> int:
    """`value` as an int that is `low` or more."""
    if not is_number(value) or not isinstance(value, Integral) or value < low:
        refuse(owner, name, value, f"a whole number, {low} or more")
    return int(value)


def probability(owner: object, p: Any) -> float:
    """`p` as a float from 0 to 1."""
    if not is_number(p) or not 0 <= p <= 1:
        msg = f"{type(owner).__name__}: p is a probability from 0 to 1, got {p!r}"
        raise RecipeError(msg)
    return float(p)


def check_flag(owner: str, name: str, value: Any) -> None:
    """Raise unless `value` is True or False, or 1 or 0: a "false" that some file's reader left a string is true."""
    if not isinstance(value, (bool, np.bool_)) and not (is_number(value) and value in {0, 1}):
        msg = f"{owner}: {name} must be True or False, got {value!r}"
        raise RecipeError(msg)


def one_of(owner: object, name: str, value: Any, allowed: Collection[ChoiceT]) -> ChoiceT:
    """`value`, if it is one of `allowed`."""
    try:
        is_known = value in allowed and not isinstance(value, bool)
    except (TypeError, ValueError):  # a list has no hash, an array no truth
        is_known = False
    if not is_known:
        refuse(owner, name, value, f"one of {', '.join(map(repr, allowed))}")
    return value  # type: ignore[no-any-return]  # it is one of them


def fill_value(owner: object, name: str, value: Any) -> Fill:
    """`value` as one number, or as one for each channel; None is 0."""
    if value is None:
        return 0
    if is_number(value):
        return _plain(value)
    if (
        isinstance(value, (Sequence, np.ndarray))
        and len(value)
        and not isinstance(value, str)
        and all(map(is_number, value))
    ):
        return tuple(map(_plain, value))
    refuse(owner, name, value, "a number, or one number for each channel")


def image_size(
    owner: object, size: Any, height: Any, width: Any, *, size_name: str = "size"
) -> tuple[int, int]:
    """The (height, width) that is given either as `size` or as two arguments."""
    given = [value is not None for value in (size, height, width)]
    if given == [False, True, True]:
        size = (height, width)
    elif given != [True, False, False] or not isinstance(size, (Sequence, np.ndarray)) or len(size) != 2:
        refuse(
            owner, size_name, size if given[0] else None,
            f"a pair (height, width); write {size_name}=(224, 224), or height=224, width=224, as keywords",
        )  # fmt: skip
    return integer(owner, "height", size[0], 1), integer(owner, "width", size[1], 1)


def _plain(value: Any) -> float:
    """A Python number for any number, so that it is written to JSON and prints as such."""
    return cast(float, value.item() if isinstance(value, np.generic) else value)


def _bounds(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low:g} or more" if not math.isinf(low) else "finite"
    return f"at most {high:g}" if math.isinf(low) else f"from {low:g} to {high:g}"
