from __future__ import annotations

import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import file_texts, indexes, recipes

from augstream.errors import StateError, TransformChangedWarning
from augstream.index import ShardIndex
from augstream.order import Recipe
from augstream.state import VERSION, StreamState, check

INDEX = ShardIndex.synthetic(5, 100)
RECIPE = Recipe(seed=137, batch_size=64, unit=16)


def state_of(recipe: Recipe = RECIPE, index: ShardIndex = INDEX, **changes: Any) -> StreamState:
    values: dict[str, Any] = {"epoch": 3, "units": 8, "recipe": recipe.to_dict(), "index": index.fingerprint}
    return StreamState(**(values | changes))


states = st.builds(
    StreamState,
    epoch=st.integers(0, 2**40),
    units=st.integers(0, 2**40),
    recipe=recipes().map(Recipe.to_dict),
    index=indexes().map(lambda index: index.fingerprint),
    transform=st.none() | st.text(alphabet="0123456789abcdef", min_size=32, max_size=32),
    skipped=st.lists(st.tuples(file_texts(), file_texts()), max_size=3).map(tuple),
)


# GOLDEN VALUE. Checkpoints out there look like this. It may change only by a decision of the maintainers,
# together with state.VERSION, as a STATE break named in the change log; never to make a test pass.


def test_golden_state() -> None:
    assert state_of(transform="ab" * 16, skipped=(("a.tar", "k"),)).to_json() == (
        '{"version":1,"epoch":3,"units":8,"recipe":{"seed":137,"batch_size":64,"unit":16,"lanes":8,'
        '"shuffle":true,"window":8192,"drop_last":false,"tail":"drop"},'
        '"index":"' + INDEX.fingerprint + '","transform":"abababababababababababababababab",'
        '"skipped":[["a.tar","k"]]}'
    )


@given(states)
def test_a_state_comes_back_from_json_and_from_its_dict(state: StreamState) -> None:
    assert StreamState.from_json(state.to_json()) == state
    assert StreamState.from_json(state.to_json().encode()) == state
    assert StreamState.from_dict(state.to_dict()) == state
    assert StreamState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_the_largest_state_without_skips_is_under_a_kilobyte() -> None:
    largest = Recipe(seed=2**64 - 1, batch_size=2**40, unit=2**40, lanes=2**40, window=2**40, drop_last=False)
    state = state_of(largest, epoch=2**63, units=2**63, transform="f" * 32)
    assert len(state.to_json().encode()) < 1000


def test_a_state_owns_its_recipe() -> None:
    state = state_of()
    state.to_dict()["recipe"]["seed"] = 1
    assert state == state_of()


# Broken states.


@given(states, st.data())
def test_a_state_cut_anywhere_is_refused(state: StreamState, data: st.DataObject) -> None:
    text = state.to_json()
    with pytest.raises(StateError, match="broken"):
        StreamState.from_json(text[: data.draw(st.integers(0, len(text) - 1))])


@settings(max_examples=50)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists) | st.binary()
)
def test_anything_else_is_refused(junk: object) -> None:
    with pytest.raises(StateError):
        StreamState.from_dict(junk)
    with pytest.raises(StateError):
        StreamState.from_json(junk if isinstance(junk, bytes) else json.dumps(junk))


def test_deeply_nested_junk_is_refused() -> None:
    with pytest.raises(StateError, match="broken"):
        StreamState.from_json("[" * 200_000)


