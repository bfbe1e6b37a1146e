"""Pipelines as data: dicts, JSON and YAML, and back, without running a stranger's code.

A file holds class names and arguments. Loading constructs classes that are augstream's own, or that this
program registered with `register`; any other name is an error. The text is bounded in size, depth and
number of values before anything is made of it. All arguments are written, defaults too, so that a later
release's defaults change nothing.

What albumentations 2.0.8 saved loads as well, by class name; a class or argument that has no equal here is
an error that names it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, TextIO, TypeVar, overload

from ..errors import RecipeError
from .base import BasicTransform
from .node import BaseCompose, Node
from .records import encode_node, registered_name
from .values import decode

DataFormat = Literal["json", "yaml"]
ClassT = TypeVar("ClassT", bound=type)

FORMAT = "augstream-pipeline"
FORMAT_VERSION = 1
MAX_BYTES = 2**20
MAX_DEPTH = 64
MAX_VALUES = 100_000

# What 2.0.8 writes of some transforms besides their arguments: attributes that its base classes' arguments name.
_NO_ARGUMENTS = {
    "PadIfNeeded": {"padding"},
    "RGBShift": {"approximation", "noise_params", "noise_type", "spatial_mode"},
    "SafeRotate": {
        "balanced_scale", "fit_output", "keep_ratio", "rotate", "scale", "shear", "translate_percent",
        "translate_px",
    },
}  # fmt: skip


# Which classes may be constructed


@overload
def register(cls: ClassT) -> ClassT: ...
@overload
def register(*, name: str) -> Callable[[ClassT], ClassT]: ...
def register(cls: Any = None, *, name: str | None = None) -> Any:
    """Let files name this class of transforms: a decorator, ``@register`` or
    ``@register(name="acme.Rain")``.

    The name, by default the class's own, must be nobody else's. Register only classes whose constructors
    are safe to call with any arguments: `load` calls them with those of a file.
    """
    if cls is None:
        return lambda decorated: _register(decorated, name)
    return _register(cls, name)


def _register(cls: Any, name: str | None) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, (BasicTransform, BaseCompose))):
        msg = f"register takes subclasses of ImageOnlyTransform, DualTransform or BaseCompose, got {cls!r}"
        raise RecipeError(msg)
    chosen = cls.__name__ if name is None else name
    other = registered_classes().get(chosen)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        taken = f"{other.__module__}.{other.__qualname__}"
        msg = f"the name {chosen!r} is taken by {taken}; give another: register(name=...)"
        raise RecipeError(msg)
    setattr(cls, "registered_name", chosen)  # noqa: B010  # the mark by which it is found; no class declares it
    return cls


def registered_classes() -> dict[str, type]:
    """Every class that a file may name, by its name: augstream's own and the registered ones."""
    package = import_module(__package__ or "")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    found = {}
    for cls in _subclasses(BasicTransform, BaseCompose):
        name = registered_name(cls)
        if name is not None:
            found[name] = (
                cls  # of a class that was defined twice, as in a notebook, the later definition counts
            )
    return found


def _subclasses(*classes: type) -> Iterator[type]:
    for cls in classes:
        subclasses: list[type] = type.__subclasses__(cls)
        for subclass in subclasses:
            yield subclass
            yield from _subclasses(subclass)


# Writing


def to_dict(transform: Node) -> dict[str, Any]:
    """The pipeline as data that `json.dumps` takes: class names and all arguments, the seed as it now is.

    Raises `RecipeError` for what could not be loaded again: a class that is not registered, an argument
    that is no data, a `Lambda` without a name. Two pipelines that do the same have equal dicts.
    """
    if not isinstance(transform, (BasicTransform, BaseCompose)):
        msg = f"to_dict takes a transform or a Compose, got {transform!r}"
        raise RecipeError(msg)
    return {"format": FORMAT, "version": FORMAT_VERSION, "transform": encode_node(transform, "transform")}


