"""Workers that are threads give the same batches as those that are processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from engine import FailAt, dataset_of, digests, epochs_of

import augstream as A
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError, WorkerError

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def dataset(shards):
    return dataset_of(shards)


@pytest.fixture(scope="module")
def epochs(dataset):
    return epochs_of(dataset, 3)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("augstream-worker")]


@pytest.mark.parametrize("num_workers", [1, 2, 5, 20])
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("prefetch_factor", [1, 4])
def test_threads_do_not_matter(dataset, epochs, num_workers, persistent, prefetch_factor):
    with A.StreamLoader(
        dataset, workers="thread", num_workers=num_workers, persistent_workers=persistent,
        prefetch_factor=prefetch_factor,
    ) as loader:  # fmt: skip
        assert [digests(loader) for _ in range(3)] == epochs
        loader.set_epoch(1)
        assert digests(itertools.islice(loader, 4)) == epochs[1][:4]
        state = loader.state_dict()
        loader.set_epoch(0)
        assert digests(loader) == epochs[0]
        loader.load_state_dict(state)
        assert digests(loader) == epochs[1][4:]
    assert not threads()


def test_kept_batches_stay_and_released_memory_is_used_again(dataset, epochs):
    with A.StreamLoader(dataset, workers="thread", num_workers=2) as loader:
        kept = list(loader)
        places = {batch["image"].data_ptr() for _ in range(5) for batch in loader}
        assert digests(kept) == epochs[0]
    assert len(places) <= 2 * (loader.prefetch_factor + 3)


def test_errors_are_raised_in_their_turn_and_again(shards):
    dataset = dataset_of(shards, A.Compose([A.RandomCrop(24, 30)]))
    for arguments, error in (({"on_error": "raise"}, SampleError), ({"on_error": "skip"}, None)):
        bad = dataset_of(shards, A.Compose([A.RandomCrop(33, 30)]), **arguments)  # some pictures are lower
        with A.StreamLoader(bad, workers="thread", num_workers=2) as loader:
            if error is None:
                assert 0 < sum(len(batch["cls"]) for batch in loader) < 37
                continue
            done = []
            for _ in range(2):
                with pytest.raises(error, match="augstream replay"):
                    done.extend(digest(batch) for batch in loader)
            assert loader.state_dict()["units"] == len(done)
    assert len(digests(dataset)) == 10


def test_code_that_shares_generators_between_threads_is_refused(shards):
    with pytest.raises(RecipeError, match="workers='thread' needs a transform of ours"):
        A.StreamLoader(dataset_of(shards, FailAt()), workers="thread", num_workers=2)
    with pytest.raises(RecipeError, match="workers must be 'process' or 'thread'"):
        A.StreamLoader(dataset_of(shards), workers="fibre", num_workers=2)


class Stuck(A.ImageOnlyTransform):
    """Waits for good, until it is released."""

    released = threading.Event()

    def apply(self, img, **params):
        self.released.wait(30)
        return img


def test_a_thread_that_hangs_is_an_error(shards):
    dataset = dataset_of(shards, A.Compose([Stuck(p=1.0)]))
    loader = A.StreamLoader(dataset, workers="thread", num_workers=1, timeout_s=0.2)
    try:
        with pytest.raises(WorkerError, match=r"finished no sample for 0\.2 s"):
            next(iter(loader))
    finally:
        Stuck.released.set()
    for thread in threads():
        thread.join(10)
    assert not threads()


class Leave(A.ImageOnlyTransform):
    """Ends the thread that it runs in, as a library that calls sys.exit does."""

    def apply(self, img, **params):
        sys.exit("cannot go on")


def test_a_thread_that_ends_is_an_error_at_once(shards):
    dataset = dataset_of(shards, A.Compose([Leave(p=1.0)]), on_error="skip")
    loader = A.StreamLoader(dataset, workers="thread", num_workers=2, timeout_s=None)
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"augstream-worker-0 ended by SystemExit\('cannot go on'\)"):
            next(iter(loader))
    assert loader.state_dict()["units"] == 0
    assert not threads()


SCRIPT = """
import sys
import augstream as A
from engine import dataset_of
loader = A.StreamLoader(dataset_of(sys.argv[1:]), workers="thread", num_workers=2)
print(len(next(iter(loader))["cls"]))
"""


@pytest.mark.processes
def test_threads_end_with_the_program(shards):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *shards], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "4\n", "")


def test_tensors_are_tensors(dataset):
    with A.StreamLoader(dataset, workers="thread", num_workers=1) as loader:
        assert isinstance(next(iter(loader))["image"], torch.Tensor)
