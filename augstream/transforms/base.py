"""What a transform is: it draws parameters at its slot, then applies them to every target.

Built-in transforms override `draw` and the `apply*` methods they need. Custom ones may do the same, or use the two
hooks that albumentations' users know, `get_params` and `get_params_dependent_on_data`, with `self.py_random` and
`self.random_generator`. A transform is immutable once made, and keeps nothing of a call: one instance serves any
number of threads and pipelines.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from ..errors import RecipeError
from ..seeding import Draws
from .arguments import check_flag, probability

if TYPE_CHECKING:
    import random

    from .call import Call, View
    from .canvas import Canvas

Params = dict[str, Any]
Array = npt.NDArray[Any]

current_draws: ContextVar[Draws] = ContextVar("current_draws")

# What other releases of albumentations call, and nothing here does: what to override instead.
_UNCALLED = {
    "apply_with_params": "apply, or apply_to_... for other targets",
    "get_params_dependent_on_targets": "get_params_dependent_on_data(params, data)",
    "update_params": "get_params_dependent_on_data(params, data)",
    "update_transform_params": "get_params_dependent_on_data(params, data)",
}
_DATA_FREE_HOOKS = ("interpolation", "fill", "fill_mask")


class TransformMeta(ABCMeta):
    """Checks a constructor's arguments and remembers them.

    An unknown argument is a `TypeError` that names the nearest known one. A legacy spelling listed in `_legacy` is
    renamed. `init_arguments` then holds every argument by its name, defaults included: what serialisation writes.
    """

    @property
    def __signature__(cls) -> inspect.Signature:
        """What help and documentation show, for they would show `__call__`'s."""
        return _signature(cls)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance."""
        legacy: Mapping[str, str] = getattr(cls, "_legacy", {})
        for old, new in legacy.items():
            if old in kwargs:
                if new in kwargs:
                    msg = (
                        f"{cls.__name__}() got both {old!r} and {new!r}, two names of one argument; give one"
                    )
                    raise TypeError(msg)
                kwargs[new] = kwargs.pop(old)
        signature = _signature(cls)
        _check_arguments(cls.__name__, signature, kwargs, legacy)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            msg = f"{cls.__name__}(): {error} (it takes: {', '.join(signature.parameters) or 'none'})"
            raise TypeError(msg) from None
        for name in _flags(cls) & bound.arguments.keys():
            check_flag(cls.__name__, name, bound.arguments[name])
        instance = super().__call__(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(parameter.name, {}))
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                arguments.pop(parameter.name, None)
        instance.init_arguments = arguments
        return instance


def _signature(cls: type) -> inspect.Signature:
    found = cls.__dict__.get("_init_signature")
    if found is None:
        init = cast(Callable[..., None], cls.__init__)  # type: ignore[misc]  # we want this very class's own
        parameters = list(inspect.signature(init).parameters.values())[1:]
        found = inspect.Signature(parameters)
        cls._init_signature = found  # type: ignore[attr-defined]  # a cache on the class, made once
    return cast(inspect.Signature, found)


def _flags(cls: type) -> frozenset[str]:
    """The arguments of a constructor of ours that are True or False."""
    found = cls.__dict__.get("_init_flags")
    if found is None:
        init: Any = cls.__init__  # type: ignore[misc]  # we want this very class's own
        is_ours = init.__module__.startswith(__package__)
        parameters = _signature(cls).parameters.values() if is_ours else ()
        found = frozenset(parameter.name for parameter in parameters if parameter.annotation == "bool")
        cls._init_flags = found  # type: ignore[attr-defined]  # a cache on the class, made once
    return cast(frozenset[str], found)


def _check_arguments(
    name: str, signature: inspect.Signature, kwargs: Mapping[str, Any], legacy: Mapping[str, str]
) -> None:
    parameters = signature.parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in kwargs:
        if argument in parameters:
            continue
        known = [*parameters, *legacy]
        nearest = difflib.get_close_matches(argument, known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        if argument == "always_apply":  # of releases long before 2.0.8
            hint = "; a transform that is always applied has p=1"
        msg = f"{name}() has no argument {argument!r}{hint} (it takes: {', '.join(parameters) or 'none'})"
        raise TypeError(msg)


class Applicable(metaclass=TransformMeta):
    """What can be called by itself: a transform, or a composition of them."""

    def set_random_seed(self, seed: int | None) -> None:
        """Restart its own sequence, which counts only where it is called by itself."""
        self._alone().set_random_seed(seed)

    def _alone(self) -> Any:
        from .compose import alone  # a Compose knows transforms; a lone call needs one

        found = self.__dict__.get("_lone_compose")
        if found is None:
            found = self.__dict__["_lone_compose"] = alone(self)
        return found

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        """Apply it by itself to named targets, with fresh random numbers unless `set_random_seed` was called.

        `force_apply`: do so whatever its `p`, unless that is 0.
        """
        result: dict[str, Any] = self._alone()(*args, force_apply=force_apply, **data)
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lone_compose"}


class BasicTransform(Applicable):
    """A random operation that is applied with probability `p` to the targets it knows.

    Subclass `ImageOnlyTransform` or `DualTransform`. Override `apply` (and `apply_to_mask`, `apply_to_bboxes`, …), and
    `draw`, or `get_params` / `get_params_dependent_on_data`, for the parameters, which should be JSON-able; random
    numbers come from the `Draws` given, or from `self.py_random` and `self.random_generator`. A property `targets`, a
    dict of names and functions, says instead which targets it changes, and by what: of any names, say "weather".
    """

    kinds: ClassVar[frozenset[str]] = frozenset()
    plan_kind: ClassVar[str] = "pixels"
    """How `fuse` does the work: "view", "late", "table", "floats" or "planes"; "pixels" where by `apply`."""
    is_custom: ClassVar[bool] = False
    """Whether it is defined elsewhere, and may ask for `py_random` and `random_generator`, which nothing here does."""
    _legacy: ClassVar[Mapping[str, str]] = {}
    _calls_no_hooks: ClassVar[bool] = False
    """Whether its `apply_params` is done without `apply` and the like, which then count in subclasses only."""
    _inherited_draw: ClassVar[Callable[..., Params] | None] = None
    """The `draw` of a built-in transform, where a subclass of it overrides hooks instead."""
    init_arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what a subclass overrides count: its `apply` before an inherited `fuse`, its hooks before `draw`."""
        super().__init_subclass__(**kwargs)
        cls.is_custom = cls.is_custom or not cls.__module__.startswith(__package__)
        own = cls.__dict__.keys()
        for name in _UNCALLED.keys() & own:
            msg = f"{cls.__name__} overrides {name}, which is never called; override {_UNCALLED[name]}"
            raise RecipeError(msg)
        if "fuse" not in own and own & {"apply", "apply_to_mask"}:
            cls.fuse = BasicTransform.fuse  # type: ignore[method-assign]  # meant
            cls.plan_kind = cls.__dict__.get("plan_kind", BasicTransform.plan_kind)
        if "draw" not in own and own & {"get_params", "get_params_dependent_on_data"}:
            if cls.draw is not BasicTransform.draw:
                cls._inherited_draw = cls.draw
            cls.draw = BasicTransform.draw  # type: ignore[method-assign]  # meant
        if "apply_params" in own:
            return
        if hasattr(cls, "targets"):
            cls.apply_params = _apply_to_own_targets  # type: ignore[method-assign]  # meant
        elif cls._calls_no_hooks and any(name.startswith("apply_to_") or name == "apply" for name in own):
            cls.apply_params = BasicTransform.apply_params  # type: ignore[method-assign]  # meant
            cls._calls_no_hooks = False

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(self, p)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.init_arguments.items())
        return f"{type(self).__name__}({arguments})"

    # Parameters

    def draw(self, rng: Draws, view: View) -> Params:
        """Draw the parameters of one call; they follow from `rng`, the arguments and `view` alone.

        This implementation runs the hooks `get_params` and `get_params_dependent_on_data`.
        """
        params = dict(self.get_params())
        params["shape"] = view.shape
        for name in _DATA_FREE_HOOKS:
            if hasattr(self, name):
                params[name] = getattr(self, name)
        missing = [name for name in self.targets_as_params if name not in view]
        if missing:
            msg = f"{type(self).__name__} needs the targets {missing}, which were not given"
            raise RecipeError(msg)
        own = type(self)
        if own.get_params_dependent_on_data is not BasicTransform.get_params_dependent_on_data:
            params.update(self.get_params_dependent_on_data(params, view.data()))
        elif own._inherited_draw is not None:
            params = {**own._inherited_draw(self, rng, view), **params}
        return params

    def get_params(self) -> Params:
        """Parameters that need no data; a hook for custom transforms."""
        return {}

    def get_params_dependent_on_data(self, params: Params, data: Mapping[str, Any]) -> Params:
        """Parameters that depend on the data (`data["image"]`, …); a hook for custom transforms.

        Called as `super()` by a subclass of a built-in transform, all parameters of that.
        """
        inherited = type(self)._inherited_draw
        return {} if inherited is None else inherited(self, _draws_of(self), _Data(params["shape"], data))

    @property
    def targets_as_params(self) -> list[str]:
        """The targets that `get_params_dependent_on_data` cannot do without."""
        return []

    @property
    def py_random(self) -> random.Random:
        """This slot's `random.Random`, while a pipeline calls this transform."""
        return _draws_of(self)

    @property
    def random_generator(self) -> np.random.Generator:
        """This slot's `numpy.random.Generator`, while a pipeline calls this transform."""
        return _draws_of(self).generator

    # Application

    def fuse(self, canvas: Canvas, params: Params) -> None:
        """Do the work on `canvas`: by `apply` on its pixels, or, in subclasses, to the bit so without touching any."""
        array = canvas.pixels()
        found = self.apply_to_mask(array, **params) if canvas.is_mask else self.apply(array, **params)
        canvas.set(returned_array(self, "apply_to_mask" if canvas.is_mask else "apply", found))

    def apply(self, img: Array, **params: Any) -> Array:
        """The transformed image, a new array; (H, W) or (H, W, C) in, as many axes out."""
        msg = f"{type(self).__name__} does not say what it does to images; override apply"
        raise NotImplementedError(msg)

    def apply_to_images(self, images: Array, **params: Any) -> Array:
        """The transformed images (N, H, W[, C]), all with one set of parameters."""
        return np.stack([self.apply(image, **params) for image in images])

    def apply_to_mask(self, mask: Array, **params: Any) -> Array:
        """The transformed mask; as the image unless overridden."""
        return self.apply(mask, **params)

    def apply_to_masks(self, masks: Array, **params: Any) -> Array:
        """The transformed masks (N, H, W[, C])."""
        return np.stack([self.apply_to_mask(mask, **params) for mask in masks])

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The transformed boxes (N, 4+): x_min, y_min, x_max, y_max as shares of width and height."""
        msg = f"{type(self).__name__} does not say what it does to bboxes; override apply_to_bboxes"
        raise NotImplementedError(msg)

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The transformed keypoints (N, 5+): x, y, z, angle, scale, in pixels and radians."""
        msg = f"{type(self).__name__} does not say what it does to keypoints; override apply_to_keypoints"
        raise NotImplementedError(msg)

    def run(self, call: Call, slot: bytes, *, force: bool = False) -> None:
        """Apply the transform to the targets of `call` if its gate at `slot` lets it, or if forced and p > 0."""
        draws = call.draws
        draws.move(call.key, slot)
        if self.p < 1.0 and (self.p <= 0.0 if force else draws.gate >= self.p):
            return
        params = self.draw(draws, call)
        if call.records is not None:
            call.record(slot, self, params)
        self.apply_params(call, params)

    def apply_params(self, call: Call, params: Params) -> None:
        """Apply the transform with `params` to every target of `call` that it knows."""
        call.apply(self, params)


