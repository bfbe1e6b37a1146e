"""What there is: the shards and their samples, as values. Nothing here opens a file.

`ShardIndex` is all that the order needs of a dataset: the shards' names and how many samples each holds.
`SampleTable` is all that a reader needs of one shard: where each member of each sample lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from .errors import RecipeError

DIGEST_BYTES = 16
_MAX_FILE_BYTES = (1 << 63) - 1

Int64s = npt.NDArray[np.int64]


def _frozen_array(values: npt.ArrayLike, dtype: npt.DTypeLike, what: str) -> npt.NDArray[np.generic]:
    """A copy of `values` as a read-only row of `dtype`; `RecipeError` if that would change a number."""
    given = np.asarray(values)
    integers = given.ndim == 1 and (given.size == 0 or given.dtype.kind in "iu")
    array = given.astype(dtype, order="C") if integers else np.empty(0, dtype)
    if not integers or not np.array_equal(given, array):
        msg = f"{what} must be a row of integers that fit {np.dtype(dtype)}, got {given.dtype} {given.shape}"
        raise RecipeError(msg)
    array.flags.writeable = False
    return array


def _packed_texts(texts: Sequence[str]) -> bytes:
    """Texts as bytes that no other list of texts gives: their number, their lengths, then the texts."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    lengths = np.fromiter(map(len, encoded), dtype="<i8", count=len(encoded))
    return len(encoded).to_bytes(8, "little") + lengths.tobytes() + b"".join(encoded)


