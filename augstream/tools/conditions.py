"""The conditions under which code runs, held and varied: generators, the clock, fresh memory, threads, processes.

Each is something that a pure function does not depend on. What is held is put back afterwards, but for OpenCV's
generator, which cannot be read: hold conditions in a thread that has nothing to lose (`ambient.apart`).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import cv2
import numpy as np

from ..errors import WorkerError
from ..transforms.leaks import Line, line_of
from .comparing import seeded

GENERATORS = ("random", "numpy", "torch", "OpenCV")
_CLOCKS_S = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
_CALENDARS = ("localtime", "gmtime", "ctime")
_M_PERTURB = -6  # of mallopt: what fresh memory is filled with, in glibc
_HASH_SEED = "PYTHONHASHSEED"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What code finds: seeds of the global generators, a byte in fresh memory, OpenCV's threads, the time.

    clock_s: what a stopped clock says. ahead_s: how far a clock that goes is ahead.
    """

    seeds: tuple[int, int, int, int] = (1, 1, 1, 1)
    fill: int = 0
    threads: int = 1
    clock_s: float | None = None
    ahead_s: float = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let them hold for a while, in this thread and process."""
        with ExitStack() as stack:
            stack.enter_context(seeded(*self.seeds[:3]))
            cv2.setRNGSeed(self.seeds[3])
            stack.enter_context(filled(self.fill))
            stack.enter_context(_threads(self.threads))
            if self.clock_s is not None:
                stack.enter_context(_clocks(0, self.clock_s))
            elif self.ahead_s:
                stack.enter_context(_clocks(1, self.ahead_s))
            yield


@contextmanager
def filled(byte: int) -> Iterator[None]:
    """Fill fresh memory with `byte`: what `numpy.empty` gives, and, where that is glibc's, what malloc gives.

    Not reached: small blocks that malloc hands out again.
    """
    originals: dict[str, Callable[..., Any]] = {"empty": np.empty, "empty_like": np.empty_like}

    def standing_in(make: Callable[..., Any]) -> Callable[..., Any]:
        def empty(*args: Any, **kwargs: Any) -> Any:
            array = make(*args, **kwargs)
            if not array.dtype.hasobject:
                ctypes.memset(array.ctypes.data, byte, array.nbytes)
            return array

        return empty

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    try:
        for name, make in originals.items():
            setattr(np, name, standing_in(make))
        if mallopt is not None:
            mallopt(_M_PERTURB, byte ^ 0xFF or 1)
        yield
    finally:
        for name, make in originals.items():
            setattr(np, name, make)
        if mallopt is not None:
            mallopt(_M_PERTURB, 0)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(number)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _clocks(rate: int, ahead_s: float) -> Iterator[None]:
    """Let the functions of `time` tell ``rate * seconds + ahead_s`` to whoever calls them by way of the module."""
    originals: dict[str, Callable[..., Any]] = {}
    for name in _CLOCKS_S:
        told = originals[name] = getattr(time, name)
        originals[f"{name}_ns"] = getattr(time, f"{name}_ns")
        setattr(time, name, lambda told=told: rate * told() + ahead_s)
        setattr(time, f"{name}_ns", lambda told=told: int((rate * told() + ahead_s) * 1e9))
    for name in _CALENDARS:
        broken_down = originals[name] = getattr(time, name)
        setattr(time, name, partial(_at, broken_down))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(time, name, function)


def _at(broken_down: Callable[..., Any], seconds: float | None = None) -> Any:
    return broken_down(time.time() if seconds is None else seconds)


@contextmanager
def hash_seed(seed: int | None) -> Iterator[None]:
    """Give processes that are started (not forked) this seed for the hashes of text; None leaves it to chance."""
    before = os.environ.get(_HASH_SEED)
    if seed is not None:
        os.environ[_HASH_SEED] = str(seed)
    try:
        yield
    finally:
        if seed is not None:
            os.environ.pop(_HASH_SEED)
            if before is not None:
                os.environ[_HASH_SEED] = before


# Elsewhere


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a Ctrl-C wait until processes are started, which see none themselves.

    While Python forks, its own handlers would swallow the exception, and leave locks of theirs held for ever.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_process(
    function: Callable[..., Any], *args: Any, method: str = "fork", seed: int | None = None
) -> Any:
    """What ``function(*args)`` returns in another process; raises what it raises. seed: of hashes, unless forked."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    with hash_seed(seed), uninterrupted():
        process = context.Process(target=_answer, args=(theirs, function, args), daemon=True)
        process.start()
    theirs.close()
    try:
        found, error = pickle.loads(ours.recv_bytes())  # noqa: S301  # our own child's
    except EOFError:
        process.join()
        msg = f"a {method}ed process that computed some samples ended without a word, by {process.exitcode}"
        raise WorkerError(msg) from None
    finally:
        ours.close()
    process.join()
    if error is not None:
        raise error
    return found


def _answer(end: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer = pickle.dumps((function(*args), None))
    except Exception as error:  # noqa: BLE001  # raised where it was asked for
        answer = pickle.dumps((None, WorkerError(f"{type(error).__name__}: {error}")))
    end.send_bytes(answer)
    end.close()


# Evidence

_TELLING: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "time": (
        frozenset({"time", "datetime", "uuid"}),
        frozenset(
            {
                *_CLOCKS_S,
                *(f"{name}_ns" for name in _CLOCKS_S),
                "now",
                "utcnow",
                "today",
                "uuid1",
                *_CALENDARS,
            }
        ),
    ),
    "process": (
        frozenset({"posix", "_thread"}),
        frozenset({"getpid", "getppid", "get_ident", "get_native_id"}),
    ),
    "worker": (frozenset({"torch"}), frozenset({"get_worker_info"})),
    "entropy": (frozenset({"posix"}), frozenset({"urandom", "getrandom"})),
    "hash-order": (frozenset({"builtins"}), frozenset({"hash"})),
    "memory": (frozenset({"numpy", "torch"}), frozenset({"empty", "empty_like"})),
}
"""What each suspect is known by: functions by these names, of these packages."""


def telling_calls(run: Callable[[], Any], found: dict[str, Line]) -> Any:
    """What `run` returns; puts into `found`, for each suspect, the line that first calls what it is known by."""

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            name, owner = argument.__name__, getattr(argument, "__self__", None)
            module = (
                owner if isinstance(owner, type) else argument
            ).__module__ or ""  # datetime.now is of its class
        elif event == "call" and frame.f_back is not None:
            name, module = frame.f_code.co_name, frame.f_globals.get("__name__", "")
            if (name, module) == ("seed", "random") and frame.f_locals[
                "a"
            ] is None:  # as random.Random() does
                name, module = "urandom", "posix"
            frame = frame.f_back
        else:
            return
        for suspect, (packages, names) in _TELLING.items():
            if name in names and suspect not in found and module.partition(".")[0] in packages:
                line = line_of(frame)
                if line is not None:
                    found[suspect] = line

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        return run()
    finally:
        sys.setprofile(before)
