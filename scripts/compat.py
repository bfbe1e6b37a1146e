"""`scripts/compat`: the golden tests under other releases of what augstream stands on, and what pixels depend on.

An environment changes one set of dependencies at a time: all at the lower bounds of pyproject.toml ("oldest"), all as
new as pip finds them ("newest"), or as pinned in scripts/constraints.txt ("pinned"). torch is the exception: most of
its releases come with gigabytes of GPU libraries, so another than `TORCH` is taken only if it is named, or if an
interpreter has one already: Debian 13's python3-torch is 2.6.0 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DEPENDENCIES = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "webdataset",
    "tqdm",
    "fsspec",
    "xxhash",
)
TESTING = ("aiohttp", "albumentations==2.0.8", "hypothesis", "pytest", "pyyaml", "scipy")
TORCH = "2.13.0"

# Tests with golden values of order, seeds, draws, states, saved pipelines and pixels.
GOLDEN = [
    f"tests/test_{name}.py"
    for name in (
        "seeding", "order", "mixing", "index", "state", "compose_seeds", "serialization", "pixel_functions", "golden",
        "marks",
    )
]  # fmt: skip
# What needs more than the dependencies: the oracle, other trainers, the documentation's tools.
ELSEWHERE = (
    "accelerate", "architecture", "docs", "examples", "lightning", "oracle_geometry", "oracle_pixels", "torchdata",
)  # fmt: skip

_CPU = "AVX512-SKX,AVX512-ICL,AVX512-COMMON,AVX512F,AVX2,FMA3,FP16,AVX,SSE4.2,SSE4.1,POPCNT,SSSE3"
_NUMPY = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
# How the newest environment is run otherwise: a column's head, variables for the process, and an argument.
VARIANTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "no AVX, SSE4": ({"OPENCV_CPU_DISABLE": _CPU}, []),
    "no IPP": ({"OPENCV_IPP": "disabled"}, []),
    "plain": ({}, ["--plain"]),
    "numpy, libc: no AVX": (
        {"NPY_DISABLE_CPU_FEATURES": _NUMPY, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F"},
        [],
    ),
}
BEGIN, END = "<!-- table: scripts/compat --pixels -->\n", "<!-- end of table -->\n"


def requirements(which: str, *, system: bool) -> list[str]:
    """What pip is to install besides torch, and besides what a system's torch came with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lower = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in project)  # type: ignore[union-attr]  # our own lines
    pins = dict(
        line.lower().split("==")
        for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    versions = {"oldest": lower, "newest": {}, "pinned": pins}[which]
    given = {"torch", "numpy", "pillow"} if system else {"torch"}
    packages = [name for name in DEPENDENCIES if name not in given]
    return [f"{name}=={versions[name]}" if name in versions else name for name in packages]


def environment(which: str, arguments: argparse.Namespace) -> Path:
    """The interpreter of an environment, made unless it is there."""
    folder = arguments.folder / which
    python = folder / "bin" / "python"
    wanted = requirements(which, system=arguments.system_torch)
    stamp, said = (
        folder / "stamp",
        json.dumps([wanted, arguments.torch, arguments.system_torch]),
    )
    if stamp.exists() and stamp.read_text() == said:
        return python
    more = ["--system-site-packages"] if arguments.system_torch else []
    subprocess.run([arguments.python, "-m", "venv", "--clear", *more, str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary"]
    if not arguments.system_torch:
        subprocess.run([*pip, f"torch=={arguments.torch}"], check=True)
    subprocess.run(
        [
            *pip,
            "-U",
            "--upgrade-strategy",
            "eager" if which == "newest" else "only-if-needed",
            *wanted,
            *TESTING,
        ],
        check=True,
    )
    stamp.write_text(said)
    return python


def process_environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1", **more}


def versions(python: Path) -> list[str]:
    """The releases that an environment has, by `DEPENDENCIES`."""
    code = f"from importlib import metadata as m; print(*map(m.version, {DEPENDENCIES!r}))"
    return subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()


def tested(python: Path, *, whole: bool) -> tuple[bool, str]:
    """Whether an environment passes the tests, and the last line that pytest printed."""
    left_out = [f"--ignore=tests/test_{name}.py" for name in ELSEWHERE]
    chosen = ["tests", "-m", "not slow", *left_out] if whole else GOLDEN
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(
        command, cwd=ROOT, env=process_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    lines = done.stdout.strip().splitlines() or ["pytest printed nothing"]
    return done.returncode == 0, lines[-1].strip("= ")


def pixels(python: Path, file: Path, more: dict[str, str], argument: list[str]) -> dict[str, np.ndarray]:
    """Every transform's pixels under an environment and a variant."""
    script = ROOT / "tests" / "golden_transforms.py"
    command = [str(python), str(script), str(file), *argument]
    subprocess.run(command, check=True, env=process_environment(**more), stderr=subprocess.DEVNULL)
    with np.load(file) as arrays:
        return dict(arrays)


def difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, str]:
    """By transform: the largest difference, in levels of 255 for uint8, and the share of values that differ."""
    found: dict[str, list[tuple[float, float]]] = {}
    for label, image in first.items():
        apart = np.abs(image.astype(np.float64) - second[label])
        found.setdefault(label.split("(")[0], []).append((float(apart.max()), float((apart > 0).mean())))
    cells = {}
    for name, pairs in found.items():
        largest, share = max(pair[0] for pair in pairs), sum(pair[1] for pair in pairs) / len(pairs)
        cells[name] = "=" if largest == 0 else f"{largest:.3g} ({share * 100:.2g} %)"
    return cells


def pixel_table(pythons: dict[str, Path], folder: Path) -> str:
    """The table of the documentation."""
    newest = pixels(pythons["newest"], folder / "newest.npz", {}, [])
    columns = {
        head: pixels(pythons["newest"], folder / "variant.npz", *how) for head, how in VARIANTS.items()
    }
    release = {
        which: versions(python)[DEPENDENCIES.index("opencv-python-headless")]
        for which, python in pythons.items()
    }
    columns[f"OpenCV {release['oldest']}"] = pixels(pythons["oldest"], folder / "oldest.npz", {}, [])
    cells = {head: difference(newest, other) for head, other in columns.items()}
    golden = json.loads((ROOT / "tests" / "golden" / "transforms_v1.json").read_text())
    pinned = {label.split("(")[0] for label, one in golden.items() if "pixels" in one}
    names = [*next(iter(cells.values()))]
    lines = ["| transform | golden | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in sorted(names, key=lambda name: (any(cells[head][name] != "=" for head in cells), name)):
        mark = "yes" if name in pinned else ""
        lines.append(f"| {name} | {mark} | " + " | ".join(cells[head][name] for head in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/compat", description=__doc__)
    parser.add_argument("sets", nargs="*", help="of oldest, newest, pinned; the first two if none is named")
    parser.add_argument(
        "--whole", action="store_true", help="all tests that need no other package, not the golden ones"
    )
    parser.add_argument(
        "--pixels", action="store_true", help="put the table of pixel differences into docs/pixels.md"
    )
    parser.add_argument("--torch", default=TORCH, help=f"another release than {TORCH}")
    parser.add_argument("--python", default=sys.executable, help="another interpreter")
    parser.add_argument(
        "--system-torch", action="store_true", help="the torch that this interpreter has already"
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".venv-compat", help="where the environments are kept"
    )
    arguments = parser.parse_args()
    sets = arguments.sets or ["oldest", "newest"]
    if unknown := set(sets) - {"oldest", "newest", "pinned"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are oldest, newest, pinned")
    if arguments.pixels and set(sets) < {"oldest", "newest"}:
        parser.error("--pixels compares oldest with newest; name no set")
    pythons = {which: environment(which, arguments) for which in sets}
    if arguments.pixels:
        page = ROOT / "docs" / "pixels.md"
        text = page.read_text()
        table = pixel_table(pythons, arguments.folder)
        page.write_text(
            text[: text.index(BEGIN) + len(BEGIN)] + "\n" + table + "\n" + text[text.index(END) :]
        )
        print(table)
        return
    passed = True
    print(
        "| set | " + " | ".join(DEPENDENCIES) + " | tests |\n" + "|---" * (len(DEPENDENCIES) + 2) + "|",
        flush=True,
    )
    for which, python in pythons.items():
        holds, line = tested(python, whole=arguments.whole)
        passed &= holds
        print(f"| {which} | " + " | ".join(versions(python)) + f" | {line} |", flush=True)
    if not passed:
        raise SystemExit("golden values differ, or a test fails: see above")


if __name__ == "__main__":
    main()
