"""What all tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import phases
import pytest
from hypothesis import HealthCheck, settings

# albumentations 2.0.8, the oracle of some tests, must not look for its updates on the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# Machines are shared and slow at times; a test that hangs is told by pytest's own timeout.
settings.register_profile("augstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("augstream"), max_examples=25)
settings.load_profile("augstream")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--phase", choices=phases.PHASES, help="run only the tests of one phase: see tests/phases.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("phase") == "quick":
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    phase = config.getoption("phase")
    return None if phase is None or phases.may_hold(phase, collection_path) else True


@pytest.hookimpl(trylast=True)  # when hypothesis has marked what is its own
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    phase = config.getoption("phase")
    if phase is not None:
        found = [phases.phases_of(item.path, {mark.name for mark in item.iter_markers()}) for item in items]
        others = [item for item, its in zip(items, found, strict=True) if phase not in its]
        items[:] = [item for item, its in zip(items, found, strict=True) if phase in its]
        config.hook.pytest_deselected(items=others)


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end: the garbage collector need not look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four shards of 37 small photographs-to-be, indexed."""
    from augstream.indexing import build_index
    from augstream.testing import make_shards

    paths = make_shards(tmp_path_factory.mktemp("shards"), num_samples=37, num_shards=4)
    build_index(paths, beside=True)
    return paths
