"""SECURITY.md, statement by statement: each has a test that carries its words, with real processes and real sockets."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import augstream as A
from augstream.decode import Fields, decode_image
from augstream.errors import AugstreamError, IndexFileError, RecipeError, SampleError, ShardError
from augstream.index import SampleTable
from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.sources.cache import ShardCache
from augstream.sources.remote import SCHEMES, Remote
from augstream.tars.indexfile import IndexWriter, read_entries
from augstream.tars.manifests import read_manifest
from augstream.testing import make_shards

ROOT = Path(__file__).parent.parent
TESTED: set[str] = set()

pytestmark = pytest.mark.processes


def states(statement: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as that of a statement of SECURITY.md."""
    TESTED.add(statement)
    return lambda test: test


def statements() -> set[str]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return {re.sub(r"\s+", " ", found) for found in re.findall(r"\*\*(.+?)\*\*", text, re.DOTALL)}


def test_every_statement_has_a_test() -> None:
    assert len(statements()) > 12
    assert statements() == TESTED


# A witness in every process that is started: it writes what it sees to a file, from the word "begin" on.

WITNESS = """
import os, sys
_out = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_seen = {{"begun": {begun!r}, "modules": None}}
_WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.", "pty.", "socket.connect", "socket.bind",
            "socket.getaddr", "socket.gethost", "socket.sendto", "urllib.", "pickle.find_class", "exec", "import",
            "open", "os.remove", "os.rename", "os.mkdir", "os.chmod")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
def _witness(event, arguments):
    if event == "begin":
        _seen["begun"] = True
    elif _seen["begun"] and event.startswith(_WATCHED):
        if event == "exec" and os.path.exists(arguments[0].co_filename):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        if event == "import" and arguments[0] in sys.modules:
            return
        os.write(_out, (event + " " + repr(arguments)[:300].replace("\\n", " ") + "\\n").encode())
sys.addaudithook(_witness)
"""


def watched(
    folder: Path, code: str, *, begun: bool = False, environment: dict[str, str] | None = None
) -> tuple[str, list[str]]:
    """Run `code` in a fresh process; what it printed, and what it and all its children did."""
    site, log = folder / "site", folder / "witnessed"
    site.mkdir(exist_ok=True)
    log.write_bytes(b"")
    (site / "sitecustomize.py").write_text(WITNESS.format(log=str(log), begun=begun))
    paths = os.pathsep.join([str(site), str(ROOT)])
    surroundings = (
        os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(folder / "xdg")} | (environment or {})
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=surroundings,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, log.read_text().splitlines()


def of_kind(events: list[str], *kinds: str) -> list[str]:
    return [event for event in events if event.startswith(kinds)]


BAIT = b"cposix\nsystem\n(S'touch pwned'\ntR."


