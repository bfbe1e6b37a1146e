"""The trainer's side of the workers: hand out steps, take batches, replace whoever dies or hangs.

No wait is unbounded, and nothing that a worker could hold when it dies is shared with another. A worker
that is gone is replaced in place, and told to go on from its first step that has not been received: since
workers have no state, that is all there is to recovery.
"""

from __future__ import annotations

import logging
import select
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from time import monotonic, perf_counter_ns
from typing import Any

from ..batching import Batcher, Definition, Made, Skips
from ..errors import WorkerError
from ..plan import Plan, Topology
from .channel import Channel, ChannelClosed
from .processes import JOIN_S, how_it_ended, kill, start
from .slots import Sealed, TrainerSlots, mapped
from .worker import (
    AT_EPOCH,
    AT_PLACE,
    AT_STEP,
    BEAT,
    NOWHERE,
    ORDERED,
    Announcement,
    Assignment,
    Failure,
    Grant,
    Hello,
    Page,
)  # fmt: skip

_log = logging.getLogger("augstream.loader")

_MAX_GRANTS = 64  # that a worker at a long batch finds unread: a socket holds a few hundred messages
_MAX_LENT = 3  # batches of one worker that a consumer may keep before they are copied
_START_LIMIT_S = 60.0  # to start an interpreter and import what the transform needs
_TICK_S = 0.5
_GOODBYE_S = 1.0
_LAST_GENERATION = 2**62


class PoisonError(WorkerError):
    """A sample killed its worker every time."""

    def __init__(self, *args: object, shard: str | None = None, key: str | None = None) -> None:
        super().__init__(*args)
        self.shard, self.key = shard, key


@dataclass(slots=True)
class _Process:
    """One incarnation of a worker, and all that ends with it."""

    process: BaseProcess
    channel: Channel
    slots: TrainerSlots
    page: Page | None = None
    owed: int = 0
    """Batches that were taken and have not been granted anew."""

    def at(self) -> tuple[int, int, int] | None:
        """(epoch, step, place) of the sample it is at, or was at when it died; None between batches."""
        if self.page is None or self.page.cells[AT_PLACE] == NOWHERE:
            return None
        cells = self.page.cells
        return cells[AT_EPOCH], cells[AT_STEP], cells[AT_PLACE]


@dataclass(slots=True)
class _Post:
    """The place of one worker, whoever fills it: what has been received, and which step comes next."""

    number: int
    current: _Process | None = None
    ready: deque[tuple[Announcement, _Process]] = field(default_factory=deque)
    cursor: tuple[int, int, int] = (0, 0, 0)
    """(epoch, start unit of its life, step) of what comes next."""
    deaths: list[int | None] = field(default_factory=list)
    """Where in the step at the cursor each worker died that died since the post last gave something."""
    lost: WorkerError | None = None


