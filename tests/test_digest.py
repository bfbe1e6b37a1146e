from __future__ import annotations

import numpy as np
import pytest
import torch

from augstream.digest import digest
from augstream.errors import RecipeError

BATCH = {
    "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "cls": np.array([1, 2]),
    "__key__": ["a", "b"],
    "json": [{"boxes": [[0, 0.5]], "name": None}, {"boxes": []}],
    "raw": [b"\x00", b""],
    "flag": True,
}


def test_the_digest_is_what_it_was():
    """Golden: ledgers hold digests. Only a change of the digest's own definition may change it, named STATE."""
    assert digest(BATCH) == "c317218f120671cb3f43dbc28dc10583054e371d5b1a2dc4919ba47c46bee336"


def test_tensors_are_the_arrays_they_equal():
    tensors = {**BATCH, "image": torch.from_numpy(BATCH["image"]), "cls": torch.from_numpy(BATCH["cls"])}
    assert digest(tensors) == digest(BATCH)
    assert digest(torch.ones(2).expand(3, 2)) == digest(np.ones((3, 2), np.float32))
    assert digest(torch.ones(2, dtype=torch.bfloat16)) != digest(torch.ones(2, dtype=torch.float16))


def test_strides_byte_order_and_the_order_of_names_do_not_count():
    image = BATCH["image"]
    assert digest(image[:, ::-1][:, ::-1]) == digest(image)
    assert digest(np.asfortranarray(image)) == digest(image)
    assert digest(np.array([1, 2], ">i8")) == digest(np.array([1, 2], "<i8"))
    assert digest(dict(reversed(BATCH.items()))) == digest(BATCH)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(4), np.zeros(4, np.float32)),
        (np.zeros((2, 2)), np.zeros(4)),
        (np.zeros((0, 2)), np.zeros((0, 3))),
        (np.array([0.0]), np.array([-0.0])),
        ([1, 2], [12]),
        (["a", "b"], ["ab"]),
        (["ab"], [b"ab"]),
        (1, True),
        (1, 1.0),
        (1, "1"),
        (None, "None"),
        ([[1], []], [[], [1]]),
        ({"a": [1]}, {"a": 1}),
        ({1: "a"}, {"1": "a"}),
        (np.int64(1), 1),
    ],
)
def test_what_differs_has_another_digest(one, other):
    assert digest(one) != digest(other)


def test_tuples_are_lists_and_scalars_are_arrays():
    assert digest((1, 2)) == digest([1, 2])
    assert digest(np.float32(2)) == digest(np.array(2, np.float32))
    assert digest(torch.tensor(2)) == digest(np.array(2))


def test_digests_chain():
    assert digest(1, digest(2)) != digest(1, digest(3)) != digest(1)


def test_what_has_no_bytes_is_refused():
    with pytest.raises(RecipeError, match="a value of type set has no digest"):
        digest({"a": {1, 2}})