@pytest.mark.parametrize("version", [VERSION + 1, 0, None, "1", True, 1.0])
def test_a_state_of_another_version_is_refused_before_its_fields(version: object) -> None:
    message = re.escape(f"version {version!r}, and this augstream continues version {VERSION}")
    with pytest.raises(StateError, match=message):
        StreamState.from_dict({"version": version, "fields": "of the future"})
    with pytest.raises(StateError, match=message):
        state_of(version=version)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": -1}, "epoch .* got -1"),
        ({"epoch": 1.0}, r"epoch .* got 1\.0"),
        ({"units": "8"}, "units .* got '8'"),
        ({"units": True}, "units .* got True"),
        ({"recipe": []}, "recipe must be a dict, got \\[\\]"),
        ({"index": None}, "fingerprints .*None"),
        ({"transform": 0}, "fingerprints .*0"),
        ({"skipped": None}, "skipped .* None"),
        ({"skipped": [["a.tar"]]}, r"\[shard, key\], got \['a.tar'\]"),
        ({"skipped": [["a.tar", 1]]}, r"\[shard, key\], got \['a.tar', 1\]"),
        ({"skipped": ["ab"]}, r"\[shard, key\], got 'ab'"),
        ({"extra": 1}, r"missing \[\], unknown \['extra'\]"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        StreamState.from_dict(state_of().to_dict() | changes)


@pytest.mark.parametrize("name", ["epoch", "units", "recipe", "index", "transform", "skipped"])
def test_a_missing_field_is_named(name: str) -> None:
    data = state_of().to_dict()
    del data[name]
    with pytest.raises(StateError, match=f"missing \\['{name}'\\]"):
        StreamState.from_dict(data)


# What may be continued.


@given(recipes(), indexes(), st.data())
def test_a_state_continues_under_its_own_recipe_and_index(
    recipe: Recipe, index: ShardIndex, data: st.DataObject
) -> None:
    units = data.draw(st.integers(0, recipe.num_units(index.total)))
    check(StreamState.from_json(state_of(recipe, index, units=units).to_json()), recipe, index)


def test_the_batch_size_may_change_where_the_unit_stays() -> None:
    check(state_of(), Recipe(seed=137, batch_size=32, unit=16), INDEX)
    check(state_of(), Recipe(seed=137, batch_size=16, unit=16), INDEX)


def test_the_batch_size_may_not_change_with_the_unit() -> None:
    with pytest.raises(StateError) as caught:
        check(state_of(Recipe(seed=137, batch_size=64)), Recipe(seed=137, batch_size=32), INDEX)
    message = str(caught.value)
    assert "batch_size: saved 64, now 32; unit: saved 64, now 32" in message
    assert "pass the saved unit" in message
    assert "set_epoch" not in message, "one mend is enough"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", 138, "seed: saved 137, now 138"),
        ("unit", 8, "unit: saved 16, now 8"),
        ("lanes", 16, "lanes: saved 8, now 16"),
        ("shuffle", False, "shuffle: saved True, now False"),
        ("window", 100, "window: saved 8192, now 100"),
        ("drop_last", True, "drop_last: saved False, now True"),
        ("tail", "pad", "tail: saved 'drop', now 'pad'"),
    ],
)
def test_another_recipe_is_refused_value_against_value(name: str, value: Any, said: str) -> None:
    now = Recipe.from_dict(RECIPE.to_dict() | {name: value})
    with pytest.raises(StateError) as caught:
        check(state_of(), now, INDEX)
    assert f"another run: {said}. To mend it: " in str(caught.value)


def test_every_difference_is_named_at_once() -> None:
    other = ShardIndex.synthetic(6, 100)
    with pytest.raises(StateError) as caught:
        check(state_of(), Recipe(seed=1, batch_size=9, lanes=4), other)
    message = str(caught.value)
    for name in ("seed", "batch_size", "unit", "lanes", "index"):
        assert f"{name}: saved" in message
    assert f"saved '{INDEX.fingerprint}', now '{other.fingerprint}' (shards: 6, samples: 600)" in message
    assert "pass the shards that the state was saved with" in message


def test_units_beyond_the_epoch_are_refused() -> None:
    last = RECIPE.num_units(INDEX.total)
    check(state_of(units=last), RECIPE, INDEX)
    with pytest.raises(StateError, match=f"units must be from 0 to the {last} of an epoch, got {last + 1}"):
        check(state_of(units=last + 1), RECIPE, INDEX)


@pytest.mark.parametrize("change", [{"lanes": 0}, {"unit": 3}, {"future": 1}])
def test_a_saved_recipe_that_is_none_is_refused(change: dict[str, Any]) -> None:
    data = state_of().to_dict()
    data["recipe"] |= change
    with pytest.raises(StateError, match="the saved state is broken: its recipe: "):
        check(StreamState.from_dict(data), RECIPE, INDEX)


def test_changed_transforms_warn_where_the_caller_stands() -> None:
    with pytest.warns(TransformChangedWarning, match="saved 'a', now 'b'") as caught:
        check(state_of(transform="a"), RECIPE, INDEX, transform="b")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(state_of(transform="a"), RECIPE, INDEX, transform="a")
        check(state_of(transform=None), RECIPE, INDEX, transform="b")
        check(state_of(transform="a"), RECIPE, INDEX)
