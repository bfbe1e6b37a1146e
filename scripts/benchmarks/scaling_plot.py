"""The scaling law in one picture: what `scaling` measured, panel by panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OURS, NAKED, CPU = "C0", "0.5", "C1"
STYLES = ("-", "--")
DECADES = [10.0**exponent for exponent in range(4, 11)]


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw all panels into one picture file."""
    import matplotlib.pyplot as plt

    with plt.rc_context({"axes.grid": True, "grid.alpha": 0.3, "lines.markersize": 4, "axes.titlesize": 11}):
        figure, axes = plt.subplots(2, 3, figsize=(15, 8.5), layout="constrained")
        streams = found["throughput"]
        by_side(axes[0, 0], streams["image side"])
        by_batch_size(axes[0, 1], streams["batch size"])
        by_workers(axes[0, 2], streams["workers"], found["cores"])
        time_by_samples(axes[1, 0], found["index"])
        memory_by_samples(axes[1, 1], found["index"])
        by_place(axes[1, 2], found["resume"])
        figure.suptitle(
            "augstream: what grows with what. Stream: RandomResizedCrop(224), flip, Normalize, planar float32; "
            "share of a naked cv2.imdecode loop at each point",
            fontsize=12,
        )
        figure.savefig(path, dpi=120)
        plt.close(figure)


def column(points: list[dict[str, float]], name: str) -> list[float]:
    return [point[name] for point in points]


def ticks(axis: Any, at: list[float]) -> None:
    """Say on an axis what was measured, and nothing else."""
    axis.set_xticks(at, [f"{value:g}" for value in at])
    axis.set_xticks([], minor=True)


def by_side(axis: Any, points: list[dict[str, float]]) -> None:
    axis.set(xscale="log", yscale="log", xlabel="image width on disk, pixels", ylabel="images / s")
    axis.set_title("Throughput, by image size")
    at = column(points, "at")
    axis.plot(at, column(points, "naked_rate"), "s--", color=NAKED, label="naked decode loop, one thread")
    axis.plot(at, column(points, "rate"), "o-", color=OURS, label="augstream, no workers; its share of that")
    for point in points:
        above = point["share"] > 1
        axis.annotate(
            f"{point['share']:.2f}", (point["at"], point["rate"]), xytext=(0, 7 if above else -14),
            textcoords="offset points", ha="center", fontsize=8, color=OURS,
        )  # fmt: skip
    ticks(axis, at)
    axis.margins(x=0.1, y=0.15)
    axis.legend(loc="lower left")


def shares(axis: Any, points: list[dict[str, float]]) -> None:
    """By the clock and by CPU time, as shares of the naked decode."""
    at = column(points, "at")
    axis.axhline(1, color=NAKED, linestyle="--", label="naked decode loop, one thread")
    axis.plot(at, column(points, "share"), "o-", color=OURS, label="augstream, by the clock")
    axis.plot(
        at, column(points, "cpu_share"), "^:", color=CPU, label="augstream, by CPU time of all processes"
    )
    axis.set_ylabel("images / s, as a share of the naked decode")
    axis.set_ylim(0, 1.2 * max(*column(points, "share"), 1))
    ticks(axis, at)
    axis.legend(loc="lower right")


def by_batch_size(axis: Any, points: list[dict[str, float]]) -> None:
    axis.set(xscale="log", xlabel="batch size, images of 480 pixels", title="Throughput, by batch size: flat")
    shares(axis, points)


def by_workers(axis: Any, points: list[dict[str, float]], cores: int) -> None:
    axis.set(xlabel=f"workers (0: in the process itself), on {cores} cores")
    axis.set_title("Throughput, by workers: up to the cores; CPU time: flat")
    shares(axis, points)


def time_by_samples(axis: Any, curves: dict[str, list[dict[str, float]]]) -> None:
    axis.set(xscale="log", yscale="log", xlabel="samples", ylabel="s", xticks=DECADES)
    axis.set_title("Index and order, by number of samples: as the shards, not the samples")
    names = {
        "index_s": "index of the shards",
        "order_s": "order of an epoch",
        "batch_s": "a batch late in it",
    }
    for (kind, points), style in zip(curves.items(), STYLES, strict=True):
        for number, (name, label) in enumerate(names.items()):
            at, seconds = column(points, "at"), column(points, name)
            axis.plot(at, seconds, "o" + style, color=f"C{number}", label=f"{label}, {kind}")
    axis.set_ylim(None, 30 * axis.get_ylim()[1])
    axis.legend(loc="upper left", fontsize=8, handlelength=4)


def memory_by_samples(axis: Any, curves: dict[str, list[dict[str, float]]]) -> None:
    axis.set(xscale="log", yscale="log", xlabel="samples", ylabel="MB", xticks=DECADES)
    axis.set_title("Memory of all three at most, by number of samples")
    for (kind, points), style in zip(curves.items(), STYLES, strict=True):
        axis.plot(
            column(points, "at"),
            [size / 1e6 for size in column(points, "bytes")],
            "o" + style,
            color="C0",
            label=kind,
        )
    axis.legend(loc="upper left", handlelength=4)


def by_place(axis: Any, points: list[dict[str, Any]]) -> None:
    axis.set(
        xlabel="resumed at this share of the epoch", ylabel="s", title="Resuming, to the first batch: flat"
    )
    at, medians = [], []
    for point in points:
        seconds = sorted(point["seconds"])
        at.append(100 * point["at"])
        medians.append(seconds[len(seconds) // 2])
        axis.plot([at[-1]] * len(seconds), seconds, ".", color="0.6", label=None if at[1:] else "each start")
    axis.plot(at, medians, "o-", color=OURS, label="median, 2 workers, after the imports")
    axis.xaxis.set_major_formatter("{x:g} %")
    axis.set_ylim(0, 1.2 * max(seconds for point in points for seconds in point["seconds"]))
    axis.legend(loc="lower right")
