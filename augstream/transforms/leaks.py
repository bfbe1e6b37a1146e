"""Leaks of determinism: code that draws from a global generator, found at the sample where it does, and named.

A generator is drawn from when its state changes. The states are compared before and after each sample, as bytes, at
a few microseconds; only where they differ is the sample computed again, to find out which transform and which line.
"""

from __future__ import annotations

import ctypes
import linecache
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from threading import active_count, get_ident
from types import FrameType
from typing import Any, TypeVar

import cv2
import numpy as np

from ..errors import LeakError
from .torch_state import TorchState

Result = TypeVar("Result")

private_opencv: ContextVar[bool] = ContextVar("private_opencv", default=False)
"""Whether this thread was started by us, so that nobody misses the state of its OpenCV generator."""

_Words = ctypes.c_char * (625 * 4)  # a Mersenne twister in memory: 624 words and a position
# The position and some words: drawing moves the first, or, at its end, makes all words anew.
_Part = ctypes.c_char * 64
_OPENCV_DRAWERS = ("kmeans", "randShuffle", "randn", "randu", "setRNGSeed")
_PROBE_SEED = 0x5EED
_NUMBERS = np.arange(
    32, dtype=np.int32
)  # as many orders as a generator with 64 bits of state can tell apart, and more
_DRAWN_WITHIN = frozenset({"cv2", "numpy", "random", "torch"})

MEND = (
    "what it draws there depends on all that ran before it in its process; draw from self.py_random or "
    "self.random_generator of a custom transform, or from the rng that a function f(image, rng) is given"
)


class Watch:
    """Tells which global generators were moved since a `look`: of random, numpy, torch (where loaded) and OpenCV.

    Both steps together take 2 µs, in a stream, where the processor has forgotten them, 6 to 18. Any number of threads
    may use one. OpenCV's generator, one a thread, cannot be read. In threads of our own (`private_opencv`) it is set
    before and asked after, which misses nothing; elsewhere that would move it, and the functions of `cv2` that draw
    from it are stood in for instead, until `moved` is called.

    Not seen: numbers drawn and put back; what another thread draws is taken for ours; outside of our own threads,
    OpenCV's functions under names that were imported before (``from cv2 import randn``).
    """

    __slots__ = (
        "_drawn_by",
        "_expected",
        "_is_new",
        "_numpy",
        "_originals",
        "_python",
        "_stand_ins",
        "_torch",
        "_words",
    )

    def __init__(self) -> None:
        self._python: random.Random = random.random.__self__  # type: ignore[attr-defined]  # the one that functions share
        self._words = _words_of(self._python)
        self._numpy: tuple[Any, Any] = (None, None)
        self._torch = TorchState()
        self._is_new = True
        self._expected: bytes | None = None
        self._drawn_by: list[int] = []
        found = {name: getattr(cv2, name) for name in _OPENCV_DRAWERS}
        self._originals = {name: getattr(value, "stands_for", value) for name, value in found.items()}
        self._stand_ins = {name: _StandIn(value, self._drawn_by) for name, value in self._originals.items()}

    def __reduce__(self) -> tuple[type[Watch], tuple[()]]:
        return Watch, ()

    def look(self) -> Any:
        """What to give to `moved`; be sure to give it."""
        bits = np.random.mtrand.get_bit_generator()
        torch = sys.modules.get("torch")
        generator = None if torch is None else getattr(torch, "default_generator", None)
        is_private = private_opencv.get()
        if is_private:
            if self._expected is None:
                self._expected = self._probe(self._originals)
            self._originals["setRNGSeed"](_PROBE_SEED)
        else:
            cv2.__dict__.update(self._stand_ins)
        return (
            self._python_state(),
            self._python.gauss_next,  # type: ignore[attr-defined]  # it has one
            bits,
            self._numpy_state(bits),
            _stored_gauss() if self._is_new else None,
            generator,
            None if generator is None else self._torch.of(generator),
            is_private,
            len(self._drawn_by),
        )

    def moved(self, before: Any) -> tuple[str, ...]:
        """The libraries whose generators are not as they were at `before`."""
        python, gauss_next, bits, state, gauss, generator, torch_state, is_private, num_drawn = before
        found = []
        if self._python_state() != python or self._python.gauss_next != gauss_next:  # type: ignore[attr-defined]
            found.append("random")
        # of the normal numbers that numpy makes in pairs, one may be in store; to ask is slow, and once is enough
        is_other = np.random.mtrand.get_bit_generator() is not bits or self._numpy_state(bits) != state
        if is_other or (gauss is not None and _stored_gauss() != gauss):
            found.append("numpy")
        if generator is not None and self._torch.of(generator) != torch_state:
            found.append("torch")
        if is_private:
            if self._probe(self._originals, seed=False) != self._expected:
                found.append("OpenCV")
        else:
            cv2.__dict__.update(self._originals)
            if len(self._drawn_by) > num_drawn and get_ident() in self._drawn_by[num_drawn:]:
                found.append("OpenCV")
        self._is_new = False
        return tuple(found)

    def _python_state(self) -> Any:
        return self._python.getstate() if self._words is None else self._words.raw

    def _numpy_state(self, bits: Any) -> Any:
        """The state of numpy's global bit generator, as something to compare."""
        known, words = self._numpy
        if known is not bits:
            is_twister = type(bits) is np.random.MT19937
            end = bits.ctypes.state_address + ctypes.sizeof(_Words) if is_twister else 0
            words = (
                _Part.from_address(end - ctypes.sizeof(_Part)) if is_twister else None
            )  # its position is last
            self._numpy = bits, words
        return repr(bits.state) if words is None else words.raw

    def _probe(self, functions: dict[str, Any], *, seed: bool = True) -> bytes:
        """An order that this thread's OpenCV generator gives next, or first after our seed."""
        numbers = _NUMBERS.copy()
        if seed:
            functions["setRNGSeed"](_PROBE_SEED)
        functions["randShuffle"](numbers)  # the shortest way in: to fill them takes two microseconds more
        return numbers.tobytes()


