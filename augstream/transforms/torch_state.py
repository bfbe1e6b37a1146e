"""Where torch keeps the state of a CPU generator, to see whether it was moved without a copy of five kilobytes."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_NUM_WORDS = 624
_WORDS_AT = 24  # in what get_state gives: seed, left, seeded and next come before the words, each of 8 bytes
_POINTER_AT = object.__basicsize__
# Before the words is which one is next; drawing moves it, or makes the words anew.
_BEFORE_BYTES, _HEAD_BYTES = 4, 64
# After them are normal numbers in store, of 4 and of 8 bytes, each with a byte that says whether it is there.
_TAIL_AT = 4 * _NUM_WORDS + 4
_FLOAT, _HAS_FLOAT, _DOUBLE, _HAS_DOUBLE, _TAIL_BYTES = slice(0, 4), 4, slice(8, 16), 16, 17
_REACH_BYTES = 4096

_Head = ctypes.c_char * _HEAD_BYTES
_Tail = ctypes.c_char * _TAIL_BYTES


class TorchState:
    """Gives a generator's state as something to compare: what draws, seeds or stores a number changes it.

    It is read where torch keeps it, at half a microsecond, if that is found to be where it is known to be; else it is
    asked for, which takes ten once the processor has forgotten the way.
    """

    __slots__ = ("_address", "_generator", "_head", "_pointer", "_tail")

    def __init__(self) -> None:
        self._generator: Any = None
        self._pointer: Any = None
        self._address: int | None = None
        self._head: Any = None
        self._tail: Any = None

    def of(self, generator: Any) -> Any:
        """The state of `generator` now."""
        if generator is not self._generator or (
            self._pointer is not None and self._pointer.value != self._address
        ):
            self._find(generator)
        if self._pointer is None:
            return _asked(generator)
        return _read(self._head, self._tail)

    def _find(self, generator: Any) -> None:
        self._generator, self._pointer = generator, None
        offset = words_offset()
        if offset is None or _offset(generator) != offset:
            return
        self._pointer = ctypes.c_void_p.from_address(id(generator) + _POINTER_AT)
        self._address = address = self._pointer.value
        self._head = _Head.from_address(address + offset - _BEFORE_BYTES)
        self._tail = _Tail.from_address(address + offset + _TAIL_AT)


def _read(head: Any, tail: Any) -> tuple[bytes, bytes | None, bytes | None]:
    """What is there that counts: a number that is not in store leaves its bytes behind."""
    store: bytes = tail.raw
    return (
        head.raw, store[_FLOAT] if store[_HAS_FLOAT] else None, store[_DOUBLE] if store[_HAS_DOUBLE] else None,
    )  # fmt: skip


def _asked(generator: Any) -> bytes:
    state: bytes = generator.get_state().numpy().tobytes()
    return state


def _offset(generator: Any) -> int | None:
    """How far from where a generator points to the words of its state are; None if they are not found there."""
    if type(generator).__basicsize__ < _POINTER_AT + 8 or not Path("/proc/self/mem").exists():
        return None
    address = ctypes.c_void_p.from_address(id(generator) + _POINTER_AT).value
    state = generator.get_state().numpy()
    words = state[_WORDS_AT : _WORDS_AT + 8 * _NUM_WORDS].view(np.uint64).astype(np.uint32).tobytes()
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY)  # which does not crash where nothing is
        try:
            found = os.pread(memory, _REACH_BYTES, address or 0).find(words)
        finally:
            os.close(memory)
    except OSError:
        return None
    return found if found >= _BEFORE_BYTES else None


@lru_cache(maxsize=1)
def words_offset() -> int | None:
    """`_offset` of this release's generators, if draws of every kind are seen there; found out once."""
    torch: Any = sys.modules["torch"]
    generator = torch.Generator()
    generator.manual_seed(_NUM_WORDS)
    offset = _offset(generator)
    if offset is None:
        return None
    address = ctypes.c_void_p.from_address(id(generator) + _POINTER_AT).value or 0
    head = _Head.from_address(address + offset - _BEFORE_BYTES)
    tail = _Tail.from_address(address + offset + _TAIL_AT)
    for dtype in (torch.float32, torch.float64):
        for move in (torch.rand, torch.randn, torch.randn):  # the second of a pair is from store
            before = _read(head, tail)
            move(1, generator=generator, dtype=dtype)
            if _read(head, tail) == before:
                return None
    before = _read(head, tail)
    generator.set_state(generator.get_state())
    return offset if _read(head, tail) == before else None
