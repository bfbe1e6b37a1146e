"""An image file's bytes to an array: RGB, or the numbers as stored.

OpenCV decodes; what it can't do, or does otherwise than webdataset, decodes with Pillow. EXIF orientation is
ignored, as webdataset and torchvision do. A file that is cut short is an error, never a picture with a grey end; a
picture of too many pixels is refused by its header, before memory is taken for it.
"""

from __future__ import annotations

import io
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..errors import RecipeError, SampleError
from .headers import ImageHeader, is_complete, num_scans, num_text_bytes, read_header

Array = npt.NDArray[Any]

MAX_PIXELS = 89_478_485
"""Largest image decoded unless asked for more: a quarter of a GiB as RGB; Pillow begins to warn here."""

_PILLOW_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
_OPENCV_FORMATS = frozenset(["jpeg", "png", "webp"])
_MAX_SCANS = 500  # of a JPEG in parts; an encoder makes ten
_MAX_SCANNED = 32 * MAX_PIXELS  # pixels times scans, for a scan of a few bytes passes over all of them
_MAX_TEXT_BYTES = 1 << 18  # of a PNG's compressed texts: a quarter of a GB when unpacked, a second
_MAX_TILE = 1 << 24  # pixels of a tile of a TIFF, for which memory is taken however small the picture is
_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of a TIFF
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes, *, mode: Literal["rgb", "mask"] = "rgb", max_pixels: int = MAX_PIXELS) -> Array:
    """Decode an image file to a new, writable, C-contiguous array.

    mode ``"rgb"``: (height, width, 3) uint8 RGB of any input. Grey becomes three equal channels, a palette
        is looked up, alpha is dropped, 16 bits become the upper 8, CMYK is converted: as Pillow's
        ``convert("RGB")``, save that 16-bit grey is scaled and not clipped. mode ``"mask"``: the numbers as
        stored: (height, width) for grey and palette images (palette indices, not colours), uint8 or uint16;
        (height, width, 3 or 4) RGB or RGBA otherwise.

    Raises `SampleError` for bytes that are no image, are cut short or damaged, and for more than
    `max_pixels`. Not found without checksums: damage inside the data of a JPEG or WebP that still decodes
    to something.
    """
    if mode not in {"rgb", "mask"}:
        msg = f"mode must be 'rgb' or 'mask', got {mode!r}"
        raise RecipeError(msg)
    header = checked_header(data, max_pixels)
    if mode == "mask":
        return _decode_mask(data, header, max_pixels)
    return decode_checked(data, header, max_pixels)


