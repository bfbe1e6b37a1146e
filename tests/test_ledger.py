"""The ledger: one line a batch, whatever computes it; held against repeats; safe in crashes; compared by `diff`."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import DieAt, FailAt, ResizeByHand, dataset_of

import augstream as A
from augstream.cli import main
from augstream.errors import LedgerError, RecipeError
from augstream.ledgers.ledger import VERSION, Line, Reader
from augstream.tools.diff import Run

NOISE = A.Compose([A.RandomResizedCrop(size=(24, 32)), A.GaussNoise(p=1)])


def run(dataset, path, epochs=2, batches=None, state=None, **arguments):
    """Iterate epochs, or some batches, with a ledger; its bytes, and the state after."""
    with A.StreamLoader(dataset, ledger=path, **arguments) as loader:
        if state is not None:
            loader.load_state_dict(state)
        passes = itertools.chain.from_iterable(loader for _ in range(epochs))
        for _ in itertools.islice(passes, batches):
            pass
        return Path(path).read_bytes() if Path(path).exists() else b"", loader.state_dict()


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A ledger of two epochs, made here and now."""
    path = tmp_path_factory.mktemp("whole") / "run.ledger"
    run(dataset_of(shards), path)
    return path


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": 1},
        {"num_workers": 3, "persistent_workers": False},
        {"num_workers": 2, "multiprocessing_context": "spawn"},
        {"num_workers": 2, "workers": "thread"},
    ],
)
def test_a_ledger_does_not_depend_on_who_computes(shards, whole, tmp_path, arguments):
    assert run(dataset_of(shards), tmp_path / "run.ledger", **arguments)[0] == whole.read_bytes()


def test_a_line_says_what_the_batch_holds(whole):
    lines = list(Reader(whole))
    assert [line.place for line in lines] == [(e, b, b + 1) for e in range(2) for b in range(10)]
    assert [line.num_samples for line in lines[:10]] == [4] * 8 + [1, 4]
    assert len({line.marks.digest for line in lines}) == 20
    assert [name for name, _ in lines[0].marks.fields] == ["cls", "image", "json", "txt"]
    assert all(Line.parse(line.to_bytes()) == line for line in lines)
    assert whole.stat().st_size / len(lines) < 250


@pytest.mark.processes
def test_killed_workers_leave_no_trace(shards, tmp_path):
    keys = [f"{number:06d}" for number in (3, 17, 30)]
    expected = run(dataset_of(shards, ResizeByHand()), tmp_path / "calm.ledger")[0].split(b"\n", 1)[1]
    stage = DieAt(keys=tuple(keys), trainer=os.getpid(), folder=str(tmp_path), times=2)
    found = run(dataset_of(shards, stage), tmp_path / "killed.ledger", num_workers=2)[0]
    assert sorted(path.name for path in tmp_path.iterdir())[:2] == ["0", "1"], "it has to have died"
    assert found.split(b"\n", 1)[1] == expected


@pytest.mark.processes
@pytest.mark.parametrize(("done", "back", "num_workers"), [(7, 0, 2), (13, 3, 0), (20, 20, 1)])
def test_resuming_repeats_what_is_there_and_goes_on(shards, whole, tmp_path, done, back, num_workers):
    """A run that is continued `back` batches before its ledger's end has the ledger of one without a break."""
    path = tmp_path / "run.ledger"
    dataset = dataset_of(shards)
    _, state = run(dataset, path, batches=done - back)
    run(dataset, path, batches=back, state=state)  # these are lost with the machine
    assert len(list(Reader(path))) == done
    assert run(dataset, path, epochs=3, batches=20 - done + back, state=state, num_workers=num_workers)[
        0
    ] == (whole.read_bytes())


