from __future__ import annotations

import heapq
import json
import re
import warnings
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st

from augstream.errors import RecipeError, StateError, TransformChangedWarning
from augstream.mixing import MixtureOrder, MixtureRecipe, MixtureUnit
from augstream.plan import UNENDING, Plan, Topology
from augstream.seeding import seed_key, subkey
from augstream.state import StreamState, check_mixture

weights = st.one_of(
    st.integers(1, 9), st.floats(0.01, 100), st.sampled_from([0.1, 1 / 3, 1e-9, 1e9, 2**70]), st.just(1)
)


@st.composite
def mixtures(draw: st.DrawFn, **fixed: Any) -> tuple[MixtureRecipe, dict[str, int]]:
    shares = draw(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), weights, min_size=1, max_size=4))
    unit = draw(st.integers(1, 3))
    values: dict[str, Any] = {
        "seed": draw(st.integers(0, 5)),
        "weights": shares,
        "by": draw(st.sampled_from(["samples", "epochs"])),
        "unit": unit,
        "batch_size": unit * draw(st.integers(1, 4)),
        "round_units": draw(st.integers(1, 20)),
        "epoch_units": draw(st.integers(1, 60)),
    }
    return MixtureRecipe(**(values | fixed)), {name: draw(st.integers(1, 15)) for name in shares}


