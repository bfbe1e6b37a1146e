"""Stream shards from a web server, through a cache on the local disk, and lose the connection now and then.

    python examples/remote_shards.py

The example is its own server, on loopback: it answers ranges, breaks off every third answer in the middle, and is
too busy for every fourth. Nothing of that reaches the training loop, and the batches are those of the local shards.
"""

from __future__ import annotations

import io
import itertools
import tarfile
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler as Files
from http.server import ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

import augstream as A


class FlakyServer(Files):
    """A file server that does what servers do on a bad day."""

    count = itertools.count(1)

    def do_GET(self) -> None:
        number = next(self.count)
        if number % 4 == 0:
            self.send_error(503)
        elif number % 3 == 0:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"the beginning of an answer that never ends")
            self.close_connection = True
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Be silent."""


def write_shards(directory: Path) -> None:
    """Four shards of forty small pictures each."""
    pictures = np.random.default_rng(0).integers(0, 256, (160, 8, 10, 3), np.uint8)
    for shard in range(4):
        with tarfile.open(directory / f"train-{shard}.tar", "w") as tar:
            for i in range(shard * 40, shard * 40 + 40):
                picture = cv2.resize(pictures[i], (96, 72), interpolation=cv2.INTER_CUBIC)
                for suffix, data in (
                    ("jpg", cv2.imencode(".jpg", picture)[1].tobytes()),
                    ("cls", str(i % 10).encode()),
                ):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, cache = Path(temporary) / "data", Path(temporary) / "cache"
        data.mkdir()
        write_shards(data)
        server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: FlakyServer(*args, directory=str(data)))
        threading.Thread(target=server.serve_forever, daemon=True).start()

        transform = A.Compose([A.RandomResizedCrop(size=(64, 64)), A.HorizontalFlip(p=0.5), A.Normalize()])
        remote = A.StreamDataset(
            f"http://127.0.0.1:{server.server_port}/train-{{0..3}}.tar",
            transform,
            batch_size=16,
            seed=137,
            lanes=2,
            cache_dir=str(cache),
            remote=A.Remote(cache_dir=str(cache), cache_bytes=3_000_000, backoff_s=0.05),
        )
        local = A.StreamDataset(data, transform, batch_size=16, seed=137, lanes=2, cache_dir=str(cache))
        with A.StreamLoader(remote, num_workers=2) as loader:
            for number, (there, here) in enumerate(zip(loader, local, strict=True)):
                assert there["__key__"] == here["__key__"]
                assert there["image"].equal(here["image"])
                print(
                    f"batch {number}: {len(there['__key__'])} samples, the same bytes as from the local disk"
                )
        kept = sum(file.stat().st_size for file in (cache / "shards").glob("*.tar"))
        print(f"{next(FlakyServer.count) - 1} requests; {kept:,} bytes in the cache")
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
