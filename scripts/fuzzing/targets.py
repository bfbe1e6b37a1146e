"""What is attacked: everything that reads bytes which somebody else wrote. Each target takes one case, as bytes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import indexes
import ledgers
import numpy as np
import pictures
import tars
import texts
from guard import Limits
from hypothesis import strategies as st
from mutations import MAX_CASE_BYTES, mutated

import augstream as A
from augstream.decode import Field, Fields, decode_image
from augstream.errors import AugstreamError, StateError
from augstream.images.encoded import EncodedImage
from augstream.images.headers import is_complete, num_scans, read_header
from augstream.indexing import build_index
from augstream.ledgers.ledger import Ledger, Reader
from augstream.mixing import MixtureOrder, MixtureRecipe
from augstream.order import Recipe
from augstream.seeding import Address
from augstream.shards import ShardReader
from augstream.sources.offsets import read_dali, read_energon
from augstream.state import StreamState, check, check_mixture
from augstream.tars.manifests import emit, read_manifest
from augstream.tars.scan import scan
from augstream.tools.diff import Run, compare, report

MAX_PIXELS = 2_000_000
MAX_READ = 200
_USUAL = Limits()


@dataclass(frozen=True, slots=True)
class Target:
    """One reader of other people's bytes.

    run: read `case`, with `place` as the only directory that may be written to; it may raise `allowed`, and nothing
    else. seeds: whole cases, which `mutant` breaks. strategy: cases that hypothesis writes from nothing. share: of all
    cases, how many in a thousand.
    """

    name: str
    share: int
    run: Callable[[bytes, Path], None]
    seeds: Callable[[], Sequence[bytes]]
    mutant: Callable[[Random], bytes]
    strategy: Callable[[], st.SearchStrategy[bytes]]
    allowed: tuple[type[BaseException], ...] = (AugstreamError,)
    limits: Limits = _USUAL


def _broken(
    seeds: Callable[[], Sequence[bytes]], block: int = 16, words: Sequence[bytes] = ()
) -> Callable[[Random], bytes]:
    return lambda rng: mutated(rng, seeds(), block=block, words=words)


# Tars


@cache
def _tar_seeds() -> list[bytes]:
    return tars.seeds(
        (("a.jpg", b"j" * 700), ("a.cls", b"7"), ("d/b.png", b""), ("d/b.cls", b"8"), ("README", b"r"))
    )


@cache
def _shard_seeds() -> list[bytes]:
    members = (
        ("0.jpg", pictures.jpegs()[0]),
        ("0.cls", b"7"),
        ("0.json", b'{"x": [1]}'),
        ("1.png", pictures.pngs()[1]),
        ("1.txt", b"t"),
    )
    return tars.seeds(members)


def _scan(case: bytes, _place: Path, *, checksums: bool = False) -> None:
    table = scan(lambda at, length: case[at : at + length], len(case), "fuzz.tar", checksums=checksums)
    for sample in range(len(table)):
        for _, offset, size in table.members(sample):
            assert 0 <= offset <= offset + size <= len(case), "a member outside of the file"


def _shard(case: bytes, place: Path) -> None:
    path = place / "train-0.tar"
    path.write_bytes(case)
    index = build_index(path, cache_dir=place / "cache", checksums=len(case) % 2 == 0)
    _read_all(index)
    assert sorted(os.listdir(place)) == ["cache", "train-0.tar"], "a file beside the shard"  # noqa: PTH208


def _read_all(index: Any) -> None:
    """Read and decode what an index tells, and find that each sample alone is named or delivered."""
    reader, fields = ShardReader(index, verify_checksums=index.store.checksums), Fields(max_pixels=MAX_PIXELS)
    failure: AugstreamError | None = None
    for shard in range(len(index)):
        for sample in range(min(int(index.num_samples[shard]), MAX_READ)):
            try:
                fields.decode(reader.read(shard, sample), shard=index.names[shard])
            except AugstreamError as error:
                failure = error
    if failure is not None:
        raise failure


# Index files and side files


def _index(case: bytes, place: Path) -> None:
    indexes.put_shards(place)
    (place / "augstream.index").write_bytes(case)
    index = build_index(place, cache_dir=place / "cache")
    _read_all(index)
    if not indexes.is_intact(place / "augstream.index"):
        assert index.fingerprint == indexes.true_fingerprint(), "a broken index file changed the index"


def _manifest(case: bytes, place: Path) -> None:
    path = place / "shards.json"
    path.write_bytes(case)
    failure: AugstreamError | None = None
    for name in (str(path), f"{path}#train"):
        try:
            assert all(isinstance(shard.url, str) and shard.num_samples >= 0 for shard in read_manifest(name))
        except AugstreamError as error:
            failure = error
    for kind, name in (("info", "_info.json"), ("sizes", "sizes.json")):
        (place / name).write_bytes(case)
        try:
            emit(indexes.in_memory(), [kind], place)
        except AugstreamError as error:
            failure = error
    if failure is not None:
        raise failure


def _offsets(case: bytes, place: Path) -> None:
    indexes.put_shards(place)
    failures: list[AugstreamError] = []
    for name, read in (("train-0.idx", read_dali), ("train-0.tar.idx", read_energon)):
        (place / name).write_bytes(case)
        try:
            read(place / name)
            index = build_index(place / name, cache_dir=place / name.replace(".", "-"))
            _read_all(index)
            assert index.num_samples.tolist() == [len(indexes.tables()["train-0.tar"])], "other samples"
        except AugstreamError as error:
            failures.append(error)
    if len(failures) == 2:
        raise failures[0]


def _ledger(case: bytes, place: Path) -> None:
    path, whole = place / "run.ledger", place / "whole.ledger"
    path.write_bytes(case)
    whole.write_bytes(ledgers.seeds()[0])
    one, other = Run.of(str(path)), Run.of(str(whole))
    assert len(one.head()) == 64
    for left, right in ((one, other), (other, one)):
        found = compare(left, right)
        assert all(isinstance(line, str) for line in report(left, right, found))
    ledger = Ledger(path, ledgers.header())
    try:
        ledger.note(0, range(2), 4, ledgers.marks(0))
        ledger.note(9, range(2), 4, ledgers.marks(9))
    finally:
        ledger.close()
    assert sum(1 for _ in Reader(path)) > 0


# States, pipelines, addresses


@cache
def _mixture() -> MixtureOrder:
    return MixtureOrder(MixtureRecipe(seed=1, batch_size=4, weights={"a": 1, "b": 2.5}), {"a": 9, "b": 4})


@cache
def _state_seeds() -> list[bytes]:
    index = indexes.in_memory()
    plain = StreamState(
        3, 1, Recipe(137, 4, window=10).to_dict(), index.fingerprint, "t" * 32, (("a.tar", "k"),)
    )
    mixed = StreamState(0, 2, _mixture().recipe.to_dict(), "0" * 32)
    return [
        plain.to_json().encode(),
        mixed.to_json().encode(),
        json.dumps(plain.to_dict(), indent=1).encode("utf-16"),
    ]


def _state(case: bytes, _place: Path) -> None:
    state = StreamState.from_json(case)
    assert StreamState.from_json(state.to_json()) == state
    try:
        check(state, Recipe(137, 4, window=10), indexes.in_memory())
    except AugstreamError:
        check_mixture(state, _mixture(), index="0" * 32)


@cache
def _resumable() -> Any:
    import webdataset

    from augstream.wds.resuming import resumable

    shards = [f"train-{number}.tar" for number in range(3)]
    return resumable(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False), num_workers=2)


@cache
def _wds_seeds() -> list[bytes]:
    return [json.dumps(_resumable().state_dict()).encode()]


def _wds_state(case: bytes, _place: Path) -> None:
    try:
        state = json.loads(case)
    except (
        ValueError,
        RecursionError,
    ) as error:  # this loader takes dicts; who reads them from a file is not ours
        raise StateError(str(error)) from error
    loader = _resumable()
    loader.load_state_dict(state)
    assert isinstance(loader.epoch, int)
    json.dumps(loader.state_dict())


def _pipeline(case: bytes, place: Path, *, data_format: str) -> None:
    path = place / f"pipeline.{data_format}"
    path.write_bytes(case)
    loaded = A.load(path)
    known = texts.class_names()
    assert all(name in known for name in texts.classes_of(loaded)), "a class that nobody registered"
    again = A.to_dict(loaded)
    assert A.to_dict(A.load(io.StringIO(json.dumps(again)))) == again, "it does not come back as it was"


def _address(case: bytes, _place: Path) -> None:
    address = Address.parse(case.decode("utf-8", "surrogateescape"))
    assert Address.parse(str(address)) == address
    assert len(address.key()) == 16


# Members


_KINDS = ("int", "float", "text", "json", "npy", "bytes")


@cache
def _member_seeds() -> list[bytes]:
    found = [b"\x00-12\n", b"\x01 1.5e-3", "\x02grün".encode(), b'\x03{"a": {"b": [1, {"c": 2}]}}']
    for values in (
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.ones((2, 3), np.int16)),
        np.zeros(2, "f4,(2,)i2"),
        np.array("x" * 9),
    ):
        file = io.BytesIO()
        np.save(file, values)
        found.append(b"\x04" + file.getvalue())
    return found


def _member(case: bytes, _place: Path) -> None:
    kind: Any = _KINDS[(case[0] if case else 0) % len(_KINDS)]
    fields = Fields(
        {"y": Field(("m",), kind), "z": Field(("m",), "json", ("a", "b", "1", "c"))}
        if kind == "json"
        else {"y": Field(("m",), kind)}
    )
    value = fields.decode({"__key__": "k", "m": case[1:]}, shard="s.tar")["y"]
    assert not (isinstance(value, np.ndarray) and value.dtype.hasobject), "an array of objects"


def _picture(case: bytes, _place: Path) -> None:
    failure: AugstreamError | None = None
    whole = None
    for mode in ("rgb", "mask"):
        try:
            found = decode_image(case, mode=mode, max_pixels=MAX_PIXELS)  # type: ignore[arg-type]
        except AugstreamError as error:
            failure = error
        else:
            assert found.shape[0] * found.shape[1] <= MAX_PIXELS, "more pixels than are allowed"
            whole = found if mode == "rgb" else whole
    for how in ("region", "scaled"):
        try:
            image = EncodedImage.of(case, how, MAX_PIXELS)  # type: ignore[arg-type]
            if isinstance(image, np.ndarray):
                continue
            height, width = image.shape[:2]
            box = height // 3, width // 4, height // 3 + max(1, height // 3), width // 4 + max(1, width // 5)
            part = image.decode(box, at_least=(1 + height // 9, 1 + width // 9))
        except AugstreamError as error:
            failure = error
        else:
            same = (
                how == "scaled"
                or whole is None
                or np.array_equal(part, whole[box[0] : box[2], box[1] : box[3]])
            )
            assert same, "a region that is not that part of the whole"
    if failure is not None:
        raise failure


def _header(case: bytes, _place: Path) -> None:
    header = read_header(case)
    if header is not None:
        assert min(header.height, header.width) > 0
        is_complete(case, header)
        assert num_scans(case, header) > 0


def _all_pictures() -> tuple[bytes, ...]:
    return pictures.jpegs() + pictures.pngs() + pictures.others()


def _few_bytes(seeds: Callable[[], Sequence[bytes]]) -> Callable[[], st.SearchStrategy[bytes]]:
    """The start of a whole case, then whatever hypothesis thinks of."""
    return lambda: st.tuples(
        st.sampled_from(list(seeds())), st.integers(0, 120), st.binary(max_size=200)
    ).map(lambda parts: (parts[0][: parts[1]] + parts[2])[:MAX_CASE_BYTES])


_SMALL = Limits(memory_mb=64)

TARGETS = {
    target.name: target
    for target in (
        Target(
            "tar",
            240,
            _scan,
            _tar_seeds,
            lambda rng: tars.mutant(rng, _tar_seeds()),
            tars.written,
            limits=_SMALL,
        ),
        Target(
            "tar-checksums",
            60,
            partial(_scan, checksums=True),
            _tar_seeds,
            lambda rng: tars.mutant(rng, _tar_seeds()),
            tars.written,
            limits=_SMALL,
        ),
        Target("shard", 50, _shard, _shard_seeds, lambda rng: tars.mutant(rng, _shard_seeds()), tars.written),
        Target("index", 90, _index, indexes.seeds, indexes.mutant, indexes.written, limits=_SMALL),
        Target(
            "manifest",
            70,
            _manifest,
            texts.manifests,
            _broken(texts.manifests, words=texts.WORDS),
            texts.written_manifests,
            limits=_SMALL,
        ),
        Target(
            "offsets",
            40,
            _offsets,
            texts.offsets,
            _broken(texts.offsets, block=8, words=texts.WORDS),
            texts.written_offsets,
            limits=_SMALL,
        ),
        Target("ledger", 60, _ledger, ledgers.seeds, ledgers.mutant, ledgers.written, limits=_SMALL),
        Target(
            "state",
            80,
            _state,
            _state_seeds,
            _broken(_state_seeds, words=texts.WORDS),
            lambda: texts.changed_json(_state_seeds()[:2]),
            limits=_SMALL,
        ),
        Target(
            "wds-state",
            20,
            _wds_state,
            _wds_seeds,
            _broken(_wds_seeds, words=texts.WORDS),
            lambda: texts.changed_json(_wds_seeds()),
            limits=_SMALL,
        ),
        Target(
            "pipeline-json",
            50,
            partial(_pipeline, data_format="json"),
            texts.pipelines_json,
            _broken(texts.pipelines_json, words=texts.WORDS),
            texts.written_pipelines,
        ),
        Target(
            "pipeline-yaml",
            30,
            partial(_pipeline, data_format="yaml"),
            texts.pipelines_yaml,
            _broken(texts.pipelines_yaml, words=texts.WORDS),
            texts.written_pipelines,
            limits=Limits(cpu_s=6),
        ),  # PyYAML takes 20 us a value, of which a hundred thousand are allowed
        Target(
            "address",
            20,
            _address,
            texts.addresses,
            _broken(texts.addresses, words=texts.WORDS),
            texts.written_addresses,
            limits=_SMALL,
        ),
        Target(
            "member",
            60,
            _member,
            _member_seeds,
            _broken(_member_seeds, words=texts.WORDS),
            texts.written_members,
            limits=_SMALL,
        ),
        Target(
            "header",
            60,
            _header,
            _all_pictures,
            lambda rng: mutated(rng, _all_pictures()),
            _few_bytes(_all_pictures),
            allowed=(),
            limits=Limits(cpu_s=0.5, memory_mb=32),
        ),
        Target("jpeg", 50, _picture, pictures.jpegs, pictures.mutant_jpeg, _few_bytes(pictures.jpegs)),
        Target("png", 40, _picture, pictures.pngs, pictures.mutant_png, pictures.written_pngs),
        Target(
            "other-pictures",
            40,
            _picture,
            pictures.others,
            pictures.mutant_other,
            _few_bytes(pictures.others),
        ),
    )
}