def plain_mixture(
    recipe: MixtureRecipe, sizes: dict[str, int], epoch_units: int, count: int
) -> list[MixtureUnit]:
    """The first `count` units, as a queue deals them: who is due next, then shuffled round by round."""
    names = sorted(recipe.weights)
    share = {name: Fraction(recipe.weights[name]) for name in names}
    if recipe.by == "epochs":
        share = {name: share[name] * sizes[name] for name in names}
    queue = [(Fraction(1, 2) / share[name], name, 0) for name in names]
    heapq.heapify(queue)
    root = subkey(seed_key(recipe.seed), "mixture")
    result: list[MixtureUnit] = []
    had = Counter[str]()
    epoch = 0
    while len(result) < count:
        left, number = epoch_units, 0
        while left:
            size = min(recipe.round_units, left)
            due = []
            for _ in range(size):
                _, name, turn = heapq.heappop(queue)
                heapq.heappush(queue, (Fraction(2 * turn + 3, 2) / share[name], name, turn + 1))
                due.append(name)
            due.sort()
            for place in reference.permuted(subkey(root, epoch, number), size):
                name = due[place]
                result.append(MixtureUnit(name, had[name] // sizes[name], had[name] % sizes[name]))
                had[name] += 1
            left -= size
            number += 1
        epoch += 1
    return result[:count]


# GOLDEN VALUES. They pin every user's mixture. They may change only by a decision of the maintainers, as an ORDER
# break named in the change log; never to make a test pass.


def test_golden_mixture() -> None:
    recipe = MixtureRecipe(seed=137, batch_size=8, weights={"b": 1.5, "a": 3, "c": 0.5})
    order = MixtureOrder(recipe, {"a": 4, "b": 2, "c": 5})
    names = ["{}{}.{}".format(*unit) for unit in order.units(range(5, 16))]
    assert " ".join(names) == "a0.3 a1.0 a1.1 c0.0 a1.2 b1.0 a1.3 a2.0 b1.1 a2.1 b2.0"
    assert order.units_before(10**15) == {"a": 600000000000001, "b": 299999999999999, "c": 100000000000000}


@given(mixtures())
@example(
    (
        MixtureRecipe(seed=0, batch_size=1, weights={"a": 1, "b": 1, "c": 1}, epoch_units=7, round_units=2),
        {"a": 1, "b": 1, "c": 1},
    )
)
def test_the_mixture_is_that_of_the_queue(mixture: tuple[MixtureRecipe, dict[str, int]]) -> None:
    recipe, sizes = mixture
    order = MixtureOrder(recipe, sizes)
    expected = plain_mixture(recipe, sizes, order.epoch_units, 100)
    assert order.units(range(100)) == expected
    assert [order.unit(n) for n in range(99, -1, -1)] == expected[::-1], "at random access"


@given(mixtures(), st.integers(0, 10**18))
def test_counts_before_a_position_agree_with_the_units_there(
    mixture: tuple[MixtureRecipe, dict[str, int]], position: int
) -> None:
    recipe, sizes = mixture
    order = MixtureOrder(recipe, sizes)
    counts = order.units_before(position)
    assert sum(counts.values()) == position
    for unit in order.units(range(position, position + 30)):
        count = counts[unit.source]
        assert (unit.epoch, unit.unit) == divmod(count, sizes[unit.source])
        counts[unit.source] += 1


@given(mixtures(), st.integers(0, 10**6))
def test_shares_are_even_after_every_round(mixture: tuple[MixtureRecipe, dict[str, int]], epoch: int) -> None:
    recipe, sizes = mixture
    order = MixtureOrder(recipe, sizes)
    share = {name: Fraction(weight) for name, weight in recipe.weights.items()}
    if recipe.by == "epochs":
        share = {name: weight * sizes[name] for name, weight in share.items()}
    for position in range(epoch * order.epoch_units, (epoch + 1) * order.epoch_units, recipe.round_units):
        for name, count in order.units_before(position).items():
            due = position * share[name] / sum(share.values())
            assert abs(count - due) <= max(1, Fraction(len(share), 2))


@given(
    st.dictionaries(st.text("ab", min_size=1), st.tuples(st.integers(1, 3), st.integers(1, 20)), min_size=1)
)
def test_by_epochs_an_epoch_sees_every_sample_as_often_as_its_weight(
    shape: dict[str, tuple[int, int]],
) -> None:
    recipe = MixtureRecipe(
        seed=1,
        batch_size=1,
        weights={name: times for name, (times, _) in shape.items()},
        by="epochs",
        round_units=7,
    )
    order = MixtureOrder(recipe, {name: size for name, (_, size) in shape.items()})
    for epoch in (0, 3):
        start = epoch * order.epoch_units
        seen = Counter(
            (unit.source, unit.unit) for unit in order.units(range(start, start + order.epoch_units))
        )
        assert seen == {(name, unit): times for name, (times, size) in shape.items() for unit in range(size)}


def test_by_samples_an_epoch_is_as_long_as_all_sources() -> None:
    recipe = MixtureRecipe(seed=1, batch_size=4, weights={"a": 9, "b": 1})
    assert MixtureOrder(recipe, {"a": 30, "b": 20}).epoch_units == 50


def test_sources_have_no_rhythm() -> None:
    """Two sources of equal weight on two ranks: dealt evenly and unshuffled, each rank would see one source only."""
    order = MixtureOrder(
        MixtureRecipe(seed=1, batch_size=1, weights={"a": 1, "b": 1}), {"a": 10**6, "b": 10**6}
    )
    even_places = Counter(unit.source for unit in order.units(range(0, 4096, 2)))
    assert 900 < even_places["a"] < 1148


def test_the_order_of_the_weights_does_not_matter() -> None:
    orders = [
        MixtureOrder(MixtureRecipe(seed=1, batch_size=1, weights=given), {"a": 5, "b": 7})
        for given in ({"a": 1, "b": 1}, {"b": 1, "a": 1})
    ]
    assert orders[0].units(range(50)) == orders[1].units(range(50))


# Ranks, states, no end.


@given(
    mixtures(tail="drop"),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9), st.integers(1, 4)), max_size=5),
)
def test_an_unending_mixture_goes_on_in_any_world(
    mixture: tuple[MixtureRecipe, dict[str, int]], lives: list[tuple[int, int, int]]
) -> None:
    recipe, sizes = mixture
    delivered: list[MixtureUnit] = []
    saved = StreamState(epoch=0, units=0, recipe=recipe.to_dict(), index="sources").to_json()
    for world_size, num_steps, units_per_batch in lives:
        state = StreamState.from_json(saved)
        unit = recipe.unit or 0
        now = MixtureRecipe(**(recipe.to_dict() | {"batch_size": unit * units_per_batch}))
        order = MixtureOrder(now, sizes)
        check_mixture(state, order, index="sources")
        plans = [
            Plan(UNENDING, unit, now.batch_size, topology=Topology(rank, world_size), start_unit=state.units)
            for rank in range(world_size)
        ]
        for step in range(num_steps):
            for plan in plans:
                delivered += order.units(plan.units_of_step(step))
        after = {plan.units_delivered_after(num_steps) for plan in plans}
        (units,) = after
        saved = StreamState(epoch=0, units=units, recipe=now.to_dict(), index="sources").to_json()
        assert len(saved) < 1000
    assert delivered == plain_mixture(recipe, sizes, MixtureOrder(recipe, sizes).epoch_units, len(delivered))


