"""Ranks: who says which we are, how they share a stream without a word, and how one that lost step is found.

Real launchers are for test_torchrun.py; here many ranks live in one process, each with a loader of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle

import pytest
import reference
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import augstream as A
from augstream.errors import RecipeError, StateError, TopologyError
from augstream.order import Recipe
from augstream.plan import Topology
from augstream.ranks import Standing, find_topology, out_of_step
from augstream.testing import make_shards

SIZES = (1, 2, 3, 5, 8, 13, 1)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Shards of 1 to 13 samples."""
    folder = tmp_path_factory.mktemp("many")
    for number, size in enumerate(SIZES):
        make_shards(folder, size, 1, size=(16, 16), spread=1, name=f"train-{number}.tar")
    paths = [str(folder / f"train-{number}.tar") for number in range(len(SIZES))]
    A.build_index(paths, beside=True)
    return paths


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


# Who says so.


def test_nobody_says_so():
    assert find_topology(num_workers=2) == Topology(0, 1, 2)


def test_the_launcher_says_so(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_topology() == Topology(2, 4)
    assert find_topology(2, 4) == Topology(2, 4)
    assert find_topology(world_size=1) == Topology(0, 1)
    assert find_topology(told=(0, 2)) == Topology(2, 4)
    with pytest.raises(TopologyError, match=r"rank=1 and world_size=4 were given, but the environment"):
        find_topology(1, 4)


def test_the_caller_says_so():
    assert find_topology(3, 8, num_workers=1) == Topology(3, 8, 1)
    assert find_topology(told=(1, 2)) == Topology(1, 2)
    with pytest.raises(
        TopologyError, match="rank=0 and world_size=2 were given, but the process that started"
    ):
        find_topology(0, 2, told=(1, 2))
    for rank, world_size in ((8, 8), (-1, 8), (0, 0), (True, 2), (0.0, 2)):
        with pytest.raises(TopologyError):
            find_topology(rank, world_size)
    for half in ({"rank": 1}, {"world_size": 2}):
        with pytest.raises(TopologyError, match="go together"):
            find_topology(**half)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {"WORLD_SIZE": "2"},
        {"RANK": "a", "WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": "2"},
    ],
)
def test_half_an_environment_is_refused(monkeypatch, environment):
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(TopologyError, match="both must be set to integers, as torchrun does, or neither"):
        find_topology()


def test_a_rank_beyond_the_environments_world_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TopologyError, match="rank must be below world_size, got rank=4 and world_size=4"):
        find_topology()


