from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from augstream.collate import Rows, collate, odd_ones
from augstream.errors import SampleError


def sample(number, **fields):
    return {"__key__": f"k{number}", "__shard__": "s.tar", **fields}


def collated(field, values):
    return collate([sample(i, **{field: value}) for i, value in enumerate(values)])[field]


@pytest.mark.parametrize(
    "values",
    [
        [np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)],
        [np.float32(1), np.float32(2)],
        [1, -2],
        [1.5, 2.0],
        [True, False],
        [torch.ones(2), torch.zeros(2)],
        ["a", "b"],
        [{"a": np.ones(2), "b": 1}, {"a": np.zeros(2), "b": 2}],
    ],
)
def test_it_does_what_torch_does(values):
    """The oracle is torch's default_collate, where both have a say."""
    mine, theirs = collated("x", values), default_collate(values)
    if isinstance(theirs, dict):
        mine, theirs = list(mine.values()), list(theirs.values())
    else:
        mine, theirs = [mine], [theirs]
    for one, other in zip(mine, theirs, strict=True):
        if isinstance(other, torch.Tensor):
            assert torch.from_numpy(one).dtype == other.dtype
            assert torch.equal(torch.from_numpy(one), other)
        else:
            assert one == other


@pytest.mark.parametrize(
    "values",
    [
        [b"a", b"bc"],
        [[1, 2], [3, 4]],
        [[1], []],
        [{"a": 1}, {"b": 2}],
        [{"a": 1}, {"a": 2}],
        [None, 1],
        [1, "one"],
        [2**70, 1],
    ],
)
def test_what_would_depend_on_the_data_stays_a_list(values):
    assert collated("x", values) == values


@pytest.mark.parametrize("field", ["bboxes", "keypoints"])
@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (0, 1)])
def test_boxes_and_keypoints_stay_lists_whether_or_not_they_would_stack(field, sizes):
    values = [np.ones((size, 4)) for size in sizes]
    assert all(one is other for one, other in zip(collated(field, values), values, strict=True))


def test_key_shard_and_address_are_kept_and_other_marks_are_not():
    batch = collate(
        [sample(1, x=1, __url__="u", __address__="a"), sample(2, x=2, __url__="v", __address__="b")]
    )
    assert list(batch) == ["x", "__key__", "__shard__", "__address__"]
    assert batch["__key__"] == ["k1", "k2"]
    assert batch["__address__"] == ["a", "b"]


def test_pictures_of_unequal_size_are_named_with_a_mend():
    images = [np.zeros((4, 5, 3), np.uint8)] * 3 + [np.zeros((5, 4, 3), np.uint8)] + [np.zeros((4, 5, 3))]
    with pytest.raises(SampleError) as caught:
        collated("image", images)
    text = str(caught.value)
    assert "(4, 5, 3) uint8 in 'k0', 'k1', 'k2'" in text
    assert "(5, 4, 3) uint8 in 'k3'" in text
    assert "(4, 5, 3) float64 in 'k4'" in text
    assert "A.RandomResizedCrop(size=(224, 224))" in text
    assert (caught.value.key, caught.value.shard) == ("k3", "s.tar")


@pytest.mark.parametrize("odd", [None, 3, torch.zeros(3), "text", [1], {}])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_array_among_other_things_is_named_wherever_it_is(odd, place):
    for usual in (np.zeros(2), {"a": np.zeros(2)}):
        values = [usual, usual, usual]
        values[place] = odd
        with pytest.raises(SampleError, match=f"'k{place}'|fields in 'x'"):
            collated("x", values)


@pytest.mark.parametrize("field", ["image", "embedding", "keypoints"])
def test_tensors_that_are_no_arrays_are_named(field):
    odd = torch.zeros(2, dtype=torch.bfloat16)
    with pytest.raises(
        SampleError, match=rf"field '{field}' of sample 'k1' of 's\.tar' is a torch\.bfloat16 tensor"
    ):
        collated(field, [torch.zeros(2), odd])
    assert collated("x", [torch.zeros(2, requires_grad=True)]).tolist() == [[0, 0]]


def test_a_missing_field_is_named():
    with pytest.raises(
        SampleError, match=r"with 'k0' of 's.tar', 'k1' of 's.tar' lacks 'cls' and has 'txt' besides"
    ) as caught:
        collate([sample(0, cls=1, x=1), sample(1, txt="a", x=1)])
    assert caught.value.key == "k1"
    with pytest.raises(SampleError, match="different fields in 'about'"):
        collated("about", [{"a": np.ones(1)}, {"a": np.ones(1), "b": 1}])


def test_memory_is_asked_for_where_arrays_are_stacked():
    asked = []

    def empty(shape, dtype):
        asked.append((shape, np.dtype(dtype)))
        return np.empty(shape, dtype)

    collate([sample(0, x=np.ones(3), y=1), sample(1, x=np.ones(3), y=2)], empty=empty)
    assert asked == [((2, 3), np.dtype("f8"))]


class TestRows:
    IMAGE = np.arange(6, dtype=np.uint8).reshape(2, 3)

    def test_what_is_written_in_place_is_the_stack(self):
        rows = Rows(np.empty, 3, ((2, 3), np.dtype(np.uint8)))
        for number in range(3):
            out = rows.out()
            out[:] = self.IMAGE + number
            assert rows.put(out) is out
        stack = rows.stack(3)
        assert stack.tolist() == [(self.IMAGE + number).tolist() for number in range(3)]
        assert stack.base is not None

    def test_the_first_array_tells_the_shape_if_the_guess_is_wrong_or_missing(self):
        for guess in (None, ((5,), np.dtype(np.uint8)), ((2, 3), np.dtype(np.float32))):
            rows = Rows(np.empty, 2, guess)
            assert (rows.out() is None) == (guess is None)
            rows.put(self.IMAGE)
            rows.put(self.IMAGE)
            assert rows.stack(2).tolist() == [self.IMAGE.tolist()] * 2
            assert rows.guess == ((2, 3), np.dtype(np.uint8))

    def test_a_failed_sample_leaves_no_gap(self):
        rows = Rows(np.empty, 3, None)
        rows.put(self.IMAGE)
        rows.out()[:] = 99  # half written, then it failed
        rows.put(self.IMAGE + 1)
        assert rows.stack(2).tolist() == [self.IMAGE.tolist(), (self.IMAGE + 1).tolist()]

    def test_no_stack_where_one_does_not_fit_or_is_missing(self):
        rows = Rows(np.empty, 3, None)
        rows.put(self.IMAGE)
        assert rows.stack(2) is None
        other = np.zeros((9, 9), np.uint8)
        assert rows.put(other) is other
        assert rows.stack(1) is None
        assert Rows(np.empty, 3, None).stack(0) is None


def test_odd_ones_are_those_unlike_most():
    usual, other = np.zeros((2, 2)), np.zeros((3, 3))
    images = [other, usual, usual, other, usual]
    assert odd_ones([sample(i, image=image) for i, image in enumerate(images)]) == [0, 3]
    assert odd_ones([sample(0, image=usual), sample(1, image=other)]) == [1]
    assert odd_ones([sample(0, image=usual), sample(1, image=usual, extra=1), sample(2, image=usual)]) == [1]
    assert odd_ones([]) == []