def save(
    transform: Node, filepath_or_buffer: str | Path | TextIO, data_format: DataFormat | None = None
) -> None:
    """Write the pipeline to a file as "json" or "yaml": by default as the file's name ends."""
    text = _dump(to_dict(transform), _format_of(filepath_or_buffer, data_format))
    if isinstance(filepath_or_buffer, (str, Path)):
        Path(filepath_or_buffer).write_text(text, encoding="utf-8")
    else:
        filepath_or_buffer.write(text)


# Reading


def from_dict(transform_dict: Mapping[str, Any], nonserializable: Mapping[str, Node] | None = None) -> Any:
    """The pipeline that `to_dict` wrote, of this release or of albumentations 2.0.8.

    `nonserializable` gives the `Lambda` for each name. Raises `RecipeError` for anything that is no such
    pipeline.
    """
    if not isinstance(transform_dict, Mapping) or not isinstance(transform_dict.get("transform"), Mapping):
        msg = f"not a saved pipeline: {str(transform_dict)[:200]}; a pipeline is saved by augstream.save"
        raise RecipeError(msg)
    _check_bounds(transform_dict)
    node: Any = transform_dict["transform"]
    if "__class_fullname__" in node:
        node = _from_albumentations(node, "transform")
    elif transform_dict.get("format") != FORMAT:
        msg = f"not a saved pipeline: its format is {transform_dict.get('format')!r} instead of {FORMAT!r}"
        raise RecipeError(msg)
    elif transform_dict.get("version") != FORMAT_VERSION:
        msg = (
            f"the pipeline was saved in version {transform_dict.get('version')!r} of the format; this "
            f"release reads version {FORMAT_VERSION}; load it with the release that saved it"
        )
        raise RecipeError(msg)
    return Builder(nonserializable).build(node, "transform")


def load(
    filepath_or_buffer: str | Path | TextIO,
    data_format: DataFormat | None = None,
    nonserializable: Mapping[str, Node] | None = None,
) -> Any:
    """The pipeline in a file, with the seed it was saved with; runs no code of the file's."""
    chosen = _format_of(filepath_or_buffer, data_format)
    try:
        return from_dict(_parse(_text(filepath_or_buffer), chosen), nonserializable)
    except RecipeError as error:
        if not isinstance(filepath_or_buffer, (str, Path)):
            raise
        msg = f"{filepath_or_buffer}: {error}"
        raise RecipeError(msg) from error


def _text(filepath_or_buffer: str | Path | TextIO) -> str:
    try:
        if isinstance(filepath_or_buffer, (str, Path)):
            with Path(filepath_or_buffer).open(encoding="utf-8") as file:
                text = file.read(MAX_BYTES + 1)
        else:
            text = filepath_or_buffer.read(MAX_BYTES + 1)
    except UnicodeDecodeError as error:
        msg = f"not a saved pipeline: not a text in UTF-8 ({error})"
        raise RecipeError(msg) from error
    if len(text) > MAX_BYTES:
        msg = f"the file is larger than {MAX_BYTES} bytes, which no pipeline is"
        raise RecipeError(msg)
    return text


class Builder:
    """Makes transforms from data, of registered classes only."""

    def __init__(self, nonserializable: Mapping[str, Node] | None = None) -> None:
        self._nonserializable = nonserializable or {}
        self._classes = registered_classes()

    def build(self, node: Mapping[str, Any], where: str) -> Any:
        """The transform of `node`: ``{"$class": name, argument: value, ...}``."""
        name = node.get("$class")
        if not isinstance(name, str):
            msg = f"{where}: {str(node)[:200]} names no class"
            raise RecipeError(msg)
        cls = self._classes.get(name)
        if cls is None:
            raise RecipeError(_unknown_class(name, where, self._classes))
        if name == "Lambda":
            return self._lambda(node.get("name"))
        arguments = {
            argument: decode(value, f"{where}.{argument}", other=self.build)
            for argument, value in node.items()
            if argument != "$class"
        }
        try:
            return cls(**arguments)
        except Exception as error:  # whatever a constructor says of a stranger's arguments
            msg = f"{where}: {name} can't be made from the arguments of the file: {error}"
            raise RecipeError(msg) from error

    def _lambda(self, name: Any) -> Any:
        if not isinstance(name, str) or name not in self._nonserializable:
            msg = f"the pipeline has a Lambda named {name!r}; pass nonserializable={{{name!r}: Lambda(...)}}"
            raise RecipeError(msg)
        return self._nonserializable[name]