@pytest.fixture
def group(tmp_path):
    """torch.distributed, initialised: a group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_torch_distributed_says_so_before_the_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_topology(0, 1) == Topology(0, 1)
    with pytest.raises(
        TopologyError,
        match=r"says rank 0 of 1, but the environment has RANK=2 and WORLD_SIZE=4; if the group is",
    ):
        find_topology()
    with pytest.raises(TopologyError, match=r"were given, but torch.distributed says rank 0 of 1"):
        find_topology(2, 4)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert find_topology() == Topology(0, 1)
    monkeypatch.delenv("RANK")  # as other launchers leave it
    assert find_topology() == Topology(0, 1)


def plain(paths, **arguments):
    """A dataset of which only the names matter."""
    settings = {"batch_size": 3, "seed": 137, "lanes": 3, "window": 8, "fields": {"label": "cls"}}
    return A.StreamDataset(paths, **{**settings, **arguments})


def test_a_loader_made_before_its_rank_was_known_is_refused(many, monkeypatch):
    loader = A.StreamLoader(plain(many))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        TopologyError, match=r"made as rank 0 of 1, and now .* rank 1 of 2; make the loader after"
    ):
        next(iter(loader))
    with pytest.raises(TopologyError, match="make the loader after"):
        loader.assert_in_step()


def test_a_dataset_sent_to_another_rank_takes_that_rank(many, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    sent = pickle.dumps(plain(many))
    monkeypatch.setenv("RANK", "1")
    assert pickle.loads(sent).topology() == Topology(1, 2)  # noqa: S301  # our own bytes


def test_slurm_says_so_through_the_arguments(many, monkeypatch):
    """The variables of `srun`, as the how-to page passes them."""
    parts = []
    for rank in range(3):
        for name, value in {"SLURM_PROCID": rank, "SLURM_NTASKS": 3, "SLURM_LOCALID": rank}.items():
            monkeypatch.setenv(name, str(value))
        dataset = plain(
            many, rank=int(os.environ["SLURM_PROCID"]), world_size=int(os.environ["SLURM_NTASKS"])
        )
        parts.append(names(A.StreamLoader(dataset)))
    whole = names(A.StreamLoader(plain(many)))
    assert [batch for step in zip(*parts, strict=True) for batch in step] == whole[: len(whole) // 3 * 3]


# Sharing.


def names(loader):
    """The (shard, key)s of the batches of a pass."""
    return [list(zip(batch["__shard__"], batch["__key__"], strict=True)) for batch in loader]


def expected_units(index, recipe, epoch):
    """The names of the samples of each canonical unit, by plain loops."""
    return [
        [(index.names[shard], index.table(shard).keys[sample]) for shard, sample, _ in unit]
        for unit in reference.units(index, recipe, epoch)
    ]


@st.composite
def worlds(draw):
    """The arguments of a dataset, and the (ranks, steps) of some lives."""
    unit = draw(st.integers(1, 3))
    arguments = {
        "unit": unit,
        "batch_size": unit * draw(st.integers(1, 3)),
        "lanes": draw(st.integers(1, 6)),
        "window": draw(st.integers(1, 20)),
        "shuffle": draw(st.booleans()),
        "drop_last": draw(st.booleans()),
        "tail": draw(st.sampled_from(["drop", "pad"])),
        "seed": draw(st.integers(0, 3)),
    }
    chosen = draw(st.lists(st.integers(0, len(SIZES) - 1), min_size=1, unique=True))
    return chosen, arguments, draw(st.integers(1, 6))


@settings(max_examples=150)
@given(worlds(), st.integers(0, 3))
def test_ranks_get_disjoint_batches_whose_union_is_the_sequence_of_one(many, world, epoch):
    chosen, arguments, world_size = world
    paths = [many[shard] for shard in chosen]
    recipe = Recipe(**arguments)
    units = expected_units(A.build_index(paths), recipe, epoch)
    steps = reference.steps(
        len(units), recipe.units_per_batch, drop_last=recipe.drop_last, tail=recipe.tail, world_size=world_size,
        start=0,
    )  # fmt: skip
    if not steps:
        with pytest.raises((TopologyError, RecipeError), match="an epoch has no"):
            plain(paths, **arguments, rank=world_size - 1, world_size=world_size)
        return
    loaders = [
        A.StreamLoader(plain(paths, **arguments, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for loader in loaders:
        loader.set_epoch(epoch)
    parts = [names(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(part) for part in parts] == [len(steps)] * world_size
    expected = [[[name for unit in batch for name in units[unit]] for batch in step] for step in steps]
    assert [list(step) for step in zip(*parts, strict=True)] == expected
    if recipe.tail == "drop":
        delivered = [name for part in parts for batch in part for name in batch]
        assert len(set(delivered)) == len(delivered), "nothing twice"
    assert all(loader.state_dict() == loaders[0].state_dict() for loader in loaders)
    assert loaders[0].epoch == epoch + 1


@pytest.mark.processes
@settings(max_examples=10)
@given(worlds(), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_each_rank_may_have_another_number_of_workers(many, world, num_workers):
    chosen, arguments, world_size = world
    paths = [many[shard] for shard in {*chosen, 3, 4, 5}]
    arguments = {**arguments, "tail": "pad", "drop_last": False}
    for rank in range(world_size):
        dataset = plain(paths, **arguments, rank=rank, world_size=world_size)
        with A.StreamLoader(dataset, num_workers=num_workers[rank]) as loader:
            assert [names(loader), names(loader)] == [names(again) for again in [A.StreamLoader(dataset)] * 2]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 3)), min_size=1, max_size=6),
    st.integers(1, 8),
)
def test_lives_on_any_number_of_ranks_go_on_with_the_same_global_batches(many, lives, lanes):
    """A unit smaller than the batch, and the global batch held at 12 samples: 1, 2, 3, 4 or 6 ranks get the
    same global batches, in the same order, epoch after epoch."""
    seen, state = [], None
    arguments = {"unit": 1, "lanes": lanes, "drop_last": True}
    for world_size, num_steps in lives:
        loaders = [
            A.StreamLoader(
                plain(many, batch_size=12 // world_size, rank=rank, world_size=world_size, **arguments)
            )
            for rank in range(world_size)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(json.loads(state))
        for _ in range(num_steps):
            batches = [
                names(itertools.islice(loader, 1)) or names(itertools.islice(loader, 1)) for loader in loaders
            ]
            seen.append([name for (batch,) in batches for name in batch])
        states = {json.dumps(loader.state_dict()) for loader in loaders}
        (state,) = states
    one = A.StreamLoader(plain(many, batch_size=12, **arguments))
    whole = itertools.chain.from_iterable(names(again) for again in itertools.repeat(one))
    assert seen == list(itertools.islice(([*batch] for batch in whole), len(seen)))


def test_a_dataset_smaller_than_a_step_is_refused_or_padded(many):
    with pytest.raises(
        TopologyError, match=r"don't go round the 4 ranks.*pass tail='pad', a smaller batch_size"
    ):
        plain(many[3:4], rank=0, world_size=4)
    parts = [
        names(A.StreamLoader(plain(many[3:4], rank=rank, world_size=4, tail="pad"))) for rank in range(4)
    ]
    assert [len(part) for part in parts] == [1] * 4
    assert parts[2:] == parts[:2]


# In step.


def at(**changes):
    return Standing(**{"stream": 1, "began_epoch": 0, "began_units": 0, "num_batches": 8, **changes})


def test_ranks_in_step_are_in_step():
    assert out_of_step([at()] * 5) is None
    assert out_of_step([at()]) is None


@pytest.mark.parametrize(
    ("standings", "message"),
    [
        ([at(), at(), at(num_batches=7)], "rank 2 of 3 has had 7 batches where the others have had 8; every rank"),
        ([at(num_batches=9), at()], "rank 1 of 2 has had 8 batches where the others have had 9"),
        ([at(num_batches=9), at(), at()], "rank 0 of 3 has had 9 batches where the others have had 8"),
        ([at(), at(began_units=4), at(), at(began_epoch=1)],
         "rank 1 of 4 began at unit 4 of epoch 0 where the others began at unit 0 of epoch 0; load the same state on "
         "all ranks, and move them with set_epoch together; rank 3 of 4 began at unit 0 of epoch 1"),
        ([at(began_units=8), at(began_units=4)], "rank 1 of 2 began at unit 4 of epoch 0 where"),
        ([at(), at(stream=2), at()], "rank 1 of 3 streams something else; give all ranks the same shards, recipe"),
        ([at()] * 30 + [at(num_batches=7)] * 20, "and 12 more ranks differ"),
    ],
)  # fmt: skip
def test_a_rank_that_lost_step_is_named(standings, message):
    found = out_of_step(standings)
    assert found is not None
    assert message in found


def test_a_single_process_is_in_step(many):
    A.StreamLoader(plain(many)).assert_in_step()


def test_ranks_that_cannot_talk_are_told_to(many):
    loader = A.StreamLoader(plain(many, rank=0, world_size=2))
    with pytest.raises(TopologyError, match=r"call torch.distributed.init_process_group first"):
        loader.assert_in_step()


@pytest.mark.usefixtures("group")
def test_a_group_of_one_is_in_step(many):
    loader = A.StreamLoader(plain(many))
    next(iter(loader))
    loader.assert_in_step()
    loader.load_state_dict(loader.state_dict())
    loader.assert_in_step(dist.group.WORLD)


def test_a_state_of_another_global_order_is_refused(many):
    state = A.StreamLoader(plain(many, batch_size=6, unit=2)).state_dict()
    with pytest.raises(StateError, match="unit: saved 2, now 6"):
        A.StreamLoader(plain(many, batch_size=6)).load_state_dict(state)