def test_resuming_with_another_batch_size_is_held_against_what_is_there(shards, tmp_path, capsys):
    path, whole = tmp_path / "run.ledger", tmp_path / "whole.ledger"
    run(dataset_of(shards, unit=2, batch_size=4), whole, epochs=1)
    _, state = run(dataset_of(shards, unit=2, batch_size=4), path, batches=2)
    run(dataset_of(shards, unit=2, batch_size=4), path, batches=4, state=state)
    run(dataset_of(shards, unit=2, batch_size=8), path, epochs=1, state=state)
    units = [(line.units.start, line.units.stop) for line in Reader(path)]
    assert units == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 12), (4, 8), (8, 12), (12, 16), (16, 19)]
    assert main(["diff", str(path), str(whole)]) == 0
    assert "equal in all that both have: 16 units, 32 samples\n" in capsys.readouterr().out
    with (
        pytest.warns(A.TransformChangedWarning),
        pytest.raises(LedgerError, match="units 4 to 7: the same samples with other bytes at"),
    ):
        run(dataset_of(shards, NOISE, unit=2, batch_size=8), path, state=state)


def test_a_repeat_that_differs_is_an_error_that_says_where(shards, tmp_path):
    path = tmp_path / "run.ledger"
    _, state = run(dataset_of(shards), path, batches=2)
    run(dataset_of(shards), path, batches=5, state=state)
    with (
        pytest.warns(A.TransformChangedWarning),
        pytest.raises(
            LedgerError,
            match=r"epoch 0, units 2 to 2: the same samples with other bytes at place.* 'image' diff",
        ),
    ):
        run(dataset_of(shards, NOISE), path, state=state)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"epoch 0, units 0 to 0: other samples at places 0, 1, 2, 3"):
        run(dataset_of(shards, seed=138), path)
    assert list(Reader(path))[-1].place == (0, 6, 7)
    assert path.read_bytes().startswith(before)


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_leaves_the_loader_where_it_was(shards, tmp_path, num_workers):
    path = tmp_path / "run.ledger"
    run(dataset_of(shards), path, batches=3)
    with A.StreamLoader(dataset_of(shards, NOISE), ledger=path, num_workers=num_workers) as loader:
        for _ in range(2):
            with pytest.raises(LedgerError, match="units 0 to 0"):
                next(iter(loader))
        assert loader.state_dict()["units"] == 0


def test_a_torn_line_is_dropped_wherever_it_is_torn(shards, whole, tmp_path, caplog):
    text = whole.read_bytes()
    start = text.rindex(b"\n", 0, -1) + 1
    path = tmp_path / "run.ledger"
    for end in (start + 1, start + 40, len(text) - 1):
        path.write_bytes(text[:end] + b"\0" * (end % 3))
        assert len(list(Reader(path))) == 19
        caplog.clear()
        assert run(dataset_of(shards), path)[0] == text
        assert "torn" in caplog.text
    path.write_bytes(text[:50])  # before the first line was whole
    assert run(dataset_of(shards), path)[0] == text


def test_a_broken_ledger_is_refused_and_left_alone(shards, whole, tmp_path):
    text = whole.read_bytes()
    lines = text.splitlines(keepends=True)
    path = tmp_path / "run.ledger"
    for broken, number in (
        (b"".join(lines[:4] + lines[5:]), 5),  # a line is missing
        (text.replace(b"\n0 3 ", b"\n0 2 ", 1), 5),
        (b"".join(lines[1:]), 1),
        (text + b"1 2 three\n", 22),
    ):
        path.write_bytes(broken)
        with pytest.raises(LedgerError, match=f"line {number} of the ledger is broken"):
            run(dataset_of(shards), path)
        assert path.read_bytes() == broken
    path.write_bytes(text.replace(b'{"ledger": %d' % VERSION, b'{"ledger": 1', 1))
    with pytest.raises(LedgerError, match=r"a ledger of version 1, .* begin another"):
        run(dataset_of(shards), path)
    path.write_bytes(b"a letter to somebody")
    with pytest.raises(LedgerError, match="no ledger"):
        run(dataset_of(shards), path)
    assert path.read_bytes() == b"a letter to somebody"


