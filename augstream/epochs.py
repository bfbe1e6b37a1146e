"""The epoch board: how a worker of a stock DataLoader knows its epoch, though torch does not tell it.

A fresh worker process starts from a copy of the main process's dataset, which never iterated; a persistent
one lives through many passes; neither is told the epoch, nor that `set_epoch` was called. The board is a
few words of shared memory, owned by whoever owns the dataset: it has no name, so nothing finds it by
guessing and nothing is left behind.

Every pass over the dataset is an epoch. In a pass, each worker claims the pass's epoch in its own cell, one
atomic write of one word: the epoch, and a mark of the pass that is equal for all workers of the pass and
for no other pass. A worker that finds its mark in any cell takes the epoch beside it, and one that finds
another worker some passes ahead an epoch so much earlier; one that finds neither takes the highest epoch
claimed plus one; where nothing is claimed, since the start or since `set_epoch`, the epoch is the one that
was set. No lock is held, so none can die with its holder.

The mark is made of what all workers of a pass share and later passes don't: the number of workers, the
place of their processes in the order in which the main process started them, and the number of passes this
process has seen.
"""

from __future__ import annotations

import mmap
import multiprocessing
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import RecipeError, TopologyError
from .order import check_count

if TYPE_CHECKING:
    import torch

_EPOCH_BITS, _POOL_BITS, _START_BITS, _PASS_BITS = 24, 10, 20, 9
MAX_EPOCH = 2**_EPOCH_BITS - 3
MAX_WORKERS = 2**_POOL_BITS - 2

_SET_EPOCH, _SET_UNITS, _FIRST_CELL = 0, 1, 2
_MAIN_CELL = 0
_NUM_WORDS = _FIRST_CELL + 1 + MAX_WORKERS


class WorkerPlace(Protocol):
    """What the board needs of ``torch.utils.data.get_worker_info()``."""

    @property
    def id(self) -> int:
        """The worker's number, from 0."""

    @property
    def num_workers(self) -> int:
        """How many workers the pass has."""


