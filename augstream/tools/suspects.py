"""Why a pipeline does not repeat: each usual suspect is varied alone, and what changes then is at fault.

Some samples are computed again and again in one process, step by step, under conditions of which one is another each
time: a generator's seed, the bytes in fresh memory, the order of the samples, the process. A step that gives something
else even when nothing is varied is looked at first, and left out afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..ambient import apart
from ..transforms.leaks import MEND, Line, Watch, moved_by, moving_line, private_opencv
from .conditions import GENERATORS, Conditions, in_process, telling_calls, uninterrupted
from .traces import Parting, Step, Tracer, partings

_MANY_THREADS = 4
_LATER_S = 400 * 86_400 + 5 * 3600 + 17 * 60 + 13.37  # another year, month, day, hour, minute and second
_FULL = 255

SUSPECTS: dict[str, tuple[str, str]] = {
    "global-generator": ("draws from a global generator", MEND),
    "time": ("reads the clock", "make what it needs a field of the sample, or draw it"),
    "hidden-state": (
        "keeps something from sample to sample: a counter, a cache, a generator of its own",
        "compute it from the sample, or draw it from self.py_random or self.random_generator",
    ),
    "uninitialised-memory": (
        "uses memory that nobody has written to",
        "use numpy.zeros instead of numpy.empty, or write every element",
    ),
    "opencv-threads": (
        "depends on the number of OpenCV's threads",
        "call cv2.setNumThreads(1) in the trainer too, as workers do, or leave the function out",
    ),
    "process": (
        "depends on the process that it is in",
        "leave process ids, id() and paths of the process out of it",
    ),
    "worker": ("depends on which worker of a DataLoader it is in", "draw from the rng that it is given"),
    "hash-order": (
        "depends on the hashes of text, which are other ones in each process: the order of a set, or hash()",
        "sort the set, keep a dict or a list, or use hashlib",
    ),
    "entropy": (
        "draws from the operating system: a generator without a seed, uuid4, os.urandom",
        "draw from self.py_random or self.random_generator, or from the rng that it is given",
    ),
    "fresh-process": (
        "is another one in a process that has just imported its modules",
        "don't change modules and classes after they are imported; give the values to the transform",
    ),
    "unknown": (
        "gives something else each time",
        "look for state outside of Python, in a library or a device",
    ),
}
"""Each suspect: what it does, and what mends it."""

_KNOWN_BY = {"uninitialised-memory": "memory"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: which suspect, at which step, and, where known, what it changed and at which line.

    generator: which one, of a global generator.
    """

    suspect: str
    where: str
    parting: Parting | None
    line: Line | None
    generator: str = ""

    def lines(self) -> Iterable[str]:
        """The finding in words."""
        what, mend = SUSPECTS[self.suspect]
        if self.generator:
            what = f"draws from the global generator of {self.generator}"
        yield f"{self.where} {what}"
        if self.line is not None:
            yield f"  at {self.line}"
        if self.parting is not None:
            sample = f"sample {self.parting.key!r} of {self.parting.shard!r}, " if self.parting.key else ""
            yield f"  {sample}{self.parting.what}"
        yield f"  {mend}"

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON-able data."""
        found: dict[str, Any] = {"suspect": self.suspect, "where": self.where}
        if self.generator:
            found["generator"] = self.generator
        if self.line is not None:
            found["line"] = str(self.line)
        if self.parting is not None:
            found |= {"shard": self.parting.shard, "key": self.parting.key, "array": self.parting.what.name}
            found["difference"] = str(self.parting.what)
        return found


def investigate(tracer: Tracer, *, spawned: bool) -> list[Finding]:
    """Every suspect that is found in the steps of some samples; spawned: look into spawned processes too."""

    def look() -> list[Finding]:
        private_opencv.set(True)
        return _Inquiry(tracer).findings(spawned=spawned)

    return apart(look)


class _Inquiry:
    """The traces of some samples under conditions that are varied."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._found: list[Finding] = []
        self._settled: set[str] = set()
        self._base = self._trace()

    def findings(self, *, spawned: bool) -> list[Finding]:
        """All of them, in the order in which they are looked for."""
        self._unstable()
        self._global_generators()
        self._varied("time", self._trace(Conditions(ahead_s=_LATER_S)))  # a day, say, or a minute
        self._varied("uninitialised-memory", self._trace(Conditions(fill=_FULL)))
        self._varied("hidden-state", self._trace(backwards=True))
        forked = in_process(held_trace, self._tracer)
        self._varied("process", forked)
        self._varied("worker", _in_worker(self._tracer))
        if spawned:
            one, two = (in_process(held_trace, self._tracer, method="spawn", seed=seed) for seed in (1, 2))
            back = in_process(held_trace, self._tracer, True, method="spawn", seed=1)
            self._varied("hidden-state", back, one)  # what the first sample of all left, long before the base
            self._varied("hash-order", two, one)
            self._varied("fresh-process", one)
        self._varied("opencv-threads", self._trace(Conditions(threads=_MANY_THREADS)))
        return self._found

    def _trace(self, conditions: Conditions = Conditions(), **arguments: Any) -> list[list[Step]]:  # noqa: B008  # frozen
        with conditions.held():
            return self._tracer.trace(**arguments)

    def _varied(self, suspect: str, other: Any, base: Any = None) -> None:
        """Note what parts from the base, except where something else was found."""
        for where, parting in partings(self._base if base is None else base, other).items():
            if where not in self._settled:
                self._note(Finding(suspect, where, parting, self._line(where, suspect)))

    def _note(self, finding: Finding) -> None:
        self._found.append(finding)
        self._settled.add(finding.where)

    def _line(self, where: str, suspect: str) -> Line | None:
        return self._evidence(where).get(_KNOWN_BY.get(suspect, suspect))

    def _evidence(self, where: str) -> dict[str, Line]:
        """The lines of a step that call what a suspect is known by."""
        calls: dict[str, Line] = {}
        self._at(where, lambda run: telling_calls(run, calls))
        return calls

    def _at(self, wanted: str, do: Callable[[Callable[[], Any]], Any]) -> None:
        """Trace, and run the steps named `wanted` by `do`."""
        self._tracer.trace(lambda where, run: do(run) if where == wanted else run())

    # What needs more than one variation

    def _unstable(self) -> None:
        """Steps that give something else where nothing is varied: by the clock, by their state, or by chance."""
        unstable = partings(self._base, self._trace())
        if not unstable:
            return
        stopped = partings(*(self._trace(Conditions(clock_s=1e9)) for _ in range(2)))
        forked = partings(*(in_process(held_trace, self._tracer) for _ in range(2)))
        for where, parting in unstable.items():
            calls = self._evidence(where)
            if where not in stopped:
                suspect = "time"
            elif where not in forked:
                suspect = "hidden-state"
            else:
                suspect = next((name for name in ("entropy", "time") if name in calls), "unknown")
            self._note(Finding(suspect, where, parting, calls.get(suspect)))

    def _global_generators(self) -> None:
        """Steps that move a global generator, or whose result depends on one."""
        moved = self._moved()
        found: dict[tuple[str, str], Parting | None] = {
            (where, name): None for where, names in moved.items() for name in names
        }
        for place, name in enumerate(GENERATORS):
            one, two, three, four = (2 if place == other else 1 for other in range(len(GENERATORS)))
            varied = self._trace(Conditions(seeds=(one, two, three, four)))
            for where, parting in partings(self._base, varied).items():
                if where not in self._settled:  # else it is another one each time, whatever the generators
                    found[where, name] = parting
        for (where, name), changed in found.items():
            lines: list[Line | None] = []
            self._at(where, partial(_trace_line, name=name, found=lines))
            line = next((one for one in lines if one is not None), None)
            self._note(Finding("global-generator", where, changed, line, name))

    def _moved(self) -> dict[str, tuple[str, ...]]:
        """The steps that move global generators, and which."""
        watch = Watch()
        moved: dict[str, tuple[str, ...]] = {}

        def look(where: str, run: Callable[[], Any]) -> Any:
            results: list[Any] = []
            names = moved_by(lambda: results.append(run()), watch)
            if names:
                moved[where] = tuple(dict.fromkeys((*moved.get(where, ()), *names)))
            return results[0]

        self._trace(around=look)
        return moved


