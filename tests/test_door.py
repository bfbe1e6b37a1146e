"""The public door: what `import augstream` shows, what it costs, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import augstream as A

HEAVY = ("torch", "webdataset", "cv2", "numpy", "PIL", "fsspec", "albumentations")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_all_names_are_sorted_and_there() -> None:
    assert list(A.__all__) == sorted(A.__all__)
    assert len(set(A.__all__)) == len(A.__all__)
    for name in A.__all__:
        assert getattr(A, name) is not None


def test_public_classes_know_where_they_live() -> None:
    for name in A.__all__:
        value = getattr(A, name)
        if isinstance(value, type):
            assert value.__name__ == name
            assert value.__module__.startswith("augstream."), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HorisontalFlip'; did you mean 'HorizontalFlip'"):
        A.HorisontalFlip  # noqa: B018  # the access is the test


def test_tensors_are_also_where_albumentations_keeps_them() -> None:
    from augstream.pytorch import ToTensorV2

    assert ToTensorV2 is A.ToTensorV2 is A.pytorch.ToTensorV2


def test_star_import_and_dir_agree_with_the_door() -> None:
    assert set(A.__all__) <= set(dir(A))


@pytest.mark.processes
def test_importing_loads_nothing_heavy() -> None:
    loaded = python(f"import augstream, sys; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.processes
def test_composing_needs_neither_torch_nor_webdataset() -> None:
    code = (
        "import augstream as A, numpy as np, sys\n"
        "A.Compose([A.HorizontalFlip(p=1), A.Normalize()])(image=np.zeros((4, 4, 3), np.uint8))\n"
        "print([m for m in ('torch', 'webdataset') if m in sys.modules])"
    )
    assert python(code) == "[]"
