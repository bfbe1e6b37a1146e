"""The global generators are neither read nor moved, in the trainer, by anything that the stream does."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
import torch
from engine import dataset_of, digests
from torch.utils.data import DataLoader

import augstream as A

PIPELINE = A.Compose([A.RandomResizedCrop(size=(24, 32)), A.HorizontalFlip(p=0.5), A.GaussNoise(p=0.5)])


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global generator is what is tested
    torch.manual_seed(seed)
    cv2.setRNGSeed(seed)


def states():
    return (
        random.getstate(),
        [np.asarray(part).tolist() for part in np.random.get_state()[1:]],  # noqa: NPY002
        torch.get_rng_state().tolist(),
    )


def opencv_draw():
    """The next numbers of OpenCV's generator, whose state cannot be asked for."""
    return cv2.randu(np.zeros((4, 4)), 0, 1).tolist()


def run_loader(dataset, num_workers):
    with A.StreamLoader(dataset, num_workers=num_workers) as loader:
        return [digests(loader) for _ in range(2)]


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_they_are_left_as_they_were_found_and_change_nothing(shards, num_workers):
    runs = []
    for seed in (1, 2):
        seed_all(seed)
        expected = opencv_draw()
        seed_all(seed)
        before = states()
        runs.append(run_loader(dataset_of(shards, PIPELINE), num_workers))
        assert states() == before
        assert opencv_draw() == expected
    assert runs[0] == runs[1]


def test_nor_by_the_dataset_itself(shards):
    seed_all(3)
    expected = opencv_draw()
    seed_all(3)
    before = states()
    dataset = dataset_of(shards, PIPELINE)
    digests(dataset)
    dataset.load_state_dict(dataset.state_dict())
    dataset.sample(epoch=1, shard="train-000001.tar", key="000012")
    assert states() == before
    assert opencv_draw() == expected


@pytest.mark.processes
def test_torchs_own_loader_draws_one_number_and_we_none(shards):
    """It draws a base seed for its workers, in each pass, whatever the dataset does."""
    torch.manual_seed(5)
    digests(DataLoader(dataset_of(shards, PIPELINE), batch_size=None, num_workers=2))
    after = torch.get_rng_state()
    torch.manual_seed(5)
    list(DataLoader([1, 2, 3], batch_size=None, num_workers=1))
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.processes
def test_opencvs_threads_are_left_as_they_were_found(shards):
    before = cv2.getNumThreads(), torch.get_num_threads()
    for num_workers in (0, 2):
        run_loader(dataset_of(shards), num_workers)
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
