"""Texts to break: manifests, offset tables, states, pipelines, addresses, members."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import indexes
from hypothesis import strategies as st

import augstream as A
from augstream.transforms.serialization import registered_classes

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
WORDS = (
    b'"wids_version": 1',
    b'"splits": {}',
    b'"shardlist": []',
    b'"datasets": [{}]',
    b'"url": "pipe:touch pwned"',
    b'"nsamples": -1',
    b'"$class": "Lambda"',
    b'"$class": "os.system"',
    b'"$tuple": [1]',
    b'"$array": "00", "dtype": "O", "shape": []',
    b'"$number": [1], "dtype": "f8"',
    b'"$dict": [[[], 1]]',
    b'"$float": "nan"',
    b'"__class_fullname__": "builtins.eval"',
    b'"version": 2',
    b'"units": 1e3',
    b'"skipped": [["a", 1]]',
    b'"seed": -1',
    b'"lanes": 0',
    b"v1.2 1",
    b"jpg 512 5 a.jpg",
    b"seed=1;epoch=2",
    b";sample=%2F%00",
    b"\x93NUMPY\x01\0",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    b"(9" + b"9" * 30 + b",)",
    b"!!binary |",
    b"<<: *x",
    b"? ",
    b"- ",
    b"--- ",
    b"!!python/name:os.system",
    b"!!timestamp 9999999-01-01",
    b"1:1:1:1",
    b"0o9",
)

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 2**64, -(2**70), 10**30]),
    st.floats(),
    st.sampled_from(
        [
            "",
            "nan",
            "../x",
            "pipe:touch pwned",
            "a\0b",
            "\ud800",
            "$class",
            "x" * 3000,
            "f8",
            "O",
            "V9",
            "(2,3)f8",
            "f8,i4",
        ]
    ),
    st.text(max_size=6),
)


def values() -> st.SearchStrategy[Any]:
    """Anything that JSON can say, and what our tags make of it."""

    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        tagged = [
            st.fixed_dictionaries({tag: inner})
            for tag in ("$tuple", "$float", "$bytes", "$dict", "$class", "$odd")
        ]
        arrays = st.fixed_dictionaries({"$array": inner, "dtype": leaves, "shape": inner})
        return st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.text(max_size=4), inner, max_size=4),
            arrays,
            *tagged,
        )

    return st.recursive(leaves, deeper, max_leaves=12)


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def changed_json(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A whole JSON text in which a value, somewhere, is another."""
    content = json.loads(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 3))):
        at = content
        while isinstance(at, (dict, list)) and at:
            step = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[step], (dict, list)) and at[step] and draw(st.booleans()):
                at = at[step]
                continue
            what = draw(st.sampled_from(["value", "value", "value", "drop", "add"]))
            if what == "drop":
                del at[step]
            elif what == "add" and isinstance(at, dict):
                at[draw(st.text(max_size=5))] = draw(values())
            else:
                at[step] = draw(values())
            break
    return as_bytes(content)


# Side files


@cache
def manifests() -> list[bytes]:
    wids = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "base": "/data",
        "name": "train",
        "shardlist": [{"url": "a.tar", "nsamples": 3}],
        "datasets": [
            {"base": "http://example.org/x/", "shardlist": [{"url": "b.tar", "nsamples": 0, "filesize": 10}]}
        ],
    }
    info = {
        "splits": {
            "train": {
                "name": "train",
                "num_samples": 3,
                "filenames": ["a.tar", "b.tar"],
                "shard_lengths": [1, 2],
            },
            "val": {},
        }
    }
    return [as_bytes(content) for content in (wids, info, {"a.tar": 3, "b.tar": 4})]


def written_manifests() -> st.SearchStrategy[bytes]:
    return st.one_of(changed_json(manifests()), values().map(as_bytes), st.binary(max_size=60))


@cache
def offsets() -> list[bytes]:
    """What DALI's and Energon's own tools write of the first of the shards."""
    table, end = indexes.tables()["train-0.tar"], 0
    lines = [f"v1.2 {len(table)}"]
    starts = []
    for number, key in enumerate(table.keys):
        members = table.members(number)
        starts.append(members[0][1] - 512)
        end = (members[-1][1] + members[-1][2] + 511) & -512
        lines.append(" ".join(f"{suffix} {at} {size} {key}.{suffix}" for suffix, at, size in members))
    return ["\n".join([*lines, ""]).encode(), b"".join(at.to_bytes(8, "little") for at in [*starts, end])]


def written_offsets() -> st.SearchStrategy[bytes]:
    words = [
        "v1.2",
        "v1.1",
        "2",
        "1",
        "0",
        "-5",
        "512",
        "jpg",
        "a.jpg",
        "b.cls",
        "README",
        "9" * 25,
        "9" * 5000,
        "\n",
        "\n",
        "é",
        "\x1f",
    ]
    lines = st.lists(st.sampled_from(words), max_size=14).map(
        lambda found: " ".join(found).replace(" \n ", "\n").encode()
    )
    numbers = st.lists(st.sampled_from([0, 1, 512, 1024, 4096, 2**62, 2**63, 2**64 - 1]), max_size=5)
    return st.one_of(
        lines, numbers.map(lambda found: b"".join(at.to_bytes(8, "little") for at in sorted(found)))
    )


