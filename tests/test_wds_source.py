"""Our source in webdataset pipelines: the order, epochs, resuming and refusals, and what webdataset's users expect."""

from __future__ import annotations

import gzip
import pickle
import random
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
import webdataset as wds
from pipelines import collected, crop_and_flip, plain, seen
from torch.utils.data import DataLoader

import augstream as A
import augstream.wds
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError, ShardError, StateError
from augstream.seeding import sample_key, stream_key
from augstream.sources.remote import Remote, shard_name
from augstream.transforms.compose import Addressed
from augstream.wds import CollationError, MissingShardError

pytestmark = pipelines.PARDON
__all__ = ["collected"]


def source(shards: Any, **arguments: Any) -> augstream.wds.WebDataset:
    return augstream.wds.WebDataset(
        shards, **{"batch_size": 4, "seed": 137, "lanes": 3, "window": 16, **arguments}
    )


def augment() -> augstream.wds.Augment:
    return augstream.wds.augment(crop_and_flip(), seed=11, fields={"image": "jpg"})


def batches(shards: Any, **arguments: Any) -> augstream.wds.WebDataset:
    """A whole pipeline, as people write them."""
    return (
        source(shards, **arguments)
        .decode("rgb8")
        .compose(augment())
        .to_tuple("__key__", "jpg", "cls")
        .batched()
    )


def digests(items: Any) -> list[str]:
    return [digest(tuple(item)) for item in items]


def stock(dataset: Any, num_workers: int, method: str = "fork", **arguments: Any) -> DataLoader[Any]:
    context = method if num_workers else None
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=context,
        collate_fn=tuple,
        **arguments,
    )


def keys(dataset: Any) -> list[str]:
    return [sample["__key__"] for sample in dataset]


# The order


def test_samples_come_as_a_stream_dataset_gives_them(shards: list[str]) -> None:
    stream = A.StreamDataset(shards, None, batch_size=4, seed=137, lanes=3, window=16, collate_fn=list)
    dataset = source(shards)
    for epoch in range(2):
        expected = [sample["__key__"] for batch in stream for sample in batch]
        found = list(dataset)
        assert keys(found) == expected
        assert {sample["__epoch__"] for sample in found} == {epoch}
        assert len(expected) == 37
    members = {sample["__key__"]: (sample["jpg"], sample["cls"], sample["__url__"]) for sample in found}
    raw = {sample["__key__"]: (sample["jpg"], sample["cls"], sample["__url__"]) for sample in plain(shards)}
    assert members == raw


def test_without_shuffling_it_is_webdatasets_own_order(shards: list[str]) -> None:
    assert keys(source(shards, shuffle=False, lanes=1)) == keys(plain(shards))


def test_augmentations_behind_it_are_addressed_by_lane_and_epoch(shards: list[str]) -> None:
    dataset = source(shards).decode("rgb8").compose(augment())
    stream = A.StreamDataset(shards, None, batch_size=4, seed=137, lanes=3, window=16).stream
    plain_samples = {sample["__key__"]: sample for sample in plain(shards).decode("rgb8")}
    compose = crop_and_flip()
    for epoch in range(2):
        order = stream.order(epoch)
        for sample in dataset:
            shard = shard_name(sample["__url__"])
            lane = order.lane_of_shard(stream.index.position(shard))
            assert sample["__lane__"] == lane
            key = sample_key(stream_key(11, shard=shard, worker=lane, epoch=epoch), sample["__key__"])
            place = compose.stage().key(key)
            expected = Addressed(compose, place)(image=plain_samples[sample["__key__"]]["jpg"])["image"]
            np.testing.assert_array_equal(sample["jpg"], expected)


@pytest.mark.processes
@pytest.mark.parametrize(("num_workers", "method"), [(0, "fork"), (1, "fork"), (3, "fork"), (2, "spawn")])
@pytest.mark.parametrize("persistent", [False, True])
def test_any_number_of_workers_gives_the_same_batches(
    shards: list[str], num_workers: int, method: str, persistent: bool
) -> None:
    expected = batches(shards)
    loader = stock(batches(shards), num_workers, method, persistent_workers=persistent and num_workers > 0)
    seen_before: set[str] = set()
    for _ in range(3 if method == "fork" else 2):  # each pass may import torch in each worker
        found = digests(loader)
        assert found == digests(expected)
        assert not seen_before & set(found)
        seen_before |= set(found)


