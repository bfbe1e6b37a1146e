"""Shards that lie behind a URL: their size and identity, any range of their bytes, or the whole of them.

Everything goes through fsspec, and only for the schemes of `SCHEMES`: a URL is data, and must not choose what code is
imported. Whatever fails in passing (dropped connections, truncated answers, 5xx, time-outs) is tried again with
growing pauses, and a download goes on where it stopped; what is wrong for good (404, no access) is a `ShardError` at
once, as is what still fails at the last attempt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from ..errors import RecipeError, ShardError

_log = logging.getLogger("augstream.sources.remote")

SCHEMES = frozenset(["http", "https", "s3", "gs", "gcs", "hf", "az", "abfs"])
"""What a shard's URL may begin with."""

_PACKAGES = {
    "http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs",
    "hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip
_BLOCK_BYTES = 4 * 1024 * 1024
_VALIDATORS = (
    "ETag", "etag", "e_tag", "md5Hash", "Content-MD5", "Digest", "generation", "oid", "blob_id",
    "Last-Modified", "LastModified", "last_modified", "updated", "mtime",
)  # fmt: skip
_FOR_GOOD = frozenset([400, 401, 403, 404, 405, 410, 411, 412, 414, 451])


_T = TypeVar("_T")


def local_path(url: str) -> Path | None:
    """The path of a local shard, given as such or as a ``file:`` URL; None for a remote one.

    >>> str(local_path("file:///data/a.tar")), local_path("https://example.org/a.tar")
    ('/data/a.tar', None)
    """
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url or url.startswith("pipe:") else Path(url)


def shard_name(url: str) -> str:
    """The last part of a path or URL, without a query: what a shard is called in addresses.

    >>> shard_name("https://example.org/train/000.tar?token=x")
    '000.tar'
    """
    path = urlsplit(url).path if "://" in url else url
    return path.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Remote:
    """How remote shards are fetched.

    cache_dir: keep whole shards there, and read them as local ones; None reads each sample by a range request.
    cache_bytes: the least recently used ones are dropped beyond this; None keeps all.
    storage_options: for fsspec's file system (keys, headers, endpoints).
    attempts: how often a request is tried; backoff_s: the first pause between, which then doubles; timeout_s: how long
    to wait for a silent server, or for another process that is downloading.
    ahead: how many shards are fetched at a time before they are needed, 0 for none.
    allow_pipe: run the shell commands of ``pipe:`` URLs, with a cache_dir, as if they were servers; never allow it for
    URLs that others may write.
    """

    cache_dir: str | None = None
    cache_bytes: int | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    attempts: int = 6
    backoff_s: float = 0.25
    timeout_s: float = 60.0
    ahead: int = 2
    allow_pipe: bool = False

    def __post_init__(self) -> None:
        if self.cache_dir is not None:  # wherever a process works later
            object.__setattr__(self, "cache_dir", str(Path(self.cache_dir).absolute()))
        if self.cache_bytes is not None and (self.cache_bytes < 1 or self.cache_dir is None):
            msg = f"cache_bytes must be 1 or more, and needs a cache_dir; got {self.cache_bytes}, {self.cache_dir!r}"
            raise RecipeError(msg)
        if self.attempts < 1 or self.ahead < 0 or not self.backoff_s >= 0 or not self.timeout_s > 0:
            msg = (
                "attempts must be 1 or more, ahead and backoff_s 0 or more, timeout_s more than 0; "
                f"got {self.attempts}, {self.ahead}, {self.backoff_s}, {self.timeout_s}"
            )
            raise RecipeError(msg)


def remote_or_default(
    remote: Remote | None, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None
) -> Remote:
    """`remote`, or where it is None what the other two, which most need no more of, come to."""
    if remote is None:
        return Remote(cache_dir=None if cache_dir is None else os.fspath(cache_dir), cache_bytes=cache_bytes)
    if cache_bytes is not None:
        msg = "give cache_bytes or remote=Remote(cache_bytes=...), not both"
        raise RecipeError(msg)
    return remote


class Status(NamedTuple):
    """What a server says of a file: its size, and a number that changes when its content does.

    size is -1 where only the whole file can tell; validator is 0 where the server says nothing.
    """

    size: int
    validator: int


class _ShortError(Exception):
    """The server answered, with less than was asked for."""


class RemoteFile:
    """One remote file. Threads may share it; it does not pickle, and is opened anew in each process."""

    def __init__(self, url: str, remote: Remote) -> None:
        self.url = url
        self._remote = remote
        self._system, self._path = _file_system(url, remote)
        self._file: Any = None
        self._streams = False  # whether the server knows no ranges
        self._lock = Lock()

    def status(self) -> Status:
        """Size and validator, as the server tells them now."""
        self._system.invalidate_cache(self._path)
        info = self._insist("asked for its size", lambda: self._system.info(self._path))
        size = info.get("size")
        if type(size) is not int or info.get("type") == "directory":
            msg = f"{self.url}: the server does not tell its size, so it cannot be read by offset; copy it first"
            raise ShardError(msg)
        said = next((info[name] for name in _VALIDATORS if info.get(name)), None)
        return Status(size, 0 if said is None else _number_of(str(said)))

    def read(self, offset: int, length: int) -> bytes:
        """These bytes, all of them; `ShardError` if the server knows no ranges, or the file ends before."""

        def fetch() -> bytes:
            file = self._opened()
            if self._streams:
                msg = (
                    f"{self.url}: the server answers no range requests; pass cache_dir=, so that whole shards "
                    "are fetched, or copy them first"
                )
                raise ShardError(msg)
            file.seek(offset)
            data: bytes = file.read(length)
            if len(data) < length:
                msg = f"{len(data)} bytes came, {length} were asked for"
                raise _ShortError(msg)
            return data

        with self._lock:
            return self._insist(f"read at {offset}", fetch) if length else b""

    def download(self, out: BinaryIO, size: int) -> None:
        """Write the file's `size` bytes to `out`, going on where a connection broke if the server lets us."""
        done = best = failures = 0
        with self._lock:
            while done < size:
                try:
                    done = self._seek(out, done)
                    data = self._file.read(min(_BLOCK_BYTES, size - done))
                    if not data:
                        msg = f"the file ends at {done}, and should have {size} bytes"
                        raise _ShortError(msg)  # noqa: TRY301  (handled as any other failure to deliver)
                except Exception as error:  # noqa: BLE001  (file systems raise what their libraries raise)
                    failures += 1
                    self._pause(error, f"downloaded at {done}", failures)
                    continue
                out.write(data)
                done += len(data)
                if (
                    done > best
                ):  # only what is new counts, or a server that always breaks off would be asked for ever
                    best, failures = done, 0

    def _seek(self, out: BinaryIO, done: int) -> int:
        """Go to where the next byte is to come from and to go to; return that place."""
        file = self._opened()
        if file.tell() != done:
            if self._streams:
                self._close()
                self._opened()
                done = 0
            else:
                file.seek(done)
        out.seek(done)
        return done

    def _opened(self) -> Any:
        if self._file is None:
            options = {"block_size": 0} if self._streams else {"cache_type": "none"}
            self._file = self._system.open(self._path, "rb", **options)
            self._streams = self._streams or getattr(self._file, "size", None) is None
        return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):
                file.close()

    def _insist(self, what: str, action: Callable[[], _T]) -> _T:
        """Do it, again and again if it fails in passing."""
        failures = 0
        while True:
            try:
                return action()
            except Exception as error:  # noqa: BLE001  (file systems raise what their libraries raise)
                failures += 1
                self._pause(error, what, failures)

    def _pause(self, error: Exception, what: str, failures: int) -> None:
        """Wait before the next attempt; raise `ShardError` if there should be none."""
        self._close()
        if isinstance(error, ShardError):
            raise error
        if isinstance(error, ValueError) and "range requests" in str(error) and not self._streams:
            self._streams = True  # the next attempt fetches the file from its start, or says what to do
            return
        # For HTTP, fsspec calls whatever went wrong a missing file, and keeps what it was as the cause.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        missing = isinstance(cause, (FileNotFoundError, PermissionError))
        for_good = missing or getattr(cause, "status", None) in _FOR_GOOD
        reason = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        if for_good or failures >= self._remote.attempts:
            tries = "" if for_good else f" {failures} times"
            msg = (
                f"{self.url}: could not be {what}{tries}: {reason}; check the URL, the access and the network"
            )
            raise ShardError(msg) from error
        pause_s = self._remote.backoff_s * 2 ** (failures - 1)
        _log.info("%s: could not be %s (%s), next attempt in %.2f s", self.url, what, reason, pause_s)
        time.sleep(pause_s)