class _StandIn:
    """A function of OpenCV that draws, and which thread called it."""

    __slots__ = ("_drawn_by", "stands_for")

    def __init__(self, function: Any, drawn_by: list[int]) -> None:
        self.stands_for, self._drawn_by = function, drawn_by

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._drawn_by.append(get_ident())
        return self.stands_for(*args, **kwargs)


def _words_of(generator: random.Random) -> Any:
    """The memory where CPython keeps the state of a `random.Random`, or None if it is not where it is known to be."""
    if type(generator).__basicsize__ < object.__basicsize__ + ctypes.sizeof(_Words):
        return None
    words = _Words.from_address(id(generator) + object.__basicsize__)
    position, *key = np.frombuffer(words.raw, dtype=np.uint32).tolist()
    if (*key, position) != generator.getstate()[1]:
        return None
    return _Part.from_address(ctypes.addressof(words))  # its position is first


def _stored_gauss() -> tuple[Any, Any]:
    state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002  # the global one is what is watched
    return state["has_gauss"], state["gauss"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code, and the objects whose methods were running, innermost first."""

    file: str
    number: int
    function: str
    owners: tuple[Any, ...]

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.number).strip()
        return f"{self.file}:{self.number} in {self.function}" + (f": {code}" if code else "")


def moving_line(run: Callable[[], Any], watch: Watch, generators: Iterable[str]) -> Line | None:
    """The first line of Python that moves one of these global generators while `run` runs, or None if none does.

    Lines of random, numpy, torch and cv2 count for those that call them. Slow. A debugger's trace function is put
    aside meanwhile.
    """
    trace = _Trace(watch, frozenset(generators))
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
        trace.end()
    return trace.found


class _Trace:
    """A trace function that looks at the generators at every line."""

    def __init__(self, watch: Watch, generators: frozenset[str]) -> None:
        self.found: Line | None = None
        self._last: Line | None = None
        self._watch, self._generators = watch, generators
        self._before = watch.look()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code is _StandIn.__call__.__code__:  # nobody wrote that line
            return None
        if self.found is None:
            self.end()
            self._before = self._watch.look()
            at = frame.f_back if event == "return" else frame  # where the next thing is done
            self._last = None if at is None else line_of(at)
        return self

    def end(self) -> None:
        """Look for the last time."""
        if self._before is None:
            return
        moved = self._watch.moved(self._before)
        if self.found is None and not self._generators.isdisjoint(moved):
            self.found = self._last
        self._before = None


def line_of(frame: FrameType) -> Line | None:
    """The line to blame for what the code at `frame` does: the innermost that is no library's; None if it is ours."""
    frames = list(_frames(frame))
    if not frames:
        return None
    blamed = next((one for one in frames if _package(one) not in _DRAWN_WITHIN), frame)
    owners = [one.f_locals["self"] for one in frames if "self" in one.f_locals]
    return Line(blamed.f_code.co_filename, blamed.f_lineno, blamed.f_code.co_qualname, tuple(owners))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames from `frame` outwards, as far as they are not ours."""
    while frame is not None and _package(frame) != "augstream":
        yield frame
        frame = frame.f_back


def _package(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Culprit:
    """What moved generators: what it is called, which generators, and at which line, where that is known."""

    what: str
    generators: tuple[str, ...]
    line: Line | None

    def __str__(self) -> str:
        at = "" if self.line is None else f", at {self.line}"
        return f"{self.what} moved the global generator of {' and of '.join(self.generators)}{at}"


def guarded(
    watch: Watch, run: Callable[[], Result], find: Callable[[], Culprit | None], what: Callable[[], str]
) -> Result:
    """What `run` returns; `LeakError` if it moves a global generator.

    find: computes the same again, and says what moves one. what: names the whole. Where other threads run, that might
    have moved it, what does not move it again is a warning.
    """
    before = watch.look()
    try:
        result = run()
    finally:
        moved = watch.moved(before)
    if moved:
        culprit = find()
        if culprit is None:
            msg = f"{Culprit(what(), moved, None)}, though not when it was computed again"
            if active_count() > 1:
                warnings.warn(f"{msg}; or another thread of this process did", RuntimeWarning, stacklevel=2)
                return result
            raise LeakError(f"{msg}; {MEND}")
        msg = f"{culprit}; {MEND}"
        raise LeakError(msg)
    return result


def moved_by(run: Callable[[], Any], watch: Watch) -> tuple[str, ...]:
    """The libraries whose generators `run` moves."""
    before = watch.look()
    try:
        run()
    finally:
        moved = watch.moved(before)
    return moved


def culprit_below(root: Any, name: str, run: Callable[[], Any]) -> Culprit | None:
    """What moves a generator while `run` runs another library's pipeline `root`: a transform of it, if it is seen."""
    watch = Watch()
    moved = moved_by(run, watch)
    if not moved:
        return None
    line = moving_line(run, watch, moved)
    slots = {id(node): (slot, type(node).__name__) for slot, node in nodes_below(root)}
    owners = [] if line is None else [slots[id(owner)] for owner in line.owners if id(owner) in slots]
    return Culprit(f"transform {owners[0][0]} {owners[0][1]}" if owners else name, moved, line)


def nodes_below(node: Any, slot: str = "") -> Iterator[tuple[str, Any]]:
    """What another library's pipeline consists of, each with its path of positions."""
    children = getattr(node, "transforms", None)
    if children is None and callable(getattr(node, "children", None)):
        children = node.children()
    for position, child in enumerate(children if isinstance(children, Iterable) else ()):
        at = f"{slot}.{position}" if slot else str(position)
        yield at, child
        yield from nodes_below(child, at)
