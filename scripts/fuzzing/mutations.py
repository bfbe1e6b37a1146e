"""Ways to break bytes: by bits, by blocks, by the numbers and words that parsers trip over."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

MAX_CASE_BYTES = 1 << 18

_NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65500,
    65535,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    10 * 1000**3,
    (1 << 62),
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_WORDS = (
    b"-1",
    b"9" * 19,
    b"9" * 400,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"../" * 8,
    b"/etc/passwd",
    b"file:///etc/passwd",
    b"pipe:touch pwned",
    b"http://127.0.0.1:9/x",
    b"%s%n",
    b"{0..9999999}",
    b"A" * 4096,
    b"[" * 3000,
    b"{" * 3000,
    b'{"a":' * 500,
    b"!!python/object/apply:os.system ['touch pwned']",
    b"__class__",
    b"__reduce__",
    b"os.system",
    b"&a [*a,*a]",
    b"null",
    b"true",
    b"0.5",
    b"\n",
    b" ",
    b'"',
    b",",
    b":",
    b";",
    b"=",
)


def mutated(rng: Random, seeds: Sequence[bytes], *, block: int = 16, words: Sequence[bytes] = ()) -> bytes:
    """One of `seeds`, broken in a few places.

    block: the size of the runs that are moved about. words: what the format itself is made of.
    """
    data = bytearray(rng.choice(seeds))
    for _ in range(min(1 + int(rng.expovariate(0.7)), 12)):
        rng.choice(_WAYS)(rng, data, block, seeds, words or _WORDS)
    return bytes(data[:MAX_CASE_BYTES])


def _at(rng: Random, data: bytearray) -> int:
    return rng.randrange(len(data) + 1)


def _flip_bits(rng: Random, data: bytearray, *_: object) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(rng: Random, data: bytearray, *_: object) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(
            (0, 1, 0x20, 0x30, 0x39, 0x7F, 0x80, 0xFF, rng.randrange(256))
        )


def _cut(rng: Random, data: bytearray, *_: object) -> None:
    del data[_at(rng, data) :]


def _blocks(rng: Random, data: bytearray, block: int) -> tuple[int, int]:
    """A run of whole blocks: where it begins and ends."""
    count = len(data) // block
    first = rng.randrange(count) if count else 0
    return first * block, min(count, first + rng.choice((1, 1, 1, 2, 5, 20))) * block


def _drop_blocks(rng: Random, data: bytearray, block: int, *_: object) -> None:
    start, end = _blocks(rng, data, block)
    del data[start:end]


def _repeat_blocks(rng: Random, data: bytearray, block: int, *_: object) -> None:
    start, end = _blocks(rng, data, block)
    data[end:end] = data[start:end] * rng.choice((1, 1, 2, 30))


def _move_blocks(rng: Random, data: bytearray, block: int, *_: object) -> None:
    start, end = _blocks(rng, data, block)
    moved = data[start:end]
    del data[start:end]
    at = rng.randrange(len(data) // block + 1) * block
    data[at:at] = moved


def _fill_blocks(rng: Random, data: bytearray, block: int, *_: object) -> None:
    start, end = _blocks(rng, data, block)
    kind = rng.choice((b"\0", b"\xff", b" ", b"", b""))
    data[start:end] = kind * (end - start) if kind else rng.randbytes(end - start)


def _put_number(rng: Random, data: bytearray, *_: object) -> None:
    width = rng.choice((1, 2, 4, 4, 8))
    number = rng.choice((*_NUMBERS, len(data))) % (1 << 8 * width)
    at = max(0, _at(rng, data) - width)
    data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))


def _put_word(rng: Random, data: bytearray, _block: int, _seeds: object, words: Sequence[bytes]) -> None:
    word, at = rng.choice((*words, *_WORDS)), _at(rng, data)
    data[at : at + (len(word) if rng.random() < 0.4 else 0)] = word


def _splice(rng: Random, data: bytearray, _block: int, seeds: Sequence[bytes], _words: object) -> None:
    other = rng.choice(seeds)
    start = rng.randrange(len(other) + 1)
    at = _at(rng, data)
    data[at : _at(rng, data)] = other[start : start + rng.choice((4, 64, 512, 1 << 16))]


def _grow(rng: Random, data: bytearray, *_: object) -> None:
    data += rng.choice((b"\0", b"\xff", b" ", rng.randbytes(7))) * rng.choice((1, 40, 600))


_WAYS = (
    _flip_bits,
    _flip_bits,
    _flip_bits,
    _set_byte,
    _set_byte,
    _cut,
    _drop_blocks,
    _repeat_blocks,
    _move_blocks,
    _fill_blocks,
    _put_number,
    _put_number,
    _put_number,
    _put_word,
    _splice,
    _grow,
)
