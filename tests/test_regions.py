"""Region decoding: the pixels of a box are those of the full decode, to the bit, or there are none.

That must hold for every file, broken ones included, and no file may end the process.
"""

from __future__ import annotations

import io
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from augstream.decode import decode_image
from augstream.errors import RecipeError
from augstream.images.headers import read_header
from augstream.images.plain import plain_size
from augstream.images.regions import FACTORS, Plain, has_regions

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "photos").glob("*.jpg"))
SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    "grey": None,
}

pytestmark = pytest.mark.skipif(
    not has_regions(), reason="this Pillow brings no libjpeg-turbo of interface 62"
)


@cache
def picture(height: int, width: int) -> np.ndarray:
    """Edges, gradients and noise: neighbouring blocks differ in every way."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (height // 5 + 2, width // 7 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, rng.integers(0, 30, smooth.shape, np.uint8))


@cache
def jpeg(height: int, width: int, sampling: str, *, quality: int = 90, restarts: int = 0) -> bytes:
    image = picture(height, width)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    factor = SAMPLINGS[sampling]
    if factor is None:
        image = image[:, :, 0]
    else:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def with_pillow(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def decode_region(data: bytes, box: tuple[int, int, int, int], factor: int = 1) -> np.ndarray | None:
    header = read_header(data)
    plain = None if header is None else Plain.of(data, header)
    return None if plain is None else plain.decode(data, box, factor)


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> tuple[int, int, int, int]:
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))


def assert_exact(data: bytes, box: tuple[int, int, int, int]) -> None:
    y0, x0, y1, x1 = box
    part = decode_region(data, box)
    assert part is not None
    assert np.array_equal(part, decode_image(data)[y0:y1, x0:x1])


@given(
    st.sampled_from(sorted(SAMPLINGS)),
    st.sampled_from([(61, 83), (64, 96), (33, 50), (17, 131), (1, 1), (3, 7), (200, 2), (2, 5), (130, 97)]),
    st.sampled_from([30, 90, 100]),
    st.sampled_from([0, 1, 4]),
    st.data(),
)
def test_every_box_of_every_sampling(
    sampling: str, size: tuple[int, int], quality: int, restarts: int, data: st.DataObject
) -> None:
    encoded = jpeg(*size, sampling, quality=quality, restarts=restarts)
    assert plain_size(encoded) == size
    assert_exact(encoded, data.draw(boxes(*size)))


@given(
    st.sampled_from(sorted(SAMPLINGS)),
    st.sampled_from([(61, 83), (130, 97), (17, 131), (8, 9), (3, 70), (201, 333)]),
    st.sampled_from([2, 4, 8]),
    st.data(),
)
def test_every_box_of_a_reduced_image(
    sampling: str, size: tuple[int, int], factor: int, data: st.DataObject
) -> None:
    encoded = jpeg(*size, sampling)
    reduced = cv2.imdecode(np.frombuffer(encoded, np.uint8), FACTORS[factor] | cv2.IMREAD_COLOR_RGB)
    y0, x0, y1, x1 = box = data.draw(boxes(*reduced.shape[:2]))
    part = decode_region(encoded, box, factor=factor)
    assert part is not None
    assert np.array_equal(part, reduced[y0:y1, x0:x1])


@given(st.sampled_from(PHOTOS), st.data())
def test_boxes_of_photographs(photo: Path, data: st.DataObject) -> None:
    encoded = photo.read_bytes()
    size = plain_size(encoded)
    assert size is not None, photo.name
    assert_exact(encoded, data.draw(boxes(*size)))


def test_every_box_of_a_small_picture() -> None:
    encoded = jpeg(19, 21, "4:2:0")
    whole = decode_image(encoded)
    for y0 in range(19):
        for x0 in range(21):
            for y1, x1 in ((y0 + 1, x0 + 1), (19, 21), (min(19, y0 + 9), min(21, x0 + 2))):
                part = decode_region(encoded, (y0, x0, y1, x1))
                assert part is not None
                assert np.array_equal(part, whole[y0:y1, x0:x1])


def test_unusual_but_plain_files() -> None:
    photo = Image.fromarray(picture(90, 121))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        with_pillow(photo, exif=exif, comment="hello", icc_profile=b"x" * 70_000, dpi=(300, 300)),
        with_pillow(photo, optimize=True, quality=70),
        with_pillow(photo, keep_rgb=True),
        with_pillow(photo, quality=95) + b"a second picture, or rubbish \xff\xd8\xff\xd9",
    ]
    for file in files:
        assert plain_size(file) == (90, 121)
        assert_exact(file, (11, 17, 60, 90))


def test_other_files_are_left_to_the_full_decode() -> None:
    photo = Image.fromarray(picture(90, 121))
    png = io.BytesIO()
    photo.save(png, "PNG")
    plain = jpeg(90, 121, "4:2:0")
    others = {
        "progressive": with_pillow(photo, progressive=True),
        "CMYK": with_pillow(photo.convert("CMYK")),
        "PNG": png.getvalue(),
        "nothing": b"",
        "a start only": b"\xff\xd8",
        "cut": plain[:-2],
        "cut in the header": plain[:100],
    }
    for name, file in others.items():
        assert decode_region(file, (0, 0, 1, 1)) is None, name


def test_a_damaged_scan_gives_the_full_decodes_pixels_or_none() -> None:
    plain = bytearray(jpeg(130, 97, "4:2:0", quality=100))
    rng = np.random.default_rng(7)
    start = plain.index(b"\xff\xda") + 20
    seen = set()
    for _ in range(200):
        damaged = plain.copy()
        damaged[int(rng.integers(start, len(plain) - 2))] = int(rng.integers(256))
        part = decode_region(bytes(damaged), (40, 20, 70, 90))
        seen.add(part is None)
        if part is not None:
            assert np.array_equal(part, decode_image(bytes(damaged))[40:70, 20:90])
    assert seen == {False, True}


def test_a_mark_below_the_region_goes_unseen_as_in_the_full_decode() -> None:
    plain = jpeg(90, 121, "4:2:0")
    for mark in (b"\xff\xc4\x00\x03\x00", b"\xff\xd9", b"\xff\xd8", b"\xff\xda"):
        assert_exact(plain[:-300] + mark + plain[-300:], (0, 0, 20, 121))


def test_many_threads_share_the_library() -> None:
    from concurrent.futures import ThreadPoolExecutor

    files = [jpeg(130, 97, sampling) for sampling in SAMPLINGS] * 20
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda file: decode_region(file, (9, 9, 80, 80)), files))
    for file, part in zip(files, parts, strict=True):
        assert part is not None
        assert np.array_equal(part, decode_image(file)[9:80, 9:80])


def test_a_box_outside_is_refused() -> None:
    for box in ((0, 0, 65, 1), (0, 0, 1, 97), (-1, 0, 3, 3), (5, 5, 5, 9)):
        with pytest.raises(RecipeError, match="do not lie inside"):
            decode_region(jpeg(64, 96, "4:2:0"), box)


def test_pillow_of_another_make_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from augstream.images import regions

    regions._library.cache_clear()
    monkeypatch.setattr(features, "version_codec", lambda _: "8.0")
    try:
        assert not has_regions()
        assert decode_region(jpeg(64, 96, "4:2:0"), (0, 0, 9, 9)) is None
    finally:
        regions._library.cache_clear()


# Only a process of its own can show that a hostile file does not end the process.
HOSTILE = """
import sys
import cv2
import numpy as np
from augstream.decode import decode_image
from augstream.errors import SampleError
from augstream.errors import RecipeError
from augstream.images.headers import read_header
from augstream.images.plain import plain_size
from augstream.images.regions import Plain

