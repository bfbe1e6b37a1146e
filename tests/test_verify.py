"""`verify` passes what repeats, and finds in what does not: where it parts, at which transform and line, and why."""

from __future__ import annotations

import inspect
import json
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import cv2
import leaky
import numpy as np
import pytest
import torch
from engine import ResizeByHand, dataset_of

import augstream as A
from augstream import cli
from augstream.ambient import apart
from augstream.testing import assert_verified, verify
from augstream.tools.commands import load_pipeline
from augstream.tools.comparing import Difference, difference, kept
from augstream.tools.conditions import Conditions, in_process, uninterrupted
from augstream.tools.suspects import investigate
from augstream.tools.traces import Tracer

pytestmark = pytest.mark.processes


def found_in(dataset, *, spawned=False):
    stream = dataset.stream
    refs = stream.order(0).refs(stream.plan(dataset.topology()).units_of_step(0))
    return investigate(Tracer(stream, 0, refs), spawned=spawned)


FUNCTIONS = {
    leaky.python_draw: ("global-generator", "random", "random.randint"),
    leaky.numpy_draw: ("global-generator", "numpy", "np.random.rand"),
    leaky.torch_draw: ("global-generator", "torch", "torch.randint"),
    leaky.opencv_draw: ("global-generator", "OpenCV", "cv2.randn"),
    leaky.hidden_opencv_draw: ("global-generator", "OpenCV", "randn(noise"),
    leaky.clock: ("time", "", "time.time_ns"),
    leaky.calendar: ("time", "", "datetime.now"),
    leaky.year: ("time", "", "time.gmtime"),
    leaky.days: ("time", "", "time.time()"),
    leaky.process: ("process", "", "os.getpid"),
    leaky.worker: ("worker", "", "get_worker_info()"),
    leaky.unfilled: ("uninitialised-memory", "", "np.empty"),
    leaky.unfilled_elsewhere: ("uninitialised-memory", "", "empty((1024"),
    leaky.entropy: ("entropy", "", "default_rng()"),
    leaky.unseeded: ("entropy", "", "random.Random()"),
    leaky.clock_id: ("time", "", "uuid.uuid1()"),
    leaky.opencv_threads: ("opencv-threads", "", None),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_each_suspect_is_found_at_its_transform_and_line(shards, function):
    suspect, generator, code = FUNCTIONS[function]
    (finding,) = found_in(dataset_of(shards, leaky.of(function), batch_size=8))
    assert (finding.suspect, finding.generator) == (suspect, generator)
    assert finding.where == f"transform 1.0 Lambda({function.__name__})"
    assert finding.parting.what.name == "image"
    assert 0 < finding.parting.what.changed <= finding.parting.what.total == 24 * 32
    assert (finding.line is None) == (code is None)
    if code is not None:
        first = inspect.getsourcelines(function)[1]
        assert f"tests/leaky.py:{finding.line.number} in {function.__name__}: " in str(finding.line)
        assert first < finding.line.number < first + 5
        assert code in str(finding.line)


def test_state_is_found_wherever_it_is(shards):
    (finding,) = found_in(dataset_of(shards, leaky.pipeline(leaky.Counting())))
    assert (finding.suspect, finding.where) == ("hidden-state", "transform 1.0 Counting")
    (finding,) = found_in(dataset_of(shards, leaky.THEIRS))
    assert (finding.suspect, finding.where) == ("hidden-state", "transform 1 TheirCounting")
    modules = torch.nn.Sequential(torch.nn.Identity(), leaky.Drifting(), torch.nn.Identity())
    (finding,) = found_in(dataset_of(shards, modules))
    assert (finding.suspect, finding.where) == ("hidden-state", "transform 1 Drifting")


def test_what_two_transforms_do_is_told_apart(shards):
    transforms = [
        A.Lambda(image=leaky.numpy_draw),
        A.Resize(24, 32),
        A.Lambda(image=leaky.unfilled),
        A.Lambda(image=leaky.torch_draw),
    ]
    found = found_in(dataset_of(shards, A.Compose(transforms)))
    assert {(one.where.split()[1], one.suspect, one.generator) for one in found} == {
        ("0", "global-generator", "numpy"),
        ("2", "uninitialised-memory", ""),
        ("3", "global-generator", "torch"),
    }


def test_what_a_spawned_process_changes_is_found_there(shards, monkeypatch):
    monkeypatch.setitem(leaky.SETTINGS, "offset", 3)
    functions = [leaky.settings, leaky.set_order, leaky.first_seen]
    transforms = [A.Resize(24, 32), *[A.Lambda(image=function) for function in functions]]
    verdict = verify(
        dataset_of(shards, A.Compose(transforms)),
        num_epochs=1,
        num_batches=1,
        num_workers=(1,),
        methods=["spawn"],
    )
    differing = [check for check in verdict.checks if check.holds is False]
    assert ["spawn" in check.name for check in differing] == [True]
    assert differing[0].place.what.unit == "pixels"
    assert {(finding.suspect, finding.where) for finding in verdict.findings} == {
        ("hash-order", "transform 2 Lambda(set_order)"),
        ("fresh-process", "transform 1 Lambda(settings)"),
        ("hidden-state", "transform 3 Lambda(first_seen)"),
    }


def test_a_strict_pipeline_that_fails_is_looked_into_too(shards):
    verdict = verify(dataset_of(shards, leaky.of(leaky.torch_draw), strict=True))
    (check,) = verdict.checks
    assert "Lambda(torch_draw) moved the global generator of torch, at" in check.why
    assert [(finding.suspect, finding.generator) for finding in verdict.findings] == [
        ("global-generator", "torch")
    ]
    assert not verdict.holds


def test_a_collate_function_is_a_step_too(shards):
    dataset = dataset_of(shards, ResizeByHand(), collate_fn=leaky.drawing_collate)
    verdict = verify(dataset, num_epochs=1, num_batches=2, num_workers=(1,))
    assert not verdict.holds
    assert verdict.checks[0].why.startswith("in 2 of 2 batches, first in epoch 0, batch 0, 'drawn': 0.")
    assert verdict.checks[0].why.endswith("it moved the global generators of random")
    (finding,) = verdict.findings
    assert (finding.where, finding.suspect, finding.generator) == ("collate_fn", "global-generator", "random")
    assert "leaky.py" in str(finding.line)


def test_what_is_sound_holds_and_nothing_is_left_changed(shards):
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    left = np.empty, time.time, cv2.getNumThreads(), cv2.randn
    sound = dataset_of(shards, leaky.sound())
    verdict = verify(sound)
    assert verdict.holds, list(verdict.lines())
    assert [check.holds for check in verdict.checks] == [True] * len(verdict.checks)
    assert len(verdict.checks) >= 8
    mixture = A.Mixture(
        {"one": sound, "two": dataset_of(shards, leaky.sound(), seed=3)}, weights={"one": 2, "two": 1}, seed=5
    )
    assert_verified(mixture, num_epochs=1, num_batches=2, num_workers=(2,))
    by_hand = dataset_of(shards, lambda image, rng: image[:24, :32] // rng.integers(1, 4))
    verdict = verify(by_hand, num_epochs=1, num_batches=2, num_workers=(1,), methods=["fork", "spawn"])
    assert verdict.holds, list(verdict.lines())
    not_run = {check.name: check.why for check in verdict.checks if check.holds is None}
    assert len(not_run) == 2
    assert any("cannot be sent to other processes" in why for why in not_run.values())
    after = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    assert str(before) == str(after)
    assert left == (np.empty, time.time, cv2.getNumThreads(), cv2.randn)


def test_the_command_says_so_and_its_status_too(shards, capsys):
    quick = ["--epochs", "1", "--batches", "1", "--batch-size", "4", "--workers", "1", "--methods", "fork"]
    assert cli.main(["verify", *shards, "--pipeline", "leaky:sound", *quick]) == 0
    out = capsys.readouterr().out
    assert out.endswith("holds: the same bytes every time\n")
    assert "DIFFERS" not in out
    assert cli.main(["verify", *shards, "--pipeline", "leaky:counting_pipeline", *quick]) == 1
    out = capsys.readouterr().out
    assert (
        "DIFFERS  1 worker (fork, persistent): in 1 of 1 batches, first in epoch 0, batch 0, sample '" in out
    )
    assert "\ntransform 1.0 Counting keeps something from sample to sample" in out
    assert cli.main(["verify", *shards, "--pipeline", "leaky:process_pipeline", "--json", *quick]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] is False
    first = next(check for check in told["checks"] if check["holds"] is False)
    assert first["array"] == "image"
    assert first["unit"] == "pixels"
    assert 0 < first["changed"] <= first["total"] == 24 * 32
    (finding,) = told["findings"]
    assert finding["suspect"] == "process"
    assert finding["key"] == first["key"]
    assert cli.main(["verify", *shards, "--pipeline", "leaky:nothing"]) == 2
    assert cli.main(["verify", *shards, "--pipeline", "leaky:unmade"]) == 2
    assert "'leaky:unmade' could not be made: ZeroDivisionError: " in capsys.readouterr().err
    assert cli.main(["verify", *shards, "--batches", "0"]) == 2
    assert "num_batches must be at least 1, got 0" in capsys.readouterr().err
    assert cli.main(["verify", *shards, "--methods", "fork,thread"]) == 2
    assert "methods must be some of fork, spawn, forkserver, got 'thread'" in capsys.readouterr().err


def test_differences_are_counted():
    one = kept({"a": torch.zeros(2, 3, 4, 5), "b": [np.zeros(3)], "c": "text", "d": np.array([np.nan, 1.0])})
    assert difference(one, kept(one)) is None
    other = kept(one)
    other["a"][1, 2, 3, 4], other["a"][1, 0, 0, 0] = 7, np.nan
    assert difference(one, other) == Difference("a", 1, 2, 120, "values", 7.0)
    assert difference(one["a"][1], other["a"][1], "a") == Difference("a", 0, 2, 20, "pixels", 7.0)
    assert difference(np.zeros((4, 5, 3), np.uint8), np.ones((4, 5, 3), np.uint8)).changed == 20
    assert "(2,) float64, then (2,) float32" in str(
        difference(one, {**one, "d": one["d"].astype(np.float32)})
    )
    assert str(difference(one, {**one, "c": "texts"})) == "'c': 'text', then 'texts'"
    assert difference(one, {**one, "b": [np.ones(3)]}).row == 0
    assert "fields" in str(difference(one, {"a": 1}))
    assert difference(np.array([{1}, 2]), np.array([{1}, 3]), "e") == Difference("e[1]", 1, text="2, then 3")
    assert difference(np.array([{1}, 2]), np.array([{1}, 2])) is None


def _ahead():
    with Conditions(ahead_s=86_400.0).held():
        assert abs(time.mktime(time.localtime()) - time.time()) < 2
        assert time.gmtime(0).tm_year == 1970
        return time.time_ns() / 1e9


def _masked():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interruption_waits_until_a_process_is_started():
    """Raised within Python's own handlers of a fork it would be lost, and their locks held for ever."""
    assert in_process(_masked)
    done = []

    def interrupt():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)  # to this thread: any other may have one for the process
            done.append(_masked())

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert done == [True]
    assert not _masked()


def test_conditions_hold_while_they_are_held_and_no_longer():
    def look():
        with Conditions(fill=7, clock_s=5.0, seeds=(3, 3, 3, 3)).held():
            return (
                np.empty(4, np.uint8).tolist(),
                np.empty_like(np.zeros(2, np.uint8)).tolist(),
                time.time_ns(),
            )

    assert apart(look) == ([7] * 4, [7] * 2, 5 * 10**9)
    assert time.time_ns() > 10**18
    ahead_s = apart(_ahead) - time.time()
    assert 86_000 < ahead_s < 87_000
    assert time.gmtime().tm_year == datetime.now(tz=UTC).year
    assert in_process(abs, -3) == 3
    with pytest.raises(A.WorkerError, match="TypeError: bad operand"):
        in_process(abs, "text")
    with pytest.raises(A.WorkerError, match="ended without a word"):
        in_process(random._os._exit, 3)


def test_pipelines_are_taken_from_where_one_is(tmp_path, monkeypatch):
    text = """
import augstream as A
def make(size=(8, 8)): return A.Resize(*size)
made = make()
def mine(image, rng): return image
"""
    (tmp_path / "their_pipeline.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in {"", os.fspath(Path.cwd())}])
    assert isinstance(load_pipeline("their_pipeline:make"), A.Resize)
    assert isinstance(load_pipeline("their_pipeline:made"), A.Resize)
    assert load_pipeline("their_pipeline:mine")(3, None) == 3
    assert load_pipeline("leaky:THEIRS") is leaky.THEIRS
