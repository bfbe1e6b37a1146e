"""The command line: one subcommand a register function, one clear line for whatever goes wrong.

A command lives in the room that knows its subject, as ``register_NAME(subparsers)``, which adds a parser and sets its
``run`` default to a function of the parsed arguments that returns the exit status. `COMMANDS` lists them.
Exit status: 0 done, 1 what was asked about does not hold, 2 an error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .errors import AugstreamError, IndexFileError
from .indexing import INDEX_NAME, build_index
from .shards import IndexedShards
from .sources.remote import local_path
from .tars.manifests import KINDS, emit

Subparsers = Any  # argparse keeps the type of this to itself

COMMANDS: dict[str, tuple[str, str]] = {
    "index": ("cli", "scan shards and write their index beside them"),
    "info": ("cli", "what shards hold, and which members are missing where"),
    "plan": ("tools.nodes", "what each node of a run would read, and which lanes suit it"),
    "preview": ("tools.commands", "a contact sheet (.png) or a page to browse (.html) of augmented samples"),
    "replay": ("tools.commands", "compute one augmented sample again, stage by stage"),
    "diff": ("tools.diff", "where two runs part, by their ledgers"),
    "verify": ("tools.verify", "run a pipeline in many ways, compare, and say what makes it differ"),
    "bench": ("tools.bench", "where a stream's time goes, and what to change next"),
}
"""Name of each command: the room of its ``register_NAME``, and what it is for. Only the one asked for is loaded."""

_MAX_EXAMPLES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. Errors are one line on stderr, never a traceback."""
    parser = argparse.ArgumentParser(
        prog="augstream", description="Exactly repeatable, resumable augmented streams."
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, (room, purpose) in COMMANDS.items():
        if name in given[:1]:
            getattr(import_module(f"augstream.{room}"), f"register_{name}")(subparsers)
        else:
            subparsers.add_parser(name, help=purpose)
    parsed = parser.parse_args(given)
    try:
        with _log_lines():
            status: int = parsed.run(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (AugstreamError, OSError) as error:
        _write(sys.stderr, "\n".join([f"augstream: {_said(error)}", *getattr(error, "__notes__", []), ""]))
        return 2
    return status


def _said(error: Exception) -> str:
    """An error in words; of a file that the system refuses, which and why."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def say(*lines: str) -> None:
    """Write lines to stdout: what a command was asked for."""
    _write(sys.stdout, "".join([f"{line}\n" for line in lines]))


def _write(stream: TextIO | None, text: str) -> None:
    """Write to a standard stream, which may be closed, or unable to tell a file's name or a key as it is."""
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def check_outputs(*paths: Path | None) -> None:
    """Raise `OSError` now, and not after all the work, where a file could not be written to one of `paths`."""
    for path in paths:
        if path is None:
            continue
        found = errno.ENOENT if not path.parent.is_dir() else errno.EISDIR if path.is_dir() else 0
        if not found and not os.access(path if path.exists() else path.parent, os.W_OK):
            found = errno.EACCES
        if found:
            raise OSError(found, f"{os.strerror(found)}; nothing can be written there", str(path))


@contextmanager
def _log_lines() -> Iterator[None]:
    """Warnings of the library on stderr, as lines of the same kind as errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("augstream: %(message)s"))
    logger = logging.getLogger("augstream")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def add_command(subparsers: Subparsers, name: str, more: str = "") -> argparse.ArgumentParser:
    """Add the parser of a command of `COMMANDS`. more: what its help says beyond what it is for."""
    purpose = COMMANDS[name][1]
    text = f"{purpose[0].upper()}{purpose[1:]}.{' ' if more else ''}{more}"
    parser: argparse.ArgumentParser = subparsers.add_parser(name, description=text)
    return parser


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument that nearly all commands have."""
    text = (
        "tar files, a brace pattern ('train-{000..019}.tar'), a glob, a directory, a manifest (.json), or the offset "
        "tables of other readers (.idx)"
    )
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=text)


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal, moved by calling what is given with (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=description, unit=unit, disable=None, leave=False) as bar:

        def move(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield move


def register_index(subparsers: Subparsers) -> None:
    """``augstream index SHARDS``: scan the shards, and write their index beside them."""
    parser = add_command(subparsers, "index")
    add_shards(parser)
    parser.add_argument(
        "--checksums", action="store_true", help="record a CRC-32 of every member (reads all data)"
    )
    parser.add_argument(
        "--verify",
        choices=["stat", "digest"],
        default="stat",
        help="stat: believe a shard whose size and mtime are as recorded (default); digest: scan every one again",
    )
    parser.add_argument(
        "--cache", action="store_true", help="write to the user's cache instead, as for remote shards"
    )
    parser.add_argument("--emit", nargs="+", choices=KINDS, default=[], metavar="KIND",
                        help=f"write side files for other readers: {', '.join(KINDS)}")  # fmt: skip
    parser.add_argument("--split", default="train", help="what side files call these shards (default train)")
    parser.set_defaults(run=_index)


def _index(arguments: argparse.Namespace) -> int:
    remote = any(local_path(shards) is None for shards in arguments.shards)
    with progress_bar("indexing", "shard") as progress:
        index = build_index(
            arguments.shards,
            progress=progress,
            verify=arguments.verify,
            checksums=arguments.checksums,
            beside=not arguments.cache and not remote,
        )
    say(_headline(index))
    if index.store.in_memory or not all(path.is_file() for path in index.store.files):
        msg = "the index cannot be written beside the shards; make their directory writable, or use --cache"
        raise IndexFileError(msg)
    for path in index.store.files:
        is_beside = arguments.cache and path.name == INDEX_NAME
        say(f"{path} says it all; nothing was written to the cache" if is_beside else f"wrote {path}")
    for kind in dict.fromkeys(
        arguments.emit
    ):  # one by one, so that what is there is told before one that fails
        for path in emit(index, [kind], _directory(index.urls[0]), split=arguments.split):
            say(f"wrote {path}")
    return 0


def register_info(subparsers: Subparsers) -> None:
    """``augstream info SHARDS``: what the shards hold, and what some samples lack."""
    parser = add_command(subparsers, "info")
    add_shards(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> int:
    with progress_bar("indexing", "shard") as progress:
        index = build_index(arguments.shards, progress=progress)
    summary = summarize(index)
    if arguments.json:
        say(json.dumps(summary, indent=2))
        return 0
    say(_headline(index))
    low, middle, high = summary["samples_per_shard"]
    say(f"samples per shard: {low:,} to {high:,}, median {middle:,}")
    say(f"checksums: {'yes' if summary['checksums'] else 'no'}    fingerprint: {index.fingerprint}")
    say("", f"{'member':<20}{'samples':>12}{'missing in':>12}{'mean bytes':>14}{'total':>12}")
    for suffix, row in summary["members"].items():
        mean = row["bytes"] // max(1, row["samples"])
        counts = f"{row['samples']:>12,}{row['missing']:>12,}{mean:>14,}{_size(row['bytes']):>12}"
        say(f"{'.' + suffix:<20}{counts}")
    for suffix, row in summary["members"].items():
        if row["missing"]:
            more = ", …" if row["missing"] > len(row["lacking"]) else ""
            say("", f"no .{suffix} in: {', '.join(row['lacking'])}{more}")
    return 0


def summarize(index: IndexedShards) -> dict[str, Any]:
    """What the shards hold: for each suffix, in how many samples it is, is not, and where it is missing.

    ``lacking`` names the first few samples without it, as ``shard/key``.
    """
    samples: Counter[str] = Counter()
    volume: Counter[str] = Counter()
    for shard in range(len(index)):
        table = index.table(shard)
        counts = np.bincount(table.suffix_ids, minlength=len(table.suffixes)).tolist()
        sizes = np.bincount(table.suffix_ids, weights=table.sizes_bytes, minlength=len(table.suffixes))
        for suffix, count, size in zip(table.suffixes, counts, sizes.tolist(), strict=True):
            samples[suffix] += count
            volume[suffix] += int(size)
    members = {
        suffix: {
            "samples": count,
            "missing": index.total - count,
            "bytes": volume[suffix],
            "lacking": _lacking(index, suffix) if count < index.total else [],
        }
        for suffix, count in samples.most_common()
    }
    counts = np.sort(index.num_samples)
    return {
        "shards": len(index),
        "samples": index.total,
        "bytes": int(index.sizes_bytes.sum()),
        "samples_per_shard": [int(counts[0]), int(counts[len(counts) // 2]), int(counts[-1])],
        "checksums": index.store.checksums,
        "fingerprint": index.fingerprint,
        "members": members,
    }


def _lacking(index: IndexedShards, suffix: str) -> list[str]:
    """The first few samples that have no member of this suffix."""
    found: list[str] = []
    for shard, name in enumerate(index.names):
        table = index.table(shard)
        has = np.zeros(len(table), dtype=bool)
        if suffix in table.suffixes:
            sample_of = np.repeat(np.arange(len(table)), np.diff(table.first_member))
            has[sample_of[table.suffix_ids == table.suffixes.index(suffix)]] = True
        found += [f"{name}/{table.keys[i]}" for i in np.flatnonzero(~has)[: _MAX_EXAMPLES - len(found)]]
        if len(found) == _MAX_EXAMPLES:
            break
    return found


def _headline(index: IndexedShards) -> str:
    shards = "1 shard" if len(index) == 1 else f"{len(index):,} shards"
    return f"{shards}, {index.total:,} samples, {_size(int(index.sizes_bytes.sum()))}"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _directory(url: str) -> Path:
    path = local_path(url)
    return Path() if path is None else path.parent