@pytest.mark.parametrize(
    ("name", "said"), [("", "Is a directory; name a file"), ("none/run.ledger", "No such file")]
)
def test_a_ledger_that_cannot_be_opened_is_an_error(shards, tmp_path, name, said):
    loader = A.StreamLoader(dataset_of(shards), ledger=tmp_path / name)
    with pytest.raises(LedgerError, match=f"the ledger cannot be opened: {said}"):
        next(iter(loader))
    assert loader.state_dict()["units"] == 0


def test_a_ledger_without_room_loses_nothing(shards, whole, tmp_path):
    path = tmp_path / "run.ledger"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with A.StreamLoader(dataset_of(shards), ledger=path) as loader:
        next(iter(loader))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
        try:
            with pytest.raises(LedgerError, match="the ledger cannot be written: File too large; make room"):
                next(iter(loader))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for _ in range(2):
            for _ in loader:
                pass
    assert path.read_bytes() == whole.read_bytes()


def test_two_loaders_cannot_share_a_ledger(shards, tmp_path):
    path = tmp_path / "run.ledger"
    with (
        A.StreamLoader(dataset_of(shards), ledger=path) as one,
        A.StreamLoader(dataset_of(shards), ledger=path) as other,
    ):
        next(iter(one))
        second = iter(other)
        next(second)
        next(second)
        with pytest.raises(LedgerError, match="changed while it was written"):
            list(one)


