"""Where a loader's batches are computed: in this process, in threads of it, or in processes of their own."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Literal, Protocol

from ..batching import Definition, Made, Skips
from ..dataset import made_locally
from ..errors import RecipeError
from ..foreign import ForeignStage
from ..plan import Topology
from .pool import Pool
from .slots import LocalSlots
from .threads import Threads

Kind = Literal["process", "thread"]


class Source(Protocol):
    """Where a loader's batches are computed: here, or in workers."""

    num_respawns: int

    def begin(self, epoch: int, start_unit: int, skips: Skips) -> None:
        """Prepare to give the steps of `epoch` from `start_unit` on, then those of the epochs after it."""

    def take(self, epoch: int, step: int) -> Made:
        """The batch of the next step; raises what computing it raised."""

    def pids(self) -> list[int]:
        """The process numbers of what runs."""

    def close(self) -> None:
        """Stop whatever runs."""


class Here:
    """Computes batches in the process that asks for them, when it asks."""

    def __init__(self, stream: Definition, topology: Topology) -> None:
        self._stream, self._topology = stream, topology
        self._maker, self._slots = stream.maker(), LocalSlots()
        self._whole = stream.plan(topology)
        self.num_respawns = 0

    def begin(self, epoch: int, start_unit: int, skips: Skips) -> None:
        """Note where we are."""
        self._epoch, self._plan, self._skips = epoch, self._stream.plan(self._topology, start_unit), skips

    def take(self, epoch: int, step: int) -> Made:
        """Compute the step."""
        plan = self._plan if epoch == self._epoch else self._whole
        return made_locally(self._maker, self._slots, epoch, plan.units_of_step(step), self._skips)

    def pids(self) -> list[int]:
        """None: nothing runs."""
        return []

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Who computes for a loader, chosen once: see `StreamLoader` for the arguments. context: None for nobody else."""

    workers: Kind
    context: BaseContext | None
    prefetch_factor: int
    timeout_s: float | None
    max_respawns: int
    run_on: bool

    def source(self, stream: Definition, topology: Topology) -> Source:
        """A source of the stream's batches; nothing runs before it is begun."""
        if self.context is None:
            return Here(stream, topology)
        if self.workers == "thread":
            return Threads(
                stream,
                topology,
                prefetch_factor=self.prefetch_factor,
                timeout_s=self.timeout_s,
                run_on=self.run_on,
            )
        return Pool(
            stream,
            topology,
            context=self.context,
            prefetch_factor=self.prefetch_factor,
            timeout_s=self.timeout_s,
            max_respawns=self.max_respawns,
            run_on=self.run_on,
        )


def kind_of_workers(given: Kind, stream: Definition) -> Kind:
    """`given`, if it is a kind of workers that can compute `stream`."""
    if given not in {"process", "thread"}:
        msg = f"workers must be 'process' or 'thread', got {given!r}"
        raise RecipeError(msg)
    parts = getattr(stream, "sources", {"": stream}).values()
    if given == "thread" and any(isinstance(part.stage, ForeignStage) for part in parts):
        msg = (
            "workers='thread' needs a transform of ours: other libraries' draw from generators that all threads "
            "of a process share, so that results would depend on chance; pass workers='process'"
        )
        raise RecipeError(msg)
    return given


def context_of(given: str | BaseContext | None) -> BaseContext:
    """The multiprocessing context that `given` names."""
    if isinstance(given, BaseContext):
        return given
    methods = multiprocessing.get_all_start_methods()
    if given is not None and given not in methods:
        msg = f"multiprocessing_context must be one of {methods}, a context or None, got {given!r}"
        raise RecipeError(msg)
    return multiprocessing.get_context(given)
