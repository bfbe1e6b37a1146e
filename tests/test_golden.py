"""What every transform draws, and the pixels of those that are exact, never change: not with processor or release."""

from __future__ import annotations

import json

import golden_transforms
import numpy as np

import augstream as A

# GOLDEN VALUES. They pin every user's augmentations. They may change only by a decision of the maintainers, as a SEED
# break of the change log.


def test_golden_transforms() -> None:
    expected, found = json.loads(golden_transforms.FILE.read_text()), golden_transforms.golden()
    assert list(found) == list(expected)
    assert {label: one for label, one in found.items() if one != expected[label]} == {}
    assert sum("pixels" in one for one in expected.values()) >= 50


def test_golden_values_see_a_change() -> None:
    pipeline = A.Compose([A.RandomCrop(24, 20, p=1)], seed=138, save_applied_params=True)
    drawn, pixels = golden_transforms.results(pipeline)
    pipeline.set_random_seed(137)
    again, others = golden_transforms.results(pipeline)
    assert golden_transforms.short(drawn) != golden_transforms.short(again)
    assert any(not np.array_equal(first, second) for first, second in zip(pixels, others, strict=True))
    assert golden_transforms.short([0.1 + 0.2, -0.0]) == golden_transforms.short([0.3, 0.0])