class PipeFile:
    """What a shell command writes to its standard output, as ``pipe:COMMAND`` says."""

    def __init__(self, url: str, remote: Remote) -> None:
        if not remote.allow_pipe or remote.cache_dir is None:
            msg = (
                f"{url}: a pipe: URL runs a shell command; if you trust it, pass allow_pipe=True and a cache_dir, "
                "or name the file that it reads"
            )
            raise RecipeError(msg)
        self.url = url
        self._remote = remote

    def status(self) -> Status:
        """An unknown size, and a validator that says which command it is."""
        return Status(-1, _number_of(self.url))

    def download(self, out: BinaryIO, size: int) -> None:
        """Run the command, again if it fails, and write what it says to `out`; `size` may be -1."""
        for attempt in range(1, self._remote.attempts + 1):
            out.seek(0)
            out.truncate()
            command = self.url.removeprefix("pipe:")
            done = subprocess.run(command, shell=True, stdout=out, stderr=subprocess.PIPE, check=False)  # noqa: S602  (allowed by name)
            found = os.fstat(out.fileno()).st_size
            if done.returncode == 0 and size in {-1, found}:
                return
            if attempt < self._remote.attempts:
                time.sleep(self._remote.backoff_s * 2 ** (attempt - 1))
        said = done.stderr[-200:].decode("utf-8", "replace").strip()
        msg = f"{self.url}: status {done.returncode}, {found} bytes (of {size}) after {attempt} runs: {said}"
        raise ShardError(msg)


