"""Late decoding: a stream that decodes parts gives the same bytes as one that decodes all, and fails alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import augstream as A
from augstream.decode import Fields
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError
from augstream.images.encoded import EncodedImage
from augstream.images.pixels import decode_image
from augstream.testing import make_shards

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"


def photo(height: int, width: int, *, quality: int = 88) -> bytes:
    rng = np.random.default_rng(height + width)
    coarse = rng.integers(0, 256, (height // 20 + 2, width // 25 + 2, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


JPEG = photo(300, 401)
WHOLE = decode_image(JPEG)


@given(st.integers(0, 299), st.integers(0, 400), st.integers(1, 300), st.integers(1, 401))
def test_a_box_is_that_part_of_the_whole(y0: int, x0: int, height: int, width: int) -> None:
    y1, x1 = min(y0 + height, 300), min(x0 + width, 401)
    for mode in ("region", "scaled"):
        image = EncodedImage.of(JPEG, mode)
        assert image.shape == (300, 401, 3)
        assert np.array_equal(image.decode((y0, x0, y1, x1)), WHOLE[y0:y1, x0:x1])
    assert np.array_equal(EncodedImage.of(JPEG, "region").decode(), WHOLE)


def test_only_jpegs_wait() -> None:
    png = cv2.imencode(".png", WHOLE)[1].tobytes()
    assert isinstance(EncodedImage.of(png, "region"), np.ndarray)
    assert isinstance(EncodedImage.of(JPEG, "region"), EncodedImage)


def test_what_the_header_tells_is_an_error_at_once() -> None:
    with pytest.raises(SampleError, match="truncated"):
        EncodedImage.of(JPEG[:-40], "region")
    with pytest.raises(SampleError, match="over the limit of 1000"):
        EncodedImage.of(JPEG, "region", 1000)
    with pytest.raises(RecipeError, match="decode must be one of"):
        Fields(mode="half")  # type: ignore[arg-type]


def test_scaled_gives_as_many_pixels_as_are_wanted_of_the_same_picture() -> None:
    encoded = (PHOTOS / "astronaut.jpg").read_bytes()
    whole = decode_image(encoded)
    image = EncodedImage.of(encoded, "scaled")
    for at_least, factor in {(40, 40): 4, (100, 120): 2, (151, 80): 1, (20, 20): 8}.items():
        part = image.decode((48, 64, 248, 384), at_least)
        assert part.shape[0] in {200 // factor, 200 // factor + 1}
        assert part.shape[0] >= at_least[0]
        assert part.shape[1] >= at_least[1]
        exact = cv2.resize(whole[48:248, 64:384], (at_least[1], at_least[0]), interpolation=cv2.INTER_AREA)
        near = cv2.resize(part, (at_least[1], at_least[0]), interpolation=cv2.INTER_AREA)
        assert np.abs(exact.astype(int) - near).mean() < 4
    assert np.array_equal(image.decode((50, 60, 250, 380), (150, 200)), whole[50:250, 60:380])
    exact = EncodedImage.of(encoded, "region")
    assert np.array_equal(exact.decode((50, 60, 250, 380), (10, 10)), whole[50:250, 60:380])


# In a stream


def pipelines() -> dict[str, Any]:
    return {
        "crop first": A.Compose([A.RandomResizedCrop(size=(64, 96)), A.HorizontalFlip(p=0.5)]),
        "turn, then crop": A.Compose([A.D4(), A.RandomCrop(100, 90)]),
        "a resize first": A.Compose([A.Resize(90, 90), A.CenterCrop(50, 50)]),
        "nothing": A.Compose([A.CenterCrop(200, 200, p=1.0)]),
        "a function": A.Compose([A.Lambda(image=first_rows, p=1.0)]),
        "unfused": A.Compose([A.RandomResizedCrop(size=(64, 96))], fused=False),
    }


def first_rows(image: np.ndarray, **_: Any) -> np.ndarray:
    return image[:200, :200].copy()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_shards(tmp_path_factory.mktemp("encoded"), 16, 2, size=(230, 260))


@pytest.mark.parametrize("name", pipelines())
def test_a_stream_that_decodes_parts_gives_the_same_bytes(name: str, shards: Any) -> None:
    def run(decode: str) -> list[str]:
        dataset = A.StreamDataset(shards, pipelines()[name], batch_size=4, seed=1, decode=decode)
        return [digest(batch) for batch in dataset]

    assert run("region") == run("full")


def test_scaled_streams_are_repeatable_and_their_states_are_others(shards: Any) -> None:
    crop = A.Compose([A.RandomResizedCrop(size=(32, 32), scale=(0.5, 1.0))])

    def dataset(decode: str) -> A.StreamDataset:
        return A.StreamDataset(shards, crop, batch_size=4, seed=1, decode=decode)

    scaled = [digest(batch) for batch in dataset("scaled")]
    assert scaled == [digest(batch) for batch in dataset("scaled")]
    assert scaled != [digest(batch) for batch in dataset("full")]
    with pytest.warns(UserWarning, match="transform"):
        dataset("full").load_state_dict(dataset("scaled").state_dict())