# Pipelines


@cache
def pipelines_json() -> list[bytes]:
    every = as_bytes(A.to_dict(A.Compose(list(_easy()), seed=3)))
    return [*[path.read_bytes() for path in sorted(GOLDEN.glob("*.json"))], every]


@cache
def pipelines_yaml() -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.glob("*.yaml"))]


@cache
def class_names() -> frozenset[str]:
    return frozenset(registered_classes())


def _easy() -> Iterator[A.BasicTransform]:
    """The transforms that need no argument."""
    for _, cls in sorted(registered_classes().items()):
        if issubclass(cls, A.BasicTransform) and cls is not A.Lambda:
            with contextlib.suppress(TypeError, A.RecipeError):
                yield cls()


def classes_of(node: Any) -> Iterator[str]:
    """The names of the classes of a pipeline and of all that is in it."""
    waiting = [A.to_dict(node)]
    while waiting:
        at = waiting.pop()
        if isinstance(at, dict):
            if isinstance(at.get("$class"), str):
                yield at["$class"]
            waiting.extend(at.values())
        elif isinstance(at, list):
            waiting.extend(at)


@st.composite
def written_pipelines(draw: st.DrawFn) -> bytes:
    """Pipelines of any class with any arguments."""
    if draw(st.booleans()):
        return draw(changed_json(pipelines_json()))
    return as_bytes({"format": "augstream-pipeline", "version": 1, "transform": draw(_nodes(2))})


@st.composite
def _nodes(draw: st.DrawFn, depth: int) -> dict[str, Any]:
    classes = registered_classes()
    name = draw(st.sampled_from([*sorted(classes), "Lambda", "eval", "os.system"]))
    node: dict[str, Any] = {"$class": name}
    names = (
        []
        if name not in classes
        else [p for p in inspect.signature(classes[name].__init__).parameters if p != "self"]
    )
    for argument in draw(st.lists(st.sampled_from([*names, "p"]), max_size=4, unique=True)):
        inner = st.lists(_nodes(depth - 1), max_size=2) if argument == "transforms" and depth else values()
        node[argument] = draw(inner)
    return node


# Addresses and members


def addresses() -> list[bytes]:
    return [
        b"seed=137;epoch=3;worker=2;shard=train-000001.tar;sample=d%2F000042",
        b"seed=18446744073709551615;shard=a.tar;visit=2;sample=%FF",
    ]


def written_addresses() -> st.SearchStrategy[bytes]:
    name = st.sampled_from(["seed", "epoch", "worker", "visit", "shard", "sample", "x", ""])
    value = st.one_of(
        st.integers().map(str),
        st.text(max_size=6),
        st.sampled_from(["1_0", " 7", "9" * 5000, "%", "%zz", "-1"]),
    )
    items = st.lists(st.tuples(name, st.sampled_from(["=", "", "=="]), value).map("".join), max_size=6)
    return items.map(lambda found: ";".join(found).encode("utf-8", "surrogatepass"))


@st.composite
def written_members(draw: st.DrawFn) -> bytes:
    """A member of some kind; an .npy whose header is any literal of Python's."""
    kind = draw(st.integers(0, 4))
    if kind != 4:
        return bytes([kind]) + draw(st.one_of(values().map(as_bytes), st.binary(max_size=30)))
    header = {
        "descr": draw(
            st.one_of(
                st.sampled_from(
                    [
                        "<f8",
                        "|O",
                        "|V8",
                        "<U9",
                        "|b1",
                        "<M8[ns]",
                        [("a", "<f4")],
                        [("a", "|O")],
                        "<f8," * 3,
                        "(9,)f8",
                    ]
                ),
                leaves,
            )
        ),
        "fortran_order": draw(st.one_of(st.booleans(), leaves)),
        "shape": tuple(
            draw(st.lists(st.one_of(st.integers(-3, 5), st.sampled_from([2**31, 2**63, 2**70])), max_size=3))
        ),
    }
    text = draw(
        st.sampled_from(
            [
                repr(header),
                repr(header),
                "[" * 500 + "]" * 500,
                "9" * 6000,
                "(" * 3000,
                "-" * 3000 + "1",
                repr(header) + " if x",
            ]
        )
    ).encode("utf-8", "replace")
    file = io.BytesIO()
    version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\t\0"]))
    file.write(
        b"\x93NUMPY"
        + version
        + len(text).to_bytes(2 if version[0] == 1 else 4, "little")
        + text
        + draw(st.binary(max_size=200))
    )
    return b"\4" + file.getvalue()
