"""Every example runs as its first lines say, in seconds, on the CPU; each checks for itself what it shows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torchrun

pytestmark = [pytest.mark.processes, pytest.mark.slow]

GALLERY = torchrun.EXAMPLES.parent / "scripts" / "gallery.py"
EXAMPLES = sorted(path.stem for path in torchrun.EXAMPLES.glob("*.py"))
NEEDS = {"lightning_resume": "lightning"}
WITHOUT_ARGUMENTS = {"map_style", "remote_shards"}
ELSEWHERE = {
    "photo_shards",
    "train_ddp",
}  # what the others use; and what has tests of its own
SAID = {
    "webdataset_stage": "0 and 2 workers gave the same pictures",
    "stock_dataloader": "the 3 others came, and no more",
    "map_style": "the same pictures on 0 and on 2 workers",
    "train_resume": "equal those of the uninterrupted one, bit by bit",
    "lightning_resume": "as the uninterrupted run, each sample once",
    "segmentation": "look at",
    "remote_shards": "the same bytes as from the local disk",
}


def test_every_example_is_known() -> None:
    assert set(SAID) | ELSEWHERE == set(EXAMPLES)


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs_and_says_what_it_found(name: str, tmp_path: Path) -> None:
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    picture = tmp_path / "sheet.png"
    arguments = [str(picture)] if name == "segmentation" else []
    done = subprocess.run(
        [sys.executable, str(torchrun.EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True, text=True, timeout=300, check=False, env=torchrun.environment(), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAID[name] in done.stdout
    assert picture.exists() == bool(arguments)
    left = [path.name for path in tmp_path.iterdir() if path != picture]
    assert left == []


@pytest.mark.parametrize(
    "script",
    [*[torchrun.EXAMPLES / f"{name}.py" for name in EXAMPLES if name not in WITHOUT_ARGUMENTS], GALLERY],
    ids=lambda path: path.stem,
)
def test_asking_for_help_gets_help_and_no_file_of_that_name(script: Path, tmp_path: Path) -> None:
    needed = NEEDS.get(script.stem)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        capture_output=True, text=True, timeout=60, check=False, env=torchrun.environment(), cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script.name} [-h]")
    assert list(tmp_path.iterdir()) == []
