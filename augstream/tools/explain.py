"""One augmented sample, explained: the sample before, after, and after each transform, with what was drawn.

Since draws have addresses, the pipeline's first n transforms alone do what they do in the whole: the picture after
each transform is computed by running just those.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..augment import Sample, in_context, run_stage
from ..collate import IMAGE
from ..dataset import StreamDataset
from ..errors import RecipeError, ShardError
from ..order import SampleRef
from ..seeding import Address, Draws
from ..shards import ShardReader
from ..stream import Stream
from ..transforms.compose import Compose, ComposeStage
from ..transforms.node import child_slot
from ..transforms.records import applied_records
from ..transforms.values import decode

_MANY_NUMBERS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """What one transform of the pipeline's top level did to a sample.

    gate: the number that was drawn to be compared with `p`; applied: the records of what ran, itself or below it;
    sample: the sample after it. error: what it raised.
    """

    slot: str
    name: str
    p: float
    gate: float
    applied: tuple[dict[str, Any], ...]
    sample: Sample
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A sample before, after, and on the way, with the text of its address.

    `steps` is empty where the transform is not a `Compose`, into which nobody can look. `error` is what stopped the
    pipeline, if anything did: `after` is then the sample as it was before that.
    """

    address: str
    before: Sample
    steps: tuple[Step, ...]
    after: Sample
    error: Exception | None = None

    def images(self) -> dict[str, Any]:
        """The image at each stage, by slot and name."""
        found = {"on disk": self.before.get(IMAGE)}
        return found | {f"{step.slot} {step.name}": step.sample.get(IMAGE) for step in self.steps}

    def params(self) -> dict[str, Any]:
        """What was drawn, by slot and name, of all transforms that ran."""
        applied = [record for step in self.steps for record in step.applied]
        return {f"{record['slot']} {record['name']}": plain(record["params"]) for record in applied}

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, as JSON-able data."""
        return {
            "address": self.address,
            "steps": [
                {
                    "slot": step.slot,
                    "name": step.name,
                    "p": step.p,
                    "gate": step.gate,
                    "applied": list(step.applied),
                    **({} if step.error is None else {"error": _said(step.error)}),
                }
                for step in self.steps
            ],
        }


def explain(dataset: StreamDataset, *, epoch: int, shard: str, key: str) -> Explanation:
    """Explain the sample `key` of the shard named `shard` in `epoch`; nothing else is read.

    A transform that fails is the last step, with its error. Raises `SampleError`, with the sample's address, for what
    reading and decoding raise, and for what a transform raises that is not a `Compose`.
    """
    stream = dataset.stream
    ref = stream.ref(epoch, shard, key)
    return _explained(stream, stream.address(epoch, ref, key), ref)


def _explained(stream: Stream, address: Address, ref: SampleRef) -> Explanation:
    """Explain a sample by the draws at `address`, and by nothing else that the stream says of its order."""
    shard, key = stream.index.names[ref.shard], address.key()
    what = "read"
    try:
        raw = ShardReader(stream.index).read(ref.shard, ref.sample)
        what = "decode"
        before = stream.fields.decode(raw, shard=shard)
        steps: tuple[Step, ...] = ()
        if isinstance(stream.stage, ComposeStage):
            steps = tuple(_steps(stream.stage, before, key))
        error = steps[-1].error if steps else None
        after = steps[-1].sample if steps else before
        # pixels that are decoded for the crop that comes first differ from those that the steps began with
        if not isinstance(stream.stage, ComposeStage) or (stream.fields.mode == "scaled" and error is None):
            encoded: frozenset[str] = getattr(stream.stage, "sources", frozenset())
            late = stream.fields.decode(raw, shard=shard, encoded=encoded)
            what = "augment"
            after = run_stage(stream.stage, late, key)
    except ShardError:
        raise
    except Exception as raised:
        raise in_context(raised, what, address) from raised
    return Explanation(str(address), before, steps, after, error)


def explain_address(dataset: StreamDataset, address: Address) -> Explanation:
    """Explain the sample at `address`, whose draws follow from the address alone, whatever the stream's lanes.

    `RecipeError` where that is not one sample of these shards, or depends on other things than this stream's scope.
    """
    seed = dataset.recipe.seed
    if address.seed != seed:
        msg = f"the address is of a stream with seed {address.seed}, and this stream has seed {seed}"
        raise RecipeError(msg)
    if address.shard is None or address.sample is None:
        msg = f"the address {str(address)!r} names no single sample: it needs shard=...;sample=..."
        raise RecipeError(msg)
    stream = dataset.stream
    for name, value in (("epoch", address.epoch), ("worker", address.worker)):
        if value is None and name in stream.scope:
            msg = (
                f"the address {str(address)!r} names no {name}, on which this stream's draws depend: "
                f"it needs {name}=..."
            )
            raise RecipeError(msg)
        if value is not None and name not in stream.scope:
            msg = (
                f"the address {str(address)!r} names the {name}, on which no draw of this stream depends: its scope is "
                f"{','.join(stream.scope)}"
            )
            raise RecipeError(msg)
    position = stream.index.position(address.shard)
    number = stream.index.table(position).find(address.sample)
    return _explained(stream, address, SampleRef(position, number, address.worker or 0))


def _steps(stage: ComposeStage, before: Sample, key: bytes) -> list[Step]:
    compose = stage.compose
    stage_key = stage.key(key)
    draws = Draws()
    steps: list[Step] = []
    applied_before = 0
    sample = before
    for ordinal, node in enumerate(compose.transforms):
        draws.move(stage_key, child_slot(b"", ordinal))
        name, p, gate = type(node).__name__, node.p, draws.gate
        first = _first(compose, ordinal + 1)
        try:
            call = first._execute(stage_key, dict(before), record=True)
            sample = first._collect(call, before)
            records = applied_records(call)
        except Exception as error:  # noqa: BLE001  # it is what is looked for
            return [*steps, Step(str(ordinal), name, p, gate, (), sample, error)]
        sample.pop("applied_transforms", None)
        steps.append(Step(str(ordinal), name, p, gate, tuple(records[applied_before:]), sample))
        applied_before = len(records)
    return steps


def _first(compose: Compose, num_transforms: int) -> Compose:
    """The pipeline of the first transforms of `compose`, at the same addresses."""
    shorter = copy.copy(compose)
    shorter._set_transforms(compose.transforms[:num_transforms])
    return shorter


def plain(value: Any) -> Any:
    """A recorded parameter as people read it, and as JSON has words for: what its type was is left out.

    Tuples are lists, numpy's numbers Python's, and arrays nested lists, or a word where they are long; NaN and infinity
    are text.
    """
    if isinstance(value, Mapping):
        if "$tuple" in value:
            return plain(value["$tuple"])
        if not _LEAVES.isdisjoint(value):
            return _readable(decode(value, "a parameter"))
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


_LEAVES = frozenset(
    {"$array", "$number", "$float", "$bytes"}
)  # the tags of `transforms.values` that hold no other


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    array = np.asarray(value)
    if array.size > _MANY_NUMBERS:
        return f"{array.dtype} array of {' x '.join(map(str, array.shape))}"
    is_told = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool(np.isfinite(array).all()))
    return array.tolist() if is_told else array.astype(str).tolist()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def drawn_numbers(explanation: Explanation) -> Mapping[str, float]:
    """Every number that was drawn, by slot, transform and parameter: what statistics are made of."""
    numbers: dict[str, float] = {}
    for step in explanation.steps:
        for record in step.applied:
            for name, value in plain(record["params"]).items():
                values = value if isinstance(value, (list, tuple)) else [value]
                for place, item in enumerate(values):
                    if isinstance(item, (int, float)) and not isinstance(item, bool):
                        place_text = f"[{place}]" if values is value else ""
                        numbers[f"{record['slot']} {record['name']}.{name}{place_text}"] = float(item)
    return numbers
