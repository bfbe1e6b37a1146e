"""Encoded pictures of every format to break, and the words that their parsers know."""

from __future__ import annotations

import io
import zlib
from functools import cache
from random import Random

import numpy as np
from hypothesis import strategies as st
from mutations import mutated
from PIL import Image, PngImagePlugin

_PNG_WORDS = (
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"iCCP",
    b"zTXt",
    b"iTXt",
    b"tEXt",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"eXIf",
    b"sBIT",
    b"pHYs",
    b"\x7f\xff\xff\xff",
    b"\x10",
    b"\0\0\0\0IDAT",
)
_MARKERS = bytes.fromhex("00 01 c0 c1 c2 c3 c4 c9 ca cc d0 d7 d8 d9 da db dc dd e0 e1 e2 ee fe ff")
_JPEG_WORDS = (
    *[bytes([0xFF, marker]) for marker in _MARKERS],
    b"\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03",
    b"\xff\xda\0\x0c\x03\1\0\2\x11\3\x11\0\x3f\0",
    b"Adobe\0",
    b"Exif\0\0",
    b"MPF\0",
)
_OTHER_WORDS = (
    b"VP8 ",
    b"VP8L",
    b"VP8X",
    b"ANIM",
    b"ANMF",
    b"ALPH",
    b"ICCP",
    b"EXIF",
    b"BM",
    b"GIF89a",
    b"\x21\xf9\x04",
    b"\x2c",
    b"II*\0",
    b"MM\0*",
    b"P1",
    b"P3",
    b"P4",
    b"P6",
    b"Pf",
    b"#",
    b"65535",
    b"99999 99999",
    b"\x42\x01\x04\0",
)


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


