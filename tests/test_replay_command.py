"""`augstream replay`, run as a user runs it: from addresses, from errors, from positions in a ledger, and by hand."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import augstream as A
from augstream.cli import main
from augstream.stream import FULL_SCOPE
from augstream.tools.explain import explain, explain_address
from augstream.tools.pictures import encoded
from augstream.tools.preview import stages_sheet

SAVED = A.Compose(
    [A.RandomResizedCrop(size=(24, 32)), A.OneOf([A.GaussNoise(p=1), A.Blur(p=1)], p=0.6), A.Normalize()]
)


class Odd(A.ImageOnlyTransform):
    """Fails at pictures that are darker than others."""

    def apply(self, img, **params):
        if img.mean() < 110:
            msg = f"this picture is dark: {img.mean():.0f}"
            raise ValueError(msg)
        return img


def divided(image, rng):
    return image[:24, :32] // rng.integers(1, 9)


def in_two(image):
    return [image, image]


OTHER = A.Compose([A.RandomResizedCrop(size=(24, 32)), A.Normalize(mean=(0.5, 0.5, 0.5))])
ODD = A.Compose([A.HorizontalFlip(p=0.5), Odd(p=1)])


def make(shards, transform=SAVED, **arguments):
    return A.StreamDataset(
        shards, transform, **{"batch_size": 4, "seed": 7, "lanes": 3, "window": 16, **arguments}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "pipeline.json"
    A.save(SAVED, str(path))
    return str(path)


@pytest.fixture(scope="module")
def ledger(shards, tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "run.ledger"
    with A.StreamLoader(make(shards), ledger=path) as loader:
        for _ in itertools.chain(loader, loader):
            pass
    return str(path)


def test_from_an_address(shards, saved, tmp_path, capsys):
    batch = next(iter(make(shards, with_address=True)))
    picture, data = tmp_path / "stages.png", tmp_path / "sample.json"
    for place in range(4):
        address = batch["__address__"][place]
        arguments = ["--pipeline", saved, "--picture", str(picture), "--json", str(data)]
        assert main(["replay", address, *shards, *arguments]) == 0
        out = capsys.readouterr().out
        told = json.loads(data.read_text())
        assert out.startswith(f"{address}\n  on disk: ")
        assert told["address"] == address
        for step in told["steps"]:
            ran = bool(step["applied"])
            assert ran == (step["p"] == 1 or step["gate"] < step["p"])
            assert f"  {step['slot']} {step['name']}: {'applied' if ran else 'not applied'}" in out
        assert cv2.imread(str(picture)).shape == (224 + 34 + 4, 4 * (224 + 4), 3)
    assert " -> 32 x 24 uint8" in out


@pytest.mark.parametrize(
    "arguments",
    [{"lanes": 3}, {"shuffle": False}, {"scope": ("shard", "epoch"), "seed": 9}, {"scope": ("shard",)}],
    ids=str,
)
@pytest.mark.parametrize("transform", ["SAVED", "divided"])
def test_an_address_says_all_that_its_draws_depend_on(shards, tmp_path, arguments, transform):
    """Neither lanes nor shuffling nor the scope is said again: what is computed is what the stream delivered."""
    pipeline = globals()[transform]
    batch = next(
        iter(A.StreamDataset(shards, pipeline, batch_size=4, with_address=True, **{"seed": 7, **arguments}))
    )
    elsewhere = A.StreamDataset(
        shards,
        pipeline,
        batch_size=1,
        seed=arguments.get("seed", 7),
        scope=arguments.get("scope", FULL_SCOPE),
    )
    pictures = [tmp_path / "command.png", tmp_path / "wanted.png"]
    for place, address in enumerate(batch["__address__"]):
        found = explain_address(elsewhere, A.Address.parse(address))
        assert np.array_equal(found.after["image"], batch["image"][place].numpy())
        pictures[1].write_bytes(encoded(stages_sheet(elsewhere, found)))
        command = ["replay", address, *shards, "--pipeline", f"test_replay_command:{transform}"]
        assert main([*command, "--picture", str(pictures[0])]) == 0
        assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_an_address_of_a_webdataset_stage_does_so_too(shards):
    key = _first_key(shards)
    address = A.Address(137, epoch=2, worker=5, shard=Path(shards[0]).name, sample=key, visit=1)
    found = explain_address(make(shards, seed=137), address)
    sample = {"__key__": key, "__url__": shards[0], "jpg": found.before["image"]}
    wanted = A.wds.augment(SAVED, seed=137, fields={"image": "jpg"}).at(sample, address)
    assert np.array_equal(found.after["image"], wanted["jpg"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("seed=7;epoch=0;shard={shard};sample={key}", "names no worker, on which this stream's draws depend"),
        ("seed=7;shard={shard};sample={key}", "names no epoch, on which this stream's draws depend"),
        ("seed=7;epoch=0;worker=1;shard=x.tar;sample={key}", "no shard is named 'x.tar'"),
        ("seed=7;epoch=0;worker=1;shard={shard};sample=x", "no sample has the key 'x'"),
    ],
)
def test_an_address_of_no_sample_of_the_stream_is_refused(shards, capsys, address, said):
    text = address.format(shard=Path(shards[0]).name, key=_first_key(shards))
    assert main(["replay", text, *shards, "--scope", "shard, worker, epoch"]) == 2
    assert said in capsys.readouterr().err
    assert main(["replay", "seed=7;epoch=0;worker=1;shard=a;sample=b", *shards, "--scope", "shard"]) == 2
    assert (
        "names the epoch, on which no draw of this stream depends: its scope is shard"
        in capsys.readouterr().err
    )


def test_a_sample_without_a_picture_or_a_transform_is_told_in_words(shards, tmp_path, capsys):
    address = f"seed=7;epoch=0;worker=0;shard={Path(shards[0]).name};sample={_first_key(shards)}"
    picture = tmp_path / "stages.png"
    plain = ["--fields", '{"label": "cls"}', "--picture", str(picture)]
    assert main(["replay", address, *shards, *plain]) == 0
    out = capsys.readouterr().out
    assert "  on disk: no image\n  and delivered so: there is no transform; --pipeline gives one\n" in out
    assert cv2.imread(str(picture)) is not None
    assert main(["replay", address, *shards, "--pipeline", "test_replay_command:in_two"]) == 0
    assert "cannot be looked into: an image that is no picture, but a list\n" in capsys.readouterr().out


def _first_key(shards):
    return str(A.StreamDataset(shards[0], batch_size=1, seed=0).index.table(0).keys[0])


def test_from_the_line_that_an_error_prints(shards, capsys, tmp_path):
    dataset = make(shards, ODD)
    with pytest.raises(A.SampleError) as caught:
        for _ in dataset:
            pass
    line = re.search(r"augstream replay '(.*)'", str(caught.value))
    picture = tmp_path / "stages.png"
    arguments = ["--pipeline", "test_replay_command:ODD", "--picture", str(picture)]
    assert main(["replay", line[1], *shards, *arguments]) == 1
    out, err = capsys.readouterr()
    assert "  1 Odd: failed\n" in out
    assert "ValueError: this picture is dark" in err
    assert cv2.imread(str(picture)) is not None


def test_from_a_position_in_a_ledger(shards, saved, ledger, tmp_path, capsys):
    """The ledger knows the recipe; no option says it again. What is computed is what was delivered."""
    dataset = make(shards)
    dataset.set_epoch(1)
    batch = next(itertools.islice(dataset, 3, None))
    picture = tmp_path / "batch.png"
    assert main(["replay", f"{ledger}:1:3", *shards, "--pipeline", saved, "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the batch is what the ledger has, to the byte"
    assert [line.split() for line in lines[1:5]] == [
        [str(place), shard, key]
        for place, (shard, key) in enumerate(zip(batch["__shard__"], batch["__key__"], strict=True))
    ]
    assert main(["replay", f"{ledger}:1:3:2", *shards, "--pipeline", saved]) == 0
    assert "epoch=1;worker=" in (out := capsys.readouterr().out)
    assert f"sample={batch['__key__'][2]}\n" in out


@pytest.mark.parametrize(
    ("position", "pipeline", "status", "said"),
    [
        (
            "0:0:0",
            "test_replay_command:OTHER",
            1,
            "the batch is not what the ledger has: the same samples with other bytes",
        ),
        ("0:0:9", "saved", 2, "the batch has 4 samples, got place 9"),
        ("0:99", "saved", 2, "no batch with unit 99 of epoch 0"),
    ],
)
def test_positions_that_do_not_hold(shards, saved, ledger, capsys, position, pipeline, status, said):
    arguments = [*shards, "--pipeline", saved if pipeline == "saved" else pipeline]
    assert main(["replay", f"{ledger}:{position}", *arguments]) == status
    assert said in "".join(capsys.readouterr())


def test_a_ledger_of_other_shards_or_of_a_mixture_is_refused(shards, saved, ledger, capsys, tmp_path):
    assert main(["replay", f"{ledger}:0:0", shards[0], "--pipeline", saved]) == 2
    assert "is of other shards" in capsys.readouterr().err
    path, other = tmp_path / "mixture.ledger", tmp_path / "other.ledger"
    for written, transform in ((path, {}), (other, {"transform": A.CenterCrop(8, 8, p=1)})):
        mixture = A.Mixture({"a": make(shards, **transform)}, weights={"a": 1}, seed=1)
        with A.StreamLoader(mixture, ledger=written) as loader:
            next(iter(loader))
    assert main(["replay", f"{path}:0:0", *shards, "--pipeline", saved]) == 2
    assert "is of a mixture" in capsys.readouterr().err
    assert main(["diff", str(path), str(other)]) == 1
    assert "replay ADDRESS SHARDS" in capsys.readouterr().out


def test_a_batch_with_a_skipped_sample_keeps_its_places(shards, capsys, tmp_path):
    path = tmp_path / "run.ledger"
    dataset = make(shards, ODD, on_error="skip", batch_size=12)
    with A.StreamLoader(dataset, ledger=path) as loader:
        batch = next(iter(loader))
    kept = batch["__key__"]
    assert 0 < len(kept) < 12, "some samples have to fail"
    assert main(["replay", f"{path}:0:0", *shards, "--pipeline", "test_replay_command:ODD"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == kept


@pytest.mark.processes
def test_at_a_prompt_everything_is_at_hand(shards, saved, ledger):
    """In a pseudo-terminal, as a person sits at one."""
    command = [
        sys.executable,
        "-m",
        "augstream",
        "replay",
        f"{ledger}:0:2:1",
        *shards,
        "--pipeline",
        saved,
        "--interact",
    ]
    trainer, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "dumb"},
    )  # fmt: skip
    os.close(terminal)
    said = _until_prompt(trainer)
    for line in (
        b"print(sample['image'].shape, sorted(images)[0], 'crop_coords' in params['0 RandomResizedCrop'])\n",
        b"print(before['image'].dtype, dataset.recipe.seed, explanation.address[:6])\n",
    ):
        os.write(trainer, line)
        said += _until_prompt(trainer)
    os.write(trainer, b"\x04")
    assert process.wait(60) == 0
    os.close(trainer)
    text = said.decode().replace("\r", "")
    assert "params: what was drawn" in text
    assert "(24, 32, 3) 0 RandomResizedCrop True\n" in text
    assert "uint8 7 seed=7\n" in text


def _until_prompt(terminal: int) -> bytes:
    said = b""
    while not said.endswith(b">>> "):
        assert select.select([terminal], [], [], 60)[0], said
        said += os.read(terminal, 4096)
    return said


def test_the_prompt_shows_what_was_delivered(shards):
    dataset = make(shards)
    batch = next(iter(dataset))
    found = explain(dataset, epoch=0, shard=batch["__shard__"][1], key=batch["__key__"][1])
    assert np.array_equal(found.images()["2 Normalize"], batch["image"][1].numpy())
    assert found.params()["0 RandomResizedCrop"]["crop_coords"]