class Pool:
    """Computes a stream's steps in `topology.num_workers` processes; see `StreamLoader` for the arguments.

    run_on: let the workers go on into the epochs after the one begun. num_respawns counts workers replaced.
    """

    def __init__(
        self,
        stream: Definition,
        topology: Topology,
        *,
        context: BaseContext,
        prefetch_factor: int,
        timeout_s: float | None,
        max_respawns: int,
        run_on: bool,
    ) -> None:
        self._stream, self._topology, self._context = stream, topology, context
        self._prefetch_factor, self._timeout_s, self._max_respawns = prefetch_factor, timeout_s, max_respawns
        self._run_on = run_on
        self.num_respawns = 0
        self._whole = self._begun = stream.plan(topology)
        needed = min(topology.num_workers, self._whole.num_steps)
        self._posts = [_Post(number) for number in range(needed)]
        self._generation = 0
        self._first = (0, 0)
        self._skips: tuple[tuple[str, str], ...] = ()
        self._namer: Batcher[Any] | None = None
        self._processes: dict[int, BaseProcess] = {}
        # multiprocessing's own end would wait for workers that were stopped
        self._finalize = Finalize(self, kill, (self._processes,), exitpriority=100)

    # What the loader asks

    def begin(self, epoch: int, start_unit: int, skips: Skips) -> None:
        """Have the workers make the steps of `epoch` from `start_unit` on, and of the epochs after it."""
        self._generation += 1
        self._first = (epoch, start_unit)
        self._begun = self._stream.plan(self._topology, start_unit)
        self._skips = tuple(skips)
        for post in self._posts:
            for announcement, process in post.ready:
                process.slots.discard(_sealed(announcement))
            post.ready.clear()
            post.deaths.clear()
            post.lost = None
            post.cursor = self._cursor(post, epoch, post.number)
            if post.current is not None and post.current.page is not None:
                post.current.page.cells[ORDERED] = self._generation
            self._assign(post)

    def take(self, epoch: int, step: int) -> Made:
        """The batch of the next step; raises what computing it raised, or `WorkerError` if that can't be done."""
        post = self._posts[step % self._topology.num_workers]
        if not post.ready:
            self._await(post)
        announcement, process = post.ready.popleft()
        if (announcement.epoch, announcement.step) != (epoch, step):
            found = f"step {announcement.step} of epoch {announcement.epoch}"
            msg = f"worker {post.number} made {found} where step {step} of epoch {epoch} was due; this is a defect"
            raise WorkerError(msg)
        started = perf_counter_ns()
        value = process.slots.open(_sealed(announcement))
        if (current := post.current) is not None:
            current.owed += 1
            if current.owed * _MAX_GRANTS > self._prefetch_factor:
                owed, current.owed = current.owed, 0
                self._send(post, Grant(owed, current.slots.returned()))
        if isinstance(value, Failure):
            raise value.raised()
        made: Made = value
        made.times.transfer += perf_counter_ns() - started
        return made

    def pids(self) -> list[int]:
        """The process numbers of the workers that are alive, as far as is known."""
        return [process.pid for process in self._processes.values() if process.pid is not None]

    def close(self) -> None:
        """Stop the workers, politely for a second."""
        running = [post.current for post in self._posts if post.current is not None]
        for current in running:
            if current.page is not None:
                current.page.cells[ORDERED] = _LAST_GENERATION
            current.channel.close()
        deadline = monotonic() + _GOODBYE_S
        for current in running:
            current.process.join(max(deadline - monotonic(), 0.0))
        self._finalize()
        for post in self._posts:
            post.current = None

    # Waiting

    def _await(self, post: _Post) -> None:
        """Return when `post` has something ready; replace whoever dies meanwhile, and `post` if it hangs."""
        tick = _TICK_S if self._timeout_s is None else min(_TICK_S, self._timeout_s / 4)
        waited, seen = 0.0, self._sign_of_life(post)
        while True:
            self._receive()
            if post.ready:
                return
            if post.lost is not None:
                raise post.lost
            if post.current is None:
                self._assign(post)
                continue
            before = monotonic()
            self._poll(tick)
            # a trainer that was itself stopped for a while has not waited so long
            waited += min(monotonic() - before, 2 * tick)
            if (sign := self._sign_of_life(post)) != seen:
                waited, seen = 0.0, sign
            limit = self._limit(post)
            if limit is not None and waited > limit:
                self._receive()
                if not post.ready and self._sign_of_life(post) == seen:
                    self._replace(post, f"gave no sign of life for {waited:.3g} s")

    def _limit(self, post: _Post) -> float | None:
        """How long `post` may be silent, in seconds."""
        starting = post.current is not None and post.current.page is None
        if self._timeout_s is None or not starting or self._context.get_start_method() == "fork":
            return self._timeout_s
        return max(self._timeout_s, _START_LIMIT_S)

    def _sign_of_life(self, post: _Post) -> tuple[int | None, int]:
        current = post.current
        if current is None or current.page is None:
            return (None if current is None else current.process.pid), NOWHERE
        return current.process.pid, current.page.cells[BEAT]

    def _poll(self, timeout_s: float) -> None:
        """Wait until a worker says something or dies."""
        poller = select.poll()
        for post in self._posts:
            if post.current is not None:
                poller.register(post.current.channel.fileno(), select.POLLIN)
                poller.register(post.current.process.sentinel, select.POLLIN)
        poller.poll(timeout_s * 1000)

    # Messages

    def _receive(self) -> None:
        """Take whatever the workers have sent, and replace those that are gone."""
        for post in self._posts:
            current = post.current
            if current is None:
                continue
            try:
                ended = not current.process.is_alive()  # asked before the last of its messages is looked for
                while (received := current.channel.receive()) is not None:
                    self._handle(post, current, *received)
            except ChannelClosed:
                ended = True
            if ended:
                self._replace(post, None)

    def _handle(self, post: _Post, current: _Process, message: Any, descriptor: int | None) -> None:
        if isinstance(message, Hello) and descriptor is not None:
            current.page = Page(mapped(descriptor, close=True))
            current.page.cells[ORDERED] = self._generation
        elif isinstance(message, Announcement):
            if descriptor is not None:
                current.slots.map(message.slot, descriptor)
            if message.generation != self._generation:
                current.slots.discard(_sealed(message))
                return
            post.ready.append((message, current))
            post.deaths.clear()
            post.cursor = self._cursor(post, message.epoch, message.step + self._topology.num_workers)

    def _plan(self, epoch: int) -> Plan:
        return self._begun if epoch == self._first[0] else self._whole

    def _cursor(self, post: _Post, epoch: int, step: int) -> tuple[int, int, int]:
        """The cursor at `step`, one of the post's own, or where that is after the epoch's end, in the next."""
        if step < self._plan(epoch).num_steps:
            return epoch, self._plan(epoch).start_unit, step
        return epoch + 1, 0, post.number

    def _send(self, post: _Post, message: Assignment | Grant) -> None:
        current = post.current
        if current is None:
            return
        try:
            current.channel.send(message)
        except ChannelClosed:
            self._replace(post, "takes no messages" if current.process.is_alive() else None)

    # Lives and deaths

    def _assign(self, post: _Post) -> None:
        """Tell the worker of `post`, a new one if there is none, to go on from the cursor."""
        if post.current is None:
            self._start(post)
        epoch, start_unit, first_step = post.cursor
        ahead = max(self._prefetch_factor - len(post.ready), 0)
        if post.current is not None:
            post.current.owed = 0
        self._send(
            post,
            Assignment(self._generation, epoch, start_unit, first_step, ahead, self._skips, self._run_on),
        )

    def _start(self, post: _Post) -> None:
        process, channel = start(self._context, self._stream, self._topology, post.number)
        self._processes[post.number] = process
        post.current = _Process(process, channel, TrainerSlots(_MAX_LENT))

    def _replace(self, post: _Post, fault: str | None) -> None:
        """Bury the worker of `post`, and put another in its place, unless that has been done too often."""
        gone = post.current
        if gone is None:
            return
        post.current = None
        if fault is None:
            gone.process.join(_GOODBYE_S)  # one that ends by itself has a tale to tell by its exit status
        gone.process.kill()
        gone.process.join(JOIN_S)
        gone.channel.close()
        del self._processes[post.number]
        fate = fault or how_it_ended(gone.process.exitcode)
        at = gone.at()
        where = "" if at is None else self._where(*at)
        post.lost = self._verdict(post, gone, at, fate)
        if post.lost is not None:
            return
        pid = gone.process.pid
        self._assign(post)
        self.num_respawns += 1
        _log.warning(
            "worker %d (pid %s) %s%s; another (pid %s) goes on in its place, at step %d of epoch %d",
            post.number, pid, fate, where, self._processes[post.number].pid, post.cursor[2], post.cursor[0],
        )  # fmt: skip

    def _verdict(
        self, post: _Post, gone: _Process, at: tuple[int, int, int] | None, fate: str
    ) -> WorkerError | None:
        """The error, if this death was one too many."""
        epoch, _, step = post.cursor
        post.deaths.append(at[2] if at is not None and at[:2] == (epoch, step) else None)
        if len(post.deaths) < self._max_respawns:
            return None
        when = f"in epoch {epoch}, step {step}: the last {fate}"
        times = f"{len(post.deaths)} times {when}"
        places = [place for place in post.deaths if place is not None]
        if gone.page is None:
            method = self._context.get_start_method()
            imports = (
                f"Under {method} a worker imports the main script: keep what it runs under "
                "`if __name__ == '__main__':`, and see"
            )
            return WorkerError(
                f"worker {post.number} died before it had started, {times}. "
                f"{'See' if method == 'fork' else imports} what the worker wrote to stderr"
            )
        if not places:
            return WorkerError(f"worker {post.number} died, at no sample, {times}")
        names = self._names(epoch, step)
        place = max(places, key=places.count)
        shard, key = names[place] if place < len(names) else (None, None)
        count = places.count(place)
        if count == 1 < self._max_respawns:  # each at another sample: none of them is at fault
            return WorkerError(
                f"worker {post.number} died, each time at another sample, {times}; that is the machine rather than the "
                "data, memory running out for instance: use fewer workers, or pass a larger max_respawns"
            )
        msg = (
            f"{'collating a batch' if key is None else f'sample {key!r} of shard {shard!r}'} killed its worker "
            f"{count} times {when}; pass on_error='skip' to leave out samples that do. The batch held "
            f"{', '.join(repr(key) for _, key in names)}"
        )
        return PoisonError(msg, shard=shard, key=key)

    def _names(self, epoch: int, step: int) -> list[tuple[str, str]]:
        """(shard, key) of the samples of a step."""
        if self._namer is None:
            self._namer = self._stream.maker()
        namer = self._namer
        units = self._plan(epoch).units_of_step(step)
        return [namer.name(ref) for ref in namer.refs(epoch, units)]

    def _where(self, epoch: int, step: int, place: int) -> str:
        names = self._names(epoch, step)
        if place >= len(names):
            return " while collating"
        return f" at sample {names[place][1]!r} of shard {names[place][0]!r}"


def _sealed(announcement: Announcement) -> Sealed:
    return Sealed(announcement.slot, announcement.offset, announcement.size_bytes, None)
