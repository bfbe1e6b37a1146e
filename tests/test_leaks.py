"""`strict` finds draws from global generators at the first sample, names the transform, and moves nothing itself."""

from __future__ import annotations

import pickle
import random
import threading

import cv2
import leaky
import numpy as np
import pytest
import torch
import webdataset as wds
from engine import dataset_of
from pipelines import collected, plain  # noqa: F401  # a fixture

import augstream as A
from augstream.tools.conditions import in_process
from augstream.transforms.leaks import Watch, moved_by, private_opencv

DRAWS = {
    "random": leaky.python_draw,
    "numpy": leaky.numpy_draw,
    "torch": leaky.torch_draw,
    "OpenCV": leaky.opencv_draw,
}
IMAGE = np.zeros((30, 40, 3), np.uint8)


@pytest.mark.parametrize("name", DRAWS)
def test_a_compose_names_generator_transform_and_line(name):
    function = DRAWS[name]
    with pytest.raises(A.LeakError) as caught:
        leaky.pipeline(A.Lambda(image=function)).stage(strict=True)({"image": IMAGE}, b"0" * 16)
    compose = A.Compose([A.NoOp(p=1), A.OneOf([A.Lambda(image=function)], p=1)], strict=True)
    with pytest.raises(A.LeakError) as called:
        compose(image=IMAGE)
    for error, slot in ((caught, "1.0"), (called, "1.0")):
        text = str(error.value)
        assert text.startswith(
            f"transform {slot} Lambda({function.__name__}) moved the global generator of {name}, at "
        )
        assert f"leaky.py:{_line(name, function)} in {function.__name__}: " in text
        assert "draw from self.py_random" in text
    assert A.Compose([A.Lambda(image=function)])(image=IMAGE)["image"].shape == IMAGE.shape


def _line(name, function):
    return function.__code__.co_firstlineno + (2 if name == "OpenCV" else 1)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.processes
def test_a_stream_does_so_in_whatever_workers_and_never_skips_it(shards, name):
    dataset = dataset_of(shards, leaky.of(DRAWS[name]), strict=True, on_error="skip")
    for arguments in ({"num_workers": 0}, {"num_workers": 1}, {"num_workers": 2, "workers": "thread"}):
        with (
            A.StreamLoader(dataset, **arguments) as loader,
            pytest.raises(
                A.LeakError, match=rf"(?s)transform 1\.0 Lambda.* of {name}, .*augstream replay 'seed=137"
            ),
        ):
            next(iter(loader))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("name", DRAWS)
def test_a_webdataset_stage_does_so_past_its_handler(shards, name):
    stage = A.wds.augment(leaky.of(DRAWS[name]), seed=1, strict=True, handler=wds.ignore_and_continue)
    with pytest.raises(A.LeakError, match=rf"transform 1\.0 Lambda.* of {name}, "):
        next(iter(plain(shards).decode("rgb8").compose(stage)))


@pytest.mark.processes
def test_our_own_workers_see_opencv_moved_by_any_name(shards):
    dataset = dataset_of(shards, leaky.of(leaky.hidden_opencv_draw), strict=True)
    with A.StreamLoader(dataset, num_workers=1) as loader, pytest.raises(A.LeakError, match="of OpenCV"):
        next(iter(loader))


@pytest.mark.parametrize("private", [False, True])
def test_what_is_sound_passes_and_nothing_is_moved(shards, private):
    transforms = [
        A.RandomResizedCrop((24, 32)),
        A.GaussNoise(p=0.5),
        A.ElasticTransform(p=0.5),
        leaky.Shift(p=1),
    ]
    compose = A.Compose(transforms)
    expected = list(dataset_of(shards, compose))
    token = private_opencv.set(private)
    try:
        cv2.setRNGSeed(5)
        before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
        found = list(dataset_of(shards, compose, strict=True))
        after = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    finally:
        private_opencv.reset(token)
    drawn = cv2.randu(np.zeros(4), 0, 1)
    cv2.setRNGSeed(5)
    assert private or np.array_equal(drawn, cv2.randu(np.zeros(4), 0, 1))
    assert type(cv2.randu) is type(cv2.resize)
    assert str(before) == str(after)
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(expected, found, strict=True))


