"""Where a plain call of a `Compose` gets its key: from a seed and how many calls came before.

In the main process the sequence starts at the seed given. In a torch DataLoader's worker it starts at the
effective seed, ``(seed + torch.initial_seed()) % 2**32``, which differs between workers and epochs; it is found
when a worker first calls, so that it does not matter where the Compose was made, nor how the worker was started.
With ``worker_seed="stable"`` the worker's sequence is derived by hash from (seed, rank, worker, epoch) instead.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import threading
from typing import Any, ClassVar, Literal

import numpy as np

from ..epochs import EpochBoard
from ..errors import RecipeError, StateError
from ..seeding import CallKey, check_seed, seed_key, subkey

WorkerSeed = Literal["torch", "stable"]
_STATE_VERSION = 1


def _torch_worker() -> Any:
    """torch's description of the DataLoader worker that this process is, or None; never imports torch."""
    data = sys.modules.get("torch.utils.data")
    return None if data is None else data.get_worker_info()


class Sequence:
    """The keys of successive calls; equal for equal seeds, never disturbed by what a call did.

    Safe to use from several threads, though they then share one sequence.
    """

    _here: ClassVar[object] = object()
    """Stands for this process; a forked one gets its own, which costs a call less than asking for its number does."""

    def __init__(
        self, seed: int | None, *, name: str | None = None, worker_seed: WorkerSeed = "torch"
    ) -> None:
        if worker_seed not in {"torch", "stable"}:
            msg = f"worker_seed must be 'torch' or 'stable', got {worker_seed!r}"
            raise RecipeError(msg)
        self.name = name
        self.worker_seed = worker_seed
        self._lock = threading.Lock()
        self._board: EpochBoard | None = None
        if worker_seed == "stable":
            self.board.share()
        self.restart(seed)

    def restart(self, seed: int | None) -> None:
        """Start over from `seed`, or from fresh entropy if it is None."""
        self.seed = None if seed is None else check_seed(seed)
        self._entropy = secrets.randbits(63) if seed is None else 0
        self._entropy_pid = os.getpid()
        self._generators: tuple[np.random.Generator, random.Random] | None = None
        self._home: object = None
        self._in_worker = False
        self._pid: int | None = None
        self._torch_seed: int | None = None
        self._count = 0
        self._key = b""

    def use_generators(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Take every call's key from these two generators from now on: 128 bits of each a call, however it ends."""
        if not isinstance(random_generator, np.random.Generator) or not isinstance(py_random, random.Random):
            msg = (
                "set_random_state takes a numpy.random.Generator and a random.Random, got "
                f"{type(random_generator).__name__} and {type(py_random).__name__}"
            )
            raise RecipeError(msg)
        self._generators = (random_generator, py_random)

    @property
    def root(self) -> bytes:
        """The key of the seed (and name), in whatever process."""
        if self.seed is None:
            msg = "a Compose without a seed has no addresses; give it one: Compose([...], seed=137)"
            raise RecipeError(msg)
        return self._named(seed_key(self.seed))

    @property
    def effective_seed(self) -> int | None:
        """The seed of this process's sequence: in a DataLoader's worker (seed + torch.initial_seed()) % 2**32."""
        worker = _torch_worker()
        if worker is None or self.worker_seed == "stable" or self.seed is None:
            return self.seed
        return int((self.seed + sys.modules["torch"].initial_seed()) % 2**32)

    def next_key(self) -> CallKey:
        """The key of the next call."""
        with self._lock:
            if self._generators is not None:
                random_generator, py_random = self._generators
                drawn = random_generator.bit_generator.random_raw(2).tobytes()
                return self._named(subkey(drawn, py_random.getrandbits(63), py_random.getrandbits(63)))
            if self._in_worker or self._home is not Sequence._here:
                self._enter()
            count = self._count
            self._count = count + 1
            return self._key, count.to_bytes(8, "little")

    def _enter(self) -> None:
        """Find the sequence's start in the process that this now is, unless it was found before.

        Whether a process is a DataLoader's worker is settled before it calls anything of ours; its epoch is not.
        """
        worker = _torch_worker()
        self._home, self._in_worker, pid = Sequence._here, worker is not None, os.getpid()
        torch_seed = None if worker is None else sys.modules["torch"].initial_seed()
        is_known = (pid, torch_seed) == (self._pid, self._torch_seed)
        by_epoch = self.worker_seed == "stable" and self.seed is not None
        if is_known and (worker is None or not by_epoch or self.board.holds(worker)):
            return
        if worker is not None or self._pid is not None:
            self._count = 0
        self._pid, self._torch_seed = pid, torch_seed
        self._key = self._named(self._main_key() if worker is None else self._worker_key(worker))

    def _main_key(self) -> bytes:
        if self.seed is not None:
            return seed_key(self.seed)
        return subkey(seed_key(self._entropy), os.getpid() if os.getpid() != self._entropy_pid else 0)

    def _worker_key(self, worker: Any) -> bytes:
        if self.worker_seed == "stable" and self.seed is not None:
            rank = int(os.environ.get("RANK", "0"))
            epoch = self.board.epoch_of_worker(worker)
            return subkey(seed_key(self.seed), "worker", rank, worker.id, epoch)
        effective = self.effective_seed
        if effective is not None:
            return seed_key(effective)
        return subkey(seed_key(self._entropy), "worker", worker.seed, os.getpid())

    def _named(self, key: bytes) -> bytes:
        return key if self.name is None else subkey(key, "stage", self.name)

    @property
    def board(self) -> EpochBoard:
        """The shared memory that tells workers the epoch, for `worker_seed="stable"`."""
        if self._board is None:
            self._board = EpochBoard()
        return self._board

    # State

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence is, as JSON-able data."""
        state: dict[str, Any] = {
            "version": _STATE_VERSION,
            "name": self.name,
            "seed": self.seed,
            "calls": self._count,
        }
        if self.seed is None:
            state["entropy"] = self._entropy
        if self._generators is not None:
            random_generator, py_random = self._generators
            state["generator"] = _plain(random_generator.bit_generator.state)
            state["py_random"] = _plain(py_random.getstate())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            version = state.get("version") if isinstance(state, dict) else state
            msg = f"a Compose's state has version {_STATE_VERSION}, got {version!r}; make it with compose.state_dict()"
            raise StateError(msg)
        if state.get("name") != self.name:
            msg = f"the state is of the Compose named {state.get('name')!r}, and this one is named {self.name!r}"
            raise StateError(msg)
        self.restart(state["seed"])
        if self.seed is None:
            self._entropy = state["entropy"]
        self._enter()
        self._count = state["calls"]
        if "generator" in state:
            random_generator = np.random.Generator(_bit_generator(state["generator"]))
            py_random = random.Random()
            version, words, gauss = state["py_random"]
            py_random.setstate((version, tuple(words), gauss))
            self._generators = (random_generator, py_random)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _leave() -> None:
    Sequence._here = object()


if hasattr(os, "register_at_fork"):  # elsewhere there are no forks
    os.register_at_fork(after_in_child=_leave)


def _plain(value: Any) -> Any:
    """`value` with numpy's and tuples' types turned into JSON's."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _bit_generator(state: dict[str, Any]) -> np.random.BitGenerator:
    known = {"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"}
    name = state.get("bit_generator")
    if name not in known:
        msg = f"the state speaks of the bit generator {name!r}; known are {sorted(known)}"
        raise StateError(msg)
    bit_generator: np.random.BitGenerator = getattr(np.random, name)()
    bit_generator.state = _arrays(state)
    return bit_generator


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array", "dtype"}:
            return np.array(value["array"], dtype=value["dtype"])
        return {name: _arrays(item) for name, item in value.items()}
    return value
