from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from augstream.epochs import MAX_EPOCH, EpochBoard
from augstream.errors import RecipeError, TopologyError

# torch warns of more workers than cores; the tests want them
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Epochs(IterableDataset):
    """Yields the epoch that the board gives this process, twice."""

    def __init__(self) -> None:
        self.board = EpochBoard()
        self.board.share()

    def __iter__(self):
        epoch, units = self.board.begin_pass(get_worker_info())
        yield from [(epoch, units)] * 2


def passed(loader):
    """The one (epoch, units) that all workers of a pass agree on."""
    seen = {tuple(int(number) for number in item) for item in loader}
    assert len(seen) == 1, f"workers disagree: {seen}"
    return seen.pop()


def loader_of(dataset, num_workers, *, persistent=False, method="fork", **more):
    context = method if num_workers else None
    return DataLoader(
        dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=context,
        persistent_workers=persistent and num_workers > 0, **more,
    )  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    ("num_workers", "method"), [(0, "fork"), (1, "fork"), (3, "fork"), (2, "spawn"), (2, "forkserver")]
)
def test_every_pass_is_the_next_epoch_and_set_epoch_reaches_live_and_new_workers(
    num_workers, method, persistent
):
    dataset = Epochs()
    loader = loader_of(dataset, num_workers, persistent=persistent, method=method)
    few = method != "fork" and not persistent  # each pass imports torch in each worker
    assert few or [passed(loader) for _ in range(2)] == [(0, 0), (1, 0)]
    dataset.board.set_epoch(1, units=5)
    assert [passed(loader) for _ in range(2)] == [(1, 5), (2, 0)]


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [False, True])
def test_equal_torch_seeds_do_not_make_two_passes_one(persistent):
    dataset = Epochs()
    loader = loader_of(dataset, 2, persistent=persistent)
    seen = []
    for _ in range(4):
        torch.manual_seed(0)
        seen.append(passed(loader)[0])
    assert seen == [0, 1, 2, 3]


@pytest.mark.processes
def test_a_new_loader_each_epoch_of_any_size_with_a_freshly_seeded_generator_goes_on_counting():
    dataset = Epochs()
    seen = [
        passed(loader_of(dataset, num_workers, generator=torch.Generator().manual_seed(0)))[0]
        for num_workers in (2, 5, 0, 1, 1, 3, 2, 0, 4)
    ]
    assert seen == list(range(9))


@pytest.mark.processes
def test_persistent_workers_share_the_board_with_other_loaders_in_between():
    dataset = Epochs()
    lasting = loader_of(dataset, 3, persistent=True)
    other = loader_of(dataset, 1, persistent=True)
    assert [
        passed(loader)[0] for loader in (lasting, other, lasting, lasting, other, other, lasting)
    ] == list(range(7))


@pytest.mark.processes
@pytest.mark.parametrize("persistent", [False, True])
def test_an_abandoned_pass_counts_and_leaves_the_workers_agreed(persistent):
    dataset = Epochs()
    loader = loader_of(dataset, 3, persistent=persistent)
    for expected in (0, 2, 4):
        assert int(next(iter(loader))[0]) == expected
        assert passed(loader) == (expected + 1, 0)


@pytest.mark.processes
def test_the_main_process_and_workers_take_turns():
    dataset = Epochs()
    assert list(dataset) == [(0, 0)] * 2
    assert passed(loader_of(dataset, 2)) == (1, 0)
    assert list(dataset) == [(2, 0)] * 2