def test_foreign_code_may_draw_from_what_it_is_lent_but_not_from_opencv(shards):
    def lent(image):
        return np.ascontiguousarray(image[:24, :32]) + np.uint8(random.random() * np.random.rand())  # noqa: NPY002

    def drawing(image):
        return leaky.opencv_draw(image)

    assert len(list(dataset_of(shards, lent, strict=True))) == len(list(dataset_of(shards, lent)))
    with pytest.raises(A.LeakError, match=r"drawing moved the global generator of OpenCV, at .*leaky.py"):
        next(iter(dataset_of(shards, drawing, strict=True)))


def test_a_transform_of_another_library_is_named_by_its_place():
    class Noise(torch.nn.Module):
        def forward(self, image):
            return torch.from_numpy(leaky.opencv_draw(image[0].numpy()))

    stage = A.augment.as_stage(torch.nn.Sequential(torch.nn.Identity(), Noise()), strict=True)
    with pytest.raises(A.LeakError, match=r"^transform 1 Noise moved the global generator of OpenCV"):
        stage({"image": IMAGE}, b"0" * 16)


@pytest.mark.processes
def test_a_draw_that_is_made_once_is_an_error_too_and_where_it_may_be_another_threads_a_warning():
    drawn = []

    def once(image, **_):
        if not drawn:
            drawn.append(random.random())
        return image

    compose = A.Compose([A.Lambda(image=once)], strict=True)
    # a forked process has one thread, whatever runs here
    with pytest.raises(
        A.WorkerError, match=r"Lea.* one of \['Lambda'\] moved .* of random, though not when it was comp"
    ):
        in_process(lambda: compose(image=IMAGE))
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with pytest.warns(
            RuntimeWarning, match="of random, though not when .* another thread of this process"
        ):
            compose(image=IMAGE)
    finally:
        done.set()
        other.join()
    assert drawn


def test_stored_normal_numbers_count():
    """Normal numbers are made in pairs: taking the second moves no generator."""
    for draw, name in ((np.random.standard_normal, "numpy"), (lambda: random.gauss(0, 1), "random")):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        watch = Watch()
        assert moved_by(draw, watch) == (name,)
        assert moved_by(draw, Watch()) == (name,)
        assert moved_by(lambda: None, watch) == ()


def test_every_way_to_see_a_generator_sees_it_move():
    watch = Watch()
    watch._words = None  # as where the interpreter keeps its state elsewhere
    for torch_watch in (Watch(), watch):
        for draw in (torch.rand, torch.randn, torch.randn):  # the second normal number is from store
            assert moved_by(lambda draw=draw: draw(1), torch_watch) == ("torch",)
        assert moved_by(lambda: torch.randperm(1), torch_watch) == ()
        assert moved_by(lambda: torch.rand(624), torch_watch) == ("torch",)
        assert moved_by(lambda: torch.manual_seed(torch.initial_seed() + 1), torch_watch) == ("torch",)
        assert torch_watch._torch._pointer is not None
        torch_watch._torch._pointer = None  # as where torch keeps its state elsewhere
    assert moved_by(random.random, watch) == ("random",)
    bits = np.random.mtrand.get_bit_generator()
    try:
        np.random.mtrand.set_bit_generator(np.random.PCG64(3))
        assert moved_by(np.random.rand, watch) == ("numpy",)
        assert moved_by(lambda: np.random.mtrand.set_bit_generator(bits), watch) == ("numpy",)
    finally:
        np.random.mtrand.set_bit_generator(bits)
    assert moved_by(lambda: cv2.setRNGSeed(3), watch) == ("OpenCV",)
    whole_turns = {"random": random.getrandbits, "numpy": np.random.mtrand.get_bit_generator().random_raw}
    for name, draw in whole_turns.items():  # after which the position is the same
        assert moved_by(
            lambda draw=draw: [draw(32) if draw is random.getrandbits else draw() for _ in range(624)],
            Watch(),
        ) == (name,)
    twin = pickle.loads(pickle.dumps(watch))  # noqa: S301  # our own bytes
    assert moved_by(lambda: None, twin) == ()
