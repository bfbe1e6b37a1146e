"""Locks on files: of threads and processes, and of those that are forked while somebody holds one."""

from __future__ import annotations

import multiprocessing
import signal
import threading

import pytest

from augstream.sources.locks import locked

FORK = multiprocessing.get_context("fork")


def hold(path, held, release):
    with locked(path) as mine:
        assert mine
        held.set()
        release.wait()


def waiting(begun, end):
    begun.set()
    end.wait()


@pytest.fixture
def fork():
    """Forks a child that lives until the test ends."""
    begun, end, children = FORK.Event(), FORK.Event(), []

    def start():
        children.append(FORK.Process(target=waiting, args=(begun, end), daemon=True))
        children[0].start()
        begun.wait()

    yield start
    end.set()
    children[0].join()
    assert children[0].exitcode == 0


def test_threads_shut_each_other_out_and_who_comes_next_makes_a_removed_file_anew(tmp_path):
    path, held, release = tmp_path / "lock", threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(path, held, release))
    thread.start()
    held.wait()
    with locked(path, wait_s=0) as mine:
        assert not mine
    path.unlink()
    with locked(path, wait_s=0) as mine:
        assert mine
        assert path.exists()
    release.set()
    thread.join()


@pytest.mark.processes
def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    path, held, never = tmp_path / "lock", FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(path, held, never))
    process.start()
    held.wait()
    with locked(path, wait_s=0) as mine:
        assert not mine
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with locked(path, wait_s=0) as mine:
        assert mine


@pytest.mark.processes
def test_a_child_forked_meanwhile_does_not_keep_the_lock(tmp_path, fork):
    path, held, release = tmp_path / "lock", threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(path, held, release))
    thread.start()
    held.wait()
    fork()
    release.set()
    thread.join()
    with locked(path, wait_s=0) as mine:
        assert mine


@pytest.mark.processes
def test_a_child_forked_inside_of_a_lock_leaves_it_to_its_parent(tmp_path, fork):
    path = tmp_path / "lock"
    with locked(path) as mine:
        assert mine
        fork()
        with locked(path, wait_s=0) as another:
            assert not another
    with locked(path, wait_s=0) as mine:
        assert mine
