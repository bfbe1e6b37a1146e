"""The memory of batches: written once, handed out without a copy, used again when it is let go.

A worker makes its slots itself: anonymous files, mapped, whose descriptors it passes to the trainer once.
Nothing has a name, so nothing is left behind however the processes die. A slot is announced only when it is
fully written; the trainer's arrays are the slot's memory, and a slot goes back to its worker when the last
array that looks into it has died. In a single process the same is done with plain memory.

Fresh pages cost more than filling them: about 0.4 ms for a float32 image of 224 x 224 that is stacked into
new memory, 0.05 ms into memory that was used before. Hence slots.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Block = npt.NDArray[np.uint8]

_ALIGNMENT = 64  # a cache line, and what vector instructions like
_SLACK_BYTES = 1 << 16  # for labels, keys and the like beside the images


def anonymous_file(size_bytes: int) -> int:
    """The descriptor of a file in memory of `size_bytes` zeros that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("augstream", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def mapped(descriptor: int, *, close: bool = False) -> Block:
    """All bytes of the file, shared with whoever maps it, for as long as arrays look into them."""
    try:
        return np.frombuffer(mmap.mmap(descriptor, 0), dtype=np.uint8)
    finally:
        if close:
            os.close(descriptor)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


class Arena:
    """Carves arrays out of one block of memory, one after the other.

    The block is asked for with `make(size_bytes)` when the first array is wanted, unless `block` is large
    enough for what the last batch needed. What does not fit comes from the heap, and is remembered in
    `wanted_bytes`.
    """

    __slots__ = ("_make", "block", "used_bytes", "wanted_bytes")

    def __init__(self, block: Block, make: Callable[[int], Block]) -> None:
        self.block = block
        self.used_bytes = 0
        self.wanted_bytes = 0
        self._make = make

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array of whatever the memory held."""
        dtype = np.dtype(dtype)
        size_bytes = dtype.itemsize
        for length in shape:
            size_bytes *= length
        if size_bytes == 0 or dtype.hasobject:
            return np.empty(shape, dtype)
        start = self.used_bytes
        self.wanted_bytes += _aligned(size_bytes)
        if start + size_bytes > len(self.block):
            if start:
                return np.empty(shape, dtype)
            self.block = self._make(size_bytes)
        self.used_bytes = start + _aligned(size_bytes)
        return self.block[start : start + size_bytes].view(dtype).reshape(shape)

    def grow(self, size_bytes: int) -> None:
        """Move to a block that has room for `size_bytes`, with what is written so far at the same offsets."""
        if size_bytes > len(self.block):
            block = self._make(size_bytes)
            block[: self.used_bytes] = self.block[: self.used_bytes]
            self.block = block

    def offset_of(self, buffer: Block) -> int | None:
        """Where in the block `buffer` lies; None if it lies elsewhere."""
        offset = _address(buffer) - _address(self.block)
        return offset if offset in range(len(self.block) - len(buffer) + 1) else None


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class _Loan(weakref.ref[Block]):
    """A reference to memory that is lent; `item` says what it is."""

    __slots__ = ("item",)
    item: Any


class Loans:
    """Memory that somebody looks into: each piece comes back, by itself, when the last array of it has died.

    What is called then is a deque's append, which runs no Python code: so it may happen in any thread, in the
    middle of anything, and a Ctrl-C that arrives just then is not lost.
    """

    def __init__(self) -> None:
        self._lent: dict[int, _Loan] = {}
        self._returned: deque[_Loan] = deque()

    def lend(self, block: Block, item: Any) -> Block:
        """The memory of `block` as an array, whose views and itself are watched on behalf of `item`."""
        # numpy lets the views of a view refer to the owner of the memory; a memoryview between keeps our root
        root = np.frombuffer(block.data, dtype=np.uint8)
        loan = _Loan(root, self._returned.append)
        loan.item = item
        self._lent[id(loan)] = loan
        return root

    def returned(self) -> list[Any]:
        """The items of the loans that came back since the last call."""
        items = []
        while self._returned:
            loan = self._returned.popleft()
            del self._lent[id(loan)]
            items.append(loan.item)
        return items

    def __len__(self) -> int:
        return len(self._lent) - len(self._returned)


class LocalSlots:
    """Memory for the batches of one process: a batch's block is used again once all of its arrays are gone.

    A consumer that keeps its batches keeps their memory too, and new blocks are made.
    """

    def __init__(self) -> None:
        self._free: list[Block] = []
        self._loans = Loans()
        self._capacity_bytes = 0

    def begin(self) -> Arena:
        """An arena for the next batch."""
        self._free += self._loans.returned()
        block = self._free.pop() if self._free else None
        if block is None or len(block) < self._capacity_bytes:
            return Arena(np.empty(0, np.uint8), self._make)
        return Arena(self._loans.lend(block, block), self._make)

    def _make(self, size_bytes: int) -> Block:
        capacity = max(size_bytes + size_bytes // 16 + _SLACK_BYTES, self._capacity_bytes)
        block: Block = np.empty(capacity, np.uint8)
        return self._loans.lend(block, block)

    def finish(self, arena: Arena) -> None:
        """Note what the batch needed, so that the next block has room for it."""
        self._capacity_bytes = max(self._capacity_bytes, arena.wanted_bytes + _SLACK_BYTES)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Where a finished value lies: pickled at `offset` in `slot`; `descriptor` if its memory is new."""

    slot: int
    offset: int
    size_bytes: int
    descriptor: int | None


class WorkerSlots:
    """The slots of one worker, seen from the worker; the trainer sends back those it let go."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._descriptors: dict[int, int] = {}
        self._free: list[int] = []
        self._capacity_bytes = 0
        self._slot = -1

    def begin(self) -> Arena:
        """An arena for the next batch, in a slot that nobody looks into."""
        self._slot = self._free.pop() if self._free else len(self._blocks)
        block = self._blocks.setdefault(self._slot, np.empty(0, np.uint8))
        if len(block) < self._capacity_bytes:
            block = np.empty(0, np.uint8)
        return Arena(block, self._make)

    def _make(self, size_bytes: int) -> Block:
        capacity = max(size_bytes + size_bytes // 16 + _SLACK_BYTES, self._capacity_bytes)
        self._close(self._slot)
        descriptor = self._descriptors[self._slot] = anonymous_file(capacity)
        block = self._blocks[self._slot] = mapped(descriptor)
        return block

    def _close(self, slot: int) -> None:
        descriptor = self._descriptors.pop(slot, None)
        if descriptor is not None:
            os.close(descriptor)

    def seal(self, value: Any, arena: Arena) -> Sealed:
        """Finish the slot with `value`: arrays in the slot stay there, all else is written behind."""
        payload, buffers = _dumps(value)
        places: list[tuple[int, int]] = []
        strays: list[tuple[int, Block]] = []
        end = arena.used_bytes
        for buffer in buffers:
            offset = arena.offset_of(buffer)
            if offset is None:
                offset, end = end, end + _aligned(len(buffer))
                strays.append((offset, buffer))
            places.append((offset, len(buffer)))
        head = np.frombuffer(pickle.dumps((places, payload), protocol=5), np.uint8)
        arena.grow(end + len(head))
        for offset, buffer in [*strays, (end, head)]:
            arena.block[offset : offset + len(buffer)] = buffer
        self._capacity_bytes = max(self._capacity_bytes, arena.wanted_bytes + _SLACK_BYTES, end + len(head))
        return Sealed(self._slot, end, len(head), self._descriptors.get(self._slot))

    def sent(self, sealed: Sealed) -> None:
        """Note that the trainer has the slot's descriptor by now: the mapping is enough from here on."""
        self._close(sealed.slot)

    def give_up(self) -> None:
        """Take the slot of the batch begun last back unfinished."""
        self._free.append(self._slot)

    def release(self, slots: tuple[int, ...]) -> None:
        """Take back the slots that the trainer is done with; those used last are warm, and used first."""
        self._free.extend(slots)


class TrainerSlots:
    """The slots of one worker, seen from the trainer.

    At most `max_lent` slots are lent to the consumer at a time; what is opened beyond is copied, so that a
    consumer that keeps its batches does not keep the worker from going on.
    """

    def __init__(self, max_lent: int) -> None:
        self._blocks: dict[int, Block] = {}
        self._loans = Loans()
        self._discarded: list[int] = []
        self._max_lent = max_lent

    def map(self, slot: int, descriptor: int) -> None:
        """Take the memory of `slot`, new or renewed, and close the descriptor."""
        self._blocks[slot] = mapped(descriptor, close=True)

    def open(self, sealed: Sealed) -> Any:
        """The value that the worker sealed; its arrays are the slot's own memory, writable."""
        is_copied = len(self._loans) >= self._max_lent
        root = self._loans.lend(self._blocks[sealed.slot], sealed.slot)
        places, payload = pickle.loads(root[sealed.offset :][: sealed.size_bytes].data)  # noqa: S301  # our worker's
        buffers: list[Block] = [root[offset : offset + size] for offset, size in places]
        if is_copied:
            buffers = [buffer.copy() for buffer in buffers]
        return pickle.loads(payload, buffers=buffers)  # noqa: S301  # our worker's

    def discard(self, sealed: Sealed) -> None:
        """Give a slot back unopened."""
        self._discarded.append(sealed.slot)

    def returned(self) -> tuple[int, ...]:
        """The slots that came back since the last call, to be sent to the worker."""
        discarded, self._discarded = self._discarded, []
        return (*discarded, *self._loans.returned())


class _Pickler(pickle.Pickler):
    """Pickles torch tensors through numpy, so that their memory stays out of the pickle as numpy's does."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and type(value) is torch.Tensor and _has_array(torch, value):
            return _tensor, (value.detach().numpy(),)
        return NotImplemented


def _has_array(torch: Any, tensor: Any) -> bool:
    """Whether numpy can look at the tensor's memory as it is."""
    if (
        tensor.is_nested
        or tensor.layout is not torch.strided
        or tensor.device.type != "cpu"
        or tensor.requires_grad
    ):
        return False
    return not (tensor.is_conj() or tensor.is_neg() or tensor.dtype is torch.bfloat16)


def _tensor(array: Array) -> Any:
    import torch

    return torch.from_numpy(array)


def _dumps(value: Any) -> tuple[bytes, list[Block]]:
    """`value` pickled, and the memory of its contiguous arrays, in the order in which loading wants it."""
    buffers: list[Block] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(np.frombuffer(buffer.raw(), dtype=np.uint8))
        return False

    file = BytesIO()
    _Pickler(file, protocol=5, buffer_callback=keep).dump(value)
    return file.getvalue(), buffers