@pytest.mark.processes
def test_samples_batched_by_the_loader_are_the_same_for_any_number_of_workers(shards: list[str]) -> None:
    dataset = source(shards, drop_last=True).decode("rgb8").compose(augment()).to_tuple("__key__", "jpg")
    expected = digests(fours(list(dataset)))
    for num_workers in (0, 2, 3):
        fresh = source(shards, drop_last=True).decode("rgb8").compose(augment()).to_tuple("__key__", "jpg")
        loader = DataLoader(fresh, batch_size=4, num_workers=num_workers, collate_fn=tuple)
        assert digests(loader) == expected


def fours(items: list[Any]) -> list[tuple[Any, ...]]:
    return [tuple(items[start : start + 4]) for start in range(0, len(items), 4)]


def test_set_epoch_goes_to_an_epoch_and_counts_on(shards: list[str]) -> None:
    dataset = batches(shards)
    epochs = [digests(dataset) for _ in range(4)]
    dataset.set_epoch(1)
    assert digests(dataset) == epochs[1]
    dataset.set_epoch(2)
    assert digests(dataset) == epochs[2]
    assert digests(dataset) == epochs[3]


def test_a_stream_loader_begins_where_it_was_told_to(shards: list[str]) -> None:
    dataset, told = batches(shards), batches(shards)
    epochs = [digests(dataset) for _ in range(3)]
    told.set_epoch(1)
    assert digests(A.StreamLoader(told)) == epochs[1]
    told.set_epoch(2)
    assert digests(A.StreamLoader(told)) == epochs[2]
    told.load_state_dict(dataset.state_dict(epoch=1, num_batches=3))
    assert digests(A.StreamLoader(told)) == epochs[1][3:]


def test_pipelines_made_of_one_another_have_places_of_their_own(shards: list[str]) -> None:
    base = source(shards)
    first, second = base.map(seen), base.map(seen)
    assert list(first) == list(second)
    assert list(first) == list(second)


# Resuming


@pytest.mark.processes
@pytest.mark.parametrize("num_batches", [0, 1, 5, 9, 10])
def test_a_place_is_resumed_under_any_number_of_workers(shards: list[str], num_batches: int) -> None:
    uninterrupted = batches(shards)
    first, second = digests(uninterrupted), digests(uninterrupted)
    state = batches(shards).state_dict(epoch=0, num_batches=num_batches)
    for num_workers in (0, 2):
        resumed = batches(shards)
        resumed.load_state_dict(state)
        loader = stock(resumed, num_workers)
        if num_batches < len(first):
            assert digests(loader) == first[num_batches:]
        assert digests(loader) == second


def test_the_place_is_known_where_it_is_iterated(shards: list[str]) -> None:
    expected = digests(batches(shards))
    dataset = batches(shards)
    iterator = iter(dataset)
    for _ in range(3):
        next(iterator)
    resumed = batches(shards)
    resumed.load_state_dict(dataset.state_dict())
    assert digests(resumed) == expected[3:]


def test_nothing_before_the_place_is_read(shards: list[str], tmp_path: Path) -> None:
    dataset = batches(shards, shuffle=False, lanes=1)
    expected = digests(dataset)
    state = dataset.state_dict(epoch=0, num_batches=6)
    copies = [shutil.copy2(path, tmp_path) for path in shards]
    resumed = batches(copies, shuffle=False, lanes=1)
    Path(copies[0]).unlink()
    resumed.load_state_dict(state)
    assert digests(resumed) == expected[6:]


def test_another_dataset_recipe_or_pipeline_is_noticed(shards: list[str]) -> None:
    state = batches(shards).state_dict(epoch=0, num_batches=2)
    with pytest.raises(StateError, match="batch_size"):
        batches(shards, batch_size=8).load_state_dict(state)
    with pytest.raises(StateError):
        batches(shards[:2]).load_state_dict(state)
    other = source(shards).decode("rgb8").to_tuple("__key__", "jpg", "cls").batched()
    with pytest.warns(A.TransformChangedWarning):
        other.load_state_dict(state)


