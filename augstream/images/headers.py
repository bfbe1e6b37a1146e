"""What an encoded image says of itself, read from its first bytes without decoding: format, size, depth.

Used to refuse an image before memory is taken for it, to find truncated files that decoders pass over, and
to draw parameters before pixels exist. Work is bounded, whatever the bytes hold.

Sources: ITU-T T.81 (JPEG) annex B; the PNG specification, sections 5 and 11; RFC 9649 (WebP); GIF89a; the
BMP headers of the Windows SDK.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_MAX_SEGMENTS = 2000  # of a JPEG before its first scan; a large ICC profile takes 255
_MAX_CHUNKS = 200_000  # of a PNG; encoders write 8 kB or more in each
_FRAMES = frozenset([0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
_SOS, _EOI = 0xDA, 0xD9
_ALONE = frozenset([0x00, 0x01, *range(0xD0, 0xD8), _EOI, 0xFF])  # nothing, marks without a segment, padding
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class ImageHeader(NamedTuple):
    """What an encoded image says of itself.

    channels: as stored (a palette image has 1), None where the header doesn't tell. bits: per channel, as
    stored.
    data_at, frame_at: JPEG only, the offsets of its first scan and of its frame.
    progressive, palette, animated: as the words say.
    """

    format: str
    height: int
    width: int
    channels: int | None
    bits: int = 8
    palette: bool = False
    animated: bool = False
    progressive: bool = False
    data_at: int = 0
    frame_at: int = 0


def read_header(data: bytes) -> ImageHeader | None:
    """The header of a JPEG, PNG, WebP, GIF or BMP, or None if these bytes are none or make no sense.

    A header here doesn't promise that the image decodes.

    >>> read_header(b"GIF89a" + bytes([3, 0, 2, 0, 0, 0, 0]))[:4]
    ('gif', 2, 3, 1)
    """
    try:
        if data.startswith(b"\xff\xd8"):
            header = _jpeg(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
            header = ImageHeader("gif", height, width, 1, palette=True)
        elif data.startswith(b"BM"):
            header = _bmp(data)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return None if header is None or header.height < 1 or header.width < 1 else header


def is_complete(data: bytes, header: ImageHeader) -> bool:
    """Whether the file's parts are there to the last: False for every file cut short, of the formats that tell."""
    if header.format == "jpeg":
        # Inside a scan 0xFF is always stuffed, so this is no chance; a thumbnail's end lies before data_at.
        return data.rfind(b"\xff\xd9") > header.data_at
    if header.format == "png":
        return _png_ends(data)
    if header.format == "webp":
        return len(data) >= 8 + int(struct.unpack_from("<I", data, 4)[0])
    return True


def _png_ends(data: bytes) -> bool:
    """Whether chunk follows chunk to the last one, none longer than the file.

    Decoders take memory for as much as a chunk's length claims.
    """
    return any(name == b"IEND" and start == end <= len(data) - 4 for name, start, end in _png_chunks(data))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the data of each chunk of a PNG that begins in the file, up to the last one."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            return
        name, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield name, at + 8, end
        if name == b"IEND":
            return
        at = end + 4


def num_scans(data: bytes, header: ImageHeader) -> int:
    """How many times a decoder passes over the whole image; 1 but for JPEGs in parts: progressive, or by channels."""
    if header.format != "jpeg":
        return 1
    in_parts = header.progressive or data[header.data_at + 4 : header.data_at + 5] != bytes(
        [header.channels or 0]
    )
    return max(1, data.count(b"\xff\xda", header.data_at)) if in_parts else 1


def num_text_bytes(data: bytes, header: ImageHeader) -> int:
    """The size of a PNG's compressed texts, which decoders unpack, a thousandfold, before they throw them away."""
    total = 0
    if header.format == "png":
        for name, at, end in _png_chunks(data):
            if name == b"zTXt" or (
                name == b"iTXt" and data[data.find(b"\0", at, end) + 1 : end][:1] != b"\0"
            ):
                total += end - at
    return total


def _jpeg(data: bytes) -> ImageHeader | None:
    at, frame_at = 2, 0
    frame: tuple[int, int, int, int, int] | None = None  # marker, bits, height, width, channels
    for _ in range(_MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        marker = data[at + 1]
        if marker in _ALONE:
            if marker == _EOI:
                return None
            at += 1 if marker == 0xFF else 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if length < 2:
            return None
        if marker == _SOS:
            if frame is None:
                return None
            kind, bits, height, width, channels = frame
            progressive = kind in {0xC2, 0xC6, 0xCA, 0xCE}
            return ImageHeader(
                "jpeg", height, width, channels, bits, progressive=progressive, data_at=at, frame_at=frame_at
            )
        if marker in _FRAMES:
            if frame is not None:
                return None
            frame_at = at
            frame = (marker, *struct.unpack_from(">BHHB", data, at + 4))
        at += 2 + length
    return None


def _png(data: bytes) -> ImageHeader | None:
    length, name, width, height, bits, colour = struct.unpack_from(">I4sIIBB", data, 8)
    channels = _PNG_CHANNELS.get(colour)
    if length != 13 or name != b"IHDR" or channels is None or max(width, height) >= 1 << 31:
        return None
    # An animation says so before its first image data, as a rule in the next chunks.
    animated = data.find(b"acTL", 33, 1024) >= 0
    return ImageHeader("png", height, width, channels, bits, palette=colour == 3, animated=animated)


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if len(data) < 30:
            return None
        return ImageHeader("webp", height, width, 4 if flags & 0x10 else 3, animated=bool(flags & 0x02))
    if kind == b"VP8L":
        (word,) = struct.unpack_from("<I", data, 21)
        if data[20] != 0x2F:
            return None
        alpha = bool(word >> 28 & 1)
        return ImageHeader("webp", 1 + (word >> 14 & 0x3FFF), 1 + (word & 0x3FFF), 4 if alpha else 3)
    if kind == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            return None
        return ImageHeader("webp", height & 0x3FFF, width & 0x3FFF, 3)
    return None


def _bmp(data: bytes) -> ImageHeader | None:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif size >= 40:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    else:
        return None
    channels = {24: 3, 32: 4}.get(bits, 1)
    return ImageHeader("bmp", abs(height), width, channels, palette=bits <= 8)
