"""`Compose`: a pipeline of transforms as a pure function of an address, or as a repeatable sequence of calls."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import RecipeError
from ..seeding import CallKey, Draws, Part, place, seed_key, subkey, subkey_at
from .annotations import params_from
from .base import current_draws
from .bboxes import BboxParams, BboxProcessor
from .call import ANNOTATION_KINDS, KINDS, Call, check_raster
from .canvas import Image
from .keypoints import KeypointParams, KeypointProcessor
from .leaks import Watch
from .node import BaseCompose, Node, own_targets, with_mask_interpolation
from .records import applied_records
from .sequence import Sequence as CallSequence
from .sequence import WorkerSeed
from .targets import Processor
from .tensor import make_tensors
from .watched import execute_guarded


class Compose(BaseCompose):
    """Apply transforms one after the other; every random number follows from an address.

    `compose(image=..., mask=..., bboxes=..., keypoints=...)` is a call of a plain sequence: two instances of one seed
    give the same sequence, whatever happened to the samples; `set_random_seed` starts it again. `compose.at(*address)`
    is a pure function instead: the same result on any worker, in any order, in any thread. `stage()` is how streams
    call it.

    Each transform draws at its own slot: replacing one, or changing its arguments, leaves the others' draws alone.
    The arguments are albumentations' (2.0.8), and besides: `name` sets this Compose's draws apart from those of
    another one with the same seed; `worker_seed` says how a DataLoader's worker gets a sequence of its own ("torch":
    (seed + torch.initial_seed()) % 2**32; "stable": by hash from seed, rank, worker and epoch); `fused=False` executes
    every transform by itself, with the same result. `strict=True` raises `ValueError` for data that no transform knows,
    and `LeakError` if a transform draws from a global generator of random, numpy, torch or OpenCV (see `leaks.Watch`).

    Images come back C-contiguous, in memory of their own; but one that nothing happened to, or of which whole rows were
    kept, may be in the memory of the one given: copy it before you change it in place.

    Not promised: that draws equal those of albumentations, or that a sequence is the same for another number of
    DataLoader workers (use `at`, or a stream, for that).

    >>> import numpy as np, augstream as A
    >>> flip = A.Compose([A.HorizontalFlip(p=0.5)], seed=137)
    >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    >>> first = flip.at("epoch", 0, "sample", 7)(image=image)["image"]
    >>> np.array_equal(first, flip.at("epoch", 0, "sample", 7)(image=image)["image"])
    True
    """

    def __init__(
        self,
        transforms: Iterable[Node],
        bbox_params: BboxParams | Mapping[str, Any] | None = None,
        keypoint_params: KeypointParams | Mapping[str, Any] | None = None,
        additional_targets: Mapping[str, str] | None = None,
        p: float = 1.0,
        is_check_shapes: bool = True,
        strict: bool = False,
        mask_interpolation: int | None = None,
        seed: int | None = None,
        save_applied_params: bool = False,
        name: str | None = None,
        worker_seed: WorkerSeed = "torch",
        fused: bool = True,
    ) -> None:
        super().__init__(transforms, p)
        if mask_interpolation is not None:
            self._set_transforms(
                tuple(with_mask_interpolation(t, mask_interpolation) for t in self.transforms)
            )
        self.is_check_shapes = is_check_shapes
        self.strict = strict
        self.mask_interpolation = mask_interpolation
        self.save_applied_params = save_applied_params
        self.fused = fused
        self.name = name
        self.additional_targets = dict(additional_targets or {})
        self._kinds = _kinds(self.additional_targets)
        self.bbox_params = params_from(BboxParams, bbox_params)
        self.keypoint_params = params_from(KeypointParams, keypoint_params)
        self._processors = self._make_processors()
        fields = [field for each in self._processors.values() for field in set(each.label_fields)]
        self._shares_labels = len(fields) > len(set(fields))
        self._sequence = CallSequence(seed, name=name, worker_seed=worker_seed)
        self._idle_draws: list[Draws] = []
        self._watch = Watch() if strict else None
        self.applied_transforms: list[dict[str, Any]] = []

    def _make_processors(self) -> dict[str, Processor]:
        processors: dict[str, Processor] = {}
        for name, kind in self._kinds.items():
            if kind == "bboxes" and self.bbox_params is not None:
                processors[name] = BboxProcessor(self.bbox_params, name)
            elif kind == "keypoints" and self.keypoint_params is not None:
                processors[name] = KeypointProcessor(self.keypoint_params, name)
        return processors

    # Randomness

    @property
    def seed(self) -> int | None:
        """The base seed, as it is in every process."""
        return self._sequence.seed

    @property
    def effective_seed(self) -> int | None:
        """The seed of the sequence in this process: the base seed, and in a DataLoader's worker its own."""
        return self._sequence.effective_seed

    def set_random_seed(self, seed: int | None) -> None:
        """Start the sequence of calls again, from `seed`."""
        self._sequence.restart(seed)

    def set_random_state(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Take each call's key from these generators; each call draws the same number of bits from them."""
        self._sequence.use_generators(random_generator, py_random)

    def set_epoch(self, epoch: int) -> None:
        """Tell DataLoader workers, live or to come, the epoch; for `worker_seed="stable"`, which else counts itself."""
        self._sequence.board.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """How far the sequence of calls is, as JSON-able data."""
        return self._sequence.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sequence of calls from where `state_dict` was taken."""
        self._sequence.load_state_dict(state)

    # Calls

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        """Apply the pipeline to named targets, as the next call of the sequence."""
        if args:
            msg = "give the data by name: compose(image=image, mask=mask), not compose(image)"
            raise KeyError(msg)
        if not self._placed and not self._processors and not self.save_applied_params:
            return self._pass_through(data)
        return self._call(self._sequence.next_key(), data, force_apply)

    def at(self, *address: Part) -> Addressed:
        """The pipeline at an address of strings and integers: a pure function of seed, address and data.

        For map-style datasets: ``compose.at(epoch, index)(image=image)``.
        """
        return Addressed(self, subkey(self._sequence.root, "at", *address))

    def stage(self, ordinal: int = 0, *, strict: bool = False) -> ComposeStage:
        """The pipeline as the stage number `ordinal` of a stream; a name, and a seed, set its draws apart further.

        strict: raise `LeakError` if a transform draws from a global generator, as if the Compose were strict.
        """
        return ComposeStage(self, ordinal, strict=strict)

    def _watched(self) -> Compose:
        """This pipeline, with the same sequence, but raising `LeakError`."""
        watched = copy.copy(self)
        watched._watch = self._watch or Watch()
        return watched

    def _call(self, key: CallKey, data: dict[str, Any], force: bool = False) -> dict[str, Any]:
        if self.strict:
            self._check_names(data)
        if self._watch is None:
            call = self._execute(key, data, force)
        else:
            call = execute_guarded(self, self._watch, key, data, force=force)
        result = self._collect(call, data)
        if call.is_planar:
            make_tensors(call, result)
        if call.records is not None:
            self.applied_transforms = result["applied_transforms"]
        return result

    def _pass_through(self, data: dict[str, Any]) -> dict[str, Any]:
        """What an empty pipeline does: check the data."""
        if self.strict:
            self._check_names(data)
        if data.keys() == {"image"}:
            check_raster("image", data["image"])
        else:
            call = Call(Draws(), b"", self._kinds, fused=self.fused, record=False)
            call.take(data)
            self._check(call)
        return data

    def _execute(
        self, key: CallKey, data: Mapping[str, Any], force: bool = False, record: bool = False
    ) -> Call:
        """Run the transforms on `data`; what they decided is in the call, most pixels are still to be made."""
        idle = self._idle_draws
        draws = idle.pop() if idle else Draws()
        call = Call(draws, key, self._kinds, self.fused, record or self.save_applied_params)
        token = current_draws.set(draws) if self.is_custom else None
        try:
            call.take(data)
            if len(data) > 1 or call.stacks:
                self._check(call)
            if self._processors:
                call.prepare(self._processors)
                if self._shares_labels:
                    call.check_labels()
            self.run(call, b"", force=force)
        finally:
            if token is not None:
                current_draws.reset(token)
            idle.append(draws)
        return call

    def _collect(self, call: Call, names: Iterable[str], out: Image | None = None) -> dict[str, Any]:
        """The finished targets and all that passed through, under the names and in the order that they came."""
        if call.processors:
            call.finish_annotations()
        rasters = call.rasters
        result: dict[str, Any] = {}
        for name in names:
            canvas = rasters.get(name)
            if canvas is not None:
                result[name] = canvas.finish(out if name == "image" else None)
            elif name in call.stacks:
                result[name] = call.stacks[name].finish()
            else:
                result[name] = call.others[name]
        if call.records is not None:
            result["applied_transforms"] = applied_records(call)
        return result

    # Checks

    def _check_names(self, data: Mapping[str, Any]) -> None:
        known = {*self._kinds}
        for processor in self._processors.values():
            known.update(processor.label_fields)
        unknown = sorted(set(data) - known)
        if unknown:
            unknown = sorted(set(unknown) - own_targets(self))
        if unknown:
            msg = (
                f"Compose(strict=True) does not know the targets {unknown}; it knows {sorted(known)}; "
                "name others in additional_targets"
            )
            raise ValueError(msg)

    def _check(self, call: Call) -> None:
        """Check that targets fit each other, and that annotations can be read."""
        if self.is_check_shapes:
            self._check_shapes(call)
        self._check_annotations(call)

    def _check_annotations(self, call: Call) -> None:
        for name in call.others:
            kind = self._kinds.get(name)
            if kind in ANNOTATION_KINDS and name not in self._processors and call.others[name] is not None:
                params = (
                    "bbox_params=BboxParams(...)"
                    if kind == "bboxes"
                    else "keypoint_params=KeypointParams(...)"
                )
                msg = f"to augment {name!r}, say what format they have: Compose([...], {params})"
                raise ValueError(msg)

    def _check_shapes(self, call: Call) -> None:
        if len(call.rasters) < 2 and not call.stacks:
            return
        sizes = {name: canvas.shape[:2] for name, canvas in call.rasters.items()}
        for name, stack in call.stacks.items():
            for position, canvas in enumerate(stack.canvases):
                sizes[f"{name}[{position}]"] = canvas.shape[:2]
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name}: {height} x {width}" for name, (height, width) in sizes.items())
            msg = (
                f"image and masks must have one height and width, got {listed}; "
                "if that is meant, say so: Compose(..., is_check_shapes=False)"
            )
            raise ValueError(msg)

    # Looking at it

    def plan(self) -> str:
        """What is done how, as text: as a view, as a table, or on pixels; print it."""
        from .planning import describe_plan  # a description of transforms, not needed to run them

        return describe_plan(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle_draws": []}


def alone(node: Node) -> Compose:
    """The pipeline of a node that is called by itself."""
    return _Alone([node])


class _Alone(Compose):
    """A pipeline of one node, which is forced where the call is."""

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Run the node."""
        ordinal, node = self._placed[0]
        node.run(call, slot + ordinal, force=force)
        if call.unsettled:
            call.settle()


class Addressed:
    """A `Compose` at one address; call it as often as you like, with the same result for the same data."""

    __slots__ = ("_compose", "_key")

    def __init__(self, compose: Compose, key: bytes) -> None:
        self._compose = compose
        self._key = key

    def __call__(self, *, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        """Apply the pipeline to named targets."""
        return self._compose._call(self._key, data, force=force_apply)


class ComposeStage:
    """A `Compose` as a stage of a stream: a pure function of a sample and the sample's key.

    `stage(sample, key, out)` returns a new dict with the sample's targets augmented, arrays as numpy arrays (planar
    after `ToTensorV2`), written straight into `out` where its shape and dtype fit the image.
    """

    __slots__ = ("_place", "compose")

    def __init__(self, compose: Compose, ordinal: int = 0, *, strict: bool = False) -> None:
        self.compose = compose._watched() if strict else compose
        parts: list[Part] = ["stage", ordinal if compose.name is None else compose.name]
        if compose.seed is not None:
            parts.append(seed_key(compose.seed))
        self._place = place(*parts)

    @property
    def sources(self) -> frozenset[str]:
        """The fields that may come encoded, as a `canvas.Source`."""
        return frozenset(name for name, kind in self.compose._kinds.items() if kind == "image")

    def key(self, sample_key: bytes) -> bytes:
        """The key of this stage for the sample of `sample_key`."""
        return subkey_at(sample_key, self._place)

    def __call__(self, sample: Mapping[str, Any], key: bytes, out: Image | None = None) -> dict[str, Any]:
        """The augmented sample."""
        return self.finish(self.begin(sample, key), sample, out)

    def begin(self, sample: Mapping[str, Any], key: bytes) -> Call:
        """Decide all about the sample; what takes long, decoding above all, is left to `finish` where that can be."""
        compose = self.compose
        if compose._watch is not None:
            return execute_guarded(compose, compose._watch, self.key(key), sample)
        return compose._execute(self.key(key), sample)

    def finish(self, begun: Call, sample: Mapping[str, Any], out: Image | None = None) -> dict[str, Any]:
        """The augmented sample, of which `begin` gave `begun`."""
        return self.compose._collect(begun, sample, out)

    def __getstate__(self) -> tuple[Compose, bytes]:
        return self.compose, self._place

    def __setstate__(self, state: tuple[Compose, bytes]) -> None:
        self.compose, self._place = state


def _kinds(additional_targets: Mapping[str, str]) -> dict[str, str]:
    """Target name -> kind, of the standard targets and the additional ones."""
    kinds = {kind: kind for kind in sorted(KINDS)}
    for name, kind in additional_targets.items():
        if kind not in KINDS:
            msg = f"additional_targets[{name!r}] is {kind!r}; a kind of target is one of {sorted(KINDS)}"
            raise RecipeError(msg)
        if name in KINDS and name != kind:
            msg = f"additional_targets renames the standard target {name!r}; choose another name"
            raise RecipeError(msg)
        kinds[name] = kind
    return kinds
