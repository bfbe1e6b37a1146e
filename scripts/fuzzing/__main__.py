"""`scripts/fuzz`: break everything that reads bytes from outside, a hundred thousand times, and see what becomes of it.

Cases depend on the seed alone. Each runs in a child process under guard (see `guard`): its errors, processor time,
memory, files, processes, sockets and code are judged. What is found is written to a file, which `--replay` runs again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from campaign import Report, replay, run
from targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument(
        "--cases", type=int, default=120_000, help="how many, over all targets (default 120000)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--finds", type=Path, default=Path("fuzz-finds"), help="where what is found is written"
    )
    parser.add_argument("--json", type=Path, help="write the table as JSON as well")
    parser.add_argument(
        "--replay", type=Path, nargs="+", metavar="CASE", help="run these cases, TARGET-*.case, instead"
    )
    parser.add_argument(
        "--canaries", action="store_true", help="run targets that misbehave, to see that the guard sees it"
    )
    arguments = parser.parse_args()
    known = dict(TARGETS)
    if arguments.canaries:
        from canaries import CANARIES

        known = dict(CANARIES)
    unknown = set(arguments.targets) - set(known)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [known[name] for name in arguments.targets or known]
    with TemporaryDirectory(prefix="augstream-fuzz-") as root:
        if arguments.replay:
            reports = replay(known, arguments.replay, Path(root))
        else:
            total = sum(target.share for target in chosen)
            counts = {target.name: max(1, -(-arguments.cases * target.share // total)) for target in chosen}
            reports = [
                run(target, counts[target.name], arguments.seed, Path(root), arguments.finds.resolve())
                for target in chosen
            ]
    show(reports)
    if arguments.json:
        arguments.json.write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")
    return 1 if any(report.finds for report in reports) else 0


def show(reports: list[Report]) -> None:
    """Print what became of all cases, and every find."""
    print(f"\n{'target':<16}{'cases':>8}{'accepted':>10}{'slowest':>11}{'memory':>9}{'finds':>7}  refused")
    for report in reports:
        refused = ", ".join(
            f"{name} {count}" for name, count in sorted(report.refused.items(), key=lambda item: -item[1])
        )
        slowest, memory = f"{report.slowest_s * 1e3:.0f} ms", f"{report.memory_mb:.0f} MB"
        counts = f"{report.cases:>8}{report.accepted:>10}{slowest:>11}{memory:>9}{len(report.finds):>7}"
        print(f"{report.target:<16}{counts}  {refused}")
    cases, accepted = (sum(getattr(report, name) for report in reports) for name in ("cases", "accepted"))
    print(f"{'all':<16}{cases:>8}{accepted:>10}")
    for report in reports:
        for find in report.finds:
            print(f"\n{find['case']} ({find['times']} times)\n  {find['what']}")


if __name__ == "__main__":
    sys.exit(main())