rng = np.random.default_rng(int(sys.argv[1]))
given = [open(path, "rb").read() for path in sys.argv[2:]]
MARKS = [0xC0, 0xC4, 0xCC, 0xD3, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xFF, 0x01]
done = {"plain": 0, "refused": 0}
for _ in range(4000):
    file = bytearray(given[rng.integers(len(given))])
    header = file.index(b"\\xff\\xda") + 14
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(2, header if rng.random() < 0.7 else len(file)))
        kind = rng.integers(5)
        if kind == 0:
            file[at] = rng.integers(256)
        elif kind == 1:
            file[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del file[at : at + int(rng.integers(1, 30))]
        elif kind == 3:
            file[at:at] = rng.bytes(int(rng.integers(1, 5)))
        else:
            at = int(rng.integers(min(header, len(file)), len(file) + 1))
            file[at:at] = bytes([0xFF, MARKS[rng.integers(len(MARKS))], 0, rng.integers(9)])
        if len(file) < 40:
            break
    file = bytes(file)
    size = plain_size(file)
    inside = size is not None and size[0] >= 21 and size[1] >= 30 and size[0] * size[1] < 10**7
    plain = Plain.of(file, read_header(file)) if inside else None
    part = plain.decode(file, (5, 6, 21, 30)) if inside else None
    done["refused" if part is None else "plain"] += 1
    if inside:
        plain.decode(file, (1, 2, 9, 13), factor=2)
    if part is not None:
        try:
            whole = decode_image(file)
        except SampleError as error:
            sys.exit(f"a region of what does not decode: {error}")
        if not np.array_equal(part, whole[5:21, 6:30]):
            sys.exit("other pixels than the full decode's")
print(done["plain"], done["refused"])
"""


@pytest.mark.processes
@pytest.mark.parametrize("seed", range(3))
def test_no_file_ends_the_process(seed: int, tmp_path: Path) -> None:
    paths = []
    for name in SAMPLINGS:
        path = tmp_path / f"{name.replace(':', '')}.jpg"
        path.write_bytes(jpeg(33, 50, name, restarts=4 if name == "4:2:2" else 0))
        paths.append(str(path))
    ran = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(seed), *paths], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-1000:]
    plain, refused = map(int, ran.stdout.split())
    assert plain > 100
    assert refused > 1000