KILLED = """
import os, signal, sys
from engine import dataset_of
import augstream as A
with A.StreamLoader(dataset_of(sys.argv[2:]), num_workers=2, ledger=sys.argv[1]) as loader:
    for number, _ in enumerate(loader):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
def test_a_killed_trainer_leaves_every_line_it_delivered(shards, whole, tmp_path):
    path = tmp_path / "run.ledger"
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path, *shards], timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert [line.place[:2] for line in Reader(path)] == [(0, unit) for unit in range(6)]
    assert run(dataset_of(shards), path)[0] == whole.read_bytes()


# Ranks, mixtures, devices, other people's batches


def test_ranks_keep_their_own_and_are_merged(shards, whole, tmp_path, capsys):
    path = tmp_path / "run.ledger"
    dataset = dataset_of(shards)
    for rank in range(2):
        run(dataset_of(shards, rank=rank, world_size=2), path, epochs=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "run.rank0-of-2.ledger",
        "run.rank1-of-2.ledger",
    ]
    state = dataset.state_at(1, 0, ()).to_dict()
    run(dataset, path, epochs=1, state=state)  # and one rank alone goes on
    assert main(["diff", "--head", str(path), str(whole)]) == 0
    heads = capsys.readouterr().out.split()
    assert heads == [whole.read_text().splitlines()[-1].split()[4]] * 2
    assert len(heads[0]) == 64


def test_ranks_that_contradict_each_other_are_found(shards, tmp_path):
    path = tmp_path / "run.ledger"
    run(dataset_of(shards), path, batches=1)
    run(dataset_of(shards, NOISE, rank=0, world_size=2), path, batches=1)
    with pytest.raises(LedgerError, match=r"contradicts itself at epoch 0, unit 0: .*other bytes"):
        Run.of(str(path)).head()


@pytest.mark.processes
def test_a_ledger_of_floats_does_not_depend_on_how_they_are_made(shards, tmp_path):
    transforms = [A.RandomResizedCrop(size=(40, 48)), A.ColorJitter(p=0.5), A.Normalize(), A.ToTensorV2()]
    ways = [{}, {"fused": False}, {"num_workers": 2}, {"num_workers": 2, "workers": "thread"}, {"unit": 2}]
    found = []
    for number, way in enumerate(ways):
        compose = A.Compose(transforms, fused=way.get("fused", True))
        options = {"unit": way["unit"]} if "unit" in way else {}
        loader = {name: value for name, value in way.items() if name not in {"fused", "unit"}}
        dataset = dataset_of(shards, compose, **{"unit": 4, "lanes": 1, **options})
        run(dataset, tmp_path / f"{number}.ledger", epochs=1, **loader)
        found.append([line.marks for line in Reader(tmp_path / f"{number}.ledger")])
    assert len(found[0]) > 9
    assert all(marks == found[0] for marks in found)


@pytest.mark.processes
def test_mixtures_and_devices(shards, tmp_path):
    def mixture(**arguments):
        transforms = [A.RandomResizedCrop(size=(40, 48)), A.Normalize(), A.ToTensorV2()]
        made = {
            "a": dataset_of(shards[:2], A.Compose(transforms, **arguments)),
            "b": dataset_of(shards[2:], A.Compose(transforms), on_error="raise"),
        }
        return A.Mixture(made, weights={"a": 3, "b": 1}, seed=5)

    here = run(mixture(), tmp_path / "a.ledger")[0]
    assert run(mixture(), tmp_path / "b.ledger", num_workers=2)[0] == here
    run(mixture(fused=False), tmp_path / "c.ledger")
    runs = [[line.marks for line in Reader(tmp_path / f"{name}.ledger")] for name in "ac"]
    assert runs[0] == runs[1]
    transform = A.Compose([A.RandomResizedCrop(size=(24, 32)), A.Normalize(), A.ToTensorV2()])
    there = {}
    for defer in (True, False):
        path = tmp_path / f"{defer}.ledger"
        with A.StreamLoader(dataset_of(shards, transform), ledger=path).to("cpu", defer=defer) as loader:
            list(loader)
        there[defer] = path.read_bytes()
    assert run(dataset_of(shards, transform), tmp_path / "here.ledger", epochs=1)[0] == there[False]
    first = next(iter(Reader(tmp_path / "True.ledger")))
    assert [name for name, _ in first.marks.fields] == ["cls", "image", "image.table", "json", "txt"]


def stacked(samples):
    return torch.stack([torch.from_numpy(sample["image"]) for sample in samples]), [
        sample["cls"] for sample in samples
    ]


def unheard_of(samples):
    return {"value": object(), "num": len(samples)}


def test_other_peoples_batches(shards, tmp_path, capsys):
    paths = [tmp_path / f"{name}.ledger" for name in "ab"]
    run(dataset_of(shards, collate_fn=stacked), paths[0])
    run(dataset_of(shards, NOISE, collate_fn=stacked), paths[1], num_workers=0)
    (line, *_) = Reader(paths[0])
    assert [name for name, _ in line.marks.fields] == ["0", "1"]
    assert main(["diff", *map(str, paths)]) == 1
    assert "'0' differs" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="field 'value' cannot be kept in a ledger: a value of type object"):
        run(dataset_of(shards, collate_fn=unheard_of), tmp_path / "c.ledger")


def test_a_webdataset_pipeline_keeps_one_too(shards, tmp_path):
    def pipeline():
        source = A.wds.WebDataset(shards, seed=137, batch_size=4)
        return source.decode("rgb8").to_tuple("cls", "__key__").batched(4)

    text = run(pipeline(), tmp_path / "a.ledger")[0]
    assert text == run(pipeline(), tmp_path / "b.ledger")[0]
    assert len(next(iter(Reader(tmp_path / "a.ledger"))).samples()) == 4


def test_skipped_samples_are_told_by_their_absence(shards, tmp_path):
    path = tmp_path / "run.ledger"
    run(dataset_of(shards, FailAt(keys=("000004",)), on_error="skip"), path, epochs=1)
    lines = list(Reader(path))
    assert sum(line.num_samples for line in lines) == 36
    assert all(len(line.samples()) == line.num_samples for line in lines)


# diff


def test_diff_of_equal_runs(shards, whole, tmp_path, capsys):
    path = tmp_path / "run.ledger"
    run(dataset_of(shards), path, batches=12, num_workers=0)
    assert main(["diff", str(whole), str(path)]) == 0
    assert capsys.readouterr().out == (
        f"equal in all that both have: 12 batches, 45 samples\nonly {whole} has 8: epoch 1, unit 2 to epoch 1, unit 9\n"
    )


def test_diff_with_a_run_that_had_not_begun(shards, whole, tmp_path, capsys):
    path = tmp_path / "not begun.ledger"
    path.touch()
    assert main(["diff", str(whole), str(path)]) == 1
    assert capsys.readouterr().out == (
        "they have none of their batches in common\n"
        f"only {whole} has 20: epoch 0, unit 0 to epoch 1, unit 9\n"
        f"{path} is empty: its run had not begun\n"
    )
    run(dataset_of(shards, seed=8), path, batches=2)
    assert main(["diff", str(path), str(whole)]) == 1
    assert f"to see it: augstream replay '{path}:0:0:0' SHARDS --pipeline" in capsys.readouterr().out


class BlotAt(ResizeByHand):
    """Changes one value of one image of one epoch, as a fault would."""

    def __call__(self, sample, rng):
        made = super().__call__(sample, rng)
        if sample["__key__"] == "000011":
            made["image"][13, 17, 1] ^= 1
        return made


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({}, {"seed": 138}, [
            "they part at epoch 0, unit 0, after 0 batches that are equal", "other samples at places 0, 1, 2, 3",
            "recipe: seed: 137 against 138", "20 of the 20 batches that both have differ",
        ]),
        ({}, {"transform": NOISE}, [
            "the same samples with other bytes", "'image' differs", "'cls' and 'json' and 'txt' are equal",
            "transform: ",
        ]),
        ({"transform": ResizeByHand()}, {"transform": BlotAt()}, [
            "2 of the 20 batches that both have differ", "the same samples with other bytes at place ",
            "'image' differs",
        ]),
    ],
)  # fmt: skip
def test_diff_says_where_and_in_what_runs_part(shards, tmp_path, capsys, one, other, said):
    paths = [tmp_path / "a.ledger", tmp_path / "b.ledger"]
    for path, arguments in zip(paths, (one, other), strict=True):
        run(dataset_of(shards, **arguments), path)
    assert main(["diff", *map(str, paths)]) == 1
    out = capsys.readouterr().out
    assert all(text in out for text in said), out
    assert f"augstream replay {paths[0]}:0:" in out


def test_diff_of_other_batch_sizes_goes_unit_by_unit(shards, tmp_path, capsys):
    paths = [tmp_path / "a.ledger", tmp_path / "b.ledger"]
    run(dataset_of(shards, unit=2, batch_size=4), paths[0])
    run(dataset_of(shards, unit=2, batch_size=8), paths[1])
    assert main(["diff", *map(str, paths)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "equal in all that both have: 32 units, 64 samples",
        f"only {paths[0]} has 4: epoch 0, units 16 to 17 to epoch 1, unit 18",  # one of them lacks samples
        f"only {paths[1]} has 2: epoch 0, units 16 to 18 to epoch 1, units 16 to 18",
        "  recipe: batch_size: 4 against 8",
    ]
    assert main(["diff", "--head", *map(str, paths)]) == 0
    assert len(set(capsys.readouterr().out.split())) == 2


def test_diff_takes_two(whole, capsys, tmp_path):
    assert main(["diff", str(whole)]) == 2
    assert "compares two ledgers, got 1" in capsys.readouterr().err
    assert main(["diff", str(whole), str(tmp_path / "absent")]) == 2
    assert f"there is no ledger {tmp_path / 'absent'}, nor one of a rank" in capsys.readouterr().err


def test_a_header_tells_whose_it_is(shards, whole):
    header = json.loads(whole.read_text().splitlines()[0])
    assert header["recipe"]["seed"] == 137
    assert header["made with"]["numpy"] == np.__version__
    assert header["index"] == dataset_of(shards).index.fingerprint
