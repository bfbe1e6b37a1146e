"""Between webdataset's samples and a transform's targets: which member goes in as what, and comes back in its kind."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..decode import IMAGE_SUFFIXES, MAX_PIXELS, Field, Fields, Kind, follow
from ..errors import RecipeError, SampleError

Sample = dict[str, Any]

_IMAGE_MEMBERS = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    *sorted(IMAGE_SUFFIXES - {"jpg", "jpeg", "png", "webp"}),
    "image",
)
_KINDS_BY_TARGET: Mapping[str, Kind] = {"image": "image", "images": "image", "mask": "mask", "masks": "mask"}


@dataclass(frozen=True, slots=True)
class Port:
    """One member on its way in and out: its target, which one of a list if the target is one, and how it decodes."""

    target: str
    place: int | None
    suffixes: tuple[str, ...]
    path: tuple[str, ...]
    decoder: Fields

    @classmethod
    def parse(cls, target: str, spec: str, place: int | None, max_pixels: int) -> Port:
        """The port that `spec` describes, as in `Fields`; members of any name may be images or masks."""
        field = Field.parse(target, spec)
        kind = _KINDS_BY_TARGET.get(target, field.kind) if field.kind == "bytes" else field.kind
        return cls.of(target, Field(field.suffixes, kind, field.path), place, max_pixels)

    @classmethod
    def of(cls, target: str, field: Field, place: int | None, max_pixels: int) -> Port:
        """The port of a field."""
        decoder = Fields({target: Field(field.suffixes, field.kind)}, max_pixels=max_pixels)
        return cls(target, place, field.suffixes, field.path, decoder)

    def suffix(self, sample: Mapping[str, Any]) -> str:
        """Which member of the sample it is; `SampleError` if there is none."""
        for suffix in self.suffixes:
            if suffix in sample:
                return suffix
        has = ", ".join(str(name) for name in sample)
        msg = (
            f"target {self.target!r}: the sample has no {' or '.join(self.suffixes)}, only {has}; "
            "name its member in augment(..., fields={'image': 'jpg;png'}), and put the stage before to_tuple"
        )
        raise SampleError(msg)

    def decoded(self, suffix: str, value: Any, key: str, late: Container[str]) -> Any:
        """`value`, decoded if it is still bytes; for a target in `late`, perhaps as an image to be decoded in part."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            raw = {"__key__": key, suffix: bytes(value)}
            return self.decoder.decode(raw, encoded=late if self.place is None else ())[self.target]
        return value


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken out of a sample: the targets, the members decoded, and each port's member and former value."""

    targets: Sample
    members: Sample
    origins: list[tuple[Port, str, Any]]


class Ports:
    """Takes a transform's targets out of samples, and puts them back where they were, as what they were.

    fields: target to member, as in `Fields`, or to a list of members. as_arrays: tensors (C, H, W) and PIL images go
    in as arrays (H, W, C). late: targets that may go in as images yet to be decoded.
    """

    def __init__(
        self,
        fields: Mapping[str, str | Sequence[str]] | None,
        *,
        max_pixels: int = MAX_PIXELS,
        as_arrays: bool = True,
        late: Container[str] = (),
    ) -> None:
        self._as_arrays = as_arrays
        self._late = late
        if fields is None:
            self._ports = [Port.of("image", Field(_IMAGE_MEMBERS, "image"), None, max_pixels)]
            return
        if not isinstance(fields, Mapping) or not fields:
            msg = f"fields says which member is which target, as in {{'image': 'jpg;png'}}, got {fields!r}"
            raise RecipeError(msg)
        self._ports = []
        for target, spec in fields.items():
            if isinstance(spec, str):
                self._ports.append(Port.parse(target, spec, None, max_pixels))
            else:
                self._ports += [Port.parse(target, one, place, max_pixels) for place, one in enumerate(spec)]

    def take(self, sample: Mapping[str, Any]) -> Taken:
        """The targets of `sample`, decoded; the sample stays as it is."""
        taken = Taken({}, {}, [])
        for port in self._ports:
            suffix = port.suffix(sample)
            if suffix not in taken.members:
                taken.members[suffix] = port.decoded(
                    suffix, sample[suffix], str(sample.get("__key__")), self._late
                )
            value = follow(taken.members[suffix], port.path) if port.path else taken.members[suffix]
            taken.origins.append((port, suffix, value))
            given = _as_array(value) if self._as_arrays else value
            if port.place is None:
                taken.targets[port.target] = given
            else:
                taken.targets.setdefault(port.target, []).append(given)
        return taken

    def rest(self, sample: Mapping[str, Any], taken: Taken) -> Sample:
        """The members that are no targets."""
        return {name: value for name, value in sample.items() if name not in taken.members}

    def give(self, sample: Mapping[str, Any], taken: Taken, result: Mapping[str, Any]) -> Sample:
        """A new sample with the targets of `result` where they came from, and with what else `result` brought."""
        given = {**sample, **{name: value for name, value in result.items() if name not in taken.targets}}
        members = dict(taken.members)
        for port, suffix, former in taken.origins:
            if port.target not in result:
                msg = f"the transform returned no {port.target!r}, only {', '.join(map(str, result))}"
                raise SampleError(msg)
            value = result[port.target] if port.place is None else result[port.target][port.place]
            value = _as_before(former, value)
            members[suffix] = given[suffix] = _replaced(members[suffix], port.path, value)
        return given


def _replaced(value: Any, path: tuple[str, ...], new: Any) -> Any:
    """A copy of a JSON value with what lies at `path` replaced."""
    if not path:
        return new
    if isinstance(value, Mapping):
        return {**value, path[0]: _replaced(value[path[0]], path[1:], new)}
    place = int(path[0])
    return [*value[:place], _replaced(value[place], path[1:], new), *value[place + 1 :]]


def _is_pil(value: Any) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "convert")


def _is_planar(tensor: torch.Tensor) -> bool:
    """Whether a tensor is (C, H, W), as torch's are, and not (H, W, C), as a DataLoader makes them of arrays."""
    return tensor.ndim >= 3 and (tensor.shape[-3] in {1, 3, 4} or tensor.shape[-1] not in {1, 3, 4})


def _as_array(value: Any) -> Any:
    """Tensors and PIL images as arrays with channels last; anything else as it is."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.movedim(-3, -1) if _is_planar(value) else value).contiguous().numpy()
    if _is_pil(value):
        return np.asarray(value.convert("L") if value.mode == "1" else value)
    return value


def _as_before(former: Any, value: Any) -> Any:
    """An array as the kind of thing that `former` is, if that can hold it; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    if isinstance(former, torch.Tensor):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        return tensor.movedim(-1, -3).contiguous() if _is_planar(former) else tensor
    if _is_pil(former) and value.dtype == np.uint8 and (value.ndim == 2 or value.shape[2] in {1, 3, 4}):
        from PIL import Image

        return Image.fromarray(value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    return value
