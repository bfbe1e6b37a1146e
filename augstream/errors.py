"""The errors augstream raises, as a tree.

    AugstreamError
    ├── RecipeError (also a ValueError): an argument that no run could honour
    ├── TopologyError (also a ValueError): rank, world size or workers that contradict each other
    ├── IndexFileError: an index or manifest that is broken or does not fit its shards
    ├── ShardError: a shard that is missing, broken, or was changed after indexing
    ├── SampleError: one sample could not be decoded, augmented or collated
    ├── StateError: a saved state that cannot be continued from
    └── WorkerError: a worker process that was lost for good

A message says what was wrong, the value, what is allowed, and the call that mends it.
"""

from __future__ import annotations


class AugstreamError(Exception):
    """The root of every error that augstream raises on purpose."""


class RecipeError(AugstreamError, ValueError):
    """An argument that no run could honour."""


class TopologyError(AugstreamError, ValueError):
    """Rank, world size or number of workers contradict each other, or the environment."""


class IndexFileError(AugstreamError):
    """An index or manifest is broken, or does not fit the shards that it speaks of."""


class ShardError(AugstreamError):
    """A shard is missing, broken, or was changed after it was indexed."""


class SampleError(AugstreamError):
    """One sample could not be read, decoded, augmented or collated."""


class StateError(AugstreamError):
    """A saved state is broken, or belongs to another dataset, recipe or version."""


class WorkerError(AugstreamError):
    """A worker process was lost and could not be replaced."""
