"""Which rank of how many this process is, and whether all ranks are at the same place.

Ranks need no communication to share a stream: what each takes is arithmetic. What is asked of the others is
asked only by `assert_in_step`, to find mistakes of the training loop's.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import astuple, dataclass, field
from hashlib import blake2b
from typing import Any

from .errors import TopologyError
from .plan import Topology

_MAX_NAMED = 8
Skips = tuple[tuple[str, str], ...]  # the (shard, key)s that are left out


def find_topology(
    rank: int | None = None,
    world_size: int | None = None,
    *,
    num_workers: int = 0,
    told: tuple[int, int] | None = None,
) -> Topology:
    """The topology of this process: what is given, else what torch.distributed says, else the environment of torchrun.

    `rank` and `world_size` are given together; ``world_size=1`` gives this rank everything, whatever runs
    beside it. told: what the process that started this one had found, for where nothing is to be found here.
    Raises `TopologyError` where they contradict what was found, where they are left out and what was found
    contradicts itself, or where the environment is half set.
    """
    if (rank is None) != (world_size is None) and world_size != 1:
        msg = f"rank and world_size go together, got {rank} and {world_size}; pass both, or neither"
        raise TopologyError(msg)
    found, source = detected()
    if found is None and told is not None:
        found, source = told, "the process that started this one"
    if world_size is None:
        _refuse_two_answers(found)
        rank, world_size = found or (0, 1)
    elif found is not None and world_size != 1 and found != (rank, world_size):
        msg = (
            f"rank={rank} and world_size={world_size} were given, but {source} says rank {found[0]} of "
            f"{found[1]}; leave them out, or pass world_size=1 to give every rank everything"
        )
        raise TopologyError(msg)
    return Topology(0 if rank is None else rank, world_size, num_workers)


def detected() -> tuple[tuple[int, int] | None, str]:
    """(rank, world size), if anybody says so, and who says it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return (distributed.get_rank(), distributed.get_world_size()), "torch.distributed"
    return _environment(), "the environment (RANK, WORLD_SIZE)"


def _environment() -> tuple[int, int] | None:
    """(rank, world size) as torchrun tells it; `TopologyError` if that is half said."""
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if texts == (None, None):
        return None
    try:
        return int(texts[0] or ""), int(texts[1] or "")
    except ValueError:
        msg = (
            f"the environment has RANK={texts[0]!r} and WORLD_SIZE={texts[1]!r}; both must be set to "
            "integers, as torchrun does, or neither"
        )
        raise TopologyError(msg) from None


def _refuse_two_answers(found: tuple[int, int] | None) -> None:
    """Raise `TopologyError` if torch.distributed found one thing and the launcher said another: a group that
    each of many processes has made of itself alone, say, so that all would train on the same samples."""
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys() and found not in {None, _environment()}:
        rank, world_size = found or (0, 1)
        said = f"RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']}"
        msg = (
            f"torch.distributed says rank {rank} of {world_size}, but the environment has {said}; if the group "
            f"is right, say so with rank={rank}, world_size={world_size}, else initialise it from the environment"
        )
        raise TopologyError(msg)


@dataclass(frozen=True, slots=True, order=True)
class Standing:
    """Where a rank stands: numbers that are equal on all ranks of a run that is in step.

    stream: tells streams apart. began_epoch, began_units: where its loader was made or moved to last.
    num_batches: what it has delivered since then. skips: tells apart what was left out; that may differ.
    """

    stream: int
    began_epoch: int
    began_units: int
    num_batches: int
    skips: int = field(default=0, compare=False)

    @classmethod
    def of(cls, stream: object, began: tuple[int, int], num_batches: int, skips: Skips) -> Standing:
        """The standing of a rank that leaves `skips` out of `stream`, which is told apart by its `repr`."""
        return cls(_number(stream), *began, num_batches, _number(sorted(skips)))


def _number(value: object) -> int:
    return int.from_bytes(blake2b(repr(value).encode(), digest_size=7).digest(), "little")


def assert_in_step(standing: Standing, topology: Topology, skips: Skips, group: Any = None) -> Skips:
    """The samples that any of the ranks leaves out, in one order, if all ranks stand where this one does;
    else raise `TopologyError`, on all of them alike, that says which do not.

    One all-gather of five numbers, which every rank of `group` (all, if None) must take part in, and another
    of `skips` where they differ. Where the ranks are divided about where they stand, more of them are right
    than of the others; else those who are further.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        if topology.world_size == 1:
            return tuple(sorted(skips))
        msg = (
            f"{topology.world_size} ranks can be compared once they can talk: call "
            "torch.distributed.init_process_group first"
        )
        raise TopologyError(msg)
    standings = _gathered(standing, distributed, group)
    problem = out_of_step(standings)
    if problem is not None:
        raise TopologyError(problem)
    if len({other.skips for other in standings}) == 1:
        return tuple(sorted(skips))
    theirs: list[Any] = [None] * len(standings)
    distributed.all_gather_object(theirs, list(skips), group=group)
    return tuple(sorted({(shard, key) for pairs in theirs for shard, key in pairs}))


def _gathered(standing: Standing, distributed: Any, group: Any) -> list[Standing]:
    """The standing of each rank."""
    import torch

    device = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"
    ours = torch.tensor(astuple(standing), dtype=torch.int64, device=device)
    theirs = [torch.empty_like(ours) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(theirs, ours, group=group)
    return [Standing(*numbers.tolist()) for numbers in theirs]


def out_of_step(standings: list[Standing]) -> str | None:
    """Which ranks don't stand where the others do, and why that may be; None if all do.

    >>> print(out_of_step([Standing(1, 0, 0, 7), Standing(1, 0, 0, 7), Standing(1, 0, 0, 6)]))
    the ranks are not in step: rank 2 of 3 has had 6 batches where the others have had 7; every rank must take all \
of its batches, so look for a break, continue or error that not all ranks meet
    """
    counts = Counter(standings)
    usual = max(counts, key=lambda standing: (counts[standing], standing))
    odd = [(rank, standing) for rank, standing in enumerate(standings) if standing != usual]
    if not odd:
        return None
    told = [f"rank {rank} of {len(standings)} {_difference(standing, usual)}" for rank, standing in odd]
    more = [f"and {len(odd) - _MAX_NAMED} more ranks differ"] if len(odd) > _MAX_NAMED else []
    return f"the ranks are not in step: {'; '.join([*told[:_MAX_NAMED], *more])}"


def _difference(odd: Standing, usual: Standing) -> str:
    """What most likely went wrong on a rank."""
    if odd.stream != usual.stream:
        return "streams something else; give all ranks the same shards, recipe, transform and world size"
    if (odd.began_epoch, odd.began_units) != (usual.began_epoch, usual.began_units):
        return (
            f"began at unit {odd.began_units} of epoch {odd.began_epoch} where the others began at unit "
            f"{usual.began_units} of epoch {usual.began_epoch}; load the same state on all ranks, and move "
            "them with set_epoch together"
        )
    return (
        f"has had {odd.num_batches} batches where the others have had {usual.num_batches}; every rank must "
        "take all of its batches, so look for a break, continue or error that not all ranks meet"
    )
