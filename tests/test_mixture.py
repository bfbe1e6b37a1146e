"""A mixture keeps the promises of one stream: repeat, workers, resume, kills, ranks, and each source as it is alone."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import signal
from collections import Counter

import pytest
from engine import DieAt, FailAt, ResizeByHand, dataset_of, digests, epochs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import augstream as A
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError, StateError, TopologyError, TransformChangedWarning
from augstream.testing import make_shards


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Three shards of 23 other pictures, whose names and keys are those of the first four shards."""
    return make_shards(tmp_path_factory.mktemp("others"), num_samples=23, num_shards=3, seed=9)


@pytest.fixture(scope="module")
def sources(shards, others):
    return {"a": dataset_of(shards), "b": dataset_of(others, seed=5)}


def mixture_of(sources, **arguments):
    return A.Mixture(sources, **{"weights": {"a": 2, "b": 1}, "seed": 7, "round_units": 6, **arguments})


def passes(dataset, count):
    """The batches of the first epochs."""
    loader = A.StreamLoader(dataset)
    return [batch for _ in range(count) for batch in loader]


@pytest.fixture(scope="module")
def mixture(sources):
    return mixture_of(sources)


@pytest.fixture(scope="module")
def epochs(mixture):
    return epochs_of(mixture, 3)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("num_workers", "method", "persistent"),
    [
        (0, "fork", True),
        *itertools.product((1, 2, 3), ("fork",), (True, False)),
        pytest.param(2, "spawn", True, marks=pytest.mark.slow),
        pytest.param(2, "forkserver", False, marks=pytest.mark.slow),
    ],
)
def test_workers_do_not_matter(mixture, epochs, num_workers, method, persistent):
    with A.StreamLoader(
        mixture, num_workers=num_workers, multiprocessing_context=method, persistent_workers=persistent
    ) as loader:
        assert [digests(loader) for _ in range(2)] == epochs[:2]
        assert len(loader) == 16
        assert loader.stats.respawns == 0


def test_threads_and_a_device_give_the_same(shards, others):
    compose = A.Compose([A.RandomResizedCrop(size=(24, 32)), A.Normalize(), A.ToTensorV2()])
    mixed = mixture_of({"a": dataset_of(shards, compose), "b": dataset_of(others, compose, seed=5)})
    expected = digests(A.StreamLoader(mixed))
    with A.StreamLoader(mixed, num_workers=2, workers="thread") as loader:
        assert digests(loader) == expected
    assert digests(A.StreamLoader(mixed).to("cpu")) == expected


@pytest.mark.processes
@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (1, True), (3, True), (2, False)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_stock_loader_gives_the_same(sources, epochs, num_workers, persistent):
    stock = DataLoader(
        mixture_of(sources), batch_size=None, num_workers=num_workers, persistent_workers=persistent
    )
    assert [digests(stock) for _ in range(2)] == epochs[:2]
    assert len(stock) == 16


def test_each_source_runs_through_its_own_epochs_as_it_does_alone(sources, mixture):
    batches = passes(mixture, 3)
    for name, dataset in sources.items():
        mine = [batch for batch in batches if batch["__source__"][0] == name]
        alone = passes(dataset, 4)
        assert len(mine) in {16, 32}
        assert len(mine) > len(dataset), name
        for found, expected in zip(mine, alone, strict=False):
            assert set(found["__source__"]) == {name}
            assert digest({**expected, "__source__": found["__source__"]}) == digest(found)


def test_a_batch_of_small_units_holds_several_sources(shards, others):
    small = {"a": dataset_of(shards, unit=2), "b": dataset_of(others, unit=2, seed=5)}
    kinds = Counter()
    alone = {
        name: [key for batch in passes(source, 3) for key in batch["__key__"]]
        for name, source in small.items()
    }
    seen = {"a": [], "b": []}
    for batch in A.StreamLoader(mixture_of(small)):
        kinds["".join(sorted(set(batch["__source__"])))] += 1
        for source, key in zip(batch["__source__"], batch["__key__"], strict=True):
            seen[source].append(key)
    assert kinds["ab"] >= 2
    assert all(seen[name] == alone[name][: len(seen[name])] for name in small)
    assert min(map(len, seen.values())) > 10