def baited(path: Path) -> Path:
    """A shard whose every member tempts somebody."""
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    jpeg = next(iter(ShardReader(build_index(make_shards(path.parent / "good", 1, 1))).read(0, 0).items()))
    del jpeg
    members = {
        "0.pickle": BAIT,
        "0.pyd": BAIT,
        "0.pth": BAIT,
        "0.py": b"import os; os.system('touch pwned')",
        "0.txt": b"x",
        "0.npy": file.getvalue(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


READ_ALL = """
import io, json, sys
from pathlib import Path
import augstream as A
from augstream.decode import Fields
from augstream.indexing import build_index
from augstream.shards import ShardReader
from augstream.state import StreamState
A.Compose([A.HorizontalFlip(p=1)], seed=1)(image=__import__("numpy").zeros((4, 4, 3), "uint8"))
A.load(io.StringIO(json.dumps(A.to_dict(A.Compose([A.NoOp()], seed=1)))))
A.load(io.StringIO("format: augstream-pipeline\\nversion: 1\\ntransform: {$class: NoOp}"), data_format="yaml")
build_index("good/train-000000.tar")
import augstream.tars.manifests, augstream.sources.offsets, braceexpand
sys.audit("begin")
for shards in ("bait.tar", "shards.json"):
    index = build_index(shards, cache_dir="cache")
    sample = ShardReader(index).read(0, 0)
    assert Fields().decode(sample)["pickle"] == sample["pyd"] == sample["pth"] == Path("bait").read_bytes()
for suffix in ("json", "yaml"):
    for text in Path("texts").read_text().split("\\n%%\\n"):
        for read in (lambda: A.load(io.StringIO(text), data_format=suffix), lambda: StreamState.from_json(text)):
            try:
                read()
            except A.AugstreamError as error:
                print(type(error).__name__)
"""

TEXTS = [
    "!!python/object/apply:os.system ['touch pwned']",
    "transform: !!python/name:os.system",
    '{"format": "augstream-pipeline", "version": 1, "transform": {"$class": "os.system", "command": "touch pwned"}}',
    '{"format": "augstream-pipeline", "version": 1, "transform": {"$class": "eval", "p": "__import__(\'this\')"}}',
    '{"transform": {"__class_fullname__": "this.that"}}',
    '{"format": "augstream-pipeline", "version": 1, '
    '"transform": {"$class": "NoOp", "p": {"$array": [1], "dtype": "O", "shape": [1]}}}',
    BAIT.decode(),
]


@pytest.fixture(scope="module")
def bait(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str], Path]:
    """What happened when everything that is read was read from hostile files."""
    folder = tmp_path_factory.mktemp("bait")
    baited(folder / "bait.tar")
    (folder / "bait").write_bytes(BAIT)
    (folder / "texts").write_text("\n%%\n".join(TEXTS))
    (folder / "shards.json").write_text(
        json.dumps({"wids_version": 1, "shardlist": [{"url": "bait.tar", "nsamples": 1}]})
    )
    said, events = watched(folder, READ_ALL)
    return said, events, folder


@states("Nothing that is read from a file is unpickled.")
def test_nothing_is_unpickled(bait: tuple[str, list[str], Path]) -> None:
    _, events, folder = bait
    assert of_kind(events, "open"), "the witness sleeps"  # the index was written
    assert of_kind(events, "pickle", "os.system", "exec") == []
    assert not list(folder.rglob("pwned"))
    index = build_index(folder / "bait.tar", cache_dir=folder / "cache")
    with pytest.raises(SampleError, match="does not fit"):
        Fields({"x": "npy"}).decode(ShardReader(index).read(0, 0))


@states("No code comes out of data.")
def test_no_code_comes_out_of_data(bait: tuple[str, list[str], Path]) -> None:
    said, events, _ = bait
    assert said.split() == ["RecipeError", "StateError"] * 2 * len(TEXTS)
    assert of_kind(events, "exec", "import") == []


@states("No shell and no other program is started.")
def test_no_program_is_started(
    bait: tuple[str, list[str], Path], streamed: tuple[str, list[str], Path, bool]
) -> None:
    for events in (bait[1], streamed[1]):
        found = of_kind(events, "os.system", "os.exec", "os.posix_spawn", "subprocess", "pty")
        assert [
            event for event in found if torch.version.cuda is None or "['/sbin/ldconfig', '-p']" not in event
        ] == []


@states("Saved pipelines construct only registered classes.")
def test_pipelines_construct_only_registered_classes() -> None:
    def text(name: str) -> io.StringIO:
        return io.StringIO(
            json.dumps({"format": "augstream-pipeline", "version": 1, "transform": {"$class": name}})
        )

    class Unregistered(A.ImageOnlyTransform):
        def __init__(self, p: float = 1.0) -> None:
            raise AssertionError

    for name in (
        "Unregistered",
        "BasicTransform",
        "builtins.eval",
        "subprocess.Popen",
        f"{__name__}.Unregistered",
        "object",
    ):
        with pytest.raises(RecipeError, match=f"there is no transform '{re.escape(name)}'"):
            A.load(text(name))
    with pytest.raises(RecipeError, match="Lambda"):
        A.load(text("Lambda"))
    assert type(A.load(text("NoOp"))) is A.NoOp
    assert Unregistered


@states("A registered class is called with the file's arguments.")
def test_registering_opens_a_class() -> None:
    @A.register(name="test_security.Opened")
    class Opened(A.ImageOnlyTransform):
        def __init__(self, command: str = "", p: float = 1.0) -> None:
            super().__init__(p=p)
            self.command = command

    node = {"$class": "test_security.Opened", "command": "anything"}
    loaded = A.load(
        io.StringIO(json.dumps({"format": "augstream-pipeline", "version": 1, "transform": node}))
    )
    assert type(loaded) is Opened
    assert loaded.command == "anything"


@states("Saved pipelines are bounded.")
@pytest.mark.parametrize(
    ("text", "data_format"),
    [
        ("[" * (1 << 20) + "]", "json"), ("[" * 2000, "yaml"), (" " * (1 << 20) + "1", "json"),
        (json.dumps({"transform": {"x": [0] * 100_001}}), "json"), ("a: &a [1]\nb: [*a, *a]", "yaml"),
        ('{"transform": {"x":' + "[" * 100 + "]" * 100 + "}}", "json"),
    ],
)  # fmt: skip
def test_pipelines_are_bounded(text: str, data_format: Any) -> None:
    with pytest.raises(RecipeError, match=r"larger than|recursion|deeper than|more than|has aliases"):
        A.load(io.StringIO(text), data_format=data_format)


@states("Names in data are not paths.")
def test_names_are_not_paths(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    path = tmp_path / "inside" / "a.tar"
    path.parent.mkdir()
    names = [
        "../outside/evil.txt",
        f"{outside}/evil2.txt",
        "a/../../outside/evil3.txt",
        "~/evil.txt",
        "pipe:touch evil.txt",
    ]
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"{kind!r}.txt")
            info.type, info.linkname = kind, str(outside / "secret.txt")
            tar.addfile(info)
    index = build_index(path, cache_dir=tmp_path / "cache")
    reader = ShardReader(index)
    found = {
        reader.read(0, number)["__key__"]: reader.read(0, number)["txt"] for number in range(index.total)
    }
    assert found == {name.removesuffix(".txt"): b"x" for name in names}
    assert sorted(path.name for path in outside.iterdir()) == ["secret.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "inside", "outside"]


@states("Index and side files are data.")
def test_index_files_cannot_reach_outside_their_shards(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path / "data", 3, 1)
    beside = tmp_path / "data" / "augstream.index"
    truth = build_index(shard, cache_dir=tmp_path / "cache", beside=True)
    whole, keys = beside.read_bytes(), list(truth.table(0).keys)
    for damaged in (whole[:-1], whole.replace(b"000001", b"000009", 1), b"x" * 500, b""):
        beside.write_bytes(damaged)
        again = build_index(shard, cache_dir=tmp_path / "elsewhere")
        assert again.fingerprint == truth.fingerprint
        assert [ShardReader(again).read(0, number)["__key__"] for number in range(3)] == keys
    with pytest.raises(IndexFileError):
        read_entries(beside)
    status = Path(shard).stat()
    for offset, size in ((0, status.st_size + 1), (2**62, 2**62 - 1), (status.st_size, 1), (2**63 - 2, 1)):
        writer = IndexWriter(beside)
        lie = SampleTable(("../../etc/passwd",), [0, 1], ("txt",), [0], [offset], [size])
        writer.add(Path(shard).name, status.st_size, status.st_mtime_ns, lie)
        writer.commit()
        with pytest.raises(ShardError, match="not those that were indexed"):
            ShardReader(build_index(shard, cache_dir=tmp_path / "third")).read(0, 0)
    writer = IndexWriter(beside)
    lie = SampleTable(("../../etc/passwd",), [0, 1], ("txt",), [0], [0], [status.st_size])
    writer.add(Path(shard).name, status.st_size, status.st_mtime_ns, lie)
    writer.commit()
    read = ShardReader(build_index(shard, cache_dir=tmp_path / "third")).read(0, 0)
    assert (read["__key__"], read["txt"]) == ("../../etc/passwd", Path(shard).read_bytes())


@states("Memory and time are bounded by the file, and by max_pixels.")
def test_claims_are_not_believed(tmp_path: Path) -> None:
    from augstream.tars.scan import scan_file

    (tmp_path / "claims.tar").write_bytes(tarfile_header("a.jpg", 10 * 1000**3) + bytes(512))
    with pytest.raises(ShardError, match="needs 10000000000 bytes of data"):
        scan_file(tmp_path / "claims.tar")
    header = b"\0\0\0\rIHDR" + (65_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"
    with pytest.raises(SampleError, match="max_pixels"):
        decode_image(b"\x89PNG\r\n\x1a\n" + header + zlib.crc32(header[4:]).to_bytes(4, "big"))
    npy = b"\x93NUMPY\1\0F\0" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000,)}".ljust(70)
    with pytest.raises(SampleError, match="does not fit"):
        Fields({"x": "npy"}).decode({"__key__": "0", "npy": npy})
    # Whoever may write beside the shards cannot keep their reader waiting.
    (shard,) = make_shards(tmp_path / "data", 3, 1)
    os.mkfifo(tmp_path / "data" / "augstream.index")
    assert build_index(shard, cache_dir=tmp_path / "cache").total == 3
    os.mkfifo(tmp_path / "data" / "pipe.tar")
    with pytest.raises(ShardError, match="regular file"):
        build_index(tmp_path / "data" / "pipe.tar", cache_dir=tmp_path / "cache")


def tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


# The network


@contextmanager
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


STREAM = """
import sys
sys.audit("begin")
import io, json
import augstream as A
from augstream.cli import main
if __name__ == "__main__":
    assert main(["index", "data"]) == 0
    assert main(["info", "data"]) == 0
    transform = A.Compose([A.RandomCrop(8, 8), A.Normalize(), A.ToTensorV2()], seed=1)
    A.load(io.StringIO(json.dumps(A.to_dict(transform))))
    dataset = A.StreamDataset("data", transform, batch_size=4, seed=1, fields={"image": "jpg"})
    for method in ("fork", "forkserver", "spawn"):
        with A.StreamLoader(dataset, num_workers=1, multiprocessing_context=method) as loader:
            assert sum(len(batch["__key__"]) for batch in loader) == 16
            loader.load_state_dict(json.loads(json.dumps(loader.state_dict())))
            named = [line for line in open("/proc/net/unix") if "augstream" in line]
            print("SEEN", json.dumps([named, sorted(__import__("os").listdir("/dev/shm"))]))
"""


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str], Path, bool]:
    """What happens from the first import on, while local shards are indexed and streamed with workers of all kinds.

    What was printed, the events, the folder, and whether a listener, where proxies are sought, heard anything.
    """
    folder = tmp_path_factory.mktemp("streamed")
    make_shards(folder / "data", 16, 2, size=(20, 24), spread=2)
    with listener() as server:
        port = server.getsockname()[1]
        names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        said, events = watched(folder, STREAM, environment=dict.fromkeys(names, f"http://127.0.0.1:{port}"))
        return said, events, folder, heard(server)


