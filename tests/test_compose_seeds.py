"""Where a Compose's random numbers come from: in the main process, in workers, in threads, by address."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import random
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader, Dataset
from worker_datasets import IMAGE, Addressed, Draw, Drawing, Seen, drawn, epoch, loader, passed

import augstream as A
from augstream.errors import RecipeError, StateError

# torch counts processors, and warns of three workers on two.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

METHODS = ["fork", "spawn", "forkserver"]
slow_start = pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])]
)


def sequence(seed: int | None, num: int, **arguments: Any) -> list[float]:
    compose = A.Compose([Draw(p=1)], seed=seed, **arguments)
    return [drawn(compose) for _ in range(num)]


def by_worker(items: list[Seen]) -> dict[int, list[Seen]]:
    found: dict[int, list[Seen]] = defaultdict(list)
    for item in items:
        found[item.worker].append(item)
    return dict(found)


# One process


def test_two_instances_of_one_seed_make_one_sequence() -> None:
    first, second = sequence(137, 20), sequence(137, 20)
    assert first == second
    assert len(set(first)) == 20
    assert not set(first) & set(sequence(138, 20))


def test_without_a_seed_every_instance_differs() -> None:
    values = [value for _ in range(5) for value in sequence(None, 5)]
    assert len(set(values)) == 25


def test_set_random_seed_starts_again() -> None:
    compose = A.Compose([Draw(p=1)], seed=1)
    drawn(compose)
    compose.set_random_seed(137)
    assert [drawn(compose) for _ in range(3)] == sequence(137, 3)
    assert compose.seed == compose.effective_seed == 137
    compose.set_random_seed(None)
    assert drawn(compose) not in sequence(137, 10)


def test_set_random_state_draws_from_the_generators_given() -> None:
    compose = A.Compose([Draw(p=1)], seed=1)
    compose.set_random_state(np.random.default_rng(100), random.Random(100))
    first = [drawn(compose) for _ in range(4)]
    compose.set_random_state(np.random.default_rng(100), random.Random(100))
    assert [drawn(compose) for _ in range(4)] == first
    assert len(set(first)) == 4
    for generators in (
        (np.random.default_rng(101), random.Random(100)),
        (np.random.default_rng(100), random.Random(101)),
    ):
        compose.set_random_state(*generators)
        assert drawn(compose) not in first
    with pytest.raises(RecipeError, match=r"takes a numpy\.random\.Generator and"):
        compose.set_random_state(np.random.RandomState(0), random.Random(0))  # type: ignore[arg-type]  # the point


def test_names_set_pipelines_of_one_seed_apart() -> None:
    counts = np.zeros((2, 2))
    first = A.Compose([A.HorizontalFlip()], seed=137, name="geometry", save_applied_params=True)
    second = A.Compose([A.HorizontalFlip()], seed=137, name="colour", save_applied_params=True)
    for _ in range(400):
        flips = [len(compose(image=IMAGE)["applied_transforms"]) for compose in (first, second)]
        counts[flips[0], flips[1]] += 1
    assert chisquare(counts.ravel()).pvalue > 1e-3
    assert sequence(137, 5, name="a") == sequence(137, 5, name="a") != sequence(137, 5)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "137"])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(RecipeError, match="seed must be an integer"):
        A.Compose([], seed=seed)


class Fails(A.ImageOnlyTransform):
    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        self.random_generator.normal(size=5)
        raise KeyError("a broken sample")


def test_samples_that_fail_or_are_of_other_shapes_shift_nothing() -> None:
    big, small = np.zeros((50, 70, 3), np.uint8), np.zeros((8, 300, 3), np.uint8)
    transforms = [A.RandomResizedCrop(size=(9, 9)), A.SomeOf([A.D4(), A.NoOp()], n=1), Draw(p=1)]

    def run(images: list[np.ndarray | None]) -> list[str | None]:
        compose = A.Compose(transforms, seed=137, save_applied_params=True)
        records = []
        for image in images:
            if image is None:
                with pytest.raises(TypeError):
                    compose(image="no image")
                records.append(None)
            else:
                records.append(json.dumps(compose(image=image)["applied_transforms"]))
        return records

    expected, found = run([big] * 6), run([small, big, None, big, small, big])
    for position in (1, 3, 5):
        assert found[position] == expected[position]


def test_an_error_inside_a_transform_shifts_nothing() -> None:
    compose = A.Compose([Fails(p=0.5), Draw(p=1)], seed=137)
    values = []
    for _ in range(20):
        try:
            values.append(drawn(compose))
        except KeyError:
            values.append(None)
    plain = A.Compose([A.NoOp(), Draw(p=1)], seed=137)
    expected = [drawn(plain) for _ in range(20)]
    assert 3 < values.count(None) < 17
    assert all(value in {None, other} for value, other in zip(values, expected, strict=True))


@pytest.fixture
def global_states() -> Iterator[None]:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global one is what this is about
    torch.manual_seed(5)
    cv2.setRNGSeed(5)
    expected = cv2.randu(np.zeros(5), 0, 1)
    cv2.setRNGSeed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    yield
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.get_rng_state().tolist() == states[2]
    np.testing.assert_array_equal(cv2.randu(np.zeros(5), 0, 1), expected)


@pytest.mark.usefixtures("global_states")
def test_global_generators_are_neither_used_nor_touched() -> None:
    image = np.zeros((30, 30, 3), np.uint8)
    transforms = [
        A.RandomResizedCrop(size=(9, 9)),
        A.RandomOrder([A.D4(), A.HorizontalFlip()], n=2),
        Draw(p=1),
    ]
    for seed in (None, 137):
        compose = A.Compose(transforms, seed=seed)
        for number in range(3):
            compose(image=image)
            if seed is not None:
                compose.at(number)(image=image)


def test_global_seeds_have_no_say() -> None:
    values = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        values.append((sequence(137, 3), sequence(None, 1)))
    assert values[0][0] == values[1][0]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert sequence(None, 1) != values[0][1]


# Copies and states


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])  # noqa: S301  # ours
@pytest.mark.parametrize("seed", [137, None])
def test_a_copy_goes_on_where_it_was(copied: Any, seed: int | None) -> None:
    compose = A.Compose([Draw(p=1)], seed=seed)
    drawn(compose)
    other = copied(compose)
    assert [drawn(other) for _ in range(5)] == [drawn(compose) for _ in range(5)]


@given(
    before=st.integers(0, 5),
    seed=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    name=st.sampled_from([None, "x"]),
)
def test_a_state_continues_the_sequence(before: int, seed: int | None, name: str | None) -> None:
    compose = A.Compose([Draw(p=1)], seed=seed, name=name)
    for _ in range(before):
        drawn(compose)
    state = json.loads(json.dumps(compose.state_dict()))
    expected = [drawn(compose) for _ in range(5)]
    other = A.Compose([Draw(p=1)], seed=5, name=name)
    drawn(other)
    other.load_state_dict(state)
    assert [drawn(other) for _ in range(5)] == expected


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_a_state_holds_generators_that_were_set(bits: str) -> None:
    compose = A.Compose([Draw(p=1)])
    compose.set_random_state(np.random.Generator(getattr(np.random, bits)(3)), random.Random(3))
    drawn(compose)
    state = json.loads(json.dumps(compose.state_dict()))
    expected = [drawn(compose) for _ in range(5)]
    other = A.Compose([Draw(p=1)])
    other.load_state_dict(state)
    assert [drawn(other) for _ in range(5)] == expected


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"version": 99}, "version 1, got 99"),
        ("state", "got 'state'"),
        ({"version": 1, "name": "other"}, "'other'"),
    ],
)
def test_a_state_of_something_else_is_refused(state: Any, match: str) -> None:
    with pytest.raises(StateError, match=match):
        A.Compose([]).load_state_dict(state)


# Addresses


def test_an_address_is_a_pure_function() -> None:
    compose = A.Compose([Draw(p=1)], seed=137)
    addresses = [(e, i) for e in range(3) for i in range(20)]
    expected = {address: drawn(compose.at(*address)) for address in addresses}
    assert len(set(expected.values())) == 60
    again = A.Compose([Draw(p=1)], seed=137)
    for address in reversed(addresses):
        drawn(again)
        assert drawn(again.at(*address)) == expected[address]
    assert drawn(A.Compose([Draw(p=1)], seed=138).at(0, 0)) != expected[0, 0]
    assert drawn(A.Compose([Draw(p=1)], seed=137, name="x").at(0, 0)) != expected[0, 0]


def test_addresses_are_not_confused() -> None:
    compose = A.Compose([Draw(p=1)], seed=137)
    addresses: list[tuple[Any, ...]] = [
        (),
        (0,),
        (0, 0),
        ("0",),
        (b"0",),
        (1, 0),
        (0, 1),
        ("a", "b"),
        ("ab",),
        (10,),
        (-1,),
    ]
    assert len({drawn(compose.at(*address)) for address in addresses}) == len(addresses)
    with pytest.raises(RecipeError, match="made of strings, integers and bytes"):
        compose.at(1.5)  # type: ignore[arg-type]  # that is the point


def test_an_address_needs_a_seed() -> None:
    with pytest.raises(RecipeError, match=r"give it one: Compose\(\[\.\.\.\], seed=137\)"):
        A.Compose([]).at(0)


def test_addresses_draw_nothing_from_the_sequence() -> None:
    compose = A.Compose([Draw(p=1)], seed=137)
    values = []
    for number in range(5):
        values.append(drawn(compose))
        drawn(compose.at(number))
    assert values == sequence(137, 5)


def test_eight_threads_on_one_compose_give_what_one_gives() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    params = A.BboxParams("coco", label_fields=["names"])
    compose = A.Compose(
        [
            A.RandomResizedCrop(size=(32, 32)), A.OneOf([A.HorizontalFlip(), A.D4()]),
            A.SomeOf([A.RandomBrightnessContrast(), A.Transpose(), Draw(p=0.1)], n=2),
        ],
        bbox_params=params, seed=137,
    )  # fmt: skip

    def run(number: int) -> tuple[bytes, Any, Any]:
        boxes = [[number % 30, 5, 20, 20], [1, 1, 60, 60]]
        result = compose.at(number)(image=image, bboxes=boxes, names=[f"n{number}", "all"])
        return result["image"].tobytes(), result["bboxes"], result["names"]

    numbers = list(range(200)) * 2
    expected = [run(number) for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, numbers)) == expected


def test_threads_share_a_sequence_without_losing_or_repeating() -> None:
    compose = A.Compose([Draw(p=1)], seed=137)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: drawn(compose), range(400)))
    assert sorted(values) == sorted(sequence(137, 400))


# A stock DataLoader's workers


@pytest.mark.processes
@pytest.mark.parametrize("inside", [False, True])
@slow_start
def test_a_workers_seed_is_base_plus_torch_seed(method: str, inside: bool) -> None:
    items = epoch(Drawing(2**32 - 3, inside=inside), method)
    workers = by_worker(items)
    assert set(workers) == {0, 1}
    for seen in workers.values():
        assert len({item.torch_seed for item in seen}) == 1
        effective = (2**32 - 3 + seen[0].torch_seed) % 2**32
        assert {item.effective_seed for item in seen} == {effective}
        assert [item.drawn for item in seen] == sequence(effective, len(seen))
    assert len({item.drawn for item in items}) == len(items)


@pytest.mark.processes
@pytest.mark.slow
def test_all_ways_to_start_workers_give_one_result() -> None:
    results = [epoch(Drawing(137), method) for method in METHODS]
    assert all(result == results[0] for result in results)


@pytest.mark.processes
def test_a_used_compose_makes_no_difference_to_workers() -> None:
    dataset = Drawing(137)
    for _ in range(3):
        dataset[0]
    assert epoch(dataset) == epoch(Drawing(137))


@pytest.mark.processes
def test_respawned_workers_get_new_seeds_and_repeat_from_run_to_run() -> None:
    batches = loader(Drawing(137))
    first, second = passed(batches), passed(batches)
    assert not {item.drawn for item in first} & {item.drawn for item in second}
    for item in first + second:
        assert item.effective_seed == (137 + item.torch_seed) % 2**32
    again = loader(Drawing(137))
    assert [passed(again), passed(again)] == [first, second]


@pytest.mark.processes
def test_persistent_workers_go_on() -> None:
    batches = loader(Drawing(137), persistent_workers=True)
    first, second = passed(batches), passed(batches)
    assert first == epoch(Drawing(137))
    for worker, seen in by_worker(first + second).items():
        assert [item.drawn for item in seen] == sequence(seen[0].effective_seed, 8), worker


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("worker_seed", ["torch", "stable"])
def test_without_a_seed_workers_and_epochs_differ(persistent: bool, worker_seed: str) -> None:
    batches = loader(Drawing(None, worker_seed=worker_seed), persistent_workers=persistent)
    items = [item for _ in range(3) for item in passed(batches)]
    assert len({item.drawn for item in items}) == 24
    assert not {item.drawn for item in items} & {item.drawn for item in epoch(Drawing(None))}


def test_without_workers_the_base_seed_is_used() -> None:
    batches = loader(Drawing(137), num_workers=0)
    assert [item.drawn for item in passed(batches) + passed(batches)] == sequence(137, 16)


@pytest.mark.processes
def test_set_random_seed_reaches_the_workers_of_the_next_epoch() -> None:
    dataset = Drawing(1)
    dataset.compose.set_random_seed(137)
    assert epoch(dataset) == epoch(Drawing(137))


# worker_seed="stable"


@pytest.mark.processes
@slow_start
def test_stable_worker_seeds_need_no_seed_of_torch(method: str) -> None:
    runs = []
    for started in (method, "fork"):
        batches = loader(Drawing(137, worker_seed="stable"), started, torch_seed=None)
        runs.append([[(item.index, item.worker, item.drawn) for item in passed(batches)] for _ in range(2)])
    assert runs[0] == runs[1]
    assert len({value for run in runs[0] for _, _, value in run}) == 16


@pytest.mark.processes
def test_stable_worker_seeds_never_alias() -> None:
    values: list[float] = []
    for seed in (137, 138, 139):
        values += [item.drawn for item in epoch(Drawing(seed, worker_seed="stable"), num_workers=3)]
    assert len(set(values)) == 24


@pytest.mark.processes
def test_stable_worker_seeds_differ_between_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[float] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        values += [item.drawn for item in epoch(Drawing(137, worker_seed="stable"))]
    assert len(set(values)) == 16


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [False, True])
def test_stable_worker_seeds_follow_set_epoch(persistent: bool) -> None:
    def run(epochs: list[int]) -> list[list[float]]:
        dataset = Drawing(137, worker_seed="stable")
        batches = loader(dataset, persistent_workers=persistent, torch_seed=None)
        values = []
        for number in epochs:
            dataset.compose.set_epoch(number)
            values.append([item.drawn for item in passed(batches)])
        return values

    whole = run([0, 1, 2])
    assert run([2]) == whole[2:]
    assert run([1, 2]) == whole[1:]


def test_an_unknown_worker_seed_is_refused() -> None:
    with pytest.raises(RecipeError, match="worker_seed must be 'torch' or 'stable'"):
        A.Compose([], worker_seed="other")  # type: ignore[arg-type]  # that is the point


# Addresses in workers


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": 0},
        {"num_workers": 1, "batch_size": 5},
        {"num_workers": 3, "batch_size": 1},
        {"num_workers": 2, "shuffle": True},
        {"num_workers": 2, "persistent_workers": True, "torch_seed": 9},
        pytest.param({"num_workers": 2, "method": "spawn"}, marks=pytest.mark.slow),
    ],
)
def test_addressed_results_do_not_depend_on_workers(arguments: dict[str, Any]) -> None:
    expected = [Addressed()[index] for index in range(12)]
    assert sorted(epoch(Addressed(), **arguments)) == expected


def _child(compose: A.Compose, queue: Any) -> None:
    queue.put([drawn(compose) for _ in range(3)])


@pytest.mark.processes
@pytest.mark.parametrize("seed", [137, None])
def test_forked_processes_that_are_no_workers(seed: int | None) -> None:
    compose = A.Compose([Draw(p=1)], seed=seed)
    first = drawn(compose)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_child, args=(compose, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get() for _ in children]
    for child in children:
        child.join()
    if seed is None:
        values = [value for run in found for value in run] + [first]
        assert len(set(values)) == 7
    else:
        assert found == [sequence(137, 3)] * 2


# GOLDEN VALUES. They pin every user's augmentations. They may change only by a decision of the maintainers, as a SEED
# break that the change log names.


def test_golden_numbers() -> None:
    assert sequence(137, 3) == [0.8313926139935472, 0.45596146204573673, 0.23049127331944952]
    assert sequence(137, 1, name="colour") == [0.1962175737397367]
    assert drawn(A.Compose([Draw(p=1)], seed=137).at(3, "a")) == 0.9507932711381943
    assert drawn(A.Compose([Draw(p=1)], seed=137, name="colour").at(3, "a")) == 0.987192143438679
    compose = A.Compose([Draw(p=1)])
    compose.set_random_state(np.random.default_rng(100), random.Random(100))
    assert drawn(compose) == 0.8344770666336443


def test_golden_choices() -> None:
    compose = A.Compose(
        [
            A.RandomCrop(10, 10),
            A.OneOf([A.HorizontalFlip(), A.VerticalFlip(), A.Transpose()], p=0.8),
            A.RandomOrder([A.NoOp(p=1), A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], n=3),
            A.SomeOf([A.D4(), A.NoOp(p=0.5)], n=3, replace=True),
        ],
        seed=137,
        save_applied_params=True,
    )
    image = np.zeros((100, 200, 3), np.uint8)

    def run(applied: Any) -> tuple[list[int], str]:
        records = applied["applied_transforms"]
        turns = [entry["params"]["group_element"] for entry in records if entry["name"] == "D4"]
        slots = " ".join(entry["slot"] for entry in records)
        return records[0]["params"]["crop_coords"]["$tuple"], f"{slots}: {' '.join(turns)}"

    assert run(compose.at(0)(image=image)) == ([73, 0, 83, 10], "0 1.0 2.2 2.0 2.1 3.0 3.2: r180 r180")
    assert run(compose.at(1)(image=image)) == ([145, 31, 155, 41], "0 1.1 2.2 2.0 2.1 3.0 3.2 3.4: e r90 h")
    staged = compose.stage(2)({"image": image}, bytes(range(16)))
    assert run(staged) == ([4, 50, 14, 60], "0 2.0 2.1 2.2 3.0 3.2 3.4: v e hvt")


class _Continued(Dataset[float]):
    """A dataset whose Compose goes on from a state that each worker loads."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.compose = A.Compose([Draw(p=1)], seed=137)
        self.state: dict[str, Any] | None = state

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> float:
        if self.state is not None:
            self.compose.load_state_dict(self.state)
            self.state = None
        return drawn(self.compose)


@pytest.mark.processes
def test_a_state_loaded_in_a_worker_is_continued_from() -> None:
    torch.manual_seed(3)
    fresh = list(DataLoader(_Continued({**A.Compose([], seed=137).state_dict(), "calls": 0}), num_workers=1))
    torch.manual_seed(3)
    later = list(DataLoader(_Continued({**A.Compose([], seed=137).state_dict(), "calls": 1}), num_workers=1))
    assert fresh[1] == later[0]