def _little_endian(array: npt.NDArray[np.generic]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """The shards of a dataset, in the order given: their names, their places, their numbers of samples.

    names: unique; the last part of each path or URL. A name is part of every address, a path is not, so a
        dataset may move.
    urls: (shards,) path or URL of each.
    num_samples, sizes_bytes: (shards,) int64, read-only. A shard may be empty.
    digests: 16 bytes a shard over its sample table, or None where no table was made.

    Raises `RecipeError` for no shards, two shards of one name, and columns of unequal length.

    >>> index = ShardIndex.synthetic(3, 100)
    >>> index.names[1], index.total, index.starts.tolist()
    ('shard-000001.tar', 300, [0, 100, 200, 300])
    """

    names: tuple[str, ...]
    urls: tuple[str, ...]
    num_samples: Int64s
    sizes_bytes: Int64s
    digests: tuple[bytes, ...] | None = None
    starts: Int64s = field(init=False, repr=False)
    """(shards + 1,) int64: how many samples come before each shard in file order."""
    fingerprint: str = field(init=False)
    """32 hex digits over names, numbers of samples and digests, in order; not over urls, sizes or times."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "names", tuple(self.names))
        put(self, "urls", tuple(self.urls))
        put(self, "num_samples", _frozen_array(self.num_samples, np.int64, "num_samples"))
        put(self, "sizes_bytes", _frozen_array(self.sizes_bytes, np.int64, "sizes_bytes"))
        put(self, "digests", None if self.digests is None else tuple(self.digests))
        self._check()
        starts = np.zeros(len(self.names) + 1, dtype=np.int64)
        np.cumsum(self.num_samples, out=starts[1:])
        starts.flags.writeable = False
        put(self, "starts", starts)
        put(self, "fingerprint", self._fingerprint())

    def _check(self) -> None:
        if not self.names:
            msg = "an index needs at least one shard, got none"
            raise RecipeError(msg)
        columns = {
            "urls": len(self.urls),
            "num_samples": len(self.num_samples),
            "sizes_bytes": len(self.sizes_bytes),
            "digests": len(self.names) if self.digests is None else len(self.digests),
        }
        for what, length in columns.items():
            if length != len(self.names):
                msg = f"an index of {len(self.names)} shards needs as many {what}, got {length}"
                raise RecipeError(msg)
        if len(set(self.names)) != len(self.names):
            raise RecipeError(self._duplicates())
        for what, counts in (("num_samples", self.num_samples), ("sizes_bytes", self.sizes_bytes)):
            if counts.min() < 0:
                shard = int(counts.argmin())
                msg = f"{what} of shard {self.names[shard]!r} must be 0 or more, got {counts[shard]}"
                raise RecipeError(msg)
        if self.digests is not None and any(len(digest) != DIGEST_BYTES for digest in self.digests):
            msg = f"a shard's digest is {DIGEST_BYTES} bytes (SampleTable.digest); got another length"
            raise RecipeError(msg)

    def _duplicates(self) -> str:
        first: dict[str, str] = {}
        for name, url in zip(self.names, self.urls, strict=True):
            if name in first:
                return (
                    f"two shards are named {name!r}: {first[name]!r} and {url!r}; a name is part of its "
                    "samples' addresses, so no other shard may have it: rename one, or leave one out"
                )
            first[name] = url
        return "names must be unique"

    def _fingerprint(self) -> str:
        state = blake2b(_packed_texts(self.names), digest_size=DIGEST_BYTES, person=b"augstream/index")
        state.update(_little_endian(self.num_samples))
        if self.digests is not None:
            state.update(b"digests" + b"".join(self.digests))
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def total(self) -> int:
        """The number of samples in all shards."""
        return int(self.starts[-1])

    def position(self, name: str) -> int:
        """The place of the shard named `name`; `RecipeError`, with the nearest name, if there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            near = get_close_matches(name, self.names[:10_000], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the first is {self.names[0]!r}"
            msg = f"no shard is named {name!r} among the {len(self.names)} of this index{hint}"
            raise RecipeError(msg) from None

    def subset(self, names: Iterable[str]) -> ShardIndex:
        """The index of the shards named, in the order named: another dataset, of another fingerprint."""
        positions = {name: i for i, name in enumerate(self.names)}
        chosen = [positions[name] if name in positions else self.position(name) for name in names]
        return ShardIndex(
            names=tuple(self.names[i] for i in chosen),
            urls=tuple(self.urls[i] for i in chosen),
            num_samples=self.num_samples[chosen],
            sizes_bytes=self.sizes_bytes[chosen],
            digests=None if self.digests is None else tuple(self.digests[i] for i in chosen),
        )

    @classmethod
    def synthetic(cls, num_shards: int, samples_per_shard: int | Sequence[int]) -> ShardIndex:
        """An index of shards that need not exist, to plan, simulate and test with.

        `samples_per_shard` is one number for all, or one for each.
        """
        counts = np.asarray(samples_per_shard)
        if counts.ndim == 0:
            counts = np.full(num_shards, counts)
        names = tuple([f"shard-{i:06d}.tar" for i in range(num_shards)])
        sizes = np.zeros(num_shards, dtype=np.int64)
        return cls(names=names, urls=names, num_samples=counts, sizes_bytes=sizes)


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """Where each member of each sample of one shard lies, in file order.

    keys: (samples,) unique ``__key__`` of each.
    first_member: (samples + 1,) int64: the members of sample i are first_member[i] … first_member[i + 1] - 1.
    suffixes: the distinct suffixes, lower-cased as webdataset does; suffix_ids: (members,) int32 into them.
    offsets_bytes, sizes_bytes: (members,) int64: where the member's data begins in the tar, and its length.
    checksums: (members,) uint32 CRC-32 of the data, or None where they were not asked for.

    Raises `RecipeError` for columns that don't fit each other and for a key that comes twice.
    """

    keys: tuple[str, ...]
    first_member: Int64s
    suffixes: tuple[str, ...]
    suffix_ids: npt.NDArray[np.int32]
    offsets_bytes: Int64s
    sizes_bytes: Int64s
    checksums: npt.NDArray[np.uint32] | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "keys", tuple(self.keys))
        put(self, "suffixes", tuple(self.suffixes))
        for name, dtype in (
            ("first_member", np.int64), ("suffix_ids", np.int32),
            ("offsets_bytes", np.int64), ("sizes_bytes", np.int64), ("checksums", np.uint32),
        ):  # fmt: skip
            values = getattr(self, name)
            if values is not None:
                put(self, name, _frozen_array(values, dtype, name))
        problem = self._problem()
        if problem is not None:
            raise RecipeError(problem)

    def _problem(self) -> str | None:
        first, num_members = self.first_member, len(self.suffix_ids)
        if len(first) != len(self.keys) + 1:
            return (
                f"{len(self.keys)} samples need {len(self.keys) + 1} first_member entries, got {len(first)}"
            )
        if first[0] != 0 or first[-1] != num_members or (first[1:] <= first[:-1]).any():
            return (
                f"first_member must rise from 0 to {num_members}, by one member a sample at least, "
                f"got {first[0]} to {first[-1]}"
            )
        for name in ("offsets_bytes", "sizes_bytes", "checksums"):
            values = getattr(self, name)
            if values is not None and len(values) != num_members:
                return f"{num_members} members need as many {name}, got {len(values)}"
        if num_members and not (self.suffix_ids.min() >= 0 and self.suffix_ids.max() < len(self.suffixes)):
            return f"suffix_ids must be from 0 to {len(self.suffixes) - 1}, the suffixes there are"
        if num_members and min(self.offsets_bytes.min(), self.sizes_bytes.min()) < 0:
            return "offsets_bytes and sizes_bytes must be 0 or more"
        if num_members and int(self.offsets_bytes.max()) + int(self.sizes_bytes.max()) > _MAX_FILE_BYTES:
            return f"offsets_bytes and sizes_bytes must lie in a file, of {_MAX_FILE_BYTES} bytes at most"
        if len(set(self.keys)) != len(self.keys):
            twice = next(key for i, key in enumerate(self.keys) if self.keys.index(key) < i)
            return f"the key {twice!r} names two samples of one shard; keys must be unique in their shard"
        return None

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, sample: int) -> list[tuple[str, int, int]]:
        """(suffix, offset, size) of each member of a sample, in file order; offset and size in bytes."""
        if not 0 <= sample < len(self.keys):
            msg = f"sample must be from 0 to {len(self.keys) - 1}, got {sample}"
            raise RecipeError(msg)
        span = slice(*self.first_member[sample : sample + 2].tolist())
        suffixes = map(self.suffixes.__getitem__, self.suffix_ids[span].tolist())
        return list(
            zip(suffixes, self.offsets_bytes[span].tolist(), self.sizes_bytes[span].tolist(), strict=True)
        )

    def find(self, key: str) -> int:
        """The place of the sample whose ``__key__`` is `key`; `RecipeError` if there is none."""
        try:
            return self.keys.index(key)
        except ValueError:
            near = get_close_matches(key, self.keys[:10_000], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            msg = f"no sample has the key {key!r} among the {len(self.keys)} of this shard{hint}"
            raise RecipeError(msg) from None

    @property
    def digest(self) -> bytes:
        """16 bytes over keys, suffixes, offsets and sizes: equal if the table is. Not over the data."""
        state = blake2b(_packed_texts(self.keys), digest_size=DIGEST_BYTES, person=b"augstream/table")
        state.update(_packed_texts([self.suffixes[i] for i in self.suffix_ids.tolist()]))
        for array in (self.first_member, self.offsets_bytes, self.sizes_bytes):
            state.update(_little_endian(array))
        return state.digest()