def _unknown_class(name: str, where: str, classes: Mapping[str, type]) -> str:
    nearest = difflib.get_close_matches(name, classes, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return (
        f"{where}: there is no transform {name!r}{hint}; only augstream's own classes, and those decorated "
        "with @augstream.register are ever made from a file"
    )


def _from_albumentations(node: Any, where: str) -> Any:
    """What albumentations 2.0.8 wrote, in our terms."""
    if isinstance(node, list):
        return [_from_albumentations(item, f"{where}[{position}]") for position, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "__class_fullname__" not in node:
        return {name: _from_albumentations(value, f"{where}.{name}") for name, value in node.items()}
    name = str(node["__class_fullname__"])
    if name.startswith("albumentations."):
        name = name.rpartition(".")[2]
    if "__name__" in node:
        return {"$class": name, "name": node["__name__"]}
    left_out = {"__class_fullname__"} | _NO_ARGUMENTS.get(name, set())
    arguments = {
        argument: _from_albumentations(value, f"{where}.{argument}")
        for argument, value in node.items()
        if argument not in left_out
    }
    return {"$class": name, **arguments}


def _check_bounds(data: Any) -> None:
    """Refuse what is nested too deep or has too many values, before anything is made of it."""
    waiting = [(data, 0)]
    num_values = 0
    while waiting:
        value, depth = waiting.pop()
        num_values += 1
        if depth > MAX_DEPTH or num_values > MAX_VALUES:
            msg = f"nested deeper than {MAX_DEPTH} or more than {MAX_VALUES} values: no pipeline is"
            raise RecipeError(msg)
        if isinstance(value, Mapping):
            waiting.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            waiting.extend((item, depth + 1) for item in value)


# Text


def _format_of(target: Any, data_format: str | None) -> str:
    if data_format is None:
        is_yaml = isinstance(target, (str, Path)) and Path(target).suffix.lower() in {".yaml", ".yml"}
        return "yaml" if is_yaml else "json"
    if data_format not in {"json", "yaml"}:
        msg = f"data_format must be 'json' or 'yaml', got {data_format!r}"
        raise RecipeError(msg)
    return data_format


def _dump(data: dict[str, Any], data_format: str) -> str:
    if data_format == "json":
        return json.dumps(data, indent=2, allow_nan=False) + "\n"
    text: str = _yaml().safe_dump(data, sort_keys=False, default_flow_style=None)
    return text


def _parse(text: str | bytes, data_format: str) -> Any:
    parse = json.loads if data_format == "json" else _parse_yaml
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        msg = f"the file is no {data_format.upper()}: {str(error)[:200]}"
        raise RecipeError(msg) from error


def _parse_yaml(text: str | bytes) -> Any:
    yaml = _yaml()
    try:
        return yaml.load(text, _anchorless_loader(yaml))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _yaml() -> Any:
    try:
        return import_module("yaml")
    except ImportError as error:
        msg = "YAML needs PyYAML: pip install 'augstream[yaml]', or save as JSON"
        raise RecipeError(msg) from error


def _anchorless_loader(yaml: Any) -> Any:
    """PyYAML's safe loader without aliases, which no pipeline has, and by which small files grow endless; and without
    more values than a pipeline may have, which it would take a dozen seconds to read."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is imported only here
        num_values = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("it has aliases")
            self.num_values += 1
            if self.num_values > MAX_VALUES:  # keys count too
                raise yaml.YAMLError(f"it has more than {MAX_VALUES} values")
            return super().compose_node(parent, index)

    return Loader
