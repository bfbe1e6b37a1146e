"""Where a stream's time goes: read, decode, each transform, collate, and what workers add and take away.

A stopwatch is put around each step of one process's run: it costs half a microsecond a step, where a step takes tens
to thousands. Time is counted where it is spent: what transforms put off until pixels are needed, and decoding, if it
was put off with them, stand under "what was put off".
"""

from __future__ import annotations

import copy
import dataclasses
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns, process_time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..augment import Sample
from ..collate import IMAGE
from ..dataset import StreamDataset, made_locally
from ..images.encoded import EncodedImage
from ..loader import LoaderStats, StreamLoader
from ..shards import ShardReader
from ..transforms.call import Call
from ..transforms.canvas import Box, Later
from ..transforms.compose import ComposeStage
from ..workers.slots import LocalSlots

Array = npt.NDArray[Any]

_MAX_KEPT_JPEGS = 256
WAITED = "what was put off"


@dataclass(slots=True)
class Frame:
    """A step, and the steps inside it; `ns` is the whole of its time."""

    name: str
    ns: int = 0
    calls: int = 0
    inside: dict[str, Frame] = field(default_factory=dict)

    @property
    def own_ns(self) -> int:
        """Its time without that of the steps inside it."""
        return self.ns - sum(frame.ns for frame in self.inside.values())

    def at(self, name: str) -> Frame:
        """The step `name` inside this one."""
        frame = self.inside.get(name)
        if frame is None:
            frame = self.inside[name] = Frame(name)
        return frame

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Frame]]:
        """This step and all inside it, with their depth."""
        yield depth, self
        for frame in self.inside.values():
            yield from frame.walk(depth + 1)


