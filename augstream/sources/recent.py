"""What was used last, kept until it is too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_V = TypeVar("_V")


class Recent(Generic[_V]):
    """The values used last, dropped when their weights together pass a limit.

    Threads may share it, and it holds no lock, which a fork could inherit locked: each use of the dict below is one
    step of the interpreter's own, and what another thread does between two of them costs at most a second load. An
    `OrderedDict` does not serve: its order and its items part company, or it crashes, when threads meet in it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[int, tuple[_V, int]] = {}  # the one used last comes last

    def recall(self, key: int) -> _V | None:
        """The value of `key`, if it is still there."""
        found = self._values.pop(key, None)
        if found is None:
            return None
        self._values[key] = found
        return found[0]

    def keep(self, key: int, value: _V, weight: int) -> None:
        """Keep a value, and drop the oldest that are too much then."""
        self._values.pop(key, None)
        self._values[key] = value, weight
        while len(values := self._values.copy()) > 1 and sum([w for _, w in values.values()]) > self._limit:
            self._values.pop(next(iter(values)), None)

    def forget(self, condition: Callable[[_V], bool]) -> bool:
        """Drop the values that meet `condition`; return whether there were any."""
        num_before = len(self._values)
        for key, (value, _) in self._values.copy().items():
            if condition(value):
                self._values.pop(key, None)
        return len(self._values) < num_before
