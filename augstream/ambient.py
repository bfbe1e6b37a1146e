"""The global generators of `random`, numpy and torch, lent to other people's code and given back as they were.

OpenCV's cannot be read, and so not given back; but there is one a thread, so code that draws from it runs `apart`.
"""

from __future__ import annotations

import ctypes
import random
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

_MT19937_BYTES = 625 * 4  # numpy's struct: 624 words of key, then the position


class GlobalGenerators:
    """Puts the global generators at a key while a context lasts; afterwards they are as they were, also after an error.

    What code draws from them inside follows from the key alone. torch's is lent where torch is loaded. A context costs
    about 40 µs, a move to another key inside it 10. Not promised: OpenCV's generator, which cannot be read; CUDA's;
    anything where two threads are in such contexts at once.

    >>> lent = GlobalGenerators()
    >>> with lent.at(b"0123456789abcdef"):
    ...     first = random.random(), np.random.rand()
    >>> with lent.at(b"0123456789abcdef"):
    ...     (random.random(), np.random.rand()) == first
    True
    """

    __slots__ = ("_bits", "_gauss", "_key", "_python", "_stand_in", "_torch", "_torch_state")

    def __init__(self) -> None:
        # A Mersenne twister as numpy's own, for code that calls np.random.seed; kept, for making one costs 0.1 ms.
        self._stand_in = np.random.MT19937(0)

    def at(self, key: bytes) -> GlobalGenerators:
        """The context for `key`, 16 bytes."""
        self._key = key
        return self

    def __enter__(self) -> None:
        self._python = random.getstate()
        self._bits = np.random.mtrand.get_bit_generator()
        self._gauss = _take_gauss(self._bits)
        torch = sys.modules.get("torch")
        self._torch = None if torch is None else torch.default_generator
        if self._torch is not None:
            self._torch_state = self._torch.get_state()
        np.random.mtrand.set_bit_generator(self._stand_in)
        self.move(self._key)

    def move(self, key: bytes) -> None:
        """Go to the start of the numbers of another key; inside the context."""
        random.seed(int.from_bytes(key, "little"))
        np.random.seed(int.from_bytes(key[:4], "little"))  # noqa: NPY002  # the global one is what is lent
        if self._torch is not None:
            self._torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        random.setstate(self._python)
        np.random.mtrand.set_bit_generator(self._bits)
        if self._gauss is not None:
            state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002  # the global one is what is lent
            np.random.set_state({**state, "has_gauss": 1, "gauss": self._gauss})  # noqa: NPY002
        if self._torch is not None:
            self._torch.set_state(self._torch_state)

    def __reduce__(self) -> tuple[type[GlobalGenerators], tuple[()]]:
        return GlobalGenerators, ()


def _take_gauss(bits: Any) -> float | None:
    """The normal number that numpy's global generator keeps for its next call, or None; `bits` don't move.

    Normal numbers come in pairs, and exchanging the bit generator forgets the second. numpy's ``get_state`` would tell,
    at 50 µs. This draws one, which moves nothing if it was in store, and undoes the move if it wasn't.
    """
    if not isinstance(bits, np.random.MT19937):
        state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
        return state["gauss"] if state["has_gauss"] else None
    address = bits.ctypes.state_address
    before = ctypes.string_at(address, _MT19937_BYTES)
    gauss = float(np.random.standard_normal())  # noqa: NPY002  # the global one is what is looked at
    if ctypes.string_at(address, _MT19937_BYTES) == before:
        return gauss
    ctypes.memmove(address, before, _MT19937_BYTES)
    return None


def apart(function: Callable[[], Result]) -> Result:
    """What `function` returns, run in a thread of its own, which has an OpenCV generator of its own."""
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(function())
        except BaseException as error:  # noqa: BLE001  # raised again where it belongs
            failed.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)  # so that a Ctrl-C ends it
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
