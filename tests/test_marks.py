"""Folds and marks: which changes of an array they see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augstream.ledgers.fold import BLOCK_BYTES, fold, sums
from augstream.ledgers.ledger import START, chained
from augstream.ledgers.marks import Told, marks_of

IMAGE = np.random.default_rng(3).standard_normal((3, 96, 96), np.float32)


def test_any_single_bit_is_seen() -> None:
    bits = IMAGE.copy().view(np.uint32).reshape(-1)
    rng = np.random.default_rng(1)
    before = fold(bits)
    for place, bit in zip(rng.integers(bits.size, size=300), rng.integers(32, size=300), strict=True):
        bits[place] ^= np.uint32(1) << np.uint32(bit)
        assert fold(bits) != before
        bits[place] ^= np.uint32(1) << np.uint32(bit)
    assert fold(bits) == before


def test_folds_are_the_same_on_every_machine() -> None:
    """Ledgers of any age and place are compared: who changes these numbers changes VERSION of ledgers."""
    words = np.arange(40_000, dtype="<u4")
    assert fold(words).hex() == "d6d19587df744667"
    assert fold(words.view(np.uint8)[:-3]).hex() == "d345a9e008e576dd"
    assert fold(words[:100]).hex() == "e089c2123c3fc73c"
    marks = marks_of({"image": words.reshape(2, -1), "cls": [3, 4]}, [("a.tar", "0"), ("a.tar", "1")], 2)
    assert marks.digest.hex() == "9e1f6a4eb020e3522f8b2c910fe27a55"
    assert marks.samples.hex() == "92a66fddacff049668f845ad"
    assert (
        chained(START, 3, range(5, 6), marks.digest).hex()
        == "5763ed4e104bb5929afe7b9941b99ea7c5d936b29b608ec9bb2a456203e50bf4"
    )


@pytest.mark.parametrize("change", [
    lambda image: image[::-1], lambda image: image[:, ::-1], lambda image: image[:, :, ::-1],
    lambda image: np.roll(image, 1, axis=1), lambda image: np.roll(image, 1), lambda image: image.swapaxes(1, 2),
    lambda image: -image, lambda image: image + np.float32(1), lambda image: image * 0, lambda image: image[:2],
    lambda image: np.concatenate([image, image[:1] * 0]), lambda image: np.sort(image, axis=None),
])  # fmt: skip
def test_what_goes_wrong_with_images_is_seen(change) -> None:
    assert fold(np.ascontiguousarray(change(IMAGE))) != fold(IMAGE)


def test_neither_layout_nor_alignment_counts() -> None:
    raw = np.zeros(IMAGE.nbytes + 3, np.uint8)
    raw[3:] = IMAGE.reshape(-1).view(np.uint8)
    assert fold(raw[3:]) == fold(IMAGE) == fold(np.asfortranarray(IMAGE)) == fold(IMAGE.astype(">f4"))


def test_what_a_fold_cannot_see_is_what_it_says() -> None:
    """Two words that change places a whole number of blocks apart: the price of the pace."""
    bytes_ = np.arange(3 * BLOCK_BYTES, dtype=np.uint64).astype(np.uint8)
    swapped = bytes_.copy()
    swapped[:8], swapped[BLOCK_BYTES : BLOCK_BYTES + 8] = bytes_[BLOCK_BYTES : BLOCK_BYTES + 8], bytes_[:8]
    assert not np.array_equal(bytes_, swapped)
    assert fold(bytes_) == fold(swapped)
    assert fold(np.roll(bytes_, 8)) != fold(bytes_)


@pytest.mark.parametrize(
    "size", [0, 1, 7, 8, BLOCK_BYTES, BLOCK_BYTES + 1, BLOCK_BYTES + 8, 5 * BLOCK_BYTES + 13]
)
def test_every_byte_of_every_size_counts(size: int) -> None:
    whole = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    found = {fold(whole), fold(np.append(whole, np.uint8(0)))}
    places = {0, size // 2, size - 1} if size else set()
    for bit, place in enumerate(places):  # the same bit a block apart would be the same change of a sum
        other = whole.copy()
        other[place] ^= 1 << bit
        found.add(fold(other))
    assert len(found) == 2 + len(places)


def test_words_at_the_top_do_not_cancel() -> None:
    """A factor would push the highest bits out of a sum of products."""
    words = np.zeros(509, np.uint64)
    flipped = words.copy()
    flipped[[3, 4]] = np.uint64(1) << np.uint64(63)
    assert fold(flipped) != fold(words)


def test_marks_find_the_sample_and_the_field() -> None:
    names = [("a.tar", str(number)) for number in range(5)]
    images = np.stack([IMAGE + number for number in range(5)])
    boxes = [[number] * number for number in range(5)]
    batch = {"image": images, "cls": np.arange(5), "boxes": boxes, "meta": {"mean": torch.zeros(5)}}
    batch |= {"note": "the same for all", "__key__": [key for _, key in names]}
    before = marks_of(batch, names, 5)
    assert [name for name, _ in before.fields] == ["boxes", "cls", "image", "meta.mean", "note"]
    assert (
        marks_of(batch, names, 5, {"image": [Told(sums(image), image.nbytes) for image in images]}) == before
    )
    other = {**batch, "cls": np.array([0, 1, 2, 7, 4])}
    after = marks_of(other, names, 5)
    assert after.digest != before.digest
    assert [name for name, short in after.fields if short != dict(before.fields)[name]] == ["cls"]
    assert [
        place for place in range(5) if after.samples[6 * place :][:6] != before.samples[6 * place :][:6]
    ] == [3]
    assert marks_of({**batch, "note": "other"}, names, 5).digest != before.digest
    assert marks_of(batch, names[::-1], 5).digest != before.digest
    assert marks_of({**batch, "cls": np.arange(5.0)}, names, 5).digest != before.digest
    assert (
        marks_of({**batch, "meta": {"mean": torch.zeros(5, dtype=torch.bfloat16)}}, names, 5).digest
        != before.digest
    )
