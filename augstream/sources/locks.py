"""Locks that processes and threads hold on files, and give back however they end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_S = 0.05

# A forked child has its parent's files open, but none of the threads that would close them, and so would hold their
# locks for as long as it lives. So it closes them first of all, and nobody forks while one is about to be noted here.
_open_files: set[int] = set()
_changing = threading.Lock()


@contextlib.contextmanager
def locked(path: Path, wait_s: float = 10.0, progress: Callable[[], object] = lambda: None) -> Iterator[bool]:
    """Hold the lock of a file, which is made if it is not there; False where it can't be had within `wait_s`.

    progress: the time begins anew whenever its result is another one. Who holds the lock may remove the file.
    """
    while True:
        with _changing:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _open_files.add(fd)
        try:
            held = _acquire(fd, wait_s, progress)
            if held and os.fstat(fd).st_nlink == 0:  # removed by the one before us: others lock a new one
                continue
            yield held
            return
        finally:
            with _changing:
                if fd in _open_files:  # else this is a child, which has closed it
                    _open_files.remove(fd)
                    os.close(fd)


def _acquire(fd: int, wait_s: float, progress: Callable[[], object]) -> bool:
    seen: object = None
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = progress()
            if now != seen:
                seen, until = now, time.monotonic() + wait_s
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        except OSError:  # a file system without locks
            return False
        else:
            return True


def _leave_to_parent() -> None:
    while _open_files:
        os.close(_open_files.pop())
    _changing.release()


if hasattr(os, "register_at_fork"):  # elsewhere there are no forks
    os.register_at_fork(
        before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_leave_to_parent
    )
