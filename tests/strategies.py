"""Hypothesis strategies that several tests share: small worlds in which every edge is near."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from augstream.index import ShardIndex
from augstream.order import Recipe
from augstream.plan import Topology

seeds = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
keys = st.binary(min_size=16, max_size=16)


def file_texts() -> st.SearchStrategy[str]:
    """Any text that a file name or a tar header can hold: valid Unicode, and bytes that are not UTF-8."""
    return st.one_of(st.text(), st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))


@st.composite
def indexes(draw: st.DrawFn, max_shards: int = 8, max_samples: int = 30) -> ShardIndex:
    """Indexes of a few uneven shards, some empty, with one sample at least."""
    counts = draw(st.lists(st.integers(0, max_samples), min_size=1, max_size=max_shards).filter(sum))
    return ShardIndex.synthetic(len(counts), counts)


@st.composite
def recipes(draw: st.DrawFn, **fixed: Any) -> Recipe:
    """Recipes of small numbers: units, lanes and windows now larger, now smaller than the data."""
    unit = draw(st.integers(1, 7))
    values: dict[str, Any] = {
        "seed": draw(seeds),
        "unit": unit,
        "batch_size": unit * draw(st.integers(1, 4)),
        "lanes": draw(st.integers(1, 9)),
        "shuffle": draw(st.booleans()),
        "window": draw(st.integers(1, 60)),
        "drop_last": draw(st.booleans()),
        "tail": draw(st.sampled_from(["drop", "pad"])),
    }
    return Recipe(**(values | fixed))


@st.composite
def topologies(draw: st.DrawFn, max_world: int = 6, max_workers: int = 4) -> Topology:
    """Topologies as seen from any of their ranks."""
    world_size = draw(st.integers(1, max_world))
    return Topology(draw(st.integers(0, world_size - 1)), world_size, draw(st.integers(0, max_workers)))