def remote_file(url: str, remote: Remote) -> RemoteFile | PipeFile:
    """The file behind a URL; `RecipeError` for URLs of kinds that are not read."""
    return PipeFile(url, remote) if url.startswith("pipe:") else RemoteFile(url, remote)


def _number_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def matching(pattern: str, remote: Remote) -> list[str]:
    """The URLs that match a URL with ``*``, sorted; for servers that can list what they have."""
    system, path = _file_system(pattern, remote)
    try:
        found = system.glob(path)
    except Exception as error:
        msg = f"{pattern}: could not be listed: {type(error).__name__}: {error}; name the shards instead"
        raise ShardError(msg) from error
    return sorted(str(system.unstrip_protocol(name)) for name in found)


def _file_system(url: str, remote: Remote) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "::" in url:
        msg = f"{url}: shards are read from paths and from {', '.join(sorted(SCHEMES))}; copy them, or pass a path"
        raise RecipeError(msg)
    options = dict(remote.storage_options)
    try:
        from fsspec.core import url_to_fs

        if scheme in {"http", "https"} and "client_kwargs" not in options:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=remote.timeout_s, sock_read=remote.timeout_s)
            options["client_kwargs"] = {"timeout": timeout}
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        package = _PACKAGES.get(scheme, scheme)
        msg = f"{url}: {scheme}:// needs the package {package}: pip install {package} ({error})"
        raise RecipeError(msg) from error
    return system, path
