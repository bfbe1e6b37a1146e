"""hf:// and gs:// through their own file systems, before small servers on loopback that speak the part they ask for."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from augstream.errors import ShardError
from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.sources.remote import Remote
from augstream.testing import make_shards

pytestmark = [
    pytest.mark.processes,  # none is started, but a server is
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the clients' own making
]


class Store(BaseHTTPRequestHandler):
    """Files of one folder, ``train``, by name; `ranges` collects what was asked for of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    files: dict[str, bytes]
    ranges: list[str]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.asked(unquote(parts.path), {name: values[0] for name, values in parse_qs(parts.query).items()})

    def do_HEAD(self) -> None:
        self.do_GET()

    def asked(self, path: str, query: dict[str, str]) -> None:
        raise NotImplementedError

    def reply(self, status: int, data: Any, **headers: str) -> None:
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_file(self, name: str) -> None:
        data, asked = self.files[name], self.headers.get("Range")
        self.ranges.append(str(asked))
        if asked is None:
            self.reply(200, data)
            return
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
        piece = data[int(first) : int(last) + 1 if last else None]
        self.reply(206, piece, Content_Range=f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}")

    def log_message(self, *_: object) -> None:
        pass


class Hub(Store):
    """The repository ``datasets/me/set`` of a Hugging Face hub."""

    def asked(self, path: str, query: dict[str, str]) -> None:
        resolved = re.fullmatch(r"/datasets/me/set/resolve/main/train/(.*)", path)
        if resolved and resolved[1] in self.files:
            self.send_file(resolved[1])
        elif path == "/api/datasets/me/set/tree/main":
            self.reply(200, [{"type": "directory", "path": "train", "oid": "0", "size": 0}])
        elif path == "/api/datasets/me/set/tree/main/train":
            self.reply(200, [
                {"type": "file", "path": f"train/{name}", "size": len(data), "oid": md5(data).hexdigest()}  # noqa: S324  (a name)
                for name, data in self.files.items()
            ])  # fmt: skip
        elif path.startswith("/api/datasets/me/set") and "tree" not in path:
            self.reply(200, {"id": "me/set", "sha": "0" * 40, "private": False, "tags": [], "siblings": []})
        else:
            self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")


class Bucket(Store):
    """The bucket ``me`` of Google's storage."""

    def asked(self, path: str, query: dict[str, str]) -> None:
        prefix = "train/"
        one = re.fullmatch(r"(/download)?/storage/v1/b/me/o/train/(.*)", path)
        if one and one[2] in self.files:
            if query.get("alt") == "media":
                self.send_file(one[2])
            else:
                self.reply(200, self.about(one[2]))
        elif path == "/storage/v1/b/me/o":
            prefix = query.get("prefix", "")
            found = [self.about(name) for name in self.files if f"train/{name}".startswith(prefix)]
            self.reply(
                200, {"kind": "storage#objects", "items": found} if found else {"kind": "storage#objects"}
            )
        else:
            self.reply(404, {"error": {"code": 404, "message": "Not Found"}})

    def about(self, name: str) -> dict[str, str]:
        data = self.files[name]
        digest = md5(data).hexdigest()  # noqa: S324  (a name)
        return {
            "kind": "storage#object", "name": f"train/{name}", "bucket": "me", "size": str(len(data)),
            "generation": str(int(digest[:12], 16)), "md5Hash": digest, "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [Path(path) for path in make_shards(tmp_path / "data", num_samples=12, num_shards=2)]


@pytest.fixture(params=["hf", "gs"])
def store(
    request: Any, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[type[Store], str, dict[str, Any]]]:
    # gcsfs asks Google itself what kind of bucket it is, by gRPC, unless this is set when it is imported.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip({"hf": "huggingface_hub", "gs": "gcsfs"}[request.param])
    kind = {"hf": Hub, "gs": Bucket}[request.param]
    handler = type(
        "Bound", (kind,), {"files": {path.name: path.read_bytes() for path in shards}, "ranges": []}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients leave when they know enough
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    if request.param == "hf":
        yield handler, "hf://datasets/me/set/train", {"endpoint": place, "token": False}
    else:
        yield handler, "gs://me/train", {"endpoint_url": place, "token": "anon"}
    server.shutdown()
    thread.join()
    server.server_close()


def everything(index: Any) -> list[dict[str, Any]]:
    reader = ShardReader(index)
    samples = [reader.read(shard, i) for shard in range(2) for i in range(index.num_samples[shard])]
    return [{name: value for name, value in sample.items() if name != "__url__"} for sample in samples]


def test_a_store_gives_the_shards_that_lie_in_it(store: Any, shards: list[Path], tmp_path: Path) -> None:
    handler, folder, options = store
    local = build_index(shards, cache_dir=tmp_path / "local")
    quick = {"storage_options": options, "backoff_s": 0.01, "attempts": 2}
    for number, pattern in enumerate(["train-{000000..000001}.tar", "*.tar", ""]):
        index = build_index(f"{folder}/{pattern}", cache_dir=tmp_path / f"i{number}", remote=Remote(**quick))
        assert index.fingerprint == local.fingerprint
    assert everything(index) == everything(local)
    assert handler.ranges
    assert "None" not in handler.ranges
    index.store.remote = Remote(cache_dir=str(tmp_path / "cache"), **quick)
    assert everything(index) == everything(local)

    with pytest.raises(ShardError, match=r"train-9\.tar: could not be asked for its size"):
        build_index(f"{folder}/train-9.tar", cache_dir=tmp_path / "i", remote=Remote(**quick))
    name = shards[1].name
    handler.files[name] = handler.files[name][::-1]  # the same size
    index.store.remote = Remote(**quick)
    with pytest.raises(ShardError, match="replaced after indexing"):
        everything(index)
