"""Inside webdataset: a stage and a source for its pipelines, and a check of what in them is left to chance.

`augment` is a stage that seeds augmentations by address; `batched` one that gathers batches without looking ahead.
`check` looks at a pipeline's stages and says what cannot be repeated.
"""

from __future__ import annotations

from .batches import Batched, batched
from .check import Report, check
from .stage import Augment, augment
from .traits import Finding

__all__ = ["Augment", "Batched", "Finding", "Report", "augment", "batched", "check"]
