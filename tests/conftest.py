"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# albumentations 2.0.8, the oracle of some tests, must not look for its updates on the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# Machines are shared and slow at times; a test that hangs is told by pytest's own timeout.
settings.register_profile("augstream", deadline=None)
settings.load_profile("augstream")
