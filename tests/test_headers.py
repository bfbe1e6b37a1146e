"""Image headers: sizes agree with Pillow, cuts are seen, and no bytes make the parser fail or dawdle."""

import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from augstream.images.headers import is_complete, num_scans, read_header

RNG = np.random.default_rng(5)


def encoded(fmt: str, mode: str = "RGB", size: tuple[int, int] = (37, 23), **options: object) -> bytes:
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = size[::-1] if channels == 1 else (*size[::-1], channels)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.frombytes(mode, size, pixels.tobytes()).save(file, fmt, **options)
    return file.getvalue()


IMAGES = {
    "jpeg": (encoded("JPEG"), 3),
    "jpeg progressive": (encoded("JPEG", progressive=True), 3),
    "jpeg grey": (encoded("JPEG", "L"), 1),
    "jpeg cmyk": (encoded("JPEG", "CMYK"), 4),
    "jpeg with a large profile": (encoded("JPEG", icc_profile=bytes(300_000)), 3),
    "png": (encoded("PNG"), 3),
    "png grey": (encoded("PNG", "L"), 1),
    "png palette": (encoded("PNG", "P"), 1),
    "png rgba": (encoded("PNG", "RGBA"), 4),
    "png grey alpha": (encoded("PNG", "LA"), 2),
    "webp lossy": (encoded("WEBP"), 3),
    "webp lossless": (encoded("WEBP", lossless=True), 3),
    "webp lossless alpha": (encoded("WEBP", "RGBA", lossless=True), 4),
    "webp alpha": (encoded("WEBP", "RGBA"), 4),
    "gif": (encoded("GIF", "P"), 1),
    "bmp": (encoded("BMP"), 3),
}


@pytest.mark.parametrize("name", IMAGES)
def test_size_and_channels_are_those_of_the_image(name):
    data, channels = IMAGES[name]
    header = read_header(data)
    assert header is not None
    assert (header.height, header.width, header.channels) == (23, 37, channels)


@pytest.mark.parametrize("name", [name for name in IMAGES if name.split()[0] in {"jpeg", "png", "webp"}])
def test_every_cut_is_seen(name):
    data, _ = IMAGES[name]
    assert is_complete(data, read_header(data))
    for cut in {*range(min(len(data), 700)), *range(0, len(data), 97), *range(len(data) - 40, len(data))}:
        header = read_header(data[:cut])
        assert header is None or not is_complete(data[:cut], header), cut


def test_bytes_after_the_end_are_allowed():
    data, _ = IMAGES["jpeg"]
    assert is_complete(data + b"trailer", read_header(data + b"trailer"))


def test_the_end_of_a_thumbnail_is_not_the_end():
    thumbnail = encoded("JPEG", size=(8, 8))
    photo = encoded("JPEG")
    with_thumbnail = photo[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + photo[2:]
    header = read_header(with_thumbnail)
    assert (header.height, header.width) == (23, 37)
    assert is_complete(with_thumbnail, header)
    assert not is_complete(with_thumbnail[:-2], header)


def test_scans_are_counted():
    assert num_scans(IMAGES["jpeg"][0], read_header(IMAGES["jpeg"][0])) == 1
    progressive = IMAGES["jpeg progressive"][0]
    assert 5 < num_scans(progressive, read_header(progressive)) < 20


@given(st.sampled_from(sorted(IMAGES)), st.data())
def test_mutated_headers_never_fail(name, data):
    original = IMAGES[name][0][:2000]
    changed = bytearray(original)
    for at in data.draw(st.lists(st.integers(0, min(200, len(original) - 1)), max_size=6)):
        changed[at] = data.draw(st.integers(0, 255))
    header = read_header(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    assert header is None or (header.height > 0 and header.width > 0)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_have_no_header_or_a_sane_one(data):
    for start in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"):
        header = read_header(start + data)
        assert header is None or (header.height > 0 and header.width > 0)


def test_work_is_bounded_however_many_segments_there_are():
    begun = time.process_time()
    assert read_header(b"\xff\xd8" + b"\xff\xe0\0\2" * 5_000_000) is None
    assert read_header(b"\xff\xd8" + b"\xff" * 20_000_000) is None
    png = IMAGES["png"][0][:33] + b"\0\0\0\0abcd1234" * 2_000_000
    assert not is_complete(png, read_header(png))
    assert time.process_time() - begun < 1.0
