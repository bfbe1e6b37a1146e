"""An HTTP server on loopback that misbehaves as it is told, or now and then: for tests and benchmarks of remote shards.

As a program it serves a folder in a process of its own until its input ends: ``python flaky_server.py FOLDER 0.05``.
"""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Files of a directory over HTTP/1.1, and the ways in which it may misbehave."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ranges = True
        self.busy = 0  # answer 503 to so many requests
        self.drops = 0  # break off in the middle of so many answers
        self.stalls = 0  # fall silent in the middle of so many answers
        self.short = 0  # declare, and send, one byte less than asked for, so many times
        self.pause_s = 0.0  # between pieces of 64 kB
        self.together: threading.Barrier | None = (
            None  # answer GETs of shards when so many are asked for at once
        )
        self.odds = 0.0  # of each trouble but stalls, besides, at every request
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.lock = threading.Lock()
        self.random = random.Random(7)

    def take(self, name: str) -> bool:
        """Whether to misbehave in this way now."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0 or (name != "stalls" and self.random.random() < self.odds)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a short body waits 40 ms for the client to acknowledge the headers
    state: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        state, asked = self.state, self.headers.get("Range")
        with state.lock:
            state.requests.append((self.command, self.path, asked))
        path = state.directory / self.path.lstrip("/").partition("?")[0]
        if body and state.together is not None and path.suffix == ".tar":
            state.together.wait()
        if state.take("busy"):
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            self.send_file(path, asked if state.ranges else None, body=body)

    def send_file(self, path: Path, asked: str | None, *, body: bool) -> None:
        data = path.read_bytes()
        self.send_response(200 if asked is None else 206)
        if asked is not None:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            whole, data = len(data), data[int(first) : int(last) + 1 if last else None]
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{whole}")
        if body and self.state.take("short"):
            data = data[:-1]
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Accept-Ranges", "bytes" if self.state.ranges else "none")
        self.end_headers()
        if body:
            self.send_body(data)

    def send_body(self, data: bytes) -> None:
        state = self.state
        drop, stall = state.take("drops"), state.take("stalls")
        for at in range(0, len(data), 65536):
            if (drop or stall) and at >= len(data) // 2:
                self.close_connection = True
                time.sleep(2.0 if stall else 0.0)
                return
            time.sleep(state.pause_s)
            try:
                self.wfile.write(data[at : at + 65536])
            except OSError:
                self.close_connection = True
                return
            with state.lock:
                state.sent += len(data[at : at + 65536])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Server, str]]:
    """Serve the files of a directory from a thread; gives the server, to be told what to do, and its URL."""
    state = Server(directory)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients leave in the middle, that is the point
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    with serving(Path(sys.argv[1])) as (server, url):
        server.odds = float(sys.argv[2])
        print(url, flush=True)  # noqa: T201  # whoever started it waits for this
        sys.stdin.read()


if __name__ == "__main__":
    main()
