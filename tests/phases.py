"""The three phases of the tests: quick, rest, processes. ``scripts/test`` runs them one after another.

Quick is what tells of a mistake in seconds: the tests of floors 0 to 3 (see test_architecture.py), which start no
process and are no sweeps over thousands of examples. A file of tests that is not named here is of the rest.
"""

from __future__ import annotations

from pathlib import Path

PHASES = ("quick", "rest", "processes")
QUICK = {
    "floor 0": "errors seeding",
    "floor 1": "index layout mixing order plan state stateful",
    "floor 2": "decode digest encoded headers indexing manifests regions remote shards tarscan",
    "floor 3": """
        bboxes canvas catalogue collate composition fusion geometry keypoints pixel_arguments pixel_functions recipes
        replay serialization
    """,
}
FILES = {f"test_{name}.py" for names in QUICK.values() for name in names.split()}


def may_hold(phase: str, path: Path) -> bool:
    """Whether a phase has tests in a file; so files of other phases, and what they import, need not be read."""
    return path.is_dir() or phase != "quick" or path.name in FILES


def phases_of(path: Path, markers: set[str]) -> set[str]:
    """The phases that run a test, by its file and its markers.

    What hypothesis tries out is tried with a few examples in the quick phase, and with all of them in the rest.
    """
    if "processes" in markers:
        return {"processes"}
    if path.name not in FILES or "sweep" in markers:
        return {"rest"}
    return {"quick", "rest"} if "hypothesis" in markers else {"quick"}
