"""The README's code blocks, run one after the other in one namespace, as its reader would."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import pytest

from augstream.testing import make_shards

README = Path(__file__).resolve().parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert README.read_text().count("\n") <= 150


# webdataset leaves closing its shards to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.processes
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_shards(tmp_path / "shards", num_samples=80, num_shards=4)
    names: dict[str, object] = {}
    blocks = python_blocks()
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)  # noqa: S102  # it is our own README
    checkpoint = names["checkpoint"]
    assert len(json.dumps(checkpoint)) < 1000
    loader = names["loader"]
    assert getattr(loader, "epoch") == 2  # noqa: B009  # the namespace is untyped
    assert len(list(names["stock"])) == 5  # type: ignore[call-overload]  # the same
    [(image, label), *_] = list(names["pipeline"])  # type: ignore[call-overload]  # the same
    assert image.shape == (3, 224, 224)
    assert isinstance(label, int)
    getattr(loader, "close")()  # noqa: B009  # the same
    names.clear()
    gc.collect()