def test_weights_by_epochs_see_each_sample_as_often_as_they_say(sources):
    mixed = mixture_of(sources, weights={"a": 1, "b": 2}, by="epochs")
    for _ in range(2):
        batches = list(mixed)
        seen = Counter(
            pair for batch in batches for pair in zip(batch["__source__"], batch["__key__"], strict=True)
        )
        assert {name: {count for (of, _), count in seen.items() if of == name} for name in "ab"} == {
            "a": {1},
            "b": {2},
        }
        assert len(seen) == 37 + 23


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_after_every_batch_into_another_number_of_workers(mixture, epochs, num_workers):
    whole = [*epochs[0], *epochs[1]]
    with A.StreamLoader(mixture, num_workers=num_workers) as loader:
        states = [loader.state_dict()]
        for _ in range(2):
            states += [loader.state_dict() for _ in loader]
    with A.StreamLoader(mixture, num_workers=2 - num_workers) as other:
        for done, state in list(enumerate(states))[::3]:
            text = json.dumps(state)
            assert len(text) < 1024
            other.load_state_dict(json.loads(text))
            assert digests(other) == whole[done : (done // 16 + 1) * 16]


class TestWithoutEnd:
    @pytest.mark.processes
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_it_goes_through_the_same_batches(self, sources, epochs, num_workers):
        with A.StreamLoader(mixture_of(sources, epochs=None), num_workers=num_workers) as loader:
            assert digests(itertools.islice(loader, 48)) == [*epochs[0], *epochs[1], *epochs[2]]
            assert loader.epoch == 0
            assert loader.state_dict()["units"] == 48

    @pytest.mark.processes
    def test_it_is_resumed_with_and_without_end(self, sources, epochs):
        endless = mixture_of(sources, epochs=None)
        loader = A.StreamLoader(endless)
        digests(itertools.islice(loader, 21))
        with A.StreamLoader(endless, num_workers=2) as other:
            other.load_state_dict(loader.state_dict())
            assert digests(itertools.islice(other, 27)) == [*epochs[1], *epochs[2]][5:]
        ending = A.StreamLoader(mixture_of(sources))
        ending.load_state_dict(loader.state_dict())
        assert ending.epoch == 1
        assert digests(ending) == epochs[1][5:]
        digests(itertools.islice(ending, 4))
        loader.load_state_dict(ending.state_dict())
        assert digests(itertools.islice(loader, 12)) == epochs[2][4:]

    def test_a_step_of_it_is_found_at_once_however_late(self, sources):
        loader = A.StreamLoader(mixture_of(sources, epochs=None))
        state = loader.state_dict() | {"units": 10**12 + 3}
        loader.load_state_dict(state)
        batch = next(iter(loader))
        assert len(batch["__key__"]) in {1, 3, 4}
        assert loader.state_dict()["units"] == 10**12 + 4

    def test_it_has_no_length(self, sources):
        endless = mixture_of(sources, epochs=None)
        for value in (endless, A.StreamLoader(endless), DataLoader(endless, batch_size=None)):
            with pytest.raises(TypeError, match="no length"):
                len(value)

    def test_a_stock_loader_gives_the_same(self, sources, epochs):
        stock = DataLoader(mixture_of(sources, epochs=None), batch_size=None)
        assert digests(itertools.islice(stock, 20)) == [*epochs[0], *epochs[1][:4]]


@pytest.mark.processes
def test_kills_change_nothing(mixture, epochs):
    with A.StreamLoader(mixture, num_workers=2) as loader:
        seen = []
        for epoch in range(2):
            for batch in loader:
                seen.append(digest(batch))
                if len(seen) % 7 == 3:
                    os.kill(multiprocessing.active_children()[epoch].pid, signal.SIGKILL)
        assert seen == [*epochs[0], *epochs[1]]
        assert loader.stats.respawns >= 2


@pytest.mark.processes
def test_a_sample_that_kills_is_left_out_of_its_own_source_only(shards, others):
    """Shards and keys of the sources have the same names."""
    poison = DieAt(keys=("000005",), trainer=os.getpid())
    sources = {
        "a": dataset_of(shards, ResizeByHand(), on_error="skip"),
        "b": dataset_of(others, poison, on_error="skip"),
    }
    mixed = mixture_of(sources, weights={"a": 1, "b": 1}, by="epochs")
    with A.StreamLoader(mixed, num_workers=2, max_respawns=2) as loader:
        seen = Counter(
            pair for batch in loader for pair in zip(batch["__source__"], batch["__key__"], strict=True)
        )
        assert loader.state_dict()["skipped"] == [["b/train-000000.tar", "000005"]]
    assert len(seen) == 37 + 23 - 1
    assert ("a", "000005") in seen


def test_an_error_says_of_which_source_its_sample_is(shards, others):
    sources = {"a": dataset_of(shards, ResizeByHand()), "b": dataset_of(others, FailAt(keys=("000005",)))}
    with pytest.raises(SampleError, match="no luck with 000005") as caught:
        passes(mixture_of(sources, weights={"a": 1, "b": 5}), 3)
    assert "It is of source 'b' of the mixture." in caught.value.__notes__


# Ranks.


@pytest.fixture(scope="module")
def whole(mixture):
    """The digests of the first batches, each computed by itself."""
    stream = mixture_of(mixture.datasets, epochs=None).stream
    return [digest(stream.batch(0, range(unit, unit + 1))) for unit in range(80)]


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4),
    st.sampled_from([1, None]),
)
def test_lives_on_any_number_of_ranks_give_the_sequence_of_one(mixture, whole, lives, num_epochs):
    """Each life saves after some steps; the next goes on from there, on other ranks."""
    seen, state = [], None
    for world_size, num_steps in lives:
        ranks = [
            A.StreamLoader(
                mixture_of(mixture.datasets, tail="drop", rank=rank, world_size=world_size, epochs=num_epochs)
            )
            for rank in range(world_size)
        ]
        if state is not None:
            for loader in ranks:
                loader.load_state_dict(state)
        rest = 16 - (state["units"] if state else 0)
        steps = zip(*[itertools.islice(loader, num_steps) for loader in ranks], strict=True)
        seen += [digest(batch) for step in steps for batch in step]
        states = [loader.state_dict() for loader in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
        if num_epochs == 1 and num_steps >= rest // world_size:
            return  # the last step of an epoch may be dropped; what comes then is another test's
    assert seen == whole[: len(seen)]


def test_the_datasets_ranks_are_the_mixtures(shards, others):
    sources = {"a": dataset_of(shards, rank=1, world_size=2), "b": dataset_of(others, rank=1, world_size=2)}
    assert mixture_of(sources).topology().rank == 1
    with pytest.raises(RecipeError, match="the same ranks"):
        mixture_of({**sources, "b": dataset_of(others)})


# States.


def test_states_of_other_mixtures_are_refused(mixture, sources, shards, others):
    state = A.StreamLoader(mixture).state_dict()
    for changed, message in (
        (mixture_of(sources, weights={"a": 2, "b": 3}), r"weights: saved {'a': 2, 'b': 1}, now"),
        (mixture_of({**sources, "b": dataset_of(others, seed=6)}), r"index: saved 'a:\w+ b:\w+', now"),
        (mixture_of({**sources, "b": dataset_of(others[:2], seed=5)}), r"index: saved 'a:\w+ b:\w+', now"),
    ):
        with pytest.raises(StateError, match=message):
            A.StreamLoader(changed).load_state_dict(state)
    with pytest.raises(StateError, match="its recipe"):
        A.StreamLoader(dataset_of(shards)).load_state_dict(state)
    other = mixture_of({**sources, "b": dataset_of(others, A.CenterCrop(8, 8), seed=5)})
    with pytest.warns(TransformChangedWarning) as caught:
        A.StreamLoader(other).load_state_dict(state)
    assert caught[0].filename == __file__


def test_a_mixture_pickles(mixture, epochs):
    copy = pickle.loads(pickle.dumps(mixture))  # noqa: S301  # our own bytes
    assert digests(copy) == epochs[0]


# Refusals.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": 1}}, r"weights are for \['a'\], datasets are \['a', 'b'\]"),
        ({"epochs": 2}, "epochs must be 1 or None"),
        ({"batch_size": 6}, "unit must divide batch_size"),
        ({"by": "size"}, "by must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_arguments_that_no_run_could_honour_are_refused(sources, change, message):
    with pytest.raises(RecipeError, match=message):
        mixture_of(sources, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 8, "unit": 4}, "batch_size, but 'a' has 4, 'b' has 8"),
        ({"batch_size": 4, "unit": 2}, "unit, but 'a' has 4, 'b' has 2"),
        ({"on_error": "skip"}, "on_error, but 'a' has 'raise', 'b' has 'skip'"),
        ({"collate_fn": list}, "collate_fn, but"),
        ({"with_address": True}, "with_address, but"),
    ],
)
def test_datasets_that_cannot_share_batches_are_refused(sources, others, arguments, message):
    with pytest.raises(RecipeError, match=message):
        mixture_of({**sources, "b": dataset_of(others, **arguments)})


@pytest.mark.parametrize("datasets", [{}, None, {"a": 3}, {1: None}])
def test_only_stream_datasets_by_name_are_taken(datasets):
    with pytest.raises(RecipeError, match="StreamDatasets by name"):
        A.Mixture(datasets, weights={"a": 1}, seed=1)


def test_an_epoch_of_nothing_is_refused(sources):
    with pytest.raises(TopologyError, match="no step"):
        mixture_of(sources, epoch_units=3, rank=0, world_size=4)
