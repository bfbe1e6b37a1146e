"""Which JPEGs are plain: of the kind that nearly all are, and well formed up to their scan.

libjpeg's interface ends the process when a header makes no sense, and can only warn inside a scan. So every segment is
looked at here before the library sees the file: baseline, 8 bits, grey or three channels, one scan.

Source: ITU-T T.81, annexes B and C.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .headers import ImageHeader, read_header

_SAMPLINGS = frozenset(
    [
        ((1, 1),),
        ((1, 1), (1, 1), (1, 1)),
        ((2, 1), (1, 1), (1, 1)),
        ((1, 2), (1, 1), (1, 1)),
        ((2, 2), (1, 1), (1, 1)),
        ((4, 1), (1, 1), (1, 1)),
    ]
)
_MAX_SIDE = 65_000  # the library ends somewhere above
_MAX_KNOWN_BYTES = 2048  # headers longer than that are looked at each time
_SOF, _DHT, _SOI, _EOI, _SOS, _DQT, _DRI, _COM = 0xC0, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF


@dataclass(slots=True)
class _Tables:
    """The tables that a JPEG's header has brought so far."""

    quantisation: set[int]
    huffman: set[int]
    components: tuple[tuple[int, int], ...] = ()  # of the frame: identity, quantisation table


def plain_size(data: bytes, header: ImageHeader | None = None) -> tuple[int, int] | None:
    """(height, width) of a JPEG that the library decodes without an error, whatever its scan holds; else None.

    header: what `read_header` says, if it was asked already.
    """
    header = read_header(data) if header is None else header
    if header is None or header.format != "jpeg" or max(header.height, header.width) > _MAX_SIDE:
        return None
    start = header.data_at + 2 + int.from_bytes(data[header.data_at + 2 : header.data_at + 4])
    if not start < data.rfind(b"\xff\xd9"):
        return None
    # Files of one source have one header but for their size, which was looked at, and is left out.
    head = data[: header.frame_at + 5] + data[header.frame_at + 9 : start]
    look = _is_plain if len(head) <= _MAX_KNOWN_BYTES else _is_plain.__wrapped__
    plain = look(head, header.frame_at)
    return (header.height, header.width) if plain else None


def rows_of_colour(data: bytes, header: ImageHeader) -> int:
    """How many rows of pixels one sample of colour of a plain JPEG covers: the first component's vertical sampling."""
    return data[header.frame_at + 11] & 15


@lru_cache(maxsize=512)
def _is_plain(head: bytes, frame_at: int) -> bool:
    """Whether all segments up to a scan's data are well formed, and of kinds known here; the frame without its size."""
    tables = _Tables(set(), set())
    at = 2
    try:
        while True:
            marker, length = head[at + 1], head[at + 2] << 8 | head[at + 3]
            if head[at] != 0xFF or length < 2:
                return False
            if (marker == _SOF) != (at == frame_at):
                return False
            end = at + 2 + length - (4 if marker == _SOF else 0)
            body = head[at + 4 : end]
            if marker == _SOS:
                return end == len(head) and _is_plain_scan(body, tables)
            if end > len(head) or not _take(marker, body, tables):
                return False
            at = end
    except IndexError:
        return False


def _take(marker: int, body: bytes, tables: _Tables) -> bool:
    """Note what a segment brings; whether it is well formed, and of a kind that is known here."""
    if marker == _DQT:
        return _take_quantisation(body, tables.quantisation)
    if marker == _DHT:
        found = _huffman_tables(body)
        tables.huffman.update(found or ())
        return found is not None
    if marker == _SOF:
        if tables.components or not _is_plain_frame(body):
            return False
        tables.components = tuple((body[at], body[at + 2]) for at in range(2, len(body), 3))
        return True
    if marker == _DRI:
        return len(body) == 2
    if marker == _APP0:
        return not body.startswith(b"JFIF\0") or body[5:6] == b"\1"
    if marker == _APP14:
        return not body.startswith(b"Adobe") or (len(body) >= 12 and body[11] in {0, 1})
    return marker == _COM or _APP0 < marker <= _APP15


def _take_quantisation(body: bytes, known: set[int]) -> bool:
    at = 0
    while at < len(body):
        precision, number = body[at] >> 4, body[at] & 15
        at += 1 + 64 * (1 + precision)
        if precision > 1 or number > 3:
            return False
        known.add(number)
    return at == len(body)


@lru_cache(maxsize=256)
def _huffman_tables(body: bytes) -> frozenset[int] | None:
    """Class and number (as in the file) of each table that a segment defines; None if one makes no sense."""
    numbers = set()
    at = 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        total = sum(counts)
        symbols = body[at + 17 : at + 17 + total]
        is_dc = body[at] < 16
        if body[at] & 15 > 3 or body[at] > 0x1F or len(counts) < 16 or total > 256 or len(symbols) < total:
            return None
        if is_dc and max(symbols, default=0) > 15:
            return None
        code = 0
        for bits, count in enumerate(counts, start=1):
            code += count
            if count and code >= 1 << bits:
                return None
            code <<= 1
        numbers.add(body[at])
        at += 17 + total
    return frozenset(numbers)


def _is_plain_frame(body: bytes) -> bool:
    """Whether a baseline frame, given without its size, has 8 bits and components as nearly all files have them."""
    num_components = body[1]
    if len(body) != 2 + 3 * num_components or body[0] != 8 or len(set(body[2::3])) != num_components:
        return False
    return tuple((sampling >> 4, sampling & 15) for sampling in body[3::3]) in _SAMPLINGS


def _is_plain_scan(body: bytes, tables: _Tables) -> bool:
    """Whether the scan holds all components in their order, with tables that are there."""
    components = tables.components
    if (
        not components
        or len(body) != 4 + 2 * len(components)
        or body[0] != len(components)
        or body[-3:] != b"\x00\x3f\x00"
    ):
        return False
    for number, (identity, quantisation) in enumerate(components):
        wanted, huffman = body[1 + 2 * number], body[2 + 2 * number]
        if wanted != identity or quantisation not in tables.quantisation:
            return False
        if huffman >> 4 not in tables.huffman or 0x10 | huffman & 15 not in tables.huffman:
            return False
    return True
