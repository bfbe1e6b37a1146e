"""Where randomness comes from: an address goes in, a key or a generator comes out.

Every random number of the library is addressed, never carried: it is a pure function of
``(seed, epoch, worker, shard, sample, stage, slot)``, so that no sample, worker or restart can shift another's
numbers. There is one hash (keyed BLAKE2b), one packing (tagged, fixed-width or length-prefixed fields) and one
version number. Changing any of them changes every user's stream: golden tests pin the scheme, and a change is a
*SEED* break of the change log.

Seeds are never added (``seed + epoch`` makes (1, 0) and (0, 1) one), never passed through ``hash()`` (salted per
process), and never given as lists to ``numpy.random.SeedSequence`` (where ``[1]`` and ``[1, 0]`` are equal).

Sources: BLAKE2 (RFC 7693); Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NoReturn
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from .errors import RecipeError

SCHEME_VERSION = 1
KEY_BYTES = 16
MAX_SEED = 2**64 - 1

_PERSON = b"augstream/%d" % SCHEME_VERSION
_FIELD_TAGS = {"shard": b"H", "worker": b"W", "epoch": b"E"}
_DOUBLE_UNIT = 2.0**-53
_unpack_words = struct.Struct("<8Q").unpack
_pack_counter = struct.Struct("<I").pack

Part = str | int | bytes


def check_seed(seed: int) -> int:
    """Return `seed` if it is an integer in [0, 2**64); otherwise raise `RecipeError`.

    >>> check_seed(137)
    137
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) <= MAX_SEED:
        msg = f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}; pass seed=137, say"
        raise RecipeError(msg)
    return int(seed)


def _packed(part: Part) -> bytes:
    """One address field as bytes that no other field, of whatever type, can equal or extend."""
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        if -(2**63) <= part < 2**64:
            return b"i" + int(part).to_bytes(16, "little", signed=True)
        msg = f"an address number must be from -2**63 to 2**64 - 1, got {part!r}"
        raise RecipeError(msg)
    if isinstance(part, str):
        text = part.encode("utf-8", "surrogateescape")
        return b"s" + len(text).to_bytes(8, "little") + text
    if isinstance(part, bytes):
        return b"b" + len(part).to_bytes(8, "little") + part
    msg = f"an address is made of strings, integers and bytes, got {part!r} ({type(part).__name__})"
    raise RecipeError(msg)


def subkey(key: bytes, *parts: Part) -> bytes:
    """Derive the 16-byte key of the place that `parts` name below the place of `key`.

    Parts are packed by type and length, so that ``("a", "b")`` and ``("ab",)``, or ``1`` and ``"1"``, differ.

    >>> root = seed_key(137)
    >>> subkey(root, "a", "b") == subkey(root, "ab")
    False
    """
    return subkey_at(key, place(*parts))


def place(*parts: Part) -> bytes:
    """Where `parts` lead to from any key, for `subkey_at`: to be made once where they are always the same."""
    return b"".join([_packed(part) for part in parts])


def subkey_at(key: bytes, there: bytes) -> bytes:
    """The key of the place `there` below that of `key`: ``subkey(key, *parts) == subkey_at(key, place(*parts))``."""
    return blake2b(there, key=key, digest_size=KEY_BYTES, person=_PERSON).digest()


def seed_key(seed: int) -> bytes:
    """The 16-byte key of a bare seed, the root of everything derived from it."""
    return blake2b(check_seed(seed).to_bytes(8, "little"), digest_size=KEY_BYTES, person=_PERSON).digest()


def stream_key(
    seed: int, *, shard: str | None = None, worker: int | None = None, epoch: int | None = None
) -> bytes:
    """Derive the key of the augmentation stage of one (shard, worker, epoch).

    `shard` is the shard's name (not its path), `worker` the lane that owns it, `epoch` counts from 0. A field left
    out is left out of the address (its scope): it is not the same as 0. Returns 16 bytes.

    >>> stream_key(137, shard="a.tar", worker=0, epoch=1) == stream_key(137, shard="a.tar", worker=1, epoch=0)
    False
    """
    parts = bytearray()
    for name, value in (("shard", shard), ("worker", worker), ("epoch", epoch)):
        if value is not None:
            parts += _FIELD_TAGS[name] + _packed(value)
    return blake2b(parts, key=seed_key(seed), digest_size=KEY_BYTES, person=_PERSON).digest()