def heard(server: socket.socket) -> bool:
    """Whether anybody has connected."""
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@states("No telemetry, and no connection unless a URL is given.")
def test_no_connection_is_made(streamed: tuple[str, list[str], Path, bool], tmp_path: Path) -> None:
    _, events, _, was_heard = streamed
    calls = of_kind(
        events, "socket.connect", "socket.getaddr", "socket.gethost", "socket.sendto", "socket.bind", "urllib"
    )
    assert [
        call for call in calls if not re.search(r"'\S*pymp-\S*/listener-|b'\\x00listener-", call)
    ] == []  # forkserver's own
    assert not was_heard
    # The listener hears, and the witness sees, when a URL is given.
    with listener() as server:
        code = f"""
import sys
from augstream.indexing import build_index
from augstream.sources.remote import Remote
sys.audit("begin")
try:
    build_index("http://127.0.0.1:{server.getsockname()[1]}/a.tar", remote=Remote(attempts=1, timeout_s=0.3))
except Exception as error:
    print(type(error).__name__)
"""
        said, events = watched(tmp_path, code)
        assert said.split() == ["ShardError"]
        assert of_kind(events, "socket.connect")
        assert heard(server)


@states("A URL reaches only the schemes that are listed.")
@pytest.mark.parametrize(
    "url",
    ["ftp://h/a.tar", "sftp://h/a.tar", "memory://a.tar", "github://a:b@c/a.tar", "git://x/a.tar",
     "zip://a.tar::http://h/b.zip", "http://h/a.tar::s3://x",
     "filecache::http://h/a.tar", "reference://x/a.tar", "dask://x/a.tar", "jupyter://h/a.tar", "python://os/system"],
)  # fmt: skip
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(AugstreamError):
        build_index(url, cache_dir=tmp_path)
    listed = re.findall(
        r"`(\w+)`",
        next(line for line in (ROOT / "SECURITY.md").read_text().splitlines() if "`https`" in line),
    )
    assert set(listed) == SCHEMES