def _trace_line(run: Callable[[], Any], *, name: str, found: list[Line | None]) -> Any:
    """What `run` returns; the line that moves the generator, where none is found yet, into `found`."""
    if any(line is not None for line in found):
        return run()
    results: list[Any] = []
    found.append(moving_line(lambda: results.append(run()), Watch(), [name]))
    return results[0]


def held_trace(tracer: Tracer, backwards: bool = False) -> list[list[Step]]:
    """The trace under the conditions that are compared with."""
    with Conditions().held():
        return tracer.trace(backwards=backwards)


def _in_worker(tracer: Tracer) -> list[list[Step]]:
    """The trace, computed by the second worker of a stock DataLoader."""
    import pickle

    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Traced(IterableDataset[bytes]):
        def __iter__(self) -> Any:
            worker = get_worker_info()
            if worker is not None and worker.id == 1:
                yield pickle.dumps(held_trace(tracer))

    before = torch.get_rng_state()  # a DataLoader draws its workers' seed from it
    try:
        loader = DataLoader(Traced(), batch_size=None, num_workers=2, multiprocessing_context="fork")
        with uninterrupted():
            running = iter(loader)
        (found,) = running
    finally:
        torch.set_rng_state(before)
    traced: list[list[Step]] = pickle.loads(found)  # noqa: S301  # our own child's
    return traced
