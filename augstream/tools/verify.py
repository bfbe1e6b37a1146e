"""The command `verify`: whether a stream keeps the promises on this machine, and if not, what is at fault."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_all_start_methods
from typing import TYPE_CHECKING, Any

from ..cli import add_command, add_shards, progress_bar, say
from ..errors import LeakError, RecipeError
from .commands import add_stream_arguments, make_dataset, numbers_of_workers
from .comparing import check_some
from .runs import Check, Runs
from .suspects import Finding, investigate

if TYPE_CHECKING:
    from ..dataset import BatchDataset


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: the checks, and the suspects that explain those that failed, or will fail elsewhere."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether everything that could be run gave the same bytes, and nothing suspicious was found."""
        return not self.findings and all(check.holds is not False for check in self.checks)

    def lines(self) -> Iterator[str]:
        """The verdict for people."""
        for check in self.checks:
            mark = {True: "same", False: "DIFFERS", None: "not run"}[check.holds]
            yield f"{mark:<8} {check.name}{f': {check.why}' if check.why else ''}"
        yield ""
        for finding in self.findings:
            yield from finding.lines()
        if self.holds:
            yield "holds: the same bytes every time"
        elif self.findings:
            yield f"does not hold: {len(self.findings)} found"
        else:
            yield "does not hold, and computing its samples one by one, step by step, does not show why"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-able data."""
        checks: list[dict[str, Any]] = []
        for check in self.checks:
            entry: dict[str, Any] = {"name": check.name, "holds": check.holds, "why": check.why}
            if check.place is not None:
                place = check.place
                entry |= {"epoch": place.epoch, "batch": place.batch, "shard": place.shard, "key": place.key}
                entry |= {"array": place.what.name, "changed": place.what.changed, "total": place.what.total}
                entry |= {"unit": place.what.unit, "most": place.what.most}
            checks.append(entry)
        return {
            "holds": self.holds,
            "checks": checks,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def verify(
    dataset: BatchDataset,
    *,
    num_epochs: int = 2,
    num_batches: int = 3,
    num_workers: Sequence[int] = (1, 2),
    methods: Sequence[str] = ("fork",),
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Run the first batches of the first epochs of `dataset` in many ways, compare them, and say what is at fault.

    The ways: again in this process, with other seeds in the global generators and other bytes in fresh memory; with
    each number of workers, started by each of `methods` (spawned ones with another hash seed), persistent or not,
    with more or fewer batches ahead; as threads, where the transform may; in a stock DataLoader; each epoch by itself;
    resumed in the middle; and with a worker killed. All are compared with one run in this process, whose batches are
    kept in memory meanwhile. Then at most 16 samples are computed step by step, while one thing after the other that
    they should not depend on is changed: see `tools.suspects`. Global generators are left as they were.

    Raises what the stream raises. Not found: what only another machine, or another release of a library, would change;
    what happens in none of the samples that are looked at.
    """
    check_some(num_epochs=num_epochs, num_batches=num_batches)
    known = get_all_start_methods()
    strange = [method for method in methods if method not in known]
    if strange:
        msg = f"methods must be some of {', '.join(known)}, got {strange[0]!r}"
        raise RecipeError(msg)
    runs = Runs(dataset, num_epochs, num_batches)
    checks: list[Check] = []
    try:
        runs.begin()
        ways = list(runs.ways(num_workers, methods))
    except LeakError as error:  # of a strict pipeline: no way to run it leads any further
        ways, checks = [], [Check("once, in this process", False, str(error).partition(";")[0])]
    for number, (name, num_left_out, way) in enumerate(ways):
        if progress is not None:
            progress(number, len(ways) + 1)
        checks.append(runs.check(name, num_left_out, way))
    findings: list[Finding] = []
    place = next((check.place for check in checks if check.place is not None), None)
    spawned = any(check.holds is False for check in checks if "spawn" in check.name)
    for tracer in runs.tracers(place):
        findings += investigate(tracer, spawned=spawned)
    return Verdict(tuple(checks), tuple(findings))


def register_verify(subparsers: Any) -> None:
    """Add the command `verify`."""
    parser = add_command(subparsers, "verify")
    add_shards(parser)
    add_stream_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="samples in a batch (default 8)")
    parser.add_argument("--batches", type=int, default=3, help="how many batches of each epoch (default 3)")
    parser.add_argument("--epochs", type=int, default=2, help="how many epochs (default 2)")
    parser.add_argument("--workers", default="1,2", help="numbers of workers to try (default 1,2)")
    parser.add_argument(
        "--methods",
        default="fork,spawn",
        help="how workers are started: fork, spawn, forkserver (default fork,spawn)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_verify)


def _run_verify(parsed: argparse.Namespace) -> int:
    methods = [part.strip() for part in parsed.methods.split(",") if part.strip()]
    dataset = make_dataset(parsed, batch_size=parsed.batch_size)
    with progress_bar("verifying", "way") as progress:
        verdict = verify(
            dataset,
            num_epochs=parsed.epochs,
            num_batches=parsed.batches,
            num_workers=numbers_of_workers(parsed.workers),
            methods=methods,
            progress=progress,
        )
    if parsed.json:
        say(json.dumps(verdict.to_dict(), indent=2))
    else:
        say(*verdict.lines())
    return 0 if verdict.holds else 1
