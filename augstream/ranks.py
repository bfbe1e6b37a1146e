"""Which rank of how many this process is: from torch.distributed, the launcher, or the caller."""

from __future__ import annotations

import os
import sys

from .errors import TopologyError
from .plan import Topology


def find_topology(
    rank: int | None = None, world_size: int | None = None, *, num_workers: int = 0
) -> Topology:
    """The topology of this process: what torch.distributed says, else the environment of torchrun, else
    `rank`.

    `rank` and `world_size` are given together; ``world_size=1`` gives this rank everything, whatever runs
    beside it. Raises `TopologyError` where they contradict what was found, or where the environment is half
    set.
    """
    if (rank is None) != (world_size is None) and world_size != 1:
        msg = f"rank and world_size go together, got {rank} and {world_size}; pass both, or neither"
        raise TopologyError(msg)
    found, source = _detected()
    if world_size is None:
        rank, world_size = found or (0, 1)
    elif found is not None and world_size != 1 and found != (rank, world_size):
        msg = (
            f"rank={rank} and world_size={world_size} were given, but {source} says rank {found[0]} of "
            f"{found[1]}; leave them out, or pass world_size=1 to give every rank everything"
        )
        raise TopologyError(msg)
    return Topology(rank or 0, world_size, num_workers)


def _detected() -> tuple[tuple[int, int] | None, str]:
    """(rank, world size), if anybody says so, and who says it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return (distributed.get_rank(), distributed.get_world_size()), "torch.distributed"
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if texts == (None, None):
        return None, ""
    try:
        return (int(texts[0] or ""), int(texts[1] or "")), "the environment (RANK, WORLD_SIZE)"
    except ValueError:
        msg = (
            f"the environment has RANK={texts[0]!r} and WORLD_SIZE={texts[1]!r}; both must be set to "
            "integers, as torchrun does, or neither"
        )
        raise TopologyError(msg) from None