# The disk


@states("Only what was asked for is written.")
def test_only_what_was_asked_for_is_written(streamed: tuple[str, list[str], Path, bool]) -> None:
    _, events, folder, _ = streamed
    named = [
        re.match(r"\S+ \((?:PosixPath\()?b?'(.*?)'", event)
        for event in of_kind(events, "open", "os.rename", "os.mkdir")
    ]
    written = {match[1] for match in named if match is not None}
    ours = ("data/", str(folder / "data"), str(folder / "xdg"))
    others = ("/dev/null", "/dev/shm/", "/tmp/pymp-", "/tmp/")  # noqa: S108  # of Python's forkserver, and torch's look for a place
    assert (
        sorted(
            path for path in written if not path.startswith((*ours, *others)) and "__pycache__" not in path
        )
        == []
    )
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "augstream.index",
        "train-000000.tar",
        "train-000001.tar",
    ]
    assert {entry.name for entry in folder.iterdir()} <= {"data", "site", "witnessed", "xdg"}
    temporary = [path for path in written if ".augstream.index." in path]
    assert temporary
    assert all(re.search(r"/\.augstream\.index\.[0-9a-f]{16}\.tmp$", path) for path in temporary)


@states("Cache directories are private.")
def test_cache_directories_are_private(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        (shard,) = make_shards(tmp_path / "data", 3, 1)
        build_index(shard, cache_dir=tmp_path / "a" / "b")
        ShardCache(Remote(cache_dir=str(tmp_path / "c" / "d")))
        shared = tmp_path / "shared"
        shared.mkdir(mode=0o775)
        build_index(shard, cache_dir=shared)
    finally:
        os.umask(before)
    for made in ("a", "a/b", "c", "c/d", "c/d/shards"):
        assert (tmp_path / made).stat().st_mode & 0o777 == 0o700, made
    assert shared.stat().st_mode & 0o777 == 0o775


# Doors


@states("A pipe: URL runs only with allow_pipe.")
def test_pipes_run_only_when_allowed(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path / "data", 3, 1)
    url = f"pipe:touch {tmp_path}/ran; cat {shard}"
    for remote in (None, Remote(), Remote(cache_dir=str(tmp_path / "cache"))):
        with pytest.raises(RecipeError, match="allow_pipe"):
            build_index(url, cache_dir=tmp_path / "cache", remote=remote)
    manifest = tmp_path / "shards.json"
    manifest.write_text(json.dumps({"wids_version": 1, "shardlist": [{"url": url, "nsamples": 3}]}))
    allowing = Remote(cache_dir=str(tmp_path / "cache"), allow_pipe=True)
    with pytest.raises(IndexFileError, match="must be a path or a URL of a file"):
        build_index(manifest, cache_dir=tmp_path / "cache", remote=allowing)
    with pytest.raises(IndexFileError, match="must be a path or a URL of a file"):
        read_manifest(manifest)
    assert not (tmp_path / "ran").exists()
    assert build_index(url, cache_dir=tmp_path / "cache", remote=allowing).total == 3
    assert (tmp_path / "ran").exists()


@states("The trainer unpickles only what its own workers send.")
def test_nobody_else_can_speak_to_the_trainer(streamed: tuple[str, list[str], Path, bool]) -> None:
    said, events, _, _ = streamed
    assert of_kind(
        events, "pickle.find_class"
    )  # it does unpickle, and no socket or memory that it uses has a name
    seen = [json.loads(line.removeprefix("SEEN")) for line in said.splitlines() if line.startswith("SEEN")]
    assert [sockets for sockets, _ in seen] == [[]] * 3
    assert not any("augstream" in name for _, memory in seen for name in memory)
