"""The augmentation stage of a stream: whatever the user augments with, as a function of (sample, key,
memory).

A stage is pure: its result follows from the sample and the sample's 16-byte key alone. Errors get their
context here, once: which sample, where its randomness lives, and the line that computes it alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy.typing as npt

from .collate import array_of, is_array
from .errors import AugstreamError, LeakError, SampleError
from .foreign import adapt
from .seeding import Address
from .transforms.base import BasicTransform
from .transforms.compose import Compose
from .transforms.node import BaseCompose

Array = npt.NDArray[Any]
Sample = dict[str, Any]


class Stage(Protocol):
    """What a stream calls for each sample."""

    def __call__(self, sample: Sample, key: bytes, out: Array | None = None) -> Sample:
        """The augmented sample, a new dict; its image in `out`, if that has the image's shape and dtype."""


class PhasedStage(Stage, Protocol):
    """A stage in two steps: decide all about a sample, then do what takes long. Together they are the call."""

    def begin(self, sample: Sample, key: bytes) -> Any:
        """Decide; the result has `size_bytes`, the memory that it keeps."""

    def finish(self, begun: Any, sample: Sample, out: Array | None = None) -> Sample:
        """The augmented sample."""


@dataclass(frozen=True, slots=True)
class NoStage:
    """The stage that changes nothing."""

    def __call__(self, sample: Sample, key: bytes, out: Array | None = None) -> Sample:
        """The sample as it is."""
        return sample


def as_stage(transform: Any, ordinal: int = 0, *, strict: bool = False) -> Stage:
    """The stage that `transform` is: a `Compose`, what `foreign.adapt` takes, or None for no change.

    strict: the stage raises `LeakError` if code in it moves a global generator, but for those that it is lent.
    Raises `RecipeError` for anything else.
    """
    if transform is None:
        return NoStage()
    if isinstance(transform, Compose):
        return transform.stage(ordinal, strict=strict)
    if isinstance(transform, (BaseCompose, BasicTransform)):
        return Compose([transform]).stage(ordinal, strict=strict)
    return adapt(transform, ordinal, strict=strict)


def fingerprint(transform: Any) -> str | None:
    """32 hex digits that change when the transforms or their arguments do; None if that cannot be seen."""
    name = getattr(transform, "__qualname__", None)
    if name is not None:
        text = f"{transform.__module__}.{name}"
    elif transform is not None and type(transform).__repr__ is not object.__repr__:  # type: ignore[comparison-overlap]  # mypy thinks no class overrides it
        text = re.sub(r" at 0x[0-9a-f]+", "", repr(transform))
    else:
        return None
    return blake2b(text.encode(), digest_size=16, person=b"augstream/pipe").hexdigest()


def run_stage(stage: Stage, sample: Sample, key: bytes, out: Array | None = None) -> Sample:
    """The augmented sample; `SampleError` if the stage returns anything but a dict with text for names."""
    result = stage(sample, key, out)
    if not isinstance(result, Mapping):
        msg = (
            f"the transform returned a {type(result).__name__}, and must return the sample: "
            "a dict with its fields by name"
        )
        raise SampleError(msg)
    return dict(result) if type(result) is not dict else result


def in_context(error: Exception, what: str, address: Address) -> AugstreamError:
    """`error` as the `SampleError` of the sample at `address`: where it was, and how to see it alone.

    A `LeakError` stays one.
    """
    text = str(error) if isinstance(error, (SampleError, LeakError)) else f"{type(error).__name__}: {error}"
    where = f"sample {address.sample!r} of shard {address.shard!r}"
    when = "" if address.epoch is None else f" in epoch {address.epoch}"
    msg = f"could not {what} {where}{when}: {text}\n  to compute it alone: augstream replay '{address}'"
    found: AugstreamError
    if isinstance(error, LeakError):
        found = LeakError(msg)
    else:
        found = SampleError(
            msg, shard=address.shard, key=address.sample, epoch=address.epoch, address=str(address)
        )
    found.__cause__ = error
    return found


def image_of(sample: Mapping[str, Any], name: str) -> Array | None:
    """The array that is the field `name` of a sample, as `array_of` makes it of a tensor; None if it is neither."""
    value = sample.get(name)
    return array_of(value, name, sample) if is_array(value) else None