def test_a_stream_without_end_has_steps_for_ages() -> None:
    plan = Plan(UNENDING, 1, 64, topology=Topology(3, 1024, 8))
    assert plan.num_steps > 10**13
    assert plan.units_of_step(10**12).start == 64 * (1024 * 10**12 + 3)
    assert next(iter(plan.steps_of_worker(7))) == 7


@given(mixtures())
def test_a_recipe_comes_back_from_json(mixture: tuple[MixtureRecipe, dict[str, int]]) -> None:
    recipe, _ = mixture
    assert MixtureRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_state_of_another_mixture_is_refused_value_against_value() -> None:
    recipe = MixtureRecipe(seed=1, batch_size=4, weights={"a": 1, "b": 2})
    state = StreamState(epoch=0, units=10**9, recipe=recipe.to_dict(), index="a:1 b:2", transform="t")
    check_mixture(state, MixtureOrder(recipe, {"a": 5, "b": 5}), index="a:1 b:2")
    other = MixtureRecipe(seed=1, batch_size=4, weights={"a": 1, "b": 3})
    with pytest.raises(StateError, match=re.escape("weights: saved {'a': 1, 'b': 2}, now {'a': 1, 'b': 3}")):
        check_mixture(state, MixtureOrder(other, {"a": 5, "b": 5}), index="a:1 b:2")
    with pytest.raises(StateError, match="index: saved 'a:1 b:2', now 'a:1 b:9'"):
        check_mixture(state, MixtureOrder(recipe, {"a": 5, "b": 5}), index="a:1 b:9")
    broken = StreamState(epoch=0, units=0, recipe={"seed": 1}, index="")
    with pytest.raises(StateError, match="its recipe"):
        check_mixture(broken, MixtureOrder(recipe, {"a": 5, "b": 5}), index="")
    with pytest.warns(TransformChangedWarning) as caught:
        check_mixture(state, MixtureOrder(recipe, {"a": 5, "b": 5}), index="a:1 b:2", transform="u")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_mixture(state, MixtureOrder(recipe, {"a": 5, "b": 5}), index="a:1 b:2", transform="t")


# Refusals.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {}}, "weights must name each source"),
        ({"weights": [1, 2]}, "weights must name each source"),
        ({"weights": {"a": 0}}, "positive numbers by name, got 'a': 0"),
        ({"weights": {"a": -1}}, "got 'a': -1"),
        ({"weights": {"a": float("inf")}}, "got 'a': inf"),
        ({"weights": {"a": float("nan")}}, "got 'a': nan"),
        ({"weights": {"a": True}}, "got 'a': True"),
        ({"weights": {1: 1}}, "got 1: 1"),
        ({"by": "units"}, "by must be one of 'samples', 'epochs', got 'units'"),
        ({"round_units": 0}, "round_units .* got 0"),
        ({"epoch_units": 0}, "epoch_units .* got 0"),
        ({"unit": 3}, "unit must divide batch_size"),
        ({"batch_size": 0}, "batch_size .* got 0"),
        ({"tail": "wrap"}, "tail"),
    ],
)
def test_a_mixture_that_no_run_could_honour_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MixtureRecipe(**({"seed": 1, "batch_size": 8, "weights": {"a": 1}} | values))


def test_weights_and_datasets_must_match() -> None:
    recipe = MixtureRecipe(seed=1, batch_size=8, weights={"a": 1, "b": 1})
    with pytest.raises(RecipeError, match=r"weights are for \['a', 'b'\], datasets are \['a', 'c'\]"):
        MixtureOrder(recipe, {"a": 1, "c": 1})
    with pytest.raises(RecipeError, match=r"units of 'b' .* got 0"):
        MixtureOrder(recipe, {"a": 1, "b": 0})
    for position in (-1, 1.0):
        with pytest.raises(RecipeError, match="position"):
            MixtureOrder(recipe, {"a": 1, "b": 1}).units_before(position)
    with pytest.raises(RecipeError, match=r"position .* got -1"):
        MixtureOrder(recipe, {"a": 1, "b": 1}).unit(-1)
