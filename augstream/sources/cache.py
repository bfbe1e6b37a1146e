"""Whole remote shards on the local disk: fetched once for all processes, dropped when they were not used for longest.

A shard appears under its final name only after it was received whole and checked: its size, its tar structure, and, as
far as the index knows them, its sample table and the checksums of its members. Processes that want the same shard wait
for the one that fetches it. A process killed while fetching leaves a temporary file that the next one removes.

Not promised: that `cache_bytes` holds at every moment. A shard that is dropped while a process still has it open takes
its space until that process opens another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from ..errors import RecipeError, ShardError
from ..index import SampleTable
from ..tars.indexfile import make_private
from ..tars.scan import scan, scan_file
from ..tars.walk import ReadAt
from .locks import locked
from .remote import Remote, RemoteFile, Status, remote_file

_log = logging.getLogger("augstream.sources.cache")

_IDLE_S = 5.0
_TOUCH_S = 1.0
_BLOCK_BYTES = 4 * 1024 * 1024
_SCANNED_AT_ONCE = 16
_PART = ".part"


class Wanted(NamedTuple):
    """A shard that is to be in the cache: where it comes from, how it is known, and what checks it on arrival.

    check: called with the path of the whole file; raises `ShardError` if it is not the shard that is wanted.
    """

    url: str
    size: int
    validator: int
    check: Callable[[Path], None]


class ShardCache:
    """The cache in ``remote.cache_dir``, which any number of threads and processes share."""

    def __init__(self, remote: Remote) -> None:
        if remote.cache_dir is None:
            msg = "a shard cache needs a cache_dir"
            raise RecipeError(msg)
        self._remote = remote
        self._directory = Path(remote.cache_dir) / "shards"
        self._fetched: set[str] = set()
        self._waiting: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
        self._queued: set[str] = set()
        self._threads: list[threading.Thread] = []
        try:
            make_private(self._directory)
        except OSError as error:
            msg = f"{self._directory}: the cache directory cannot be made: {error.strerror}; pass another cache_dir"
            raise ShardError(msg) from error
        self._sweep()

    def open(self, wanted: Wanted) -> int:
        """A file descriptor of the shard, after fetching it if it is not there. The caller closes it."""
        path = self._path(wanted)
        while True:
            self._fetch(wanted, path)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # dropped between the two by another process
                continue
            os.utime(fd)  # the time of the last use, by which the oldest is found
            return fd

    def ahead(self, wanted: list[Wanted]) -> None:
        """Fetch shards in the background, in this order, ``remote.ahead`` of them at a time.

        What goes wrong here is met again, and raised, by `open`.
        """
        for shard in wanted:
            name = self._path(shard).name
            if name not in self._queued and not self._path(shard).exists():
                self._queued.add(name)
                self._waiting.put(shard)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        while len(self._threads) < min(self._remote.ahead, len(self._queued)):
            # A daemon: a process that ends does not wait for what nobody will read.
            thread = threading.Thread(target=self._work, name="augstream-ahead", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            try:
                wanted = self._waiting.get(timeout=_IDLE_S)
            except queue.Empty:
                return
            try:
                self._fetch(wanted, self._path(wanted))
            except (ShardError, OSError) as error:
                _log.info("%s: could not be fetched ahead: %s", wanted.url, error)
            finally:
                self._queued.discard(self._path(wanted).name)

    def _path(self, wanted: Wanted) -> Path:
        size = "" if wanted.url.startswith("pipe:") else wanted.size  # not known beforehand
        identity = f"{wanted.url}\n{size}\n{wanted.validator}".encode("utf-8", "surrogateescape")
        readable = re.sub(r"[^\w.-]+", "_", wanted.url.partition("?")[0].rsplit("/", 1)[-1], flags=re.ASCII)[
            -80:
        ]
        return self._directory / f"{blake2b(identity, digest_size=16).hexdigest()}-{readable}"

    def _fetch(self, wanted: Wanted, path: Path) -> None:
        """Make sure that the shard is in the cache."""
        if _is_whole(path, wanted.size):
            return
        with self._turn(path):
            if _is_whole(path, wanted.size):  # fetched by the one whose turn it was
                return
            if path.name in self._fetched:
                _log.warning(
                    "%s: fetched again, for it was dropped meanwhile: cache_bytes=%s holds fewer shards than are "
                    "in use at once; allow more, or use fewer lanes or a smaller window",
                    wanted.url,
                    self._remote.cache_bytes,
                )
            part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_PART}")
            try:
                self._reserve(part, wanted)
                with part.open("r+b") as out:
                    remote_file(wanted.url, self._remote).download(out, wanted.size)
                    out.flush()
                    os.fsync(out.fileno())  # the name must not survive a power cut that the data do not
                wanted.check(part)
                part.replace(path)
            except OSError as error:
                if _is_whole(path, wanted.size):  # somebody else was faster, and has swept up after us
                    return
                msg = f"{wanted.url}: cannot be kept in {self._directory}: {error.strerror}"
                raise ShardError(msg) from error
            finally:
                part.unlink(missing_ok=True)
            self._fetched.add(path.name)

    def _reserve(self, part: Path, wanted: Wanted) -> None:
        """Drop the shards that were used least lately, until there is room, and take it."""
        limit = self._remote.cache_bytes
        if limit is not None and wanted.size > limit:
            msg = f"{wanted.url} has {wanted.size} bytes, more than the whole cache: cache_bytes={limit}; allow more"
            raise RecipeError(msg)
        with locked(self._directory / "lock"):
            if limit is not None:
                files = [(path.stat(), path) for path in self._files()]
                taken = sum(status.st_size for status, _ in files)
                for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
                    if taken + wanted.size <= limit:
                        break
                    if path.suffix != _PART:
                        path.unlink(missing_ok=True)
                        taken -= status.st_size
            with part.open("xb") as out:
                out.truncate(max(0, wanted.size))

    def _files(self) -> Iterator[Path]:
        for path in self._directory.iterdir():
            if path.suffix != ".lock" and path.name != "lock" and path.exists():
                yield path

    def _sweep(self) -> None:
        """Remove what processes that were killed in the middle of a download have left."""
        for part in self._directory.glob(f"*{_PART}"):
            lock = _lock_of(part.with_name(part.name.rsplit(".", 2)[0]))
            with locked(lock, wait_s=0) as mine:
                if mine:
                    part.unlink(missing_ok=True)
                    lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _turn(self, path: Path) -> Iterator[None]:
        """Wait while another process fetches `path`, as long as it gets on with it: at worst it is fetched twice."""
        lock = _lock_of(path)
        with locked(lock, self._remote.timeout_s, lambda: _progress(path)):
            yield
            lock.unlink(missing_ok=True)


class CachedShard:
    """A shard that is open in the cache. Reads of several threads don't disturb each other."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._used = time.monotonic()

    def read(self, offset: int, length: int) -> bytes:
        """These bytes, or fewer before the end of the file."""
        now = time.monotonic()
        if now - self._used > _TOUCH_S:  # so that it does not look unused to those who drop the oldest
            self._used = now
            os.utime(self._fd)
        return os.pread(self._fd, length, offset)

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._fd).st_size

    @property
    def dropped(self) -> bool:
        """Whether it is no longer in the cache, and takes space only because it is open here."""
        return os.fstat(self._fd).st_nlink == 0

    def __del__(self) -> None:
        os.close(self._fd)


