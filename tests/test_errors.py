from __future__ import annotations

import inspect
import pickle

import pytest

from augstream import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.AugstreamError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_crosses_a_process_wall_whole(kind: type[errors.AugstreamError]) -> None:
    error = kind("what was wrong", 7)
    error.add_note("replay it with …")
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(twin) is kind
    assert twin.args == error.args
    assert str(twin) == str(error)
    assert twin.__notes__ == error.__notes__


def test_a_sample_error_keeps_its_fields() -> None:
    error = errors.SampleError("no image", shard="a.tar", key="k", epoch=3, address="seed=1;epoch=3")
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (twin.shard, twin.key, twin.epoch, twin.address) == ("a.tar", "k", 3, "seed=1;epoch=3")
    assert str(twin) == "no image"
    assert errors.SampleError("no image").shard is None


def test_bad_arguments_are_value_errors_too() -> None:
    assert {kind for kind in CLASSES if issubclass(kind, ValueError)} == {
        errors.RecipeError,
        errors.TopologyError,
    }
    assert issubclass(errors.TransformChangedWarning, UserWarning)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = inspect.getdoc(errors) or ""
    for kind in [*CLASSES, errors.TransformChangedWarning]:
        assert kind.__name__ in drawn
