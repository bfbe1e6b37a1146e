from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from augstream.workers.slots import LocalSlots, TrainerSlots, WorkerSlots, anonymous_file, mapped


class Pair:
    """Both sides of a worker's slots, in one process; what would cross a socket crosses here."""

    def __init__(self, max_lent=3):
        self.worker, self.trainer = WorkerSlots(), TrainerSlots(max_lent)
        self.num_mapped = 0

    def pass_over(self, value, arena=None):
        sealed = self.worker.seal(value, self.worker.begin() if arena is None else arena)
        if sealed.descriptor is not None:
            self.num_mapped += 1
            self.trainer.map(sealed.slot, os.dup(sealed.descriptor))
        self.worker.sent(sealed)
        return sealed

    def give_back(self):
        slots = self.trainer.returned()
        self.worker.release(slots)
        return slots


def test_what_is_made_in_a_slot_is_handed_out_in_place():
    pair = Pair()
    arena = pair.worker.begin()
    rows = arena.empty((4, 3, 5), np.float32)
    rows[:] = np.arange(60).reshape(4, 3, 5)
    got = pair.trainer.open(pair.pass_over({"image": rows[:3], "key": ["a", "b"]}, arena))
    assert got["key"] == ["a", "b"]
    assert got["image"].tolist() == rows[:3].tolist()
    rows[0] = 7  # the worker would not; it shows that the memory is one
    assert (got["image"][0] == 7).all()
    assert got["image"].flags.writeable
    assert got["image"].ctypes.data % 64 == 0


def test_a_slot_comes_back_when_the_last_array_has_died_and_is_used_again_without_new_memory():
    pair = Pair()
    for _ in range(5):
        arena = pair.worker.begin()
        image = arena.empty((100, 100), np.uint8)
        got = pair.trainer.open(pair.pass_over({"image": image, "cls": np.arange(3)}, arena))
        part = torch.from_numpy(got["image"])[5:7]
        labels = got["cls"]
        del got, image
        assert pair.give_back() == ()
        del part
        assert pair.give_back() == ()
        del labels
        assert pair.give_back() == (0,)
    assert pair.num_mapped == 1


def test_lent_slots_are_left_alone_and_beyond_the_limit_copies_are_lent():
    pair = Pair(max_lent=2)
    kept = []
    for number in range(6):
        arena = pair.worker.begin()
        image = arena.empty((50,), np.int64)
        image[:] = number
        kept.append(pair.trainer.open(pair.pass_over(image, arena)))
        pair.give_back()
    assert [set(array.tolist()) for array in kept] == [{number} for number in range(6)]
    assert pair.num_mapped == 3


def test_a_batch_that_outgrows_its_slot_moves_and_the_next_ones_fit():
    pair = Pair()
    for size in (10, 10_000, 300_000, 300_000, 300_000):
        arena = pair.worker.begin()
        first = arena.empty((size,), np.uint8)
        second = arena.empty((size,), np.int64)
        first[:], second[:] = 3, np.arange(size)
        got = pair.trainer.open(pair.pass_over([first, second, np.full(size, 2.0)], arena))
        assert (got[0] == 3).all()
        assert (got[1] == np.arange(size)).all()
        assert (got[2] == 2).all()
        del got, first, second
        pair.give_back()
    assert pair.num_mapped <= 4


VALUES = st.recursive(
    st.one_of(
        st.integers(), st.floats(allow_nan=False), st.text(), st.binary(max_size=300), st.none(),
        st.tuples(st.sampled_from(["u1", "i8", "f4", "?"]), st.lists(st.integers(0, 4), max_size=3)).map(
            lambda form: np.ones(form[1], form[0])
        ),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)  # fmt: skip


@given(st.lists(VALUES, min_size=1, max_size=6), st.booleans())
def test_any_value_crosses_whole(values, keep):
    pair, kept = Pair(max_lent=2), []
    for value in values:
        got = pair.trainer.open(pair.pass_over(value))
        kept.append((got, value))
        if not keep:
            kept.clear()
        pair.give_back()
    for got, value in kept:
        np.testing.assert_equal(got, value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 3),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, requires_grad=True),
        torch.ones(2, 2).to_sparse(),
        torch.tensor([1 + 2j]).conj(),
    ],
)
def test_tensors_cross_whatever_they_are(tensor):
    pair = Pair()
    got = pair.trainer.open(pair.pass_over({"x": tensor}))["x"]
    assert got.dtype == tensor.dtype
    assert torch.equal(got.to_dense(), tensor.to_dense())


def test_a_slot_that_was_given_up_or_discarded_is_used_again():
    pair = Pair()
    pair.worker.begin().empty((10,), np.uint8)
    pair.worker.give_up()
    pair.trainer.discard(pair.pass_over("nobody wants it"))
    assert pair.give_back() == (0,)
    assert pair.pass_over("but this").slot == 0


def test_arrays_may_die_in_any_thread_at_any_moment():
    pair = Pair(max_lent=100)
    arrays = [pair.trainer.open(pair.pass_over(np.arange(50))) for _ in range(60)]
    threads = [threading.Thread(target=arrays.pop) for _ in range(60)]
    for thread in threads:
        thread.start()
    returned = []
    for thread in threads:
        thread.join()
        returned += pair.give_back()
    assert sorted([*returned, *pair.give_back()]) == list(range(60))


class TestLocal:
    def batch(self, slots, fill):
        arena = slots.begin()
        rows = arena.empty((64, 1000), np.uint8)
        labels = arena.empty((64,), np.int64)
        slots.finish(arena)
        rows[:], labels[:] = fill, fill
        return rows, labels

    def test_memory_is_used_again_once_all_its_arrays_are_gone(self):
        slots = LocalSlots()
        rows, labels = self.batch(slots, 1)
        place = rows.ctypes.data
        row = rows[3]
        del rows, labels
        rows, _ = self.batch(slots, 2)
        assert (row == 1).all()
        assert rows.ctypes.data != place
        del row
        again, _ = self.batch(slots, 3)
        assert again.ctypes.data == place
        assert (rows == 2).all()

    def test_a_larger_batch_gets_a_larger_block_next_time(self):
        slots = LocalSlots()
        for _ in range(3):
            arena = slots.begin()
            first = arena.empty((10,), np.uint8)
            second = arena.empty((200_000,), np.uint8)
            slots.finish(arena)
            inside = arena.offset_of(second) is not None
            del arena, first, second
        assert inside


def test_anonymous_memory_has_no_name_and_is_shared():
    descriptor = anonymous_file(4096)
    one, other = mapped(descriptor), mapped(descriptor, close=True)
    one[5] = 9
    assert other[5] == 9
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