class RemoteShards:
    """Opens, scans and foresees remote shards, through the cache if there is one; for this process only."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._cache = None if remote.cache_dir is None else ShardCache(remote)

    @property
    def num_at_once(self) -> int:
        """How many shards are to be scanned at a time: as many as are fetched ahead, where whole ones are kept."""
        return _SCANNED_AT_ONCE if self._cache is None else max(1, self._remote.ahead)

    def open(self, wanted: Wanted) -> CachedShard | RemoteFile:
        """The shard, to be read from; `ShardError` if it is not there, or not the one that is wanted."""
        if self._cache is not None:
            return CachedShard(self._cache.open(wanted))
        file = RemoteFile(wanted.url, self._remote)
        now = file.status()
        if now != (wanted.size, wanted.validator):
            msg = (
                f"{wanted.url}: replaced after indexing: it has {now.size} bytes and had {wanted.size}, or another "
                "version; make the index again (build_index, or augstream index)"
            )
            raise ShardError(msg)
        return file

    def ahead(self, wanted: list[Wanted]) -> None:
        """Fetch what will be needed next into the cache, in the background."""
        if self._cache is not None:
            self._cache.ahead(wanted)

    def scan(self, url: str, status: Status, *, checksums: bool) -> tuple[SampleTable, Status]:
        """The sample table of a remote shard, and its status: of the whole one if there is a cache, else by ranges."""
        if self._cache is None:
            read_at = _blockwise(RemoteFile(url, self._remote), status.size)
            return scan(read_at, status.size, url, checksums=checksums), status
        tables: list[SampleTable] = []

        def check(path: Path) -> None:
            tables.append(scan_file(path, name=url, checksums=checksums)[0])

        shard = CachedShard(self._cache.open(Wanted(url, status.size, status.validator, check)))
        status = Status(shard.size, status.validator)
        return tables[0] if tables else scan(shard.read, shard.size, url, checksums=checksums), status


def _blockwise(file: RemoteFile, size: int) -> ReadAt:
    """Reads that fetch a larger block at a time, for headers that lie close to each other."""
    start, block = 0, b""

    def read_at(offset: int, length: int) -> bytes:
        nonlocal start, block
        end = min(offset + length, size)
        if not start <= offset <= end <= start + len(block):
            start = offset
            block = file.read(start, max(end - start, min(_BLOCK_BYTES, size - start)))
        return block[offset - start : end - start]

    return read_at


def _is_whole(path: Path, size: int) -> bool:
    """Whether the shard is there; one of another size, which somebody has cut or changed, is removed."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return False
    if size not in {-1, found}:
        _log.warning("%s has %d bytes and should have %d, fetching it again", path, found, size)
        path.unlink(missing_ok=True)
    return size in {-1, found}


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _progress(path: Path) -> object:
    """Something that changes while others download `path`."""
    written = []
    for part in path.parent.glob(f"{path.name}.*{_PART}"):
        with contextlib.suppress(OSError):
            written.append(part.stat().st_mtime_ns)
    return path.exists(), tuple(sorted(written))