@cache
def photo(height: int = 36, width: int = 52) -> Image.Image:
    """A smooth picture with a little noise."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return Image.fromarray((np.asarray(small) & 0xFE) + rng.integers(0, 2, (height, width, 3), np.uint8))


@cache
def jpegs() -> tuple[bytes, ...]:
    """Of all samplings, progressive, grey, CMYK, with restarts, a profile; two large enough for region decoding."""
    rgb, large = photo(), photo(210, 250)
    return (
        _saved(rgb, "JPEG"),
        _saved(rgb, "JPEG", subsampling=0),
        _saved(rgb, "JPEG", subsampling=1),
        _saved(rgb, "JPEG", progressive=True),
        _saved(rgb.convert("L"), "JPEG"),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(rgb, "JPEG", restart_marker_blocks=2, optimize=True),
        _saved(rgb, "JPEG", icc_profile=b"p" * 3000, comment=b"c" * 50, exif=_exif()),
        _saved(large, "JPEG", quality=40),
        _saved(large.convert("L"), "JPEG", quality=40),
        _saved(rgb.convert("L"), "JPEG", progressive=True),
        _saved(rgb, "MPO", save_all=True, append_images=[rgb.rotate(180)]),
    )


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    return exif


@cache
def pngs() -> tuple[bytes, ...]:
    """Of all colours and depths, interlaced or not, animated, with texts and a profile."""
    rgb = photo()
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 3000, zip=True)
    text.add_itxt("b", "y" * 300, zip=True)
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    plain = (
        _saved(rgb, "PNG"),
        _saved(rgb.convert("L"), "PNG"),
        _saved(rgb.convert("1"), "PNG"),
        _saved(rgb.quantize(20), "PNG"),
        _saved(rgb.quantize(3), "PNG", transparency=1),
        _saved(rgba, "PNG"),
        _saved(rgba.convert("LA"), "PNG"),
        _saved(rgb, "PNG", pnginfo=text, icc_profile=b"p" * 3000, exif=_exif()),
        _saved(rgb.convert("I;16"), "PNG"),
        _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        _saved(rgb, "PNG", transparency=(1, 2, 3)),
    )
    return (*plain, interlaced())


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    parts = [
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ihdr(width: int, height: int, bits: int = 8, colour: int = 2, interlace: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(
        [bits, colour, 0, 0, interlace]
    )


@st.composite
def written_pngs(draw: st.DrawFn) -> bytes:
    """PNGs whose every checksum holds: any header, any chunks in any order, pixels too few, enough, or too many."""
    numbers = st.sampled_from([0, 1, 5, 16, 257, 1000, 65500, 2**31 - 1, 2**31, 2**32 - 1])
    width, height = draw(numbers), draw(numbers)
    head = ihdr(
        width,
        height,
        draw(st.sampled_from([1, 2, 4, 8, 16, 3])),
        draw(st.sampled_from([0, 2, 3, 4, 6, 5])),
        draw(st.integers(0, 2)),
    )
    pixels = zlib.compress(bytes(draw(st.sampled_from([0, 7, 300, 20_000, 200_000]))))
    chunks = st.one_of(
        st.just((b"IDAT", pixels)),
        st.tuples(st.sampled_from([word for word in _PNG_WORDS if len(word) == 4]), st.binary(max_size=40)),
        st.sampled_from(
            [
                (b"PLTE", bytes(768)),
                (b"PLTE", bytes(3)),
                (b"tRNS", bytes(256)),
                (b"acTL", b"\xff" * 8),
                (b"zTXt", b"a\0\0" + pixels),
                (b"iCCP", b"a\0\0" + pixels),
                (b"fcTL", bytes(26)),
                (b"fdAT", bytes(4) + pixels),
                (b"iTXt", b"a\0\1\0\0\0" + pixels),
            ]
        ),
    )
    middle = draw(st.lists(chunks, max_size=6))
    return png(
        *draw(st.sampled_from([[head, *middle], [head, (b"IDAT", pixels), *middle], [*middle, head]])),
        (b"IEND", b""),
    )


def interlaced() -> bytes:
    """A grey picture of 8 x 8 in seven passes, all zero."""
    rows = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]  # rows and columns of each pass
    return png(
        ihdr(8, 8, colour=0, interlace=1),
        (b"IDAT", zlib.compress(bytes(sum(h * (1 + w) for h, w in rows)))),
        (b"IEND", b""),
    )


@cache
def others() -> tuple[bytes, ...]:
    """WebP, GIF, BMP, TIFF and PNM of many kinds."""
    rgb = photo()
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    animated = {"save_all": True, "append_images": [rgb.rotate(180)]}
    return (
        _saved(rgb, "WEBP"),
        _saved(rgba, "WEBP"),
        _saved(rgba, "WEBP", lossless=True),
        _saved(rgb, "WEBP", icc_profile=b"p" * 200, exif=_exif()),
        _saved(rgb, "WEBP", **animated),
        _saved(rgb, "GIF"),
        _saved(rgb.quantize(4), "GIF", transparency=1, interlace=1),
        _saved(rgb, "GIF", **animated),
        _saved(rgb, "BMP"),
        _saved(rgb.quantize(9), "BMP"),
        _saved(rgb.convert("1"), "BMP"),
        _saved(rgba, "BMP"),
        *[
            _saved(rgb, "TIFF", compression=name)
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ],
        _saved(rgb.convert("1"), "TIFF", compression="group4"),
        _saved(rgb.convert("L"), "TIFF", compression="tiff_deflate", **animated),
        _saved(rgb.convert("CMYK"), "TIFF"),
        _saved(rgb.convert("I;16"), "TIFF"),
        _saved(rgb.convert("F"), "TIFF"),
        _saved(rgba, "TIFF", tile=None),
        _saved(rgb, "PPM"),
        _saved(rgb.convert("L"), "PPM"),
        _saved(rgb.convert("1"), "PPM"),
        _saved(rgb.convert("I;16"), "PPM"),
        b"P3\n# c\n3 2\n255\n" + b"1 2 3 " * 6,
        b"P1\n4 2\n01011010",
        b"P2 2 2 65535 1 2 3 65535",
        b"Pf\n2 2\n-1.0\n" + bytes(16),
    )


def mutant_jpeg(rng: Random) -> bytes:
    return mutated(rng, jpegs(), words=_JPEG_WORDS)


def mutant_png(rng: Random) -> bytes:
    """A broken PNG; mostly with its chunks' checksums mended again, so that decoders believe it."""
    data = mutated(rng, pngs(), words=_PNG_WORDS)
    if rng.random() < 0.3:
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        mended[end : min(end + 4, len(data))] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")[
            : max(0, len(data) - end)
        ]
        at = end + 4
    return bytes(mended)


def mutant_other(rng: Random) -> bytes:
    return mutated(rng, others(), words=_OTHER_WORDS)
