"""Inside webdataset: a stage and a source for its pipelines, and a check of what in them is left to chance.

`augment` is a stage that seeds augmentations by address. `check` looks at a pipeline's stages and says what cannot be
repeated.
"""

from __future__ import annotations

from .stage import Augment, augment

__all__ = ["Augment", "augment"]
