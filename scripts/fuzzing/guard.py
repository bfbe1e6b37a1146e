"""One case at a time under guard: what it touches, how long it takes, how much memory, and what comes out of it.

The guard is an audit hook (PEP 578) of the interpreter, which cannot be removed again, so cases run in child processes
only. It refuses, and puts down, whatever no reader of data has any business with: processes, sockets, code that is not
a library's, modules that were not loaded before, files outside the sandbox. What C code does unseen by the hook shows
in the sandbox's directories.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.",
    "pty.",
    "socket.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
    "pickle.find_class",
    "ctypes.dlopen",
    "marshal.load",
    "code.__new__",
    "os.chmod",
    "os.chown",
    "os.putenv",
    "os.setxattr",
    "os.kill",
    "signal.pthread_kill",
    "mmap.__new__",
)
_CHANGES_FILES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "shutil.",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LIBRARIES = tuple(
    {
        *[os.path.realpath(path) for path in sysconfig.get_paths().values()],
        str(Path(__file__).resolve().parents[2]),
        os.path.realpath(sys.base_prefix),
    }
)


class ForbiddenError(BaseException):
    """What a case may not do, stopped in the act; no handler of ordinary errors catches it."""


class HangError(BaseException):
    """A case that took longer than any may."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one case may cost: processor seconds, seconds of the clock, MB of memory above what there was."""

    cpu_s: float = 2.0
    wall_s: float = 30.0
    memory_mb: int = 200


class Sandbox:
    """The one directory that a case may write to (`place`, emptied after it), among others that must stay empty."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.place, self.home, self.work = self.root / "place", self.root / "home", self.root / "work"

    def enter(self) -> None:
        """Make it, and live in it."""
        for directory in (self.place, self.home, self.work):
            directory.mkdir(parents=True, exist_ok=True)
        os.environ.update(HOME=str(self.home), TMPDIR=str(self.home))
        os.environ.pop("XDG_CACHE_HOME", None)
        os.chdir(self.work)

    def strays(self) -> list[str]:
        """What lies where nothing should; the sandbox is clean afterwards."""
        known = {self.place.name, self.home.name, self.work.name}
        found = [os.path.join(self.root, name) for name in os.listdir(self.root) if name not in known]  # noqa: PTH118, PTH208
        for directory in (self.home, self.work, self.place):
            names = os.listdir(directory)  # noqa: PTH208  # several times as fast, and done for every case
            if names and directory != self.place:
                found += [str(directory / name) for name in names]
            for name in names:
                _remove(directory / name)
        for path in found:
            _remove(Path(path))
        return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Guard:
    """Runs cases in this process, which must be a child made for it."""

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        self._sandbox, self._limits = sandbox, limits
        self._armed = False
        self._broken: list[str] = []
        self._place = str(sandbox.place) + os.sep
        self._memory = os.open("/proc/self/clear_refs", os.O_WRONLY)
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGALRM, self._alarm)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), size + (3 << 30)))

    def run(self, case: Callable[[], Any]) -> Outcome:
        """Run it; what it raised is for the caller to judge."""
        os.write(self._memory, b"5")  # the peak counts from here
        before = _peak_mb()
        self._broken = []
        error: BaseException | None = None
        started, cpu = time.perf_counter(), time.process_time()
        signal.setitimer(signal.ITIMER_REAL, self._limits.wall_s)
        self._armed = True
        try:
            case()
        except BaseException as caught:  # noqa: BLE001  # everything is judged
            error = caught
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - started
        memory_mb = _peak_mb() - before
        return Outcome(error, cpu_s, wall_s, memory_mb, tuple(self._complaints(error, cpu_s, memory_mb)))

    def _complaints(self, error: BaseException | None, cpu_s: float, memory_mb: float) -> Iterator[str]:
        yield from self._broken
        if isinstance(error, (HangError, ForbiddenError)):
            yield f"{type(error).__name__}: {error}"
        if cpu_s > self._limits.cpu_s:
            yield f"{cpu_s:.1f} s of processor time, over {self._limits.cpu_s}"
        if memory_mb > self._limits.memory_mb:
            yield f"{memory_mb:.0f} MB of memory, over {self._limits.memory_mb}"
        if out_of_memory(error):
            yield f"asked for more memory than there may be: {error}"
        yield from [f"a stray file: {path}" for path in self._sandbox.strays()]

    def _alarm(self, _signal: int, _frame: FrameType | None) -> None:
        msg = f"not done after {self._limits.wall_s} s"
        raise HangError(msg)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._armed:
            what = self._objection(event, arguments)
            if what is not None:
                self._broken.append(what)
                raise ForbiddenError(what)

    def _objection(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and bool(flags & _WRITES)
            if isinstance(path, int) or self._inside(path, libraries=not writes):
                return None
            # where CPython, from 3.12 on, looks for the line that a literal's syntax error is in
            return None if path == "<string>" and not writes else f"{event} {path!r}"
        if event.startswith(_CHANGES_FILES):
            paths = [path for path in arguments if isinstance(path, (str, bytes, os.PathLike))]
            return None if all(self._inside(path) for path in paths) else f"{event} {arguments!r:.200}"
        if event == "import":
            return f"import of {arguments[0]}" if arguments[0] not in sys.modules else None
        if event == "exec":
            code = arguments[0]
            known = isinstance(code, CodeType) and os.path.realpath(code.co_filename).startswith(_LIBRARIES)
            return None if known else f"exec of {code!r:.200}"
        return f"{event} {arguments!r:.200}" if event.startswith(_FORBIDDEN) else None

    def _inside(self, path: Any, *, libraries: bool = False) -> bool:
        real = os.path.realpath(os.fsdecode(path)) + os.sep
        return real.startswith(self._place) or (libraries and real.startswith((*_LIBRARIES, "/proc/self/")))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: what it raised, what it cost, and what the guard complains of."""

    error: BaseException | None
    cpu_s: float
    wall_s: float
    memory_mb: float
    complaints: tuple[str, ...]


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says, or comes of one that says, that memory did not suffice."""
    while error is not None:
        if (
            isinstance(error, MemoryError)
            or "nsufficient memory" in str(error)
            or "Unable to allocate" in str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def in_child(run: Callable[[], None]) -> Iterator[int]:
    """The process number of a fork that does `run` and ends without a word; reaped on leaving."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # the parent is told by the status, people by the traceback
            sys.excepthook(*sys.exc_info())
            os._exit(70)
    try:
        yield pid
    finally:
        while True:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                break