@pytest.mark.parametrize("num_batches", [0, 3])
def test_more_ranks_share_out_what_is_left(shards: list[str], num_batches: int) -> None:
    expected = digests(batches(shards))
    state = batches(shards).state_dict(epoch=0, num_batches=num_batches)
    ranks = []
    for rank in range(2):
        resumed = batches(shards, rank=rank, world_size=2)
        resumed.load_state_dict(state)
        ranks.append(digests(resumed))
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    rest = expected[num_batches:]
    assert together == rest[: len(rest) // 2 * 2]


@pytest.mark.processes
def test_a_stream_loader_runs_it_and_goes_on_where_it_stopped(shards: list[str]) -> None:
    expected = batches(shards)
    first, second = digests(expected), digests(expected)
    with A.StreamLoader(batches(shards), num_workers=2) as loader:
        iterator = iter(loader)
        taken = [next(iterator) for _ in range(4)]
        assert isinstance(taken[0][1], torch.Tensor)
        found = digests(taken)
        state = loader.state_dict()
    with A.StreamLoader(batches(shards).batches(), num_workers=1) as loader:
        loader.load_state_dict(state)
        found += digests(loader)
        assert found == first
        assert digests(loader) == second


@pytest.mark.processes
def test_a_killed_worker_costs_nothing(shards: list[str], tmp_path: Path) -> None:
    expected = digests(batches(shards))
    killing = source(shards).map(pipelines.DieOnce(str(tmp_path / "died"))).decode("rgb8").compose(augment())
    dataset = killing.to_tuple("__key__", "jpg", "cls").batched()
    with A.StreamLoader(dataset, num_workers=2) as loader:
        assert digests(loader) == expected
        assert loader.stats.respawns == 1


# What stages may do


def rolled(sample: dict[str, Any]) -> dict[str, Any]:
    shift = random.randrange(1000) + np.random.randint(1000) + int(torch.randint(1000, ()))  # noqa: NPY002
    return {**sample, "shift": shift}


def test_stages_that_draw_globally_are_repeatable_and_move_nothing(shards: list[str]) -> None:
    dataset = source(shards).map(rolled)
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first, second = ({sample["__key__"]: sample["shift"] for sample in dataset} for _ in range(2))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    assert len(set(first.values())) > 30
    assert first != second
    random.seed(2)
    others = source(shards, batch_size=8, unit=4).map(rolled)
    assert {sample["__key__"]: sample["shift"] for sample in others} == first


def test_rsample_draws_at_the_samples_address(shards: list[str]) -> None:
    dataset = source(shards).rsample(0.5)
    first, second = keys(dataset), keys(dataset)
    assert 8 < len(first) < 30
    assert first != second
    assert keys(source(shards).rsample(0.5)) == first


def counting(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, sample in enumerate(samples):
        yield {**sample, "number": number}


def test_what_a_stage_keeps_ends_with_the_batch(shards: list[str]) -> None:
    numbers = [sample["number"] for sample in source(shards, lanes=1).compose(counting)]
    assert numbers == [*list(range(4)) * 9, 0]


def few(sample: dict[str, Any]) -> bool:
    return int(sample["__key__"]) % 4 != 0


def none(sample: dict[str, Any]) -> bool:
    return not sample


def test_stages_that_drop_make_batches_shorter(shards: list[str]) -> None:
    whole = list(source(shards).to_tuple("__key__").batched())
    short = list(source(shards).select(few).to_tuple("__key__").batched())
    expected = [[key for key in batch[0] if int(key) % 4] for batch in whole]
    assert [list(batch[0]) for batch in short] == [batch for batch in expected if batch]
    loader = A.StreamLoader(source(shards).select(none).to_tuple("__key__").batched().batches())
    with pytest.raises(SampleError, match="left none of the 4 samples"):
        next(iter(loader))


def failing(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["__key__"] == "000017":
        msg = "no luck"
        raise OSError(msg)
    return sample


def test_errors_of_stages_name_the_sample(shards: list[str]) -> None:
    with pytest.raises(SampleError, match="no luck") as raised:
        list(source(shards).map(failing))
    assert (raised.value.key, raised.value.epoch) == ("000017", 0)
    assert raised.value.shard == shard_name(shards[1])


def test_samples_that_fail_are_skipped_on_request(
    shards: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = [list(batch[0]) for batch in source(shards).to_tuple("__key__").batched()]
    skipping = source(shards, on_error="skip").map(failing).to_tuple("__key__").batched()
    assert [list(batch[0]) for batch in skipping] == [
        [key for key in batch if key != "000017"] for batch in whole
    ]
    assert "no luck" in caplog.text
    handled = source(shards).map(failing, handler=wds.ignore_and_continue).to_tuple("__key__").batched()
    assert [list(batch[0]) for batch in handled] == [
        [key for key in batch if key != "000017"] for batch in whole
    ]


def test_what_cannot_be_collated_is_no_samples_fault(shards: list[str]) -> None:
    uneven = source(shards, on_error="skip").decode("rgb8").to_tuple("jpg").batched()
    with pytest.raises(CollationError, match="4 samples failed"):
        list(uneven)


def test_one_sample_alone_is_what_it_is_in_the_stream(shards: list[str]) -> None:
    dataset = source(shards).decode("rgb8").compose(augment())
    list(dataset)
    sample = list(dataset)[13]
    alone = dataset.batched().sample(epoch=1, shard=shard_name(sample["__url__"]), key=sample["__key__"])
    np.testing.assert_array_equal(alone["jpg"], sample["jpg"])


@pytest.mark.parametrize(
    ("stage", "mend"),
    [
        (wds.shuffle(1000, seed=3), "window"),
        (wds.detshuffle(10), "window"),
        (wds.resampled(10), "window"),
        (wds.Cached(), "leave it out"),
        (wds.batched(4), r"augstream\.wds\.batched"),
        (wds.slice(4), "with_epoch"),
        (wds.split_by_worker, "leave it out"),
        (wds.SimpleShardList(["a.tar"]), "leave it out"),
        (augstream.wds.batched(3), "batch_size=3"),
    ],
)
def test_stages_that_hold_reorder_or_split_are_refused(shards: list[str], stage: Any, mend: str) -> None:
    with pytest.raises(RecipeError, match=mend):
        source(shards).compose(stage)
    if not isinstance(stage, (augstream.wds.Batched, wds.SimpleShardList)):
        around = wds.DataPipeline(augstream.wds.shards_and_samples(shards, batch_size=4, seed=1), stage)
        with pytest.raises(RecipeError, match=mend):
            next(iter(around))


def test_fluid_shuffles_and_mixes_are_refused(shards: list[str]) -> None:
    with pytest.raises(RecipeError, match="window"):
        source(shards).shuffle(100)
    with pytest.raises(RecipeError, match="Mixture"):
        next(iter(wds.RandomMix([source(shards), source(shards)])))
    with pytest.raises(RecipeError, match="leave its"):
        source(shards).batched(5)
    with pytest.raises(RecipeError, match="drop_last"):
        source(shards).batched(partial=False)


@pytest.mark.parametrize(
    ("argument", "mend"),
    [
        ("shardshuffle", "leave it out"), ("resampled", "with_epoch"), ("nodesplitter", "rank="),
        ("handler", "on_error"), ("shufle", "no such argument"),
    ],
)  # fmt: skip
def test_webdatasets_arguments_are_refused_with_what_to_pass(
    shards: list[str], argument: str, mend: str
) -> None:
    with pytest.raises(RecipeError, match=mend):
        source(shards, **{argument: True})


# In a DataPipeline


def pipeline(shards: list[str]) -> tuple[augstream.wds.WebDataset, wds.DataPipeline]:
    first = augstream.wds.shards_and_samples(shards, batch_size=4, seed=137, lanes=3, window=16)
    to_tuple = wds.to_tuple("__key__", "jpg", "cls")
    return first, wds.DataPipeline(first, wds.decode("rgb8"), augment(), to_tuple, augstream.wds.batched(4))


@pytest.mark.processes
def test_it_begins_a_data_pipeline(shards: list[str]) -> None:
    expected = batches(shards)
    first, second = digests(expected), digests(expected)
    for num_workers in (0, 2):
        loader = stock(pipeline(shards)[1], num_workers)
        assert digests(loader) == first
        assert digests(loader) == second
    begun, resumed = pipeline(shards)
    begun.load_state_dict(begun.state_dict(epoch=0, num_batches=5))
    assert digests(resumed) == first[5:]


def test_batches_of_a_data_pipeline_are_the_sources(shards: list[str]) -> None:
    def piped(predicate: Any) -> wds.DataPipeline:
        first = augstream.wds.shards_and_samples(shards, batch_size=4, seed=137, lanes=3, window=16)
        return wds.DataPipeline(
            first, wds.select(predicate), wds.to_tuple("__key__"), augstream.wds.batched(4)
        )

    expected = list(source(shards).select(few).to_tuple("__key__").batched())
    assert list(piped(few)) == expected
    for place, empty in ((8, 0), (1, 1)):
        lone = list(source(shards))[place]["__key__"]
        with pytest.raises(SampleError, match=f"left none of the samples of batch {empty}"):
            list(piped(pipelines.Is(lone)))


@pytest.mark.parametrize("make", [lambda shards: pipeline(shards)[1], batches])
def test_repetitions_are_visits_of_one_epoch(shards: list[str], make: Any) -> None:
    once, dataset = digests(make(shards)), make(shards).with_epoch(15)
    first, second = list(dataset), list(dataset)
    assert digests(first)[:10] == once
    repeated, original = first[10:], first[:5]
    assert [list(batch[0]) for batch in repeated] == [list(batch[0]) for batch in original]
    assert not set(digests(repeated)) & set(digests(original))
    assert len(second) == 15
    assert not set(digests(second)) & set(digests(first))
    assert digests(make(shards).repeat(2))[:15] == digests(first)


# What webdataset's users expect


def test_it_has_a_length_when_told(shards: list[str]) -> None:
    dataset = source(shards)
    with pytest.raises(TypeError):
        len(dataset)
    assert len(dataset.with_length(5)) == 5
    assert len(dataset.map(seen)) == 5
    assert keys(pickle.loads(pickle.dumps(dataset))) == keys(source(shards))  # noqa: S301  # our own


def test_it_pickles_and_goes_on_at_its_place(shards: list[str]) -> None:
    dataset = batches(shards)
    digests(dataset)
    copied = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # our own
    assert digests(copied) == digests(dataset)


def test_it_is_a_context(shards: list[str]) -> None:
    with source(shards) as dataset:
        assert len(list(dataset)) == 37
    with pytest.raises(AttributeError):
        list(dataset)


def test_shards_are_named_as_webdataset_names_them(
    shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(Path(shards[0]).parent)
    monkeypatch.setenv("WDS_PLACE", folder)
    expected = keys(source(shards))
    for spelling in (
        f"{folder}/train-{{000000..000003}}.tar",
        "${PLACE}/train-{000000..000003}.tar",
        "::".join(shards),
        [f"{folder}/train-{{000000..000001}}.tar", *shards[2:]],
        folder,
    ):
        assert keys(source(spelling)) == expected
    with pytest.raises(RecipeError, match="not set"):
        source("${NOWHERE}/a.tar")


def test_shards_without_an_order_are_refused(shards: list[str]) -> None:
    with pytest.raises(RecipeError, match="a list of these in their order"):
        A.wds.WebDataset(set(shards), batch_size=4, seed=1)


def test_commands_are_run_only_when_allowed_by_name(shards: list[str], tmp_path: Path) -> None:
    url = f"pipe:echo x >> {tmp_path}/ran; cat {Path(shards[0]).parent}/train-{{000000..000003}}.tar"
    for remote in (None, Remote(allow_pipe=True), Remote(cache_dir=str(tmp_path / "cache"))):
        with pytest.raises(RecipeError, match=r"allow_pipe=True, cache_dir=.*or .*resumable"):
            source(url, remote=remote)
    assert not (tmp_path / "ran").exists()
    piped = source(url, remote=Remote(allow_pipe=True, cache_dir=str(tmp_path / "cache")))
    assert digests(piped.decode("rgb8")) == digests(source(shards).decode("rgb8"))
    assert (tmp_path / "ran").read_text() == "x\n" * 4  # each once


def test_compressed_shards_are_read_and_unpacked_once(shards: list[str], tmp_path: Path) -> None:
    packed = []
    for path in shards:
        packed.append(tmp_path / f"{Path(path).stem}.tgz")
        packed[-1].write_bytes(gzip.compress(Path(path).read_bytes()))
    dataset = source([str(path) for path in packed], cache_dir=tmp_path / "cache", shuffle=False, lanes=1)
    samples = list(dataset)
    assert keys(samples) == keys(plain(shards))
    assert {sample["__url__"] for sample in samples} == {str(path) for path in packed}
    copies = {path: path.stat().st_ino for path in (tmp_path / "cache" / "unpacked").rglob("*.tgz")}
    assert len(copies) == 4
    list(source([str(path) for path in packed], cache_dir=tmp_path / "cache"))
    assert {path: path.stat().st_ino for path in copies} == copies
    packed[0].write_bytes(gzip.compress(Path(shards[0]).read_bytes())[:-400])
    with pytest.raises(ShardError, match="broken"):
        list(source(str(packed[0]), cache_dir=tmp_path / "cache"))


def test_a_missing_shard_is_an_error_of_the_iteration(shards: list[str], tmp_path: Path) -> None:
    dataset = source([*shards, str(tmp_path / "missing.tar")]).decode("rgb8")
    with pytest.raises(IOError, match=r"missing\.tar") as raised:
        next(iter(dataset))
    assert isinstance(raised.value, MissingShardError)
    shutil.copy(shards[0], tmp_path / "missing.tar")
    assert next(iter(dataset))["jpg"].ndim == 3


def test_shards_behind_a_server_are_those_on_disk(shards: list[str], tmp_path: Path) -> None:
    folder = str(Path(shards[0]).parent)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_address[1]}/{Path(path).name}" for path in shards]
    try:
        remote = batches(urls, cache_dir=tmp_path, cache_bytes=1 << 30)
        assert digests(remote) == digests(batches(shards))
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(RecipeError, match="not both"):
        source(shards, cache_bytes=1 << 20, remote=A.Remote())


class Silent(SimpleHTTPRequestHandler):
    """A web server's part for one request."""

    def log_message(self, *_: object) -> None:
        pass


def only_pictures(name: str) -> bool:
    return name.endswith((".jpg", "7.cls"))


def renamed(name: str) -> str:
    return f"x/{name}".replace(".jpg", ".image.jpg")


def merged(name: str) -> str:
    return f"{hash(name.rpartition('.')[2])}.{name.rpartition('.')[2]}"


def test_members_are_selected_and_renamed(shards: list[str]) -> None:
    for ours, theirs in (
        (source(shards, select_files=only_pictures), plain(shards, select_files=only_pictures)),
        (source(shards, rename_files=renamed), plain(shards, rename_files=renamed)),
    ):
        found, expected = (
            sorted(
                [
                    {name: value for name, value in sample.items() if name[:2] != "__" or name == "__key__"}
                    for sample in samples
                ],
                key=lambda sample: sample["__key__"],
            )
            for samples in (ours, theirs)
        )
        assert found == expected
    assert list(source(shards, select_files=lambda name: name.startswith("00001"))) != []
    with pytest.raises(SampleError, match="a sample must stay one"):
        list(source(shards, rename_files=merged))


def size(stream: Any) -> int:
    return len(stream.read())


def test_the_fluid_methods_do_as_webdatasets(shards: list[str]) -> None:
    def both(make: Any) -> None:
        ours, theirs = (sorted(map(repr, make(dataset))) for dataset in (source(shards), plain(shards)))
        assert ours == theirs
        assert len(ours) > 0

    both(lambda ds: ds.to_tuple("jpg;png", "cls"))
    both(lambda ds: ds.rename(image="jpg;png", keep=False))
    both(lambda ds: ds.map_dict(cls=int).to_tuple("__key__", "cls"))
    both(lambda ds: ds.to_tuple("cls", "__key__").map_tuple(int, str))
    both(lambda ds: ds.extract_keys("*.jpg", "*.cls"))
    both(lambda ds: ds.rename_keys(image="jpg", label="cls").to_tuple("label"))
    both(lambda ds: ds.select(few).to_tuple("__key__"))
    both(lambda ds: ds.decode("rgb8").to_tuple("jpg", "cls", "json"))
    both(
        lambda ds: (
            ds.compose(wds.associate({"000003": {"extra": 1}}))
            .select(lambda s: "extra" in s)
            .to_tuple("extra")
        )
    )
    both(lambda ds: ds.xdecode(jpg=size, json=size, cls=size, must_decode=False).to_tuple("__key__", "txt"))


def test_lists_and_samples_of_batches(shards: list[str]) -> None:
    listed = list(source(shards, lanes=1).to_tuple("__key__").listed())
    assert [len(batch) for batch in listed] == [4] * 9 + [1]
    back = list(source(shards).to_tuple("__key__", "cls").batched().unbatched())
    assert back == list(source(shards).to_tuple("__key__", "cls"))


def test_with_epoch_after_an_iteration_was_left(shards: list[str]) -> None:
    expected = batches(shards)
    first, second = digests(expected), digests(expected)
    dataset = batches(shards)
    next(iter(dataset))
    assert digests(dataset.with_epoch(3)) == second[:3]
    dataset.set_epoch(0)
    assert digests(dataset) == first[:3]
