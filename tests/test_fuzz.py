"""Broken and hostile input: some thousand cases of `scripts/fuzz`, all that it ever found, and what its guard sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CASES = Path(__file__).parent / "fuzz_cases"

pytestmark = pytest.mark.processes


def fuzz(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run `scripts/fuzz` as it runs itself; its exit status, and the rows of its table by target."""
    told = tmp_path / "fuzz.json"
    command = [
        sys.executable,
        ROOT / "scripts" / "fuzzing",
        "--finds",
        tmp_path / "finds",
        "--json",
        told,
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, {row["target"]: row for row in json.loads(told.read_text())}


def test_thousands_of_broken_inputs_are_read_or_refused(tmp_path: Path) -> None:
    status, rows = fuzz(tmp_path, "--cases", "3000", "--seed", "7")
    assert [find for row in rows.values() for find in row["finds"]] == []
    assert status == 0
    assert sum(row["cases"] for row in rows.values()) >= 3000
    assert all(row["accepted"] and (row["refused"] or row["target"] == "header") for row in rows.values())


def test_what_was_ever_found_stays_mended(tmp_path: Path) -> None:
    status, rows = fuzz(tmp_path, "--replay", str(CASES))
    assert [find for row in rows.values() for find in row["finds"]] == []
    assert status == 0
    assert sum(row["cases"] for row in rows.values()) == len(list(CASES.iterdir()))


def test_the_guard_sees_every_kind_of_harm(tmp_path: Path) -> None:
    status, rows = fuzz(tmp_path, "--canaries", "--cases", "1")
    assert status == 1
    assert [name for name, row in rows.items() if len(row["finds"]) != 1] == []
    assert len(list((tmp_path / "finds").glob("*.case"))) == len(rows) > 15


def test_cases_follow_from_the_seed(tmp_path: Path) -> None:
    few = ("tar", "state", "png", "--cases", "200")
    first, again, other = (fuzz(tmp_path, *few, "--seed", seed)[1] for seed in ("3", "3", "4"))
    assert {name: row["digest"] for name, row in first.items()} == {
        name: row["digest"] for name, row in again.items()
    }
    assert all(first[name]["digest"] != other[name]["digest"] for name in first)
