"""Starting real ranks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"


def environment() -> dict[str, str]:
    """The environment of a launcher: no ranks above it, one thread a process, our modules to be found, and what
    torchrun needs to restart ranks (see docs/how-to/ranks.md)."""
    kept = {
        name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
    }
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def command(num_ranks: int, *arguments: object, max_restarts: int = 0) -> list[str]:
    """The command line of torchrun for a script and its arguments, at a port that is free."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(num_ranks),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--max-restarts", str(max_restarts),
        "--monitor-interval", "0.1", *map(str, arguments),
    ]  # fmt: skip


def run(num_ranks: int, *arguments: object, status: int = 0) -> str:
    """Run torchrun to its end, which has to have that status; what it and its ranks wrote."""
    done = subprocess.run(
        command(num_ranks, *arguments),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environment(),
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr
