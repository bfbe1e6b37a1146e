"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# albumentations 2.0.8, the oracle of some tests, must not look for its updates on the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# Machines are shared and slow at times; a test that hangs is told by pytest's own timeout.
settings.register_profile("augstream", deadline=None)
settings.load_profile("augstream")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four shards of 37 small photographs-to-be, indexed."""
    from augstream.indexing import build_index
    from augstream.testing import make_shards

    paths = make_shards(tmp_path_factory.mktemp("shards"), num_samples=37, num_shards=4)
    build_index(paths, beside=True)
    return paths
