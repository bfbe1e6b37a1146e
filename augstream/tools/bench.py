"""The command `bench`: where a stream's time goes on the user's own data, and what to change next."""

from __future__ import annotations

import argparse
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..cli import add_command, add_shards, check_outputs, say
from ..errors import RecipeError
from ..images.encoded import DecodeMode
from .commands import add_stream_arguments, make_dataset, numbers_of_workers
from .profiling import Crew, Frame, Profile, crew, profile

_BAR = 30
_MUCH_WAITING = 0.7
_ROW_PX, _WIDTH_PX = 24, 1200


def register_bench(subparsers: Any) -> None:
    """Add the command `bench`."""
    parser = add_command(subparsers, "bench")
    add_shards(parser)
    add_stream_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="samples in a batch (default 64)")
    parser.add_argument("--workers", default="0,2", help="numbers of workers to try (default 0,2)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long each measurement runs (default 5)"
    )
    parser.add_argument("--picture", type=Path, metavar="SVG", help="draw where the time goes")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.set_defaults(run=_run_bench)


def _run_bench(parsed: argparse.Namespace) -> int:
    crews = numbers_of_workers(parsed.workers)
    if not parsed.seconds > 0:
        msg = f"--seconds must be greater than 0, got {parsed.seconds:g}"
        raise RecipeError(msg)
    check_outputs(parsed.picture, parsed.json)
    mode: DecodeMode = parsed.decode
    dataset = make_dataset(parsed, batch_size=parsed.batch_size)
    found = profile(dataset, min_s=parsed.seconds)
    say(*profile_lines(found))
    tried = [crew(dataset, number, min_s=parsed.seconds) for number in crews]
    say(*crew_lines(found, tried))
    for number, line in enumerate(advice(found, tried, mode)):
        say(f"{'next:' if number == 0 else 'then:'} {line}")
    if parsed.picture is not None:
        parsed.picture.write_text(flames(found.tree), encoding="utf-8")
        say(f"wrote {parsed.picture}")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(figures(found, tried), indent=1) + "\n", encoding="utf-8")
        say(f"wrote {parsed.json}")
    return 0


def profile_lines(found: Profile) -> Iterator[str]:
    """A profile as a table: microseconds a sample, share, and a bar for each step."""
    per_s = found.samples / found.seconds
    share = found.share_of_naked
    against = "" if share is None else f", {share:.2f} of what cv2.imdecode alone reaches here"
    yield f"one process: {per_s:,.0f} samples a second{against} ({found.samples} samples in {found.seconds:.1f} s)"
    yield ""
    yield f"{'step':<44} {'us a sample':>11} {'share':>6}"
    for depth, frame in found.tree.walk():
        if depth == 0:
            continue
        part = frame.ns / found.tree.ns
        us = frame.ns / found.samples / 1000
        yield f"{'  ' * (depth - 1) + frame.name:<44.44} {us:>11.1f} {part:>6.1%} {'#' * round(part * _BAR)}"
    rest = found.tree.own_ns
    part, us = rest / found.tree.ns, rest / found.samples / 1000
    yield f"{'order, keys, the rest':<44} {us:>11.1f} {part:>6.1%} {'#' * round(part * _BAR)}"
    yield ""


def crew_lines(found: Profile, tried: list[Crew]) -> Iterator[str]:
    """Loaders with workers as a table."""
    if tried:
        yield (
            f"{'workers':>7} {'samples/s':>10} {'times one':>10} {'CPU us':>8} {'transfer us':>12} "
            f"{'consumer waits us':>18} {'workers wait':>13}   (us: a sample)"
        )
        for one in tried:
            times = one.samples_per_s * found.seconds / found.samples
            yield (
                f"{one.num_workers:>7} {one.samples_per_s:>10,.0f} {times:>10.2f} {one.cpu_s * 1e6:>8,.0f} "
                f"{one.transfer_s * 1e6:>12.1f} {one.wait_s * 1e6:>18,.0f} {one.idle:>13.0%}"
            )
        yield ""


