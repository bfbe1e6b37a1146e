"""What a process holds, and whether it grows: descriptors, shared memory, children, threads, and resident memory."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SHM = Path("/dev/shm")  # noqa: S108  # it is looked at, not written to


@dataclass(frozen=True)
class Holdings:
    """What a process must give back: counted things, and the names of what others can see."""

    descriptors: int
    mappings: int
    threads: int
    children: frozenset[int]
    named: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        """Of this process; shared memory without a name counts as mappings, /dev/shm is searched for its number."""
        maps = Path("/proc/self/maps").read_text()
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208  # the listing itself is one
            mappings=sum("/memfd:" in line for line in maps.splitlines()),
            threads=threading.active_count(),
            children=frozenset(children()),
            named=frozenset(path.name for path in _SHM.glob(f"*{os.getpid()}*")),
        )

    def more_than(self, before: Holdings) -> list[str]:
        """What is held beyond what was held before, in words."""
        found = [
            f"{getattr(self, name) - getattr(before, name)} {name}"
            for name in ("descriptors", "mappings", "threads")
            if getattr(self, name) > getattr(before, name)
        ]
        if self.children - before.children:
            found.append(f"children {sorted(self.children - before.children)}")
        if self.named - before.named:
            found.append(f"shared memory {sorted(self.named - before.named)}")
        return found


def left_since(before: Holdings, patience_s: float = 30.0) -> list[str]:
    """What is still held beyond `before`, in words, once processes and idle connections had time to end."""
    gc.collect()
    deadline = time.monotonic() + patience_s
    while (more := Holdings.now().more_than(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return more


def children() -> list[int]:
    """The living child processes of this process, but for multiprocessing's own helpers, which stay by design."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if b"resource_tracker" not in command and b"multiprocessing.forkserver" not in command:
                found.append(int(pid))
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def resident_kb(pid: int | str = "self") -> float:
    """Resident memory of a process that belongs to no file, shared mappings included, in kB."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return float(sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")))


@dataclass(frozen=True)
class Slope:
    """A straight line through points: how much more at each step, the standard error of that, and the points' mean."""

    per_step: float
    error: float
    mean: float

    @classmethod
    def of(cls, steps: Sequence[float], values: Sequence[float]) -> Slope:
        """The least squares fit over the second half of the points, since caches fill and heaps settle in the first."""
        half = len(steps) // 2
        x, y = np.array(steps[half:], float), np.array(values[half:], float)
        x -= x.mean()
        slope = float(x @ y / (x @ x))
        residues = y - y.mean() - slope * x
        return cls(slope, float(np.sqrt(residues @ residues / (len(x) - 2) / (x @ x))), float(y.mean()))
