"""Starting and ending a worker's process: what multiprocessing leaves to chance, left to none."""

from __future__ import annotations

import pickle
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from .batching import Definition
from .channel import Channel
from .errors import RecipeError
from .plan import Topology
from .workers import work

JOIN_S = 5.0
"""For a process that was killed to be gone."""


def start(
    context: BaseContext, stream: Definition, topology: Topology, number: int
) -> tuple[BaseProcess, Channel]:
    """Start worker `number` of a stream; return its process, and our end of the channel to it.

    Raises `RecipeError` if the start method has to pickle the stream, and cannot.
    """
    trainers, workers = Channel.pair()
    process: BaseProcess = context.Process(  # type: ignore[attr-defined]  # every context has it
        target=work,
        args=(stream, topology, number, workers),
        name=f"augstream-worker-{number}",
        daemon=True,
    )
    method = context.get_start_method()
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
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        workers.close()
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
