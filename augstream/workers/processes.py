"""Starting and ending a worker's process: what multiprocessing leaves to chance, left to none."""

from __future__ import annotations

import os
import pickle
import signal
from multiprocessing import forkserver, reduction, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess, current_process
from typing import Any

from ..batching import Definition
from ..errors import RecipeError, WorkerError
from ..plan import Topology
from .channel import Channel
from .slots import anonymous_file
from .worker import work

JOIN_S = 5.0
"""For a process that was killed to be gone."""


_MAX_TRIES = 3


class Parcel:
    """A value that reaches a process being started in memory of its own, and comes out there as itself.

    multiprocessing writes what it sends into a pipe of 64 KiB, of which the trainer holds both ends: a worker that
    is killed before it has read more than that leaves its trainer writing for ever.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._file = -1

    def __reduce__(self) -> tuple[Any, ...]:
        packed = reduction.ForkingPickler.dumps(self._value)
        self.close()
        self._file = anonymous_file(0)
        with open(self._file, "wb", closefd=False) as file:
            file.write(packed)
        return _unpacked, (reduction.DupFd(self._file),)

    def close(self) -> None:
        """Give the memory back, once the process has started: it has a descriptor of its own."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _unpacked(descriptor: Any) -> Any:
    with open(descriptor.detach(), "rb") as file:
        file.seek(0)
        return pickle.load(file)  # noqa: S301  # our own process's


def start(
    context: BaseContext, stream: Definition, topology: Topology, number: int
) -> tuple[BaseProcess, Channel]:
    """Start worker `number` of a stream; return its process, and our end of the channel to it.

    Raises `RecipeError` if the start method has to pickle the stream, and cannot, and in processes that may have no
    children.
    """
    if current_process().daemon:
        msg = (
            f"{current_process().name} is a daemon, to which multiprocessing allows no worker processes: pass "
            "num_workers=0 or workers='thread', or start it with daemon=False (torch.multiprocessing.spawn) or by a "
            "concurrent.futures.ProcessPoolExecutor in place of a multiprocessing.Pool"
        )
        raise RecipeError(msg)
    for _ in range(_MAX_TRIES):
        try:
            return _start_once(context, stream, topology, number)
        except (EOFError, ConnectionError) as error:  # it, or the server that forks it, died on the way
            reason = error
    msg = f"no worker could be started by {context.get_start_method()}, {_MAX_TRIES} times: the last time {reason!r}"
    raise WorkerError(msg) from reason


def _start_once(
    context: BaseContext, stream: Definition, topology: Topology, number: int
) -> tuple[BaseProcess, Channel]:
    method = context.get_start_method()
    trainers, workers = Channel.pair()
    parcel = Parcel(stream)
    process: BaseProcess = context.Process(  # type: ignore[attr-defined]  # every context has it
        target=work,
        args=(stream if method == "fork" else parcel, topology, number, workers),
        name=f"augstream-worker-{number}",
        daemon=True,
    )
    if method != "fork":  # what serves all processes must not inherit the mask below
        resource_tracker.ensure_running()
    if method == "forkserver":
        forkserver.ensure_running()
    # a worker must not see a Ctrl-C before it has learnt to ignore it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    except (AttributeError, TypeError, pickle.PicklingError) as error:  # as pickle says that it cannot
        trainers.close()
        msg = (
            f"what a worker needs cannot be sent to it by {method}, which pickles it: {error}; define the transform's "
            "functions and classes at the top level of a module, or pass multiprocessing_context='fork'"
        )
        raise RecipeError(msg) from error
    except BaseException:
        trainers.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        workers.close()
        parcel.close()
    return process, trainers


def kill(processes: dict[int, BaseProcess]) -> None:
    """End all of the processes at once, and forget them."""
    for process in processes.values():
        process.kill()
    for process in processes.values():
        process.join(JOIN_S)
    processes.clear()


def how_it_ended(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is None:
        return "did not end"
    if exitcode < 0:
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"exited with status {exitcode}"
