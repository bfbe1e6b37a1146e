"""How things are measured: contenders take turns, and each result is a ratio to the reference of its own round.

A machine changes its pace from minute to minute, and a figure by itself says little. So every contender runs a short
burst in each round, in an order that moves on from round to round, and what is reported is the median over the
rounds of (contender / reference), with the lowest and the highest. CPU time counts the whole family of processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Burst:
    """What one contender did in one round: so many items in so many seconds."""

    items: float
    wall_s: float
    cpu_s: float


@dataclass
class Race:
    """The bursts of all contenders, round by round."""

    reference: str
    bursts: dict[str, list[Burst]] = field(default_factory=dict)

    def ratios(self, name: str, clock: str) -> list[float]:
        """Items per second relative to the reference, round by round; `clock` is "wall_s" or "cpu_s"."""
        return [
            (burst.items / max(getattr(burst, clock), 1e-9)) / (base.items / max(getattr(base, clock), 1e-9))
            for burst, base in zip(self.bursts[name], self.bursts[self.reference], strict=True)
        ]

    def rate(self, name: str, clock: str) -> float:
        """Items per second, the median."""
        return statistics.median(
            burst.items / max(getattr(burst, clock), 1e-9) for burst in self.bursts[name]
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row a contender: its medians and ranges."""
        rows = []
        for name in self.bursts:
            row: dict[str, Any] = {"contender": name}
            for clock in ("wall_s", "cpu_s"):
                ratios = self.ratios(name, clock)
                row[clock[:-2]] = {
                    "rate": self.rate(name, clock),
                    "ratio": statistics.median(ratios),
                    "lowest": min(ratios),
                    "highest": max(ratios),
                }
            rows.append(row)
        return rows


def race(
    contenders: Mapping[str, Callable[[], Burst]], *, reference: str, rounds: int, progress: bool = True
) -> Race:
    """Let the contenders take turns for `rounds` rounds."""
    result = Race(reference, {name: [] for name in contenders})
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            result.bursts[name].append(contenders[name]())
            if progress:
                say(f"round {number + 1} of {rounds}: {name}")
    say("")
    return result


def keep_memory() -> None:
    """Have the C library keep freed memory, so that no contender's pages come and go by what ran before it.

    By itself it gives large blocks back to the system, or not, by a threshold that moves with what is freed; a fresh
    block of 2 MB costs 0.3 ms of page faults, more than most transforms.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the largest there is


def say(text: str) -> None:
    """Show what is under way, in place of what was shown before, to whoever watches."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text:.100}", end="", flush=True)


def timed(function: Callable[[], Any], *, seconds: float = 0.05, scale: float = 1.0) -> Callable[[], Burst]:
    """A contender that calls `function` again and again, for about `seconds` a burst; calls times `scale` are items."""
    start = time.perf_counter()
    function()
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(1, round(seconds / once))

    def burst() -> Burst:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            function()
        return Burst(calls * scale, time.perf_counter() - wall, time.process_time() - cpu)

    return burst


def descendants_cpu_s() -> float:
    """CPU seconds of all living descendants of this process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            children.setdefault(int(parent), []).append(int(entry.name))
    total, waiting = 0.0, list(children.get(os.getpid(), []))
    while waiting:
        pid = waiting.pop()
        total += _cpu_s(pid)
        waiting += children.get(pid, [])
    return total


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process, to the nanosecond: /proc rounds to clock ticks of 10 ms."""
    clock = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        return 0.0  # it has ended
    return time.clock_gettime(clock.value)


def settle() -> None:
    """Return when no descendant works any more: workers have made all that they may make ahead."""
    before = descendants_cpu_s()
    while True:
        time.sleep(0.05)
        now = descendants_cpu_s()
        if now - before < 0.002:
            return
        before = now


def table(rows: list[list[str]], header: list[str]) -> str:
    """A table in Markdown."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def race_table(result: Race, unit: str) -> str:
    """The race as a table: rates, and ratios to the reference with their range."""
    rows = []
    for row in result.rows():
        wall, cpu = row["wall"], row["cpu"]
        rows.append(
            [
                row["contender"], f"{wall['rate']:,.0f}", f"{cpu['rate']:,.0f}",
                f"{wall['ratio']:.2f} ({wall['lowest']:.2f}-{wall['highest']:.2f})",
                f"{cpu['ratio']:.2f} ({cpu['lowest']:.2f}-{cpu['highest']:.2f})",
            ]
        )  # fmt: skip
    return table(rows, ["contender", f"{unit}/s", f"{unit}/CPU-s", "wall ratio", "CPU ratio"])


def machine() -> dict[str, Any]:
    """What was measured on: processor, versions, load."""
    packages = ["torch", "numpy", "opencv-python-headless", "pillow", "webdataset", "albumentations"]
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def save(path: Path, name: str, result: Any) -> None:
    """Put a result under its name into the JSON file, beside what is there."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content["machine"] = machine()
    content[name] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
