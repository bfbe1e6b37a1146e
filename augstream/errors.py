"""The errors augstream raises, as a tree.

    AugstreamError
    ├── RecipeError (also a ValueError): an argument that no run could honour
    ├── TopologyError (also a ValueError): rank, world size or workers that contradict each other
    ├── IndexFileError: an index or manifest that is broken or does not fit its shards
    ├── ShardError: a shard that is missing, broken, or was changed after indexing
    ├── SampleError: one sample could not be decoded, augmented or collated
    ├── LeakError: a transform draws from a global generator, where `strict` forbids it
    ├── StateError: a saved state that cannot be continued from
    ├── LedgerError: a ledger that is broken, or that this run does not repeat
    └── WorkerError: a worker process that was lost for good

    UserWarning
    └── TransformChangedWarning: a state is continued with other transforms than it was saved with

A message says what was wrong, the value, what is allowed, and the call that mends it. Every error pickles,
with its fields and notes, because it may have to cross from a worker process to the trainer.
"""

from __future__ import annotations

import errno

TOO_MANY_FILES = (
    "this process has as many files open as it may; raise the limit (ulimit -n), or use fewer workers or a smaller "
    "prefetch_factor"
)


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
    """One sample could not be read, decoded, augmented or collated.

    `shard` is the shard's name, `key` the sample's ``__key__``, `address` the text form of where its
    randomness lives (what ``augstream replay`` takes); each is None where it is not known.

    >>> SampleError("image is empty", shard="train-000001.tar", key="n01/0007", epoch=3).key
    'n01/0007'
    """

    def __init__(
        self,
        *args: object,
        shard: str | None = None,
        key: str | None = None,
        epoch: int | None = None,
        address: str | None = None,
    ) -> None:
        super().__init__(*args)
        self.shard = shard
        self.key = key
        self.epoch = epoch
        self.address = address


class LeakError(AugstreamError):
    """A transform drew from a global generator, where that is forbidden by ``strict=True``; never skipped."""


class StateError(AugstreamError):
    """A saved state is broken, or belongs to another dataset, recipe or version."""


class LedgerError(AugstreamError):
    """A ledger is broken, or says of a batch something else than what was made of it now."""


class WorkerError(AugstreamError):
    """A worker process was lost and could not be replaced."""


def is_of_too_many_files(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, is the system's refusal to open more files."""
    found = error if isinstance(error, OSError) else error.__cause__
    return isinstance(found, OSError) and found.errno in {errno.EMFILE, errno.ENFILE}


class TransformChangedWarning(UserWarning):
    """A state is continued with other transforms than it was saved with: same order, other pixels."""
