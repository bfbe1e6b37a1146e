"""Other people's augmentations as stages of a stream, seeded by the same addresses.

| kind | known by | random numbers come from |
|---|---|---|
| albumentations 2.0.8 | ``set_random_state(random_generator, py_random)`` | two generators of each of its transforms |
| AlbumentationsX | ``invocation_seed`` among the arguments of a call | that argument |
| torchvision, any ``torch.nn.Module`` | its class | torch's global generator |
| imgaug, what has ``seed_(n)`` or ``seed(n)`` | that method | that method, called before each call |
| a function | it can be called | arguments ``rng`` or ``generator`` (a numpy `Generator`), ``seed`` (an int) |

All of them stand at the sample's address when a call begins. So do, while foreign code runs, the global generators of
`random`, numpy and torch; afterwards these are as they were. Code that draws from them is repeatable too.

Not promised, of any kind: anything about code that keeps state from call to call, reads the clock, or hides a generator
of its own; CUDA's generators; that two threads of one process may run foreign code at once. OpenCV's global generator
cannot be read, so nothing can put it back: only albumentations' noise transforms are kept from moving it, by a
thread of their own, since OpenCV has one generator a thread. AlbumentationsX and imgaug share one generator among all
transforms, so that replacing one transform changes the draws of those behind it.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from .ambient import GlobalGenerators, apart
from .errors import RecipeError, SampleError
from .seeding import Draws, generator, subkey
from .transforms.leaks import Culprit, Watch, culprit_below, guarded

Array = npt.NDArray[Any]
Sample = dict[str, Any]

_SAMPLE_NAMES = frozenset({"sample", "data", "example", "record", "item", "row"})
_RNG_NAMES = frozenset({"rng", "generator"})
_SEED_METHODS = ("seed_", "set_random_seed", "set_seed", "seed")
_OPENCV_DRAWERS = frozenset({"AdditiveNoise", "GaussNoise"})


def adapt(transform: Any, ordinal: int = 0, *, strict: bool = False) -> ForeignStage:
    """`transform` as the stage number `ordinal` of a stream: ``stage(sample, key, out)`` is the augmented sample.

    A function gets the sample, a dict, if its first parameter is named ``sample``, ``data``, ``example``,
    ``record``, ``item`` or ``row``, and else the image alone. albumentations gets the fields that it knows; torch
    and imgaug get the image. Images are (H, W, C) arrays for all but torch, which gets (C, H, W) tensors; what it
    returns stays a tensor.

    Raises `RecipeError` for what cannot be called, or wants arguments that nobody would give.
    """
    if isinstance(transform, type):
        msg = f"a transform is an object, not a class: pass {transform.__name__}(...) in place of {transform.__name__}"
        raise RecipeError(msg)
    if not callable(transform):
        msg = (
            "a transform is a Compose, another library's augmentation, a function f(image, rng) or f(sample, rng), "
            f"or None; got {transform!r}, which cannot be called"
        )
        raise RecipeError(msg)
    if "invocation_seed" in _parameters(transform):
        return InvocationStage(transform, ordinal, strict)
    if {"random_generator", "py_random"} <= _parameters(getattr(transform, "set_random_state", None)).keys():
        return AlbumentationsStage(transform, ordinal, strict)
    if _is_torch(transform):
        return TorchStage(transform, ordinal, strict)
    return FunctionStage(transform, ordinal, strict)


class ForeignStage:
    """Foreign code as a pure function of (sample, key), as far as it can be made one.

    strict: raise `LeakError` for what is drawn from a global generator that the code was not lent: OpenCV's always.
    """

    def __init__(self, transform: Any, ordinal: int = 0, strict: bool = False) -> None:
        self.transform = transform
        self.ordinal = ordinal
        self._watch = Watch() if strict else None
        self._lent: GlobalGenerators | None = GlobalGenerators()
        self._prepare()

    def _prepare(self) -> None:
        """Make what is needed from `transform`, here and wherever the stage is unpickled."""

    def _run(self, sample: Sample, key: bytes) -> Mapping[str, Any]:
        """The fields of `sample` that are new or changed."""
        raise NotImplementedError

    def __call__(self, sample: Mapping[str, Any], key: bytes, out: Array | None = None) -> Sample:
        """The augmented sample, a new dict; its image in `out`, if that has the image's shape and dtype."""
        key = subkey(key, "stage", self.ordinal)
        given = {name: _decoded(value) for name, value in sample.items()}
        if self._watch is None:
            given.update(self._lent_run(given, key))
        else:
            run = partial(self._lent_run, given, key)
            given.update(
                guarded(self._watch, run, partial(self._culprit, run), lambda: _name(self.transform))
            )
        image = given.get("image")
        if (
            out is not None
            and isinstance(image, np.ndarray)
            and image.shape == out.shape
            and image.dtype == out.dtype
        ):
            np.copyto(out, image)
            given["image"] = out
        return given

    def _lent_run(self, sample: Sample, key: bytes) -> Mapping[str, Any]:
        if self._lent is None:
            return self._run(sample, key)
        with self._lent.at(key):
            return self._run(sample, key)

    def _culprit(self, run: Callable[[], Any]) -> Culprit | None:
        return culprit_below(getattr(self, "_pipeline", self.transform), _name(self.transform), run)

    def __getstate__(self) -> tuple[Any, int, bool]:
        return self.transform, self.ordinal, self._watch is not None

    def __setstate__(self, state: tuple[Any, int, bool]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # made anew, since generators of an address are not to be pickled


class AlbumentationsStage(ForeignStage):
    """A pipeline of albumentations 2.0.8, whose transforms each draw at an address of their own.

    albumentations seeds all transforms of a pipeline alike, so that two flips in one Compose always agree. Here each
    gets a `Draws` and a Philox of its own, made once, and moved for each call: a microsecond or two for a transform.
    Works on a copy of the pipeline; the user's keeps its own state.
    """

    def _prepare(self) -> None:
        self._pipeline = copy.deepcopy(self.transform)
        self._key_words = np.zeros(2, dtype=np.uint64)
        self._draws: list[tuple[Draws, bytes]] = []
        self._philoxes: list[tuple[np.random.Philox, Any]] = []
        for node, slot in _albumentations_nodes(self._pipeline, b""):
            draws, philox = Draws(), np.random.Philox(0)
            node.set_random_state(np.random.Generator(philox), draws)
            self._draws.append((draws, slot))
            self._philoxes.append((philox, _philox_state(self._key_words, slot)))
        types = {type(node) for node, _ in _albumentations_nodes(self._pipeline, b"")}
        self._is_apart = any(base.__name__ in _OPENCV_DRAWERS for cls in types for base in cls.__mro__)
        if all(cls.__module__.startswith("albumentations.") and cls.__name__ != "Lambda" for cls in types):
            self._lent = None  # none of its own transforms draws from a global generator
        known = getattr(self._pipeline, "available_keys", None)
        self._known = frozenset(known) if known else None

    def _run(self, sample: Sample, key: bytes) -> Mapping[str, Any]:
        self._key_words[:] = np.frombuffer(key, dtype=np.uint64)
        for draws, slot in self._draws:
            draws.move(key, slot)
        for philox, state in self._philoxes:
            philox.state = state
        targets = _known_fields(sample, self._known)
        run = partial(self._pipeline, **targets)
        return _result(apart(run) if self._is_apart else run())


class InvocationStage(ForeignStage):
    """A pipeline of AlbumentationsX: each call gets its seed as an argument. Known by its looks, never imported."""

    def _prepare(self) -> None:
        known = getattr(self.transform, "available_keys", None)
        self._known = frozenset(known) if known else None

    def _run(self, sample: Sample, key: bytes) -> Mapping[str, Any]:
        targets = _known_fields(sample, self._known)
        return _result(apart(partial(self.transform, **targets, invocation_seed=_int_seed(key))))


class TorchStage(ForeignStage):
    """torchvision's transforms, or a ``torch.nn.Module``; it draws from torch's global generator.

    Gets the image: a tensor (C, H, W) if it was an array, else (a tensor, a PIL image) as it is. torchvision v2 gets
    a dict of ``image``, ``mask`` and ``masks`` as tv_tensors, and of what else is a tv_tensor already, so that masks
    and boxes move with the image. Older torchvision transforms get PIL images, and arrays are made of those they
    return. No gradients are recorded.
    """

    def _prepare(self) -> None:
        module = type(self.transform).__module__
        self._is_v2 = module.startswith("torchvision.transforms.v2")
        self._wants_pil = module.startswith("torchvision.") and not self._is_v2

    def _run(self, sample: Sample, key: bytes) -> Mapping[str, Any]:
        import torch  # only who has a torch transform needs it

        image = _image_of(sample, self.transform)
        with torch.no_grad():
            if self._is_v2:
                return _run_v2(self.transform, sample)
            if self._wants_pil and isinstance(image, np.ndarray):
                from PIL import Image

                found = self.transform(Image.fromarray(image))
                return {"image": np.asarray(found) if isinstance(found, Image.Image) else found}
            return {"image": self.transform(_tensor(image))}


class FunctionStage(ForeignStage):
    """A function of the image or of the sample; or an object that is seeded by a method and then called."""

    def _prepare(self) -> None:
        function = self.transform
        self._seed_method = next(
            (name for name in _SEED_METHODS if callable(getattr(function, name, None))), None
        )
        parameters = _parameters(function)
        positional = [
            name for name, parameter in parameters.items()
            if parameter.kind in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
        ]  # fmt: skip
        first = positional[0] if positional else ""
        self._takes_sample = first in _SAMPLE_NAMES
        self._by_name = not positional and any(
            name == "image" or parameter.kind is inspect.Parameter.VAR_KEYWORD
            for name, parameter in parameters.items()
        )
        self._random = {name for name in parameters if name != first and name in _RNG_NAMES | {"seed"}}
        unfilled = [
            name for name, parameter in parameters.items()
            if name not in {first, "image", *self._random}
            and parameter.default is inspect.Parameter.empty
            and parameter.kind not in {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
        ]  # fmt: skip
        if unfilled or not (positional or self._by_name or _takes_any(parameters)):
            msg = (
                f"{_name(function)}({', '.join(parameters)}) should be f(image), f(image, rng), f(sample) or "
                f"f(sample, rng); nobody would give it {unfilled or 'an image'}: use functools.partial for the rest"
            )
            raise RecipeError(msg)

    def _run(self, sample: Sample, key: bytes) -> Mapping[str, Any]:
        function = self.transform
        if self._seed_method is not None:
            getattr(function, self._seed_method)(_int_seed(key) % 2**31)
        numbers: dict[str, Any] = {}
        for name in self._random:
            numbers[name] = _int_seed(key) if name == "seed" else generator(key)
        if self._takes_sample:
            return _result(function(dict(sample), **numbers))
        image = _image_of(sample, function)
        found = function(image=image, **numbers) if self._by_name else function(image, **numbers)
        return found if isinstance(found, Mapping) else {"image": _checked_image(found, function)}


def _philox_state(key_words: npt.NDArray[np.uint64], slot: bytes) -> Any:
    """The state of a Philox whose key is whatever `key_words` will hold, at the numbers of `slot`."""
    counter = np.frombuffer(bytes(24) + blake2b(slot, digest_size=8).digest(), dtype=np.uint64)
    return {**np.random.Philox(0).state, "state": {"counter": counter, "key": key_words}}


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of whatever can be called; none where they cannot be seen."""
    if function is None:
        return {}
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some of those written in C don't say
        return {"image": inspect.Parameter("image", inspect.Parameter.POSITIONAL_ONLY)}


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values())


def _is_torch(transform: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(transform, torch.nn.Module):
        return True
    return type(transform).__module__.startswith("torchvision.")


def _albumentations_nodes(node: Any, slot: bytes) -> Iterator[tuple[Any, bytes]]:
    """Every node of a pipeline with its path of positions, parents first: they hand their generators down."""
    if callable(getattr(node, "set_random_state", None)):
        yield node, slot
        for position, child in enumerate(getattr(node, "transforms", None) or ()):
            yield from _albumentations_nodes(child, slot + position.to_bytes(2, "little"))


def _int_seed(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") >> 1


def _known_fields(sample: Sample, known: frozenset[str] | None) -> Sample:
    if known is None:
        return {name: value for name, value in sample.items() if not name.startswith("__")}
    return {name: value for name, value in sample.items() if name in known}


def _decoded(value: Any) -> Any:
    """`value`, or the pixels of an image that is not decoded yet."""
    is_source = hasattr(value, "decode") and hasattr(value, "shape") and hasattr(value, "dtype")
    return value.decode(None) if is_source else value


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


def _image_of(sample: Sample, transform: Any) -> Any:
    if "image" not in sample:
        msg = (
            f"{_name(transform)} takes the image, and the sample has no field 'image', only {sorted(sample)}; "
            "name it with fields={'image': 'jpg;png'}, or write a function of the sample: f(sample, rng)"
        )
        raise SampleError(msg)
    return sample["image"]


def _checked_image(found: Any, transform: Any) -> Any:
    if found is None:
        msg = f"{_name(transform)} returned None, and must return the image"
        raise SampleError(msg)
    return found


def _result(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        msg = f"the transform returned a {type(found).__name__}, and must return the sample: a dict with its fields"
        raise SampleError(msg)
    return found


def _tensor(image: Any) -> Any:
    """An array (H, W[, C]) as a tensor (C, H, W); anything else as it is."""
    import torch

    if not isinstance(image, np.ndarray):
        return image
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def _run_v2(transform: Any, sample: Sample) -> Mapping[str, Any]:
    """torchvision v2 on all that moves together."""
    from torchvision import tv_tensors  # type: ignore[import-not-found]  # its owner has it installed

    given: Sample = {}
    for name, value in sample.items():
        if isinstance(value, tv_tensors.TVTensor) or name == "image":
            is_array = isinstance(value, np.ndarray)
            given[name] = tv_tensors.Image(_tensor(value)) if is_array else value
        elif name in {"mask", "masks"} and value is not None:
            masks = np.asarray(value)
            given[name] = tv_tensors.Mask(
                _tensor(masks[..., None] if name == "mask" and masks.ndim == 2 else masks)
            )
        elif name in {"bboxes", "keypoints"} and value is not None:
            msg = (
                f"torchvision v2 moves {name} only as tv_tensors, which know their format; make one in a stage before, "
                "or use Compose"
            )
            raise SampleError(msg)
    return _result(transform(given))