def derive_seed(
    seed: int, *, shard: str | None = None, worker: int | None = None, epoch: int | None = None
) -> int:
    """`stream_key` as an integer in [0, 2**64), to seed anything else that belongs to the same address.

    >>> derive_seed(137, shard="train-000000.tar", worker=0, epoch=0)
    332006983736528349
    """
    return int.from_bytes(stream_key(seed, shard=shard, worker=worker, epoch=epoch)[:8], "little")


def sample_key(stream: bytes, sample: str, visit: int = 0) -> bytes:
    """Derive the key of the sample named `sample` inside the stream of key `stream`.

    `visit` counts the visits to one sample within an epoch, where a pipeline resamples; elsewhere it is 0.
    """
    return subkey(stream, sample, visit)


PendingKey = tuple[bytes, bytes]
"""A key and what stands before each slot under it: a call of a sequence, whose own key need not be hashed first."""
CallKey = bytes | PendingKey


def philox_words(key: bytes, num_words: int) -> npt.NDArray[np.uint64]:
    """`num_words` raw uint64 words of the Philox counter generator under `key`: the ground of all order.

    Raw words are stable between numpy releases, which `Generator` methods are not.
    """
    return np.random.Philox(key=int.from_bytes(key, "little")).random_raw(num_words)


def permutation(key: bytes, num_items: int) -> npt.NDArray[np.int64]:
    """A permutation of range(num_items), int64, that follows from `key` alone on any machine and numpy release."""
    return np.argsort(philox_words(key, num_items), kind="stable")


