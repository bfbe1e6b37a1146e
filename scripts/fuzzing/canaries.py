"""Targets that misbehave, each in one way: if the guard lets one of them pass, it is no guard."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from guard import Limits
from hypothesis import strategies as st
from targets import Target

from augstream.errors import AugstreamError


def _hang(_case: bytes, _place: Path) -> None:
    time.sleep(3600)


def _hang_deaf(_case: bytes, _place: Path) -> None:
    while True:
        try:
            time.sleep(3600)
        except BaseException:  # noqa: BLE001, S112  # a target that swallows even the alarm
            continue


def _spin(_case: bytes, _place: Path) -> None:
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass


def _crash(_case: bytes, _place: Path) -> None:
    os.abort()


def _grow(_case: bytes, _place: Path) -> None:
    np.ones(40 << 20, np.uint8)


def _ask_for_too_much(_case: bytes, _place: Path) -> None:
    try:
        np.empty(1 << 40, np.uint8)
    except MemoryError as error:
        msg = "hidden"
        raise AugstreamError(msg) from error


def _write_beside(_case: bytes, place: Path) -> None:
    (place / ".." / "pwned").resolve().write_bytes(b"")


def _write_unseen(_case: bytes, _place: Path) -> None:
    import cv2

    cv2.imwrite("pwned.png", np.zeros((2, 2, 3), np.uint8))


def _read_elsewhere(_case: bytes, _place: Path) -> None:
    Path("/etc/hostname").read_bytes()


def _swallow(_case: bytes, _place: Path) -> None:
    with contextlib.suppress(BaseException):  # even so it is put down
        Path("/tmp/pwned").write_bytes(b"")  # noqa: S108


def _execute(_case: bytes, _place: Path) -> None:
    exec("1 + 1")  # noqa: S102


def _import(_case: bytes, _place: Path) -> None:
    __import__("this")


def _run(_case: bytes, _place: Path) -> None:
    subprocess.run(["true"], check=True)


def _shell(_case: bytes, _place: Path) -> None:
    os.system("true")  # noqa: S605


def _connect(_case: bytes, _place: Path) -> None:
    socket.create_connection(("127.0.0.1", 9))


def _unpickle(_case: bytes, _place: Path) -> None:
    pickle.loads(b"cposix\nsystem\n(S'true'\ntR.")  # noqa: S301


def _raise(_case: bytes, _place: Path) -> None:
    raise KeyError


def _canary(run: Callable[[bytes, Path], Any]) -> Target:
    return Target(
        run.__name__.strip("_").replace("_", "-"),
        1,
        run,
        list,
        lambda _rng: b"x",
        lambda: st.just(b"x"),
        limits=Limits(cpu_s=0.2, wall_s=0.5, memory_mb=30),
    )


CANARIES = {
    target.name: target
    for target in map(
        _canary,
        [
            _hang,
            _hang_deaf,
            _spin,
            _crash,
            _grow,
            _ask_for_too_much,
            _write_beside,
            _write_unseen,
            _read_elsewhere,
            _swallow,
            _execute,
            _import,
            _run,
            _shell,
            _connect,
            _unpickle,
            _raise,
        ],
    )
}