def _draws_of(transform: BasicTransform) -> Draws:
    try:
        return current_draws.get()
    except LookupError:
        msg = (
            f"{type(transform).__name__} was asked for random numbers outside of a call; "
            "they belong to an address, and exist while a Compose calls the transform"
        )
        raise RecipeError(msg) from None


def returned_array(transform: BasicTransform, hook: str, found: Any) -> Array:
    """What the transform's `hook` returned, if that is an array."""
    if not isinstance(found, np.ndarray):
        msg = (
            f"{type(transform).__name__}.{hook} returned {type(found).__name__}; it must return a numpy array"
        )
        raise RecipeError(msg)
    return found


class _Data(dict[str, Any]):
    """The data of a hook as a `View`."""

    def __init__(self, shape: tuple[int, ...], data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.shape = shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the image."""
        dtype: np.dtype[Any] = self["image"].dtype
        return dtype

    def data(self) -> dict[str, Any]:
        """All targets."""
        return self


def _apply_to_own_targets(self: BasicTransform, call: Call, params: Params) -> None:
    """`apply_params` of a class that says by itself which functions are for which targets, standard ones or others."""
    call.apply_functions(self, cast(Any, self).targets, params)


class ImageOnlyTransform(BasicTransform):
    """A transform of `image` and `images` that leaves everything else alone."""

    kinds = frozenset({"image", "images"})


class DualTransform(BasicTransform):
    """A transform that moves pixels, and masks, boxes and keypoints with them."""

    kinds = frozenset({"image", "images", "mask", "masks", "bboxes", "keypoints"})


class NoOp(DualTransform):
    """Leave everything as it is."""

    _calls_no_hooks = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def draw(self, rng: Draws, view: View) -> Params:
        """Nothing to draw."""
        return {}

    def apply_params(self, call: Call, params: Params) -> None:
        """Nothing to do."""

    def apply(self, img: Array, **params: Any) -> Array:
        """The image."""
        return img

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """The boxes."""
        return bboxes

    def apply_to_keypoints(self, keypoints: Array, **params: Any) -> Array:
        """The keypoints."""
        return keypoints
