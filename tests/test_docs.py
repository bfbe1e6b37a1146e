"""Every Python block of the documentation runs, page by page, each in a folder of its own."""

from __future__ import annotations

import gc
import posixpath
import re
import subprocess
import sys
from inspect import isclass, isfunction
from pathlib import Path

import gallery
import pytest
from clients import client
from sphinx.util.inventory import InventoryFile

import augstream as A
from augstream.cli import COMMANDS
from augstream.transforms.serialization import registered_classes

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "```python" in path.read_text())


# webdataset leaves closing its shards to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it all the same
@pytest.mark.processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "from torchvision" in page.read_text():
        client("torchvision.transforms.v2")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102  # it is our own page
    names.clear()
    gc.collect()


def test_there_are_pages_to_run() -> None:
    assert {
        "tutorial",
        "from-albumentations",
        "from-torchvision",
        "from-webdataset",
        "debug",
        "choose",
        "compare-runs",
        "fields",
        "failures",
        "remote",
        "other-transforms",
    } <= {page.stem for page in PAGES}


def test_what_differs_from_albumentations_is_what_the_oracle_excepts() -> None:
    import test_oracle_geometry
    import test_oracle_pixels

    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", (DOCS / "differences.md").read_text(), flags=re.MULTILINE)
    geometry, pixels = test_oracle_geometry.EXCEPTIONS, test_oracle_pixels.EXCEPTIONS
    assert dict(rows[1:]) == {**geometry, **pixels}


def test_what_is_not_here_of_albumentations_is_listed() -> None:
    import albumentations as oracle

    theirs = {
        name
        for name, cls in vars(oracle).items()
        if isclass(cls) and issubclass(cls, (oracle.BasicTransform, oracle.BaseCompose))
    } - {"BaseCompose", "BasicTransform", "DualTransform", "ImageOnlyTransform", "NoOp"}
    page = (DOCS / "how-to" / "from-albumentations.md").read_text()
    listed = page.partition("**Not here**")[2].split("\n\n")[1]
    assert set(re.findall(r"`(\w+)`", listed)) == theirs - set(A.__all__)
    assert f"{len(theirs & set(A.__all__))} of {len(theirs)}," in " ".join(page.split())


def test_the_gallery_shows_every_transform() -> None:
    shown = {name for family in gallery.FAMILIES.values() for name in family}
    transforms = {
        name
        for name, cls in registered_classes().items()
        if name in A.__all__ and issubclass(cls, (A.BasicTransform,))
    }
    assert transforms - shown == {"Lambda", "NoOp"}


@pytest.mark.processes
@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(DOCS),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "objects.inv").open("rb") as file:
        described = {name for kind in InventoryFile.load(file, "", posixpath.join).values() for name in kind}
    commands = (tmp_path / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert all(f"usage: augstream {name} " in commands for name in COMMANDS)
    streams = (tmp_path / "reference" / "streams.html").read_text(encoding="utf-8")
    assert all(f"<strong>{name}</strong>" in streams for name in ("on_error", "max_pixels", "num_workers"))
    public = {f"augstream.{room}.{name}" for room, names in A._ROOMS.items() for name in names}
    public |= {f"augstream.wds.{name}" for name in A.wds.__all__}
    public |= {
        f"augstream.testing.{name}"
        for name, thing in vars(A.testing).items()
        if isfunction(thing) and thing.__module__ == "augstream.testing" and not name.startswith("_")
    }
    assert public - described == set()
    assert len(list((tmp_path / "_images").glob("*.png"))) == len(list((DOCS / "gallery").glob("*.png")))
