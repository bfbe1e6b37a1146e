"""The shards of a webdataset source: named as webdataset names them, unpacked if compressed, indexed when wanted."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from webdataset.shardlists import expand_urls

from ..errors import RecipeError, ShardError
from ..index import ShardIndex
from ..indexing import build_index, cache_directory
from ..shards import IndexedShards
from ..sources.naming import Shards, parts_of, resolve
from ..sources.remote import Remote, local_path, shard_name
from ..tars.indexfile import make_private

_OPENERS: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class MissingShardError(ShardError, FileNotFoundError):
    """A shard that is not there."""


class ShardSource:
    """The shards that a pipeline reads, with their index, which is made when first asked for.

    shards: as for `build_index`, or webdataset's own notation: ``::`` between patterns, ``${VAR}`` for ``WDS_VAR``.
    cache_dir: where indexes, and unpacked copies of compressed shards, are kept. Raises `RecipeError` where nothing
    matches; what is wrong with a shard itself is an error when the index is made.
    """

    def __init__(
        self, shards: Shards, cache_dir: str | os.PathLike[str] | None = None, remote: Remote | None = None
    ) -> None:
        self._remote = Remote() if remote is None else remote
        if isinstance(shards, ShardIndex):
            self.shards: ShardIndex | list[str] = shards
        else:
            self.shards = [shard.url for shard in resolve(_expanded(shards, self._remote), self._remote)]
        self.cache_dir = cache_dir
        self._index: IndexedShards | None = None

    def __repr__(self) -> str:
        return f"ShardSource({len(self.urls)} shards)"

    @property
    def urls(self) -> tuple[str, ...]:
        """Path or URL of each shard, as it was given."""
        return self.shards.urls if isinstance(self.shards, ShardIndex) else tuple(self.shards)

    def index(self) -> IndexedShards:
        """The index, made now if it was not yet; raises `ShardError` for shards that are missing or broken."""
        if self._index is None:
            readable = self.shards
            if not isinstance(readable, ShardIndex):
                readable = [self._readable(url) for url in readable]
            self._index = build_index(readable, cache_dir=self.cache_dir, remote=self._remote)
        return self._index

    def _readable(self, url: str) -> str:
        """Where the shard lies as an uncompressed tar."""
        path = local_path(url)
        if path is None:
            return url
        try:
            with path.open("rb") as file:
                magic = file.read(6)
        except FileNotFoundError as error:
            msg = f"{url}: there is no such shard; check the path (from {Path.cwd()})"
            raise MissingShardError(msg) from error
        except OSError:
            return url
        opener = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
        return url if opener is None else str(self._unpacked(path, opener))

    def _unpacked(self, path: Path, opener: Callable[[Path], Any]) -> Path:
        """An uncompressed copy of the shard of the same name, made once."""
        status = path.stat()
        place = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        base = cache_directory().parent if self.cache_dir is None else Path(self.cache_dir)
        folder = base / "unpacked" / blake2b(os.fsencode(place), digest_size=16).hexdigest()
        copy = folder / shard_name(str(path))
        if not copy.exists():
            make_private(folder)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as new:
                try:
                    with opener(path) as packed:
                        shutil.copyfileobj(packed, new, 1 << 20)
                except (OSError, EOFError, lzma.LZMAError) as error:
                    Path(new.name).unlink()
                    msg = f"{path}: the compressed shard is broken: {error}"
                    raise ShardError(msg) from error
            Path(new.name).replace(copy)
        return copy


def _expanded(shards: Any, remote: Remote) -> Any:
    """`shards` with webdataset's own notation resolved."""
    if not isinstance(shards, (str, os.PathLike)):
        return [part for one in parts_of(shards) for part in _as_list(_expanded(one, remote))]
    text = os.fspath(shards)
    if text.startswith("pipe:"):
        if remote.allow_pipe and remote.cache_dir is not None:
            return text
        msg = (
            f"{text!r} runs a command; if you trust it, pass remote=Remote(allow_pipe=True, cache_dir=...), which "
            "keeps its output, or read it with wds.WebDataset, and make that resumable with augstream.wds.resumable"
        )
        raise RecipeError(msg)
    if "::" not in text and "${" not in text:
        return text
    try:
        expanded: list[str] = expand_urls(text)
    except AssertionError as error:
        msg = f"the shard pattern {text!r} names a variable that is not set: {error}"
        raise RecipeError(msg) from error
    return expanded


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
