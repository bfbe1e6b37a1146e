"""Inside webdataset: a stage and a source for its pipelines, and a check of what in them is left to chance.

`augment` is a stage that seeds augmentations by address. `WebDataset` takes the place of webdataset's own and gives its
samples in augstream's order, `shards_and_samples` does so for a ``wds.DataPipeline``; `batched` gathers batches without
looking ahead. `check` looks at any pipeline's stages and says what cannot be repeated; `resumable` resumes one that can
be, by reading again, where shards can only be streamed.
"""

from __future__ import annotations

from .batches import Batched, CollationError, batched
from .check import Report, check
from .resuming import Resumable, resumable
from .shards import MissingShardError
from .source import WebDataset, shards_and_samples
from .stage import Augment, augment
from .traits import Finding

__all__ = [
    "Augment", "Batched", "CollationError", "Finding", "MissingShardError", "Report", "Resumable", "WebDataset",
    "augment", "batched", "check", "resumable", "shards_and_samples",
]  # fmt: skip
