"""``augstream plan``, as a user runs it, and the simulation of a thousand ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import augstream as A
from augstream import cli
from augstream.layout import compare_lanes
from augstream.order import Recipe
from augstream.testing import make_shards

ROOT = Path(__file__).parent.parent
WORLD = [
    "--world-size",
    "16",
    "--num-workers",
    "2",
    "--batch-size",
    "8",
    "--window",
    "20",
    "--ranks-per-node",
    "4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eighty indexed shards, and then zeros in their places, of the same sizes and times: nothing can be read."""
    found = tmp_path_factory.mktemp("plan")
    paths = make_shards(found, num_samples=4000, num_shards=80, size=(16, 16), spread=1)
    A.build_index(paths, beside=True)
    for path in map(Path, paths):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return found


def planned(capsys, folder, *arguments):
    assert cli.main(["plan", str(folder), *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_what_each_node_reads_and_what_suits_it(folder, capsys):
    lines = planned(capsys, folder, *WORLD).splitlines()
    assert lines[0].startswith("80 shards, 4,000 samples, ")
    assert lines[1] == "16 ranks on 4 nodes; an epoch has 31 steps of 128 samples"
    assert lines[2] == "a rank gets 248 to 248 samples: 0 between the least and the most"
    nodes = [line.split() for line in lines[lines.index("with 8 lanes") + 2 :][:4]]
    assert [(row[0], row[1:4]) for row in nodes] == [
        ("0", ["0", "to", "3"]), ("1", ["4", "to", "7"]), ("2", ["8", "to", "11"]), ("3", ["12", "to", "15"]),
    ]  # fmt: skip
    assert {row[4] for row in nodes} <= {"40", "41"}
    compared = [line.split() for line in lines if " x " in line]
    assert [row[0] for row in compared] == ["8", "16", "32"]
    assert "100.0%" in compared[0]
    assert lines[-2].startswith("lanes=16: the nodes together read 2 times less. ")


def test_lanes_that_suit_are_said_to(folder, capsys):
    assert planned(capsys, folder, *WORLD, "--lanes", "16").endswith("lanes=16 suits this run.\n")
    assert "with 1 lane\n" in planned(capsys, folder, *WORLD, "--no-shuffle")
    assert "\n      64 " in planned(capsys, folder, *WORLD, "--try-lanes", "64")


def test_json_has_what_the_layout_computes(folder, capsys):
    found = json.loads(
        planned(capsys, folder, *WORLD, "--unit", "4", "--epoch", "3", "--seed", "5", "--json")
    )
    recipe = Recipe(seed=5, batch_size=8, unit=4, window=20)
    layouts = compare_lanes(
        A.build_index(folder), recipe, world_size=16, num_workers=2, ranks_per_node=4, epoch=3
    )
    assert [row["lanes"] for row in found] == [layout.lanes for layout in layouts] == [8, 32, 64]
    for row, layout in zip(found, layouts, strict=True):
        assert row["shards_of_node"] == layout.shards_of_node.tolist()
        assert row["cache_bytes_of_node"] == layout.cache_bytes_of_node.tolist()
        assert row["fetches"] == layout.fetches


def test_many_nodes_are_not_all_printed(folder, capsys):
    out = planned(capsys, folder, "--world-size", "40", "--batch-size", "8", "--ranks-per-node", "1")
    assert "…  and 24 more; --json has them all" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world-size", "0"], "world_size must be an integer of at least 1, got 0"),
        (["--world-size", "4000"], "don't go round the 4000 ranks"),
        (["--world-size", "4", "--unit", "7"], "unit must divide batch_size"),
        (["--world-size", "4", "--ranks-per-node", "0"], "ranks_per_node must be"),
    ],
)
def test_worlds_that_cannot_be_are_one_line(folder, capsys, arguments, message):
    assert cli.main(["plan", str(folder), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.processes
def test_a_thousand_ranks_of_eight_workers_on_two_billion_samples(monkeypatch, capsys):
    """The benchmark itself: a rank plans in a second and 200 MB, and gets no more than a unit more than another."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    import ranks

    rows = ranks.run(Namespace(quick=False))
    assert "200,000 shards, 2,000,000,000 samples" in capsys.readouterr().out
    assert [row["lanes"] for row in rows] == [8, 128, 1024, 8192]
    for row in rows:
        assert row["plan_s"] < 1
        assert 1e6 < row["plan_bytes"] < row["process_bytes"] < 200e6
        assert row["imbalance_samples"] <= 64
    shared = [row["shared"] for row in rows]
    assert shared[0] == 1.0
    assert shared[2] < 0.01


@pytest.mark.processes
def test_the_command_starts_without_torch(folder):
    code = "import sys; from augstream import cli; cli.main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "plan", str(folder), "--world-size", "2"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "webdataset"} & set(ran.stdout.splitlines()[-1].split())