class Draws(random.Random):
    """The random numbers of one slot: `random.Random` for scalars, `generator` for arrays; both pure in the key.

    A `Draws` is moved from slot to slot by `move`, which costs a microsecond; making one costs ten. The numbers come
    from a keyed BLAKE2b in counter mode. Word 0 of a slot is its gate (`p`), and is never used for a parameter, so that
    changing `p` re-rolls nothing. Not safe to share between threads.
    """

    __slots__ = ("_block", "_generator", "_key", "_keyed", "_keyed_by", "_next", "_slot", "_words")

    def __init__(self) -> None:
        super().__init__(0)
        self._keyed_by = b""
        self.move(b"\0" * KEY_BYTES, b"")

    _words: tuple[int, ...]

    def move(self, key: CallKey, slot: bytes) -> None:
        """Go to the start of the numbers of `slot` under `key`; hashes nothing before a number is asked for."""
        if isinstance(key, tuple):
            self._key, prefix = key
            self._slot = prefix + slot
        else:
            self._key, self._slot = key, slot
        self._next = 0
        self._generator: np.random.Generator | None = None
        self.gauss_next = None  # `gauss` keeps every second number, which must not follow us to another slot

    @property
    def gate(self) -> float:
        """The number in [0, 1) that is compared with `p`; to be asked for before any other number of the slot."""
        if self._next == 0:
            self._next = self._hash_block()
        return (self._words[0] >> 11) * _DOUBLE_UNIT

    def _hash_block(self) -> int:
        """Make the slot's next eight words, and say which of them is the first for a parameter."""
        if self._next == 0:
            self._block, first, message = 0, 1, self._slot
        else:
            self._block, first = self._block + 1, 0
            message = self._slot + b"+" + _pack_counter(self._block)
        if self._keyed_by is not self._key:  # the key's own share of the hash is the same for all its slots
            self._keyed, self._keyed_by = blake2b(key=self._key, person=_PERSON), self._key
        state = self._keyed.copy()
        state.update(message)
        self._words = _unpack_words(state.digest())
        return first

    def word(self) -> int:
        """The next uint64 of the slot."""
        position = self._next
        if not 0 < position < 8:
            position = self._hash_block()
        self._next = position + 1
        return self._words[position]

    def random(self) -> float:
        """The next number in [0, 1), with 53 random bits."""
        position = self._next  # as `word`, without the call
        if not 0 < position < 8:
            position = self._hash_block()
        self._next = position + 1
        return (self._words[position] >> 11) * _DOUBLE_UNIT

    def uniform(self, a: float, b: float) -> float:
        """The next number between `a` and `b`, as the standard library makes it."""
        position = self._next  # as `word`, without the call
        if not 0 < position < 8:
            position = self._hash_block()
        self._next = position + 1
        return a + (b - a) * ((self._words[position] >> 11) * _DOUBLE_UNIT)

    def randint(self, a: int, b: int) -> int:
        """The next integer from `a` to `b`, as the standard library makes it, which takes five calls for that."""
        width = b - a + 1  # of anything else than integers, that is for the standard library to refuse
        if type(width) is not int or not 0 < width < 2**64:
            return super().randint(a, b)
        spare_bits = 64 - width.bit_length()
        value = self.word() >> spare_bits
        while value >= width:
            value = self.word() >> spare_bits
        return a + value

    def getrandbits(self, k: int, /) -> int:
        """The next integer of `k` random bits."""
        if k <= 64:
            return self.word() >> (64 - k)
        words = (k + 63) // 64
        value = 0
        for _ in range(words):
            value = value << 64 | self.word()
        return value >> (64 * words - k)

    def subkey(self) -> bytes:
        """A 16-byte key of its own for bulk numbers (noise, displacement fields): small enough to be recorded."""
        return (self.word() | self.word() << 64).to_bytes(KEY_BYTES, "little")

    @property
    def generator(self) -> np.random.Generator:
        """The slot's `numpy.random.Generator` (Philox), keyed when first asked for."""
        if self._generator is None:
            self._generator = generator(subkey(self._key, self._slot, "generator"))
        return self._generator

    def seed(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: an addressed generator has no seed of its own (`random.Random` calls this when it is made)."""

    def getstate(self) -> NoReturn:
        """Raise: there is no state to save; the address is all."""
        msg = "addressed random numbers have no state to save; save the address instead"
        raise RecipeError(msg)

    def setstate(self, state: Any) -> NoReturn:
        """Raise: there is no state to load."""
        self.getstate()


def generator(key: bytes) -> np.random.Generator:
    """A new `numpy.random.Generator` over Philox that follows from `key` alone."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sample's randomness lives; its text form is one word, fit for a log line, and parses back.

    >>> address = Address(seed=137, epoch=3, worker=2, shard="train-000001.tar", sample="n01/0007")
    >>> str(address)
    'seed=137;epoch=3;worker=2;shard=train-000001.tar;sample=n01/0007'
    >>> Address.parse(str(address)) == address
    True
    """

    seed: int
    epoch: int | None = None
    worker: int | None = None
    shard: str | None = None
    sample: str | None = None
    visit: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __str__(self) -> str:
        fields = [("seed", self.seed), ("epoch", self.epoch), ("worker", self.worker)]
        texts = [f"{name}={value}" for name, value in fields if value is not None]
        for name, text in (("shard", self.shard), ("sample", self.sample)):
            if text is not None:
                texts.append(f"{name}={quote(text, safe='/.-_~+@,:', errors='surrogateescape')}")
        if self.visit:
            texts.append(f"visit={self.visit}")
        return ";".join(texts)

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address whose text form is `text`; `RecipeError` if it is none."""
        readers: dict[str, Callable[[str], Any]] = {
            "seed": int, "epoch": int, "worker": int, "visit": int,
            "shard": _unquoted, "sample": _unquoted,
        }  # fmt: skip
        fields: dict[str, Any] = {}
        for item in text.strip().split(";"):
            name, equals, value = item.partition("=")
            if not equals or name not in readers or name in fields:
                raise RecipeError(_bad_address(text))
            try:
                fields[name] = readers[name](value)
            except ValueError as error:
                raise RecipeError(_bad_address(text)) from error
        if "seed" not in fields:
            raise RecipeError(_bad_address(text))
        return cls(**fields)

    def key(self) -> bytes:
        """The 16-byte key of the address: of its sample if it names one, else of its stream."""
        stream = stream_key(self.seed, shard=self.shard, worker=self.worker, epoch=self.epoch)
        return stream if self.sample is None else sample_key(stream, self.sample, self.visit)


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _bad_address(text: str) -> str:
    return (
        f"not an address: {text!r}; an address looks like "
        "'seed=137;epoch=3;worker=2;shard=train-000001.tar;sample=000042'"
    )
