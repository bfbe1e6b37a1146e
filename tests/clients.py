"""Other readers of the format, as packages: imported where they are installed, and what a test says where not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

# Packages that import torchvision. They lie apart, lest others find a torchvision that cannot load its operators.
APART = Path(sys.prefix) / "clients"
_OPERATORS = ("nms", "qnms")


def client(name: str) -> ModuleType:
    """The module `name` of a package, torchvision's and those that import it included; the test is skipped without it.

    torchvision's wheels load their operators where they find the torch that they were built with, which one for the CPU
    alone is not; then those that torchvision asks for are declared, and none of them is there to be called.
    """
    sys.path.append(str(APART))
    try:
        _ensure_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{name} needs {error.name}, which is not installed")
    finally:
        sys.path.remove(str(APART))


def _ensure_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for left in [left for left in sys.modules if left.partition(".")[0] == "torchvision"]:
            del sys.modules[left]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # what it declares goes with it
        importlib.import_module("torchvision")


_declared: list[torch.library.Library] = []
