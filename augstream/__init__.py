"""Exactly repeatable, resumable, unkillable augmented streams from webdataset tar shards.

Names are loaded when first used: `import augstream` alone imports neither torch nor webdataset nor OpenCV.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

_ROOMS = {
    "errors": (
        "AugstreamError", "IndexFileError", "LeakError", "LedgerError", "RecipeError", "SampleError", "ShardError",
        "StateError", "TopologyError", "TransformChangedWarning", "WorkerError",
    ),
    "seeding": ("Address", "derive_seed", "stream_key"),
    "index": ("ShardIndex",),
    "indexing": ("build_index",),
    "sources.remote": ("Remote",),
    "decode": ("Field",),
    "dataset": ("StreamDataset",),
    "loader": ("StreamLoader",),
    "mixture": ("Mixture",),
    "transforms.base": ("BasicTransform", "DualTransform", "ImageOnlyTransform", "NoOp"),
    "transforms.compose": ("Compose",),
    "transforms.node": ("BaseCompose",),
    "transforms.composition": (
        "Lambda", "OneOf", "OneOrOther", "RandomOrder", "ReplayCompose", "SelectiveChannelTransform", "Sequential",
        "SomeOf",
    ),
    "transforms.bboxes": ("BboxParams",),
    "transforms.keypoints": ("KeypointParams",),
    "transforms.replay": ("replay",),
    "transforms.serialization": ("from_dict", "load", "register", "save", "to_dict"),
    "transforms.flips": ("D4", "HorizontalFlip", "RandomRotate90", "Transpose", "VerticalFlip"),
    "transforms.crops": ("CenterCrop", "Crop", "RandomCrop", "RandomResizedCrop", "RandomSizedCrop"),
    "transforms.resizing": ("LongestMaxSize", "RandomScale", "Resize", "SmallestMaxSize"),
    "transforms.padding": ("Pad", "PadIfNeeded"),
    "transforms.affine": ("Affine", "Rotate", "SafeRotate", "ShiftScaleRotate"),
    "transforms.perspective": ("Perspective",),
    "transforms.distortion": ("ElasticTransform", "GridDistortion", "OpticalDistortion"),
    "transforms.dropout": ("CoarseDropout", "Erasing", "RandomErasing"),
    "transforms.brightness": (
        "ChannelShuffle", "InvertImg", "Posterize", "RGBShift", "RandomBrightnessContrast", "RandomGamma", "Solarize",
        "ToGray",
    ),
    "transforms.colour": ("ColorJitter", "HueSaturationValue"),
    "transforms.histogram": ("AutoContrast", "CLAHE", "Equalize"),
    "transforms.blur": ("Blur", "GaussianBlur", "MedianBlur", "MotionBlur", "Sharpen"),
    "transforms.noise": ("GaussNoise", "ISONoise"),
    "transforms.compression": ("Downscale", "ImageCompression"),
    "transforms.normalize": ("Normalize", "ToFloat"),
    "transforms.tensor": ("ToTensorV2",),
    "transforms.recipes": ("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"),
}  # fmt: skip
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = ("pytorch", "testing", "wds")

__all__ = sorted([*_ROOM_OF, *_MODULES])  # noqa: PLE0605  # one table says where each name lives
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    room = _ROOM_OF.get(name)
    if room is None:
        nearest = [] if name.startswith("_") else get_close_matches(name, __all__, n=1, cutoff=0.8)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        msg = f"module {__name__!r} has no attribute {name!r}{hint}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