class EpochBoard:
    """Gives every pass over a dataset its epoch, in the main process and in any DataLoader's workers.

    The first pass is epoch 0, or what `set_epoch` said; each later pass is the next epoch, abandoned passes
    included. `share` must have been called before the workers start (pickling for a worker process calls
    it). Survives fork, spawn and forkserver; an ordinary pickle or copy is a board of its own, at the same
    place.

    Not promised: anything where two loaders run over one dataset object at the same time, or where
    `set_epoch` is called while a pass is starting.

    >>> board = EpochBoard()
    >>> board.begin_pass(None), board.begin_pass(None)
    ((0, 0), (1, 0))
    >>> board.set_epoch(7)
    >>> board.begin_pass(None)
    (7, 0)
    """

    def __init__(self) -> None:
        self._words: npt.NDArray[np.int64] = np.zeros(_NUM_WORDS, dtype=np.int64)
        self._tensor: torch.Tensor | None = None
        self._forks_only = ""  # why it is not in a tensor
        self._passes = 0

    def share(self) -> None:
        """Move the board into shared memory, where processes forked or spawned from now on see it.

        Where the system gives none (a container's /dev/shm may be full), those that are forked see it all the same.
        """
        if self._tensor is None and not self._forks_only:
            import torch  # only DataLoaders need a shared board, and they have torch already

            self._use(torch.from_numpy(self._words))

    def _use(self, tensor: torch.Tensor) -> None:
        try:
            self._tensor = tensor if tensor.is_shared() else tensor.clone().share_memory_()  # type: ignore[no-untyped-call]  # torch left it untyped
        except RuntimeError as error:
            self._forks_only = str(error)
            self._words = np.frombuffer(mmap.mmap(-1, 8 * _NUM_WORDS), np.int64)
            self._words[:] = tensor.numpy()
        else:
            self._words = self._tensor.numpy()

    def set_epoch(self, epoch: int, units: int = 0) -> None:
        """Make the next pass epoch `epoch`, from canonical unit `units` on; later passes count on from it."""
        if check_count("epoch", epoch, 0, "epochs are counted from 0") > MAX_EPOCH:
            msg = f"epoch must be at most {MAX_EPOCH}, got {epoch}"
            raise RecipeError(msg)
        self._words[_FIRST_CELL:] = 0
        self._words[_SET_UNITS] = units
        self._words[_SET_EPOCH] = epoch

    @property
    def next_pass(self) -> tuple[int, int]:
        """(epoch, units delivered before) of the pass that would begin now."""
        return self._next(self._words.copy())

    def _next(self, words: npt.NDArray[np.int64]) -> tuple[int, int]:
        highest = int(words[_FIRST_CELL:].max()) >> (_POOL_BITS + _START_BITS + _PASS_BITS)
        if highest:
            return highest, 0  # cells hold epoch + 1
        return int(words[_SET_EPOCH]), int(words[_SET_UNITS])

    def begin_pass(self, worker: WorkerPlace | None) -> tuple[int, int]:
        """Claim and return (epoch, units delivered before) of the pass that this process begins now.

        `worker` is torch's worker info, or None in the main process.
        """
        words = self._words.copy()
        mark = 0 if worker is None else self._mark(worker)
        self._passes += 1
        epoch, units = self._next(words)
        if worker is not None:
            claims = [(_passes_ahead(word, mark), word) for word in words[_FIRST_CELL + 1 :].tolist() if word]
            ours = [(passes, word) for passes, word in claims if passes is not None and passes >= 0]
            if ours:
                passes, word = min(ours)
                epoch = (word >> (_POOL_BITS + _START_BITS + _PASS_BITS)) - 1 - passes
                units = int(words[_SET_UNITS]) if epoch == words[_SET_EPOCH] else 0
        cell = _MAIN_CELL if worker is None else 1 + worker.id
        self._words[_FIRST_CELL + cell] = (epoch + 1) << (_POOL_BITS + _START_BITS + _PASS_BITS) | mark
        return epoch, units

    def holds(self, worker: WorkerPlace) -> bool:
        """Whether the epoch that `worker` began last still stands: `set_epoch` takes it back."""
        return bool(self._words[_FIRST_CELL + 1 + worker.id])

    def epoch_of_worker(self, worker: WorkerPlace) -> int:
        """The epoch of the pass that `worker` begins now."""
        return self.begin_pass(worker)[0]

    def _mark(self, worker: WorkerPlace) -> int:
        if worker.num_workers > MAX_WORKERS:
            msg = f"num_workers must be at most {MAX_WORKERS}, got {worker.num_workers}"
            raise TopologyError(msg)
        # torch starts a pass's processes in a row; multiprocessing numbers them, whatever the start method
        identity: tuple[int, ...] = multiprocessing.current_process()._identity  # it has no public name
        start = (identity[-1] if identity else 0) - worker.id
        fields = ((worker.num_workers, _POOL_BITS), (start, _START_BITS), (self._passes, _PASS_BITS))
        mark = 0
        for value, bits in fields:
            mark = mark << bits | value % 2**bits
        return mark

    def __getstate__(self) -> dict[str, Any]:
        self.share()
        tensor = self._tensor
        if tensor is None:
            if get_spawning_popen() is not None:
                msg = (
                    f"the epoch cannot be told to workers that are spawned: {self._forks_only}; make room in /dev/shm "
                    "(docker run --shm-size), or pass multiprocessing_context='fork'"
                )
                raise RecipeError(msg)
            import torch

            tensor = torch.from_numpy(self._words.copy())
        return {"tensor": tensor, "passes": self._passes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._passes, self._tensor, self._forks_only = state["passes"], None, ""
        self._use(state["tensor"])


def _passes_ahead(word: int, mark: int) -> int | None:
    """How many passes later than the pass marked `mark` the claim `word` was made; None if by another pass's workers.

    Workers that live on, or that begin passes by themselves, may be ahead of one another. Where other threads start
    processes at the same time, a pass's processes are not quite in a row. A later pass's processes come after all of
    this one's, so anything nearer than the number of workers is the same pass's.
    """
    passes = (word - mark) % (1 << _PASS_BITS)
    word, mark = word >> _PASS_BITS, mark >> _PASS_BITS
    apart = (word - mark) % 2**_START_BITS
    num_workers = mark >> _START_BITS
    if (word >> _START_BITS) % 2**_POOL_BITS != num_workers:
        return None
    if min(apart, 2**_START_BITS - apart) >= num_workers:
        return None
    return passes if passes < 1 << (_PASS_BITS - 1) else passes - (1 << _PASS_BITS)