def advice(found: Profile, tried: list[Crew], mode: DecodeMode) -> list[str]:
    """What is worth changing, the most promising first."""
    shares = _shares(found.tree)
    said: list[tuple[float, str]] = []
    if found.before is not None and found.after is not None:
        factor = (found.before[0] * found.before[1] / (found.after[0] * found.after[1])) ** 0.5
        if factor > 3 and shares["decode"] > 0.4:
            text = (
                f"images are {factor:.1f} times as large as what is trained on, each way: store them at twice the "
                f"size that is needed"
                + ("" if mode == "scaled" else ', or pass decode="scaled" (other pixels)')
            )
            said.append((shares["decode"] * (1 - 4 / factor**2), text))
    if mode == "full" and shares["decode"] > 0.3:
        said.append(
            (0.15 * shares["decode"], 'pass decode="region": the same pixels, where a crop comes first')
        )
    if shares["read"] > 0.2:
        text = f"reading takes {shares['read']:.0%}: put the shards on a faster disk, or shuffle in smaller windows"
        said.append((shares["read"] - 0.05, text))
    for name, share in shares.items():
        if name not in {"read", "decode", "collate"} and share > 0.2:
            said.append((share / 2, f"{name!r} takes {share:.0%}: is it worth that, at that probability?"))
    said += _crew_advice(tried)
    said.sort(key=lambda pair: -pair[0])
    return [text for _, text in said] or ["nothing stands out: decoding is the floor, and this is near it"]


def _crew_advice(tried: list[Crew]) -> Iterator[tuple[float, str]]:
    """What numbers of workers suggest, each with what it promises."""
    cores = len(os.sched_getaffinity(0))
    best = max(tried, key=lambda one: one.samples_per_s, default=None)
    most = max((one.num_workers for one in tried), default=cores)
    if best is not None and best.num_workers and best.idle > _MUCH_WAITING:
        yield (
            0.5,
            f"pass larger batches: {best.num_workers} workers spend {best.idle:.0%} of their time waiting",
        )
    elif most < cores:
        yield 1 - max(most, 1) / cores, f"use more workers: there are {cores} cores"
    elif best is not None and best.num_workers < most:
        yield 0.5, f"use {best.num_workers} workers: {most} were no faster here, now"
    if best is not None and best.num_workers and best.wait_s * best.samples_per_s < 0.1:
        yield 1.0, "nothing: batches are ready before they are asked for"


def _shares(tree: Frame) -> dict[str, float]:
    """The share of read, decode (wherever it happens), collate, and of each transform's own time."""
    shares = {"read": 0.0, "decode": 0.0, "collate": 0.0}
    for depth, frame in tree.walk():
        if depth and frame.name != "augment":
            shares[frame.name] = shares.get(frame.name, 0.0) + frame.own_ns / tree.ns
    return shares


def flames(tree: Frame) -> str:
    """The tree as an SVG picture: every step a bar, as wide as its share of the time, below the step it is in."""
    depth = max(level for level, _ in tree.walk())
    body = "".join(_bars(tree, 0, 0.0, tree.ns))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {(depth + 1) * _ROW_PX}" '
        f'font-family="sans-serif" font-size="12">{body}</svg>\n'
    )


def _bars(frame: Frame, level: int, left: float, whole_ns: int) -> Iterator[str]:
    width = frame.ns / whole_ns * _WIDTH_PX
    name = f"{html.escape(frame.name)} {frame.ns / whole_ns:.1%}"
    shown = name if len(name) * 7 < width else ""
    hue = 20 + _hue(frame.name)
    yield (
        f'<g><title>{name}</title><rect x="{left:.1f}" y="{level * _ROW_PX}" width="{max(width - 1, 0.5):.1f}" '
        f'height="{_ROW_PX - 1}" fill="hsl({hue} 75% 70%)"/><text x="{left + 4:.1f}" y="{level * _ROW_PX + 16}">{shown}'
        "</text></g>"
    )
    for inner in frame.inside.values():
        yield from _bars(inner, level + 1, left, whole_ns)
        left += inner.ns / whole_ns * _WIDTH_PX


def _hue(name: str) -> int:
    """A colour for a name, always the same."""
    return sum(name.encode()) * 37 % 40


def figures(found: Profile, tried: list[Crew]) -> dict[str, Any]:
    """All that was measured, as JSON-able data."""
    return {
        "samples_per_s": found.samples / found.seconds,
        "cpu_s_a_sample": found.cpu_s / found.samples,
        "share_of_naked_decode": found.share_of_naked,
        "steps": [
            {
                "depth": depth,
                "step": frame.name,
                "us_a_sample": frame.ns / found.samples / 1000,
                "calls": frame.calls,
            }
            for depth, frame in found.tree.walk()
        ],
        "workers": [
            {
                "workers": one.num_workers,
                "samples_per_s": one.samples_per_s,
                "wait_s": one.wait_s,
                "cpu_s": one.cpu_s,
                "transfer_s": one.transfer_s,
                "idle": one.idle,
            }
            for one in tried
        ],
    }
