"""Every Python block of the documentation runs, page by page, each in a folder of its own."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "```python" in path.read_text())


# webdataset leaves closing its shards to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it all the same
@pytest.mark.processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102  # it is our own page
    names.clear()
    gc.collect()


def test_there_are_pages_to_run() -> None:
    assert {"tutorial", "from-albumentations", "from-webdataset", "debug", "choose"} <= {
        page.stem for page in PAGES
    }


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
    assert "class" in (tmp_path / "reference.html").read_text()
    assert len(list((tmp_path / "_images").glob("*.png"))) == len(list((DOCS / "gallery").glob("*.png")))