@given(
    st.lists(st.tuples(st.integers(1, 4), st.randoms(use_true_random=False)), min_size=1, max_size=6),
    st.data(),
)
def test_workers_of_a_pass_agree_in_whatever_order_they_begin(pools, data):
    """The claims of real workers, replayed in one process in an order of hypothesis's choosing."""
    board = EpochBoard()
    identity = 1
    for expected, (num_workers, order) in enumerate(pools):
        stray = data.draw(st.integers(0, num_workers - 1))  # processes that another thread started in between
        after = data.draw(st.integers(0, num_workers))
        workers = list(range(num_workers))
        order.shuffle(workers)
        stale = {w: board._words.copy() for w in workers}  # what each saw if all looked before any claimed
        seen = set()
        for w in workers:
            info = SimpleNamespace(id=w, num_workers=num_workers)
            look_early = data.draw(st.booleans())
            words = stale[w] if look_early else board._words.copy()
            seen.add(_begin(board, words, info, identity + w + (stray if w >= after else 0)))
        assert seen == {expected}
        identity += num_workers + stray


def _begin(board, words, info, identity):
    """One worker's `begin_pass`, having looked at the board when it held `words`."""
    process = SimpleNamespace(_identity=(identity,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiprocessing.current_process", lambda: process)
        mine = EpochBoard()
        mine._words[:] = words
        epoch, _ = mine.begin_pass(info)
    cell = 3 + info.id
    board._words[cell] = mine._words[cell]
    return epoch


def test_a_pickled_copy_is_a_board_of_its_own_at_the_same_place():
    board = EpochBoard()
    board.set_epoch(4)
    copy = pickle.loads(pickle.dumps(board))  # noqa: S301  # our own bytes
    assert copy.begin_pass(None) == (4, 0)
    assert board.begin_pass(None) == (4, 0)
    assert copy.begin_pass(None) == (5, 0)


def begin(board):
    board.begin_pass(None)


@pytest.mark.processes
def test_where_there_is_no_shared_memory_forks_see_it_all_the_same():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    board = EpochBoard()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no room in /dev/shm either
    try:
        board.share()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for left in Path("/dev/shm").glob(f"torch_{os.getpid()}_*"):  # noqa: S108  # torch leaves behind what has no room
        left.unlink()
    child = multiprocessing.get_context("fork").Process(target=begin, args=(board,))
    child.start()
    child.join()
    assert board.next_pass == (1, 0)
    copied = pickle.loads(pickle.dumps(board))  # noqa: S301  # our own bytes
    board.set_epoch(7)
    assert (board.next_pass, copied.next_pass) == ((7, 0), (1, 0))
    with pytest.raises(RecipeError, match=r"make room in /dev/shm .*multiprocessing_context='fork'"):
        multiprocessing.get_context("spawn").Process(target=begin, args=(board,)).start()


@pytest.mark.parametrize("epoch", [-1, 1.0, True, "3", MAX_EPOCH + 1])
def test_an_epoch_that_cannot_be_is_refused(epoch):
    with pytest.raises(RecipeError, match="epoch must be"):
        EpochBoard().set_epoch(epoch)


def test_the_last_epoch_fits():
    board = EpochBoard()
    board.set_epoch(MAX_EPOCH)
    assert board.begin_pass(SimpleNamespace(id=0, num_workers=1)) == (MAX_EPOCH, 0)
    assert board.begin_pass(None) == (MAX_EPOCH + 1, 0)


def test_more_workers_than_cells_are_refused():
    with pytest.raises(TopologyError, match="num_workers must be at most"):
        EpochBoard().begin_pass(SimpleNamespace(id=0, num_workers=5000))


def test_workers_that_run_ahead_of_others_do_not_shift_them():
    first = EpochBoard()
    second = copy.copy(first)  # the same memory, as in another process
    places = [SimpleNamespace(id=number, num_workers=2) for number in range(2)]
    assert [first.begin_pass(places[0]) for _ in range(4)] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert [second.begin_pass(places[1])[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert first.begin_pass(places[0])[0] == 4
    first.set_epoch(9, units=3)
    assert [first.begin_pass(places[0]) for _ in range(2)] == [(9, 3), (10, 0)]
    assert [second.begin_pass(places[1]) for _ in range(2)] == [(9, 3), (10, 0)]
