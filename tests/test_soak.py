"""What the soak counts: it sees each kind of leak, and a stream in trouble leaves none."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soak
from flaky_server import serving
from leaks import Holdings, Slope, left_since, resident_kb

from augstream.indexing import build_index
from augstream.testing import make_shards
from augstream.workers.slots import anonymous_file, mapped


@pytest.mark.processes
def test_every_kind_of_leak_is_seen() -> None:
    gc.collect()  # what other tests left to the collector must not be given back meanwhile
    before = Holdings.now()
    assert before.more_than(before) == []
    descriptor = anonymous_file(1 << 20)
    block = mapped(descriptor)
    resident = resident_kb()
    block[:] = 1
    assert resident_kb() - resident > 900
    enough = threading.Event()
    thread = threading.Thread(target=enough.wait)
    thread.start()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        found = " ".join(Holdings.now().more_than(before))
        assert "descriptors" in found
        assert "1 mappings" in found
        assert "1 threads" in found
        assert f"children [{child.pid}]" in found
        assert not before.more_than(Holdings.now())
        child.communicate()
    enough.set()
    thread.join()
    os.close(descriptor)
    del block
    assert Holdings.now().more_than(before) == []


def test_the_fit_looks_at_the_second_half() -> None:
    steps = range(200)
    noise = np.random.default_rng(0).normal(0, 5, 200)
    settled = Slope.of(steps, [min(step, 50) * 100 + noise[step] for step in steps])
    leaking = Slope.of(steps, [1000 + step * 0.5 + noise[step] for step in steps])
    assert abs(settled.per_step) < 3 * settled.error
    assert abs(leaking.per_step - 0.5) < 3 * leaking.error
    assert leaking.per_step > 10 * leaking.error


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("trouble", [soak.killed, soak.moved, soak.fetched, soak.stock])
def test_trouble_changes_nothing_and_leaves_nothing(trouble: soak.Trouble, tmp_path: Path) -> None:
    paths = make_shards(tmp_path / "shards", 96, 4, size=(64, 80))
    build_index(paths, beside=True)
    with serving(tmp_path / "shards") as (server, url):
        server.odds = 0.02
        stream = soak.Soak(paths, url, tmp_path)
        trouble(stream)  # what is loaded and started once, stays
        before = Holdings.now()
        trouble(stream)
        assert left_since(before) == []
    assert stream.counts["wrong"] == 0
    assert stream.counts["batches"] == 4 * 6
    assert stream.chain == stream.expected_chain
    assert stream.state["epoch"] == 4