def checked_header(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader | None:
    """The header of an image file that may be decoded, None if it tells nothing; else `SampleError`, as
    `decode_image`."""
    header = read_header(data)
    if header is not None:
        _check_size(header.height, header.width, max_pixels)
        if not is_complete(data, header):
            msg = f"the {header.format} file is truncated: it ends after {len(data)} bytes, without its end"
            raise SampleError(msg)
        _check_work(data, header)
    elif data.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        msg = f"the image's header is broken or incomplete ({len(data)} bytes in all)"
        raise SampleError(msg)
    return header


def _check_work(data: bytes, header: ImageHeader) -> None:
    """Refuse what would keep a decoder busy for long with few bytes."""
    scans, pixels = num_scans(data, header), header.height * header.width
    if scans > min(_MAX_SCANS, max(1, _MAX_SCANNED // pixels)):
        msg = (
            f"a jpeg of {scans} scans of {header.width} x {header.height} pixels is refused, for it would take "
            f"too long: {_MAX_SCANS} scans and {_MAX_SCANNED} pixels in all of them are allowed; encode it anew"
        )
        raise SampleError(msg)
    text_bytes = num_text_bytes(data, header)
    if text_bytes > _MAX_TEXT_BYTES:
        msg = (
            f"a png with {text_bytes} bytes of compressed texts is refused, for unpacking them would take too "
            f"long: {_MAX_TEXT_BYTES} are allowed; write it without them"
        )
        raise SampleError(msg)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        msg = (
            f"the image claims {width} x {height} = {height * width} pixels, over the limit of {max_pixels}; "
            "pass a larger max_pixels if it is meant"
        )
        raise SampleError(msg)


def decode_checked(data: bytes, header: ImageHeader | None, max_pixels: int = MAX_PIXELS) -> Array:
    """The RGB pixels of a file whose header was checked."""
    if header is None or not opencv_does(header):
        return _with_pillow(data, max_pixels, "RGB")
    if header.bits == 16:
        return (with_opencv(data, header, _RGB | cv2.IMREAD_ANYDEPTH) >> 8).astype(np.uint8)
    return with_opencv(data, header, _RGB)


def opencv_does(header: ImageHeader) -> bool:
    """Whether OpenCV decodes it to the same pixels as Pillow: not CMYK, not the frames of an animation."""
    cmyk = header.format == "jpeg" and header.channels not in {1, 3}
    return header.format in _OPENCV_FORMATS and not cmyk and not header.animated


def with_opencv(data: bytes, header: ImageHeader, flags: int, factor: int = 1) -> Array:
    """The pixels as OpenCV decodes them with `flags`, at 1/`factor` of their size."""
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        msg = f"the {header.format} image does not decode: {error.err}"
        raise SampleError(msg) from None
    if image is None:
        msg = f"the {header.format} image is damaged and does not decode ({len(data)} bytes)"
        raise SampleError(msg)
    size = -(-header.height // factor), -(-header.width // factor)
    if image.shape[:2] != size:
        msg = f"the image decodes to {image.shape[:2]}, its header says {size}"
        raise SampleError(msg)
    return np.ascontiguousarray(image)


def _with_pillow(data: bytes, max_pixels: int, mode: str | None) -> Array:
    """Decode with Pillow, to `mode`, or unchanged."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            _check_size(image.height, image.width, max_pixels)
            _check_tile(image, max(max_pixels, _MAX_TILE))
            if mode == "RGB" and image.mode in {"I;16", "I;16B", "I;16L", "I"}:
                grey = (np.asarray(image).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(image if mode is None or image.mode == mode else image.convert(mode))
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        msg = (
            f"{error} (PIL.Image.MAX_IMAGE_PIXELS), and max_pixels is {max_pixels}; raise both if it is meant"
        )
        raise SampleError(msg) from None
    except UnidentifiedImageError:
        what = f"bytes that begin with {data[:12]!r}" if data else "no bytes at all"
        msg = f"an image (JPEG, PNG, WebP, BMP, GIF, TIFF or PNM) was expected, got {what}"
        raise SampleError(msg) from None
    except Exception as error:  # noqa: BLE001  (Pillow's decoders raise whatever their parsers raise)
        msg = f"the image does not decode: {type(error).__name__}: {error}"
        raise SampleError(msg) from None


def _check_tile(image: Image.Image, max_pixels: int) -> None:
    """Refuse a TIFF whose tiles are larger than any picture may be."""
    tags = getattr(image, "tag_v2", None) or {}
    width, height = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)
    if isinstance(width, int) and isinstance(height, int) and width * height > max_pixels:
        msg = f"the tiff claims tiles of {width} x {height} pixels, over the limit of {max_pixels}; write it in strips"
        raise SampleError(msg)


def _decode_mask(data: bytes, header: ImageHeader | None, max_pixels: int) -> Array:
    plain = header is not None and not header.palette and header.channels != 2 and opencv_does(header)
    if header is None or not plain:
        stored = _with_pillow(data, max_pixels, None)
        return stored.astype(np.uint8) if stored.dtype == np.bool_ else stored
    stored = with_opencv(data, header, cv2.IMREAD_UNCHANGED)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    if channels != header.channels:  # a transparent colour was made into alpha
        return _with_pillow(data, max_pixels, None)
    if channels >= 3:
        return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGBA)
    if header.bits < 8:  # the decoder has stretched 0 … 2**bits - 1 over 0 … 255
        return stored // np.uint8(255 // (2**header.bits - 1))
    return stored
