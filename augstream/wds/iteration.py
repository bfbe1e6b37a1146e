"""Which iteration of a webdataset pipeline a stage is run in: webdataset does not tell, but the call stack does."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import webdataset


def enclosing_iteration(stage: Any) -> FrameType | None:
    """The frame of the iterator of the pipeline that `stage` is in: one for all passes of one iteration.

    A stage is run once a pass. Whether a pass begins an iteration, or repeats within one (``repeat``,
    ``with_epoch``), is for the pipeline to know. None where no pipeline of webdataset's is running.
    """
    wanted = webdataset.DataPipeline.iterator.__code__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is wanted and any(one is stage for one in frame.f_locals["self"].pipeline):
            return frame
        frame = frame.f_back
    return None


def is_mixed() -> bool:
    """Whether the dataset that asks is being begun by a ``wds.RandomMix``."""
    wanted = webdataset.RandomMix.__iter__.__code__
    frame: FrameType | None = sys._getframe(1)
    for _ in range(6):
        if frame is None:
            return False
        if frame.f_code is wanted:
            return True
        frame = frame.f_back
    return False
