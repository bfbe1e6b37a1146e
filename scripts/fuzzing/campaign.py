"""Many cases of one target, in child processes; a child that dies or hangs is a find, and the rest goes on."""

from __future__ import annotations

import itertools
import json
import logging
import mmap
import os
import re
import select
import signal
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from guard import Guard, Outcome, Sandbox, in_child
from hypothesis import HealthCheck, Phase, given, seed, settings
from mutations import MAX_CASE_BYTES
from PIL import Image
from targets import Target

CHUNK = 2500
HYPOTHESIS_CHUNK = 500
HYPOTHESIS_SHARE = 8  # one case of so many is hypothesis's
MAX_FINDS = 25  # of one target: then it is time to mend something


@dataclass(slots=True)
class Report:
    """What became of the cases of a target; times in seconds of the processor, memory in MB above the start."""

    target: str
    cases: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    memory_mb: float = 0.0
    finds: list[dict[str, Any]] = field(default_factory=list)
    digest: str = ""
    """Over all cases and what became of each: the same for the same seed."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Current:
    """The case that a child is at, in memory that the parent sees when the child is dead."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 + MAX_CASE_BYTES)

    def put(self, number: int, case: bytes) -> None:
        self._memory[:16] = number.to_bytes(8, "little") + len(case).to_bytes(8, "little")
        self._memory[16 : 16 + len(case)] = case

    @property
    def number(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @property
    def case(self) -> bytes:
        return self._memory[16 : 16 + int.from_bytes(self._memory[8:16], "little")]


def run(target: Target, num_cases: int, run_seed: int, root: Path, finds: Path) -> Report:
    """Attack a target with so many cases, whole ones first; cases that were found to do harm go to `finds`."""
    report = Report(target.name)
    _warm_up(target, root)
    generated = num_cases // HYPOTHESIS_SHARE
    _in_children(report, target, mutants(target, num_cases - generated, run_seed), root, finds, CHUNK)
    written = itertools.count()
    while report.cases < num_cases and len(report.finds) < MAX_FINDS:
        before = report.cases
        wanted = min(HYPOTHESIS_CHUNK, num_cases - report.cases)
        _in_children(
            report,
            target,
            _Written(target, f"{run_seed}/{target.name}/{next(written)}", wanted),
            root,
            finds,
            CHUNK,
        )
        if report.cases == before:
            break
    return report


def replay(targets: Mapping[str, Target], paths: Sequence[Path], root: Path) -> list[Report]:
    """Run cases from files again, whose names begin with their target's; directories are searched."""
    files = sorted(file for path in paths for file in (path.rglob("*.case") if path.is_dir() else [path]))
    reports = []
    for name, group in itertools.groupby(files, key=lambda file: file.name.rpartition("-")[0]):
        report = Report(name)
        _warm_up(targets[name], root)
        cases = [(number, file.read_bytes()) for number, file in enumerate(group)]
        _in_children(report, targets[name], cases, root, None, CHUNK)
        reports.append(report)
    return reports


def mutants(target: Target, count: int, run_seed: int) -> Iterator[tuple[int, bytes]]:
    """The whole cases, then broken ones: the same for the same seed."""
    whole = list(target.seeds())
    for number in range(count):
        yield (
            number,
            whole[number]
            if number < len(whole)
            else target.mutant(Random(f"{run_seed}/{target.name}/{number}")),
        )


class _Written:
    """Cases that hypothesis writes; the same for the same seed."""

    def __init__(self, target: Target, run_seed: str, count: int) -> None:
        self._target, self._seed, self._count = target, run_seed, count

    def each(self, act: Any) -> None:
        """Call `act(number, case)` with each of them."""
        numbers = itertools.count()

        @seed(int.from_bytes(blake2b(self._seed.encode(), digest_size=8).digest(), "little"))
        @settings(
            max_examples=self._count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(self._target.strategy())
        def attack(case: bytes) -> None:
            number = next(numbers)
            if number < self._count:
                act(number, case)

        attack()


def _warm_up(target: Target, root: Path) -> None:
    """Let it load, unguarded, what it loads on its first use."""
    for codec in (
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-le",
        "utf-32-be",
        "latin-1",
        "ascii",
        "idna",
    ):
        "x".encode(codec)
    Image.init()  # else the first picture that Pillow does not know makes it load all its formats
    logging.disable()
    warnings.simplefilter("ignore")
    sandbox = Sandbox(root)
    before = Path.cwd(), dict(os.environ)
    sandbox.enter()
    for case in target.seeds():
        try:
            target.run(case, sandbox.place)
        except target.allowed:
            continue
        finally:
            sandbox.strays()
    os.chdir(before[0])
    os.environ.clear()
    os.environ.update(before[1])


def _in_children(
    report: Report, target: Target, cases: Any, root: Path, finds: Path | None, chunk: int
) -> None:
    """Run cases, so many in a child; one that kills its child is left out of the next."""
    if isinstance(cases, _Written):
        _one_child(report, target, cases, root, finds)
        return
    waiting = iter(cases)
    while (group := list(itertools.islice(waiting, chunk))) and len(report.finds) < MAX_FINDS:
        while group:
            done = _one_child(report, target, group, root, finds)
            group = group[done:]


def _one_child(report: Report, target: Target, cases: Any, root: Path, finds: Path | None) -> int:
    """Run cases in a child, and note what it reports; return how many are done, the one that killed it included."""
    current = _Current()
    ours, theirs = os.pipe()

    def work() -> None:
        os.close(ours)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C talk
        with os.fdopen(theirs, "w") as out:
            sandbox = Sandbox(root)
            sandbox.enter()
            guard = Guard(sandbox, target.limits)

            def act(number: int, case: bytes) -> None:
                current.put(number + 1, case)
                outcome = guard.run(lambda: target.run(case, sandbox.place))
                line = _judged(target, outcome) | {"hash": blake2b(case, digest_size=8).hexdigest()}
                if line["finds"]:
                    line["case"] = _keep(finds, target, case, line["finds"])
                out.write(json.dumps(line) + "\n")

            if isinstance(cases, _Written):
                cases.each(act)
            else:
                for place, (_, case) in enumerate(cases):
                    act(place, case)

    with in_child(work) as pid:
        os.close(theirs)
        lines = _lines(ours, pid, current, target.limits.wall_s * 2)
        os.close(ours)
        _, status = os.waitpid(pid, 0)
    for line in lines:
        _note(report, line)
    if status:
        told = f"the process died of {_death(status)}"
        _note(
            report,
            {
                "error": "death",
                "cpu_s": 0,
                "memory_mb": 0,
                "finds": [told],
                "case": _keep(finds, target, current.case, [told]),
            },
        )
        return current.number
    return len(lines)


def _lines(pipe: int, pid: int, current: _Current, patience_s: float) -> list[dict[str, Any]]:
    """What the child reports; it is killed if it stays at one case for too long."""
    received, at, since = bytearray(), -1, time.monotonic()
    while True:
        readable, _, _ = select.select([pipe], [], [], 1.0)
        if readable:
            piece = os.read(pipe, 1 << 16)
            if not piece:
                break
            received += piece
        if current.number != at:
            at, since = current.number, time.monotonic()
        elif time.monotonic() - since > patience_s:
            os.kill(pid, signal.SIGKILL)
    return [json.loads(line) for line in received.split(b"\n")[:-1]]


def _judged(target: Target, outcome: Outcome) -> dict[str, Any]:
    """What is told of a case."""
    error = outcome.error
    finds = list(outcome.complaints)
    if error is not None and not isinstance(error, target.allowed):
        place = "".join(traceback.format_exception(error)[-4:])
        finds.append(f"{type(error).__name__} came out: {str(error)[:300]}\n{place[-1200:]}")
    return {
        "error": None if error is None else type(error).__name__,
        "cpu_s": outcome.cpu_s,
        "memory_mb": outcome.memory_mb,
        "finds": finds,
        "case": target.name,
    }


def _note(report: Report, line: dict[str, Any]) -> None:
    report.cases += 1
    if line["error"] is None:
        report.accepted += 1
    else:
        report.refused[line["error"]] = report.refused.get(line["error"], 0) + 1
    report.digest = blake2b(
        f"{report.digest} {line.get('hash')} {line['error']}".encode(), digest_size=8
    ).hexdigest()
    report.slowest_s = max(report.slowest_s, line["cpu_s"])
    report.memory_mb = max(report.memory_mb, line["memory_mb"])
    if line["finds"]:
        what = "; ".join(line["finds"])
        alike = [find for find in report.finds if _where(find["what"]) == _where(what)]
        if alike:
            alike[0]["times"] += 1
        else:
            report.finds.append({"case": line["case"], "what": what, "times": 1})


def _where(what: str) -> str:
    """What is alike of finds of one cause: the kind of error, and the lines of code."""
    return what.split(":", 1)[0] + "".join(re.findall(r'File ".*", line \d+', what)[-2:])


def _keep(finds: Path | None, target: Target, case: bytes, what: Sequence[str]) -> str:
    """Write a case that was found to do harm to a file; return its name."""
    name = f"{target.name}-{blake2b(case, digest_size=5).hexdigest()}"
    if finds is not None:
        finds.mkdir(parents=True, exist_ok=True)
        (finds / f"{name}.case").write_bytes(case)
        (finds / f"{name}.txt").write_text("\n".join(what) + "\n")
    return name


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.WEXITSTATUS(status)}"