class Watch:
    """A stopwatch for steps inside steps, in one thread."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = Frame("augment")

    def around(self, name: str, function: Callable[..., Any]) -> Timed:
        """`function`, its time counted under `name` inside whatever runs when it is called."""
        return Timed(self, name, function)


class Timed:
    """A function whose time is counted."""

    __slots__ = ("_function", "_name", "_watch")

    def __init__(self, watch: Watch, name: str, function: Callable[..., Any]) -> None:
        self._watch, self._name, self._function = watch, name, function

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        watch, name = self._watch, self._name
        outer = watch.now
        watch.now = frame = outer.inside.get(name) or outer.at(name)
        started = perf_counter_ns()
        try:
            return self._function(*args)
        finally:
            frame.ns += perf_counter_ns() - started
            frame.calls += 1
            watch.now = outer


class _WatchedImage:
    """An encoded image whose decoding is timed where it happens."""

    __slots__ = ("_image", "_watch", "dtype", "shape", "size_bytes")

    def __init__(self, image: EncodedImage, watch: Watch) -> None:
        self.shape, self.dtype, self.size_bytes = image.shape, image.dtype, image.size_bytes
        self._image, self._watch = image, watch

    def decode(self, box: Box | None = None, at_least: tuple[int, int] | None = None) -> Array:
        """As the image does, which keeps its own time."""
        image, frame = self._image, self._watch.now.at("decode")
        before = image.spent_ns
        pixels = image.decode(box, at_least)
        frame.ns += image.spent_ns - before
        frame.calls += 1
        return pixels


class WatchedStage:
    """A stage, with a stopwatch around each transform if it is a `Compose`; the results are the same."""

    def __init__(self, stage: Any, watch: Watch) -> None:
        self.sources: frozenset[str] = getattr(stage, "sources", frozenset())
        self._watch = watch
        self._stage = stage
        if isinstance(stage, ComposeStage):
            self._stage = copy.deepcopy(stage)
            _watch_nodes(self._stage.compose, watch, "")
            self.begin = self._begin  # so it is known as a stage of two steps
            self.finish = watch.around(WAITED, self._stage.finish)

    def __call__(self, sample: Sample, key: bytes, out: Array | None = None) -> Sample:
        """The augmented sample."""
        if hasattr(self, "begin"):
            result: Sample = self.finish(self.begin(sample, key), sample, out)
        else:
            result = self._stage(sample, key, out)
        return result

    def _begin(self, sample: Sample, key: bytes) -> Call:
        watched = dict(sample)
        for name in self.sources:
            value = watched.get(name)
            if isinstance(value, EncodedImage):
                watched[name] = _WatchedImage(value, self._watch)
        begun: Call = self._stage.begin(watched, key)
        return begun


def _watch_nodes(node: Any, watch: Watch, path: str) -> None:
    """Put a stopwatch around every transform and composition below `node`, and around the work that they put off."""
    for ordinal, child in enumerate(getattr(node, "transforms", ())):
        if "run" not in child.__dict__:  # one instance may stand at two places
            place = f"{path}{ordinal}"
            name = f"{place} {type(child).__name__}"
            is_leaf = not getattr(child, "transforms", ())
            child.run = _watched_run(watch, name, child.run, is_leaf)
            _watch_nodes(child, watch, f"{place}.")


def _watched_run(watch: Watch, name: str, run: Callable[..., None], is_leaf: bool) -> Callable[..., None]:
    """A node's `run`, timed as a `Timed` is, and without another call between: there is one for each.

    What is put off while it runs is timed as its own: by a composition besides what a leaf below it made of it.
    """

    def watched(call: Call, slot: bytes, *, force: bool = False) -> None:
        before = () if is_leaf else [canvas.waiting for canvas in call.rasters.values()]
        outer = watch.now
        watch.now = frame = outer.inside.get(name) or outer.at(name)
        started = perf_counter_ns()
        try:
            run(call, slot, force=force)
        finally:
            frame.ns += perf_counter_ns() - started
            frame.calls += 1
            watch.now = outer
        for ordinal, canvas in enumerate(call.rasters.values()):
            put_off = canvas.waiting
            if type(put_off) is Later and (
                type(put_off.work) is not Timed if is_leaf else put_off is not before[ordinal]
            ):
                put_off.work = Timed(watch, name, put_off.work)

    return watched


@dataclass(frozen=True, slots=True)
class Profile:
    """What a run in one process took.

    samples, seconds: of the run; cpu_s of it on the processor. tree: where the time went. naked_s: what
    `cv2.imdecode` alone takes for an image of the stream, None if it has no JPEGs. pixels: (height, width) of images
    before and after, the means.
    """

    samples: int
    seconds: float
    cpu_s: float
    tree: Frame
    naked_s: float | None
    before: tuple[float, float] | None
    after: tuple[int, int] | None

    @property
    def share_of_naked(self) -> float | None:
        """Throughput as a share of what decoding alone would reach."""
        return None if self.naked_s is None else self.naked_s * self.samples / self.seconds


def profile(dataset: StreamDataset, *, min_s: float = 5.0, epoch: int = 0) -> Profile:
    """Run the stream in this process, from the start of `epoch`, for about `min_s` seconds, under a stopwatch."""
    watch = Watch()
    stream = dataclasses.replace(dataset.stream, stage=WatchedStage(dataset.stream.stage, watch))
    maker, slots = stream.maker(), LocalSlots()
    plan = stream.plan(dataset.topology())
    tree, samples, step, after = Frame("all"), 0, 0, None
    started = cpu = 0.0
    # The first two batches open shards, make memory and warm caches up: they are not counted.
    for number in range(-2, 10**9):
        if number == 0:
            started, cpu = perf_counter(), process_time()
            watch.now.inside.clear()
        elif number > 0 and perf_counter() - started > min_s:
            break
        made = made_locally(maker, slots, epoch, plan.units_of_step(step), ())
        after = _size_of(made.batch) or after
        if number >= 0:
            samples += made.num_samples
            for name in ("read", "decode", "augment", "collate"):
                tree.at(name).ns += getattr(made.times, name)
        del made
        step += 1
        if step == plan.num_steps:
            step, epoch = 0, epoch + 1
    seconds, cpu = perf_counter() - started, process_time() - cpu
    tree.ns = round(seconds * 1e9)
    _move_in(tree, watch.now)
    for name in ("read", "decode", "augment", "collate"):
        tree.at(name).calls = samples
    naked, before = _naked(dataset)
    return Profile(samples, seconds, cpu, tree, naked, before, after)


def _move_in(tree: Frame, stage: Frame) -> None:
    """Put what the stage's stopwatch found into the tree: late decoding happened inside of augmenting."""
    late = sum(frame.ns for _, frame in stage.walk() if frame.name == "decode")
    tree.at("decode").ns -= late
    tree.at("augment").ns += late
    tree.at("augment").inside.update(stage.inside)


