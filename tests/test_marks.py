"""Marks, and the digests of arrays that they are made of: which changes they see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augstream.ledgers.content import content, row_contents
from augstream.ledgers.ledger import START, chained
from augstream.ledgers.marks import marks_of, short_of_name

IMAGE = np.random.default_rng(3).standard_normal((3, 96, 96), np.float32)


def test_any_single_bit_is_seen() -> None:
    bits = IMAGE.copy().view(np.uint32).reshape(-1)
    rng = np.random.default_rng(1)
    before = content(bits)
    for place, bit in zip(rng.integers(bits.size, size=300), rng.integers(32, size=300), strict=True):
        bits[place] ^= np.uint32(1) << np.uint32(bit)
        assert content(bits) != before
        bits[place] ^= np.uint32(1) << np.uint32(bit)
    assert content(bits) == before


def test_digests_are_the_same_on_every_machine() -> None:
    """Ledgers of any age and place are compared: who changes these numbers changes VERSION of ledgers."""
    words = np.arange(40_000, dtype="<u4")
    assert content(words).hex() == "00a3f04c97116f83ca87ca9ac2f0e036"
    assert content(words.view(np.uint8)[:-3]).hex() == "4bedf0a4ce4c35fb06b8d0e27021674a"
    assert content(words[:100]).hex() == "7500831f714360228b942c966a1738e2"
    marks = marks_of({"image": words.reshape(2, -1), "cls": [3, 4]}, [("a.tar", "0"), ("a.tar", "1")], 2)
    assert marks.digest.hex() == "7e8b64e50cbff796520c4fb73ee639b3"
    assert marks.samples.hex() == "178022f8544107bae77c28e6"
    assert (
        chained(START, 3, range(5, 6), marks.digest).hex()
        == "272d20393c1e11a7b5e21f4ec1673e3f0ce3cccdca2db04bd308946aa33e5c4e"
    )


@pytest.mark.parametrize("change", [
    lambda image: image[::-1], lambda image: image[:, ::-1], lambda image: image[:, :, ::-1],
    lambda image: np.roll(image, 1, axis=1), lambda image: np.roll(image, 1), lambda image: image.swapaxes(1, 2),
    lambda image: -image, lambda image: image + np.float32(1), lambda image: image * 0, lambda image: image[:2],
    lambda image: np.concatenate([image, image[:1] * 0]), lambda image: np.sort(image, axis=None),
])  # fmt: skip
def test_what_goes_wrong_with_images_is_seen(change) -> None:
    assert content(np.ascontiguousarray(change(IMAGE))) != content(IMAGE)


@pytest.mark.parametrize(
    "array", [IMAGE, IMAGE[:, ::-1], IMAGE.astype(">f8"), np.arange(3).astype("M8[s]")], ids=len
)
def test_a_row_has_the_digest_that_it_has_alone(array) -> None:
    assert row_contents(array) == [content(row) for row in array]


@pytest.mark.parametrize("seed", [1, 2**63, 2**64 - 1])
def test_a_seed_makes_another_digest(seed: int) -> None:
    assert len({content(IMAGE), content(IMAGE, seed), content(IMAGE, seed - 1)}) == (2 if seed == 1 else 3)


def test_neither_layout_nor_alignment_counts() -> None:
    raw = np.zeros(IMAGE.nbytes + 3, np.uint8)
    raw[3:] = IMAGE.reshape(-1).view(np.uint8)
    assert (
        content(raw[3:])
        == content(IMAGE)
        == content(np.asfortranarray(IMAGE))
        == content(IMAGE.astype(">f4"))
    )


@pytest.mark.parametrize("size", [0, 1, 7, 8, 16, 17, 240, 241, 4096, 20_493])
def test_every_byte_of_every_size_counts(size: int) -> None:
    whole = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    found = {content(whole), content(np.append(whole, np.uint8(0)))}
    places = {0, size // 2, size - 1} if size else set()
    for place in places:
        other = whole.copy()
        other[place] ^= 1
        found.add(content(other))
    assert len(found) == 2 + len(places)


def test_marks_find_the_sample_and_the_field() -> None:
    names = [("a.tar", str(number)) for number in range(5)]
    images = np.stack([IMAGE + number for number in range(5)])
    boxes = [[number] * number for number in range(5)]
    batch = {"image": images, "cls": np.arange(5), "boxes": boxes, "meta": {"mean": torch.zeros(5)}}
    batch |= {"note": "the same for all", "__key__": [key for _, key in names]}
    before = marks_of(batch, names, 5)
    assert [name for name, _ in before.fields] == ["boxes", "cls", "image", "meta.mean", "note"]
    assert marks_of(batch, names, 5, {"image": [content(image) for image in images]}) == before
    assert [before.samples[at : at + 3] for at in range(0, 30, 6)] == [short_of_name(name) for name in names]
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
