"""Where albumentations keeps its tensors: `from augstream.pytorch import ToTensorV2`, and `A.pytorch.ToTensorV2()`."""

from .transforms.tensor import ToTensorV2

__all__ = ["ToTensorV2"]