def _size_of(batch: Any) -> tuple[int, int] | None:
    """(height, width) of the images of a batch, as far as they can be seen."""
    image = batch.get(IMAGE) if isinstance(batch, Mapping) else None
    shape: tuple[int, ...] = tuple(getattr(image, "shape", ()))
    if len(shape) != 4:
        return None
    return (shape[2], shape[3]) if shape[1] <= 4 < shape[3] else (shape[1], shape[2])


def _naked(dataset: StreamDataset) -> tuple[float | None, tuple[float, float] | None]:
    """Seconds of `cv2.imdecode` an image, and the images' mean size, of some images of the stream."""
    reader = ShardReader(dataset.index)
    order = dataset.stream.order(0)
    files = []
    for ref in order.refs(range(min(order.num_units, _MAX_KEPT_JPEGS)))[:_MAX_KEPT_JPEGS]:
        raw = reader.read(ref.shard, ref.sample)
        files += [
            np.frombuffer(raw[name], np.uint8) for name in raw if name.split(".")[-1] in {"jpg", "jpeg"}
        ][:1]
    if not files:
        return None, None
    sizes, times = [], []
    for _ in range(2):  # the first time warms up
        started = perf_counter()
        sizes = [np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR)).shape[:2] for file in files]
        times.append((perf_counter() - started) / len(files))
    height, width = np.mean(sizes, axis=0)
    return min(times), (float(height), float(width))


@dataclass(frozen=True, slots=True)
class Crew:
    """What a loader with workers did, with a consumer that only takes.

    Seconds a sample: wait_s, the consumer waiting; cpu_s, on processors, of all; transfer_s, from workers to consumer.
    idle: the share of the workers' time in which they waited, for the consumer or for a processor.
    """

    num_workers: int
    samples_per_s: float
    wait_s: float
    cpu_s: float
    transfer_s: float = 0.0
    idle: float = 0.0


def crew(dataset: StreamDataset, num_workers: int, *, min_s: float = 5.0) -> Crew:
    """Run a loader with `num_workers` for about `min_s` seconds, with a consumer that does nothing but take."""
    loader = StreamLoader(dataset, num_workers=num_workers)
    samples, started = 0, 0.0
    cpu = _cpu_s()
    with loader:
        ahead = 2 + num_workers * loader.prefetch_factor
        before = LoaderStats()
        while not started or perf_counter() - started < min_s:
            for batch in loader:
                samples += len(batch["__key__"])
                ahead -= 1
                if ahead == 0:
                    samples, started, before = 0, perf_counter(), dataclasses.replace(loader.stats)
                if started and perf_counter() - started > min_s:
                    break
        seconds, after = perf_counter() - started, loader.stats
    # Children's CPU time is known once they have ended, and is that of their whole life.
    return Crew(
        num_workers,
        samples / seconds,
        (after.wait_s - before.wait_s) / samples,
        (_cpu_s() - cpu) / after.samples,
        (after.transfer_s - before.transfer_s) / samples,
        max(0.0, 1 - (_busy_s(after) - _busy_s(before)) / (seconds * num_workers)) if num_workers else 0.0,
    )


def _busy_s(stats: LoaderStats) -> float:
    return stats.read_s + stats.decode_s + stats.augment_s + stats.collate_s


def _cpu_s() -> float:
    ours, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime
