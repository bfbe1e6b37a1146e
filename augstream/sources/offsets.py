"""Offset tables of other readers, from which an index can start; what they say of a shard is checked against it.

DALI's ``NAME.idx`` (``wds2idx``, version 1.2) tells every member of every sample, which is all that an index needs.
Some headers must be where it says, the first, the last and what follows it among them, and the walk over the rest is
spared: behind a URL, that is some kilobytes instead of the whole shard. Megatron Energon's ``NAME.tar.idx`` tells where
samples start, but not what they are called: the shard is walked, and must have its samples there.

Neither says to which version of its shard it belongs, hence the checks. Not promised: that a change of single members
in the middle, by others of the same length, is noticed; ``build_index(..., verify="digest")`` walks over all of them.

Sources: DALI, ``tools/wds2idx.py``; Megatron Energon, ``itar.py``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..errors import IndexFileError, RecipeError, ShardError
from ..index import Int64s, SampleTable
from ..tars.scan import open_shard, split_name
from ..tars.walk import ReadAt, TarWalk
from .remote import Remote, RemoteFile, Status, local_path

_ENERGON = ".tar.idx"
_NUM_LOOKED_AT = 16
_NUM_FETCHED = 4  # behind a URL, where each costs a request
_FETCHED_BYTES = 8 * 1024
_MEND = "write it again (augstream index SHARDS --emit), or index the shard without it"


def shard_of(url: str) -> str:
    """The shard that an offset table is of.

    >>> shard_of("train-0.idx"), shard_of("train-0.tar.idx")
    ('train-0.tar', 'train-0.tar')
    """
    return url.removesuffix(".idx") if url.endswith(_ENERGON) else f"{url.removesuffix('.idx')}.tar"


def table_from(offsets: str, url: str, status: Status, remote: Remote) -> tuple[SampleTable, Status] | None:
    """The sample table of the shard at `url` as its DALI index tells, looked up in the shard; its size and validator.

    None if only a walk over the shard can tell. Raises `ShardError` where the two don't fit.
    """
    if offsets.endswith(_ENERGON):
        return None
    table = read_dali(offsets, remote)
    path = local_path(url)
    if path is None:
        file = RemoteFile(url, remote)
        try:
            _look_up(table, _sparing(file, status.size), status.size, url, _NUM_FETCHED)
        except ShardError as error:
            if remote.cache_dir is not None:  # perhaps the server knows no ranges: the whole shard will tell
                return None
            raise _misfit(url, offsets, str(error)) from error
        return table, status
    fd, size, mtime_ns = open_shard(path)
    try:
        _look_up(table, lambda at, length: os.pread(fd, length, at), size, url, _NUM_LOOKED_AT)
    except ShardError as error:
        raise _misfit(url, offsets, str(error)) from error
    finally:
        os.close(fd)
    return table, Status(size, mtime_ns)


def check_offsets(offsets: str, table: SampleTable, url: str, remote: Remote) -> None:
    """Raise `ShardError` unless an offset table says of the shard at `url` what a walk over it has found."""
    if not offsets.endswith(_ENERGON):
        if read_dali(offsets, remote).digest != table.digest:
            raise _misfit(url, offsets, "its members are others")
        return
    starts = read_energon(offsets, remote)
    if len(starts) != len(table) + 1:
        raise _misfit(url, offsets, f"it has {len(table)} samples, and not {len(starts) - 1}")
    first = table.first_member[:-1]
    ends = np.concatenate([[0], _ends(table)[table.first_member[1:] - 1]]) if len(table) else np.zeros(1, int)
    # Long names have headers of their own, and members that belong to no sample may lie between two samples.
    if not (
        (ends <= starts) & (starts < np.append(table.offsets_bytes[first], np.iinfo(np.int64).max))
    ).all():
        raise _misfit(url, offsets, "its samples start elsewhere")


def _misfit(url: str, offsets: str, why: str) -> ShardError:
    return ShardError(f"{url}: {offsets} is of another version of it: {why}; {_MEND}")


def _ends(table: SampleTable) -> Int64s:
    """Where the header after each member starts."""
    ends: Int64s = (table.offsets_bytes + table.sizes_bytes + 511) & -512
    return ends


def _sparing(file: RemoteFile, size: int) -> ReadAt:
    """Reads of no more than is needed to look at a few headers."""
    return lambda at, length: file.read(at, min(length, _FETCHED_BYTES, size - at))


def _look_up(table: SampleTable, read_at: ReadAt, size: int, url: str, num_members: int) -> None:
    """Raise `ShardError` if one of `num_members` members is not where `table` says, or others follow the last one."""
    ends = [0, *_ends(table).tolist()]
    sample_of = np.repeat(np.arange(len(table)), np.diff(table.first_member))
    for i in np.unique(np.linspace(0, len(ends) - 2, num_members).astype(int)) if len(ends) > 1 else ():
        said = (
            table.keys[sample_of[i]], table.suffixes[table.suffix_ids[i]],
            int(table.offsets_bytes[i]), int(table.sizes_bytes[i]),
        )  # fmt: skip
        found = next(_inside(read_at, size, url, ends[i]), None)
        if found != said:
            msg = f"after {ends[i]} bytes comes {found}, and not {said} (key, suffix, offset, size)"
            raise ShardError(msg)
    more = next(_inside(read_at, size, url, ends[-1]), None)
    if more is not None:
        msg = f"after its last member comes {more} (key, suffix, offset, size)"
        raise ShardError(msg)


def _inside(read_at: ReadAt, size: int, url: str, at: int) -> Iterator[tuple[str, str, int, int]]:
    """(key, suffix, offset, size) of the members of samples from the header at `at` on."""
    for member in TarWalk(read_at, size, url).members(at):
        parts = split_name(member.name)
        if parts is not None:
            yield (*parts, member.data_at, member.size)


def _read(url: str | os.PathLike[str], remote: Remote) -> bytes:
    path = local_path(os.fspath(url))
    try:
        if path is not None:
            return path.read_bytes()
        file, data = RemoteFile(os.fspath(url), remote), io.BytesIO()
        file.download(data, file.status().size)
        return data.getvalue()
    except (OSError, ShardError) as error:
        msg = f"{url}: the offset table cannot be read: {error}"
        raise IndexFileError(msg) from error


def read_energon(url: str | os.PathLike[str], remote: Remote = Remote()) -> Int64s:  # noqa: B008  (a frozen value)
    """(samples + 1,) where each sample's first header starts, and the last one ends, as a ``.tar.idx`` tells."""
    data = _read(url, remote)
    starts: npt.NDArray[np.uint64] = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    if not len(starts) or len(data) % 8 or (starts[1:] <= starts[:-1]).any() or starts[-1] >= 1 << 62:
        msg = (
            f"{url}: not an Energon index: {len(data)} bytes, which are no rising numbers of 8 bytes; {_MEND}"
        )
        raise IndexFileError(msg)
    return starts.astype(np.int64)


def read_dali(url: str | os.PathLike[str], remote: Remote = Remote()) -> SampleTable:  # noqa: B008  (a frozen value)
    """The sample table that a DALI index (version 1.2) tells; `IndexFileError` if it is none."""
    data = _read(url, remote)
    try:
        lines = data.decode("utf-8", "surrogateescape").splitlines()
        version, count = lines[0].split()
        return _dali_table(version, int(count), [_dali_members(line) for line in lines[1:]])
    except (RecipeError, ValueError, OverflowError, IndexError) as error:
        msg = f"{url}: not a DALI index of version 1.2: {error}; {_MEND}"
        raise IndexFileError(msg) from error


def _dali_table(version: str, count: int, samples: list[list[tuple[str, str, int, int]]]) -> SampleTable:
    if version != "v1.2" or len(samples) != count:
        msg = f"version {version} with {len(samples)} of {count} samples"
        raise ValueError(msg)
    samples = [sample for sample in samples if sample]
    members = [member for sample in samples for member in sample]
    suffixes = {suffix: i for i, suffix in enumerate(dict.fromkeys([suffix for _, suffix, _, _ in members]))}
    return SampleTable(
        keys=tuple([sample[0][0] for sample in samples]),
        first_member=np.cumsum([0, *map(len, samples)]),
        suffixes=tuple(suffixes),
        suffix_ids=np.array([suffixes[suffix] for _, suffix, _, _ in members], dtype=np.int32),
        offsets_bytes=np.array([offset for _, _, offset, _ in members], dtype=np.int64),
        sizes_bytes=np.array([size for _, _, _, size in members], dtype=np.int64),
    )


def _dali_members(line: str) -> list[tuple[str, str, int, int]]:
    """(key, suffix, offset, size) of each member of one sample; none of a name without a dot, which DALI lists too."""
    words = line.split()
    if not words:
        msg = "it has an empty line"
        raise ValueError(msg)
    members = [
        (split_name(name), int(offset), int(size))
        for _, offset, size, name in zip(*[iter(words)] * 4, strict=True)
    ]
    return [(*parts, offset, size) for parts, offset, size in members if parts is not None]
