"""A frame that changes nothing computes nothing."""

import numpy as np
import pytest
import torch

from skipfx.options import Hold
from tests.networks import Branches, moving_clip, seeded
from tests.runtime.check import compiled, flat

CLIP = [frames[0].numpy() for frames in moving_clip(3, 13, 18, length=4)]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_still_frame_computes_nothing_and_says_so(threads: int) -> None:
    engine = compiled(seeded(Branches()), (torch.from_numpy(CLIP[0]),), Hold(threshold=0.1), threads=threads)[1]
    stream, fresh = engine.stream(), engine.stream()
    stream(CLIP[0])
    moved = flat(stream(CLIP[1]))
    for frame in CLIP[:2]:
        fresh(frame)
    still = flat(stream(CLIP[1]))
    assert stream.stats.active_macs == 0
    assert not any(active.any() for active in stream.active().values())
    for one, other in zip(still, moved, strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(flat(stream(CLIP[2])), flat(fresh(CLIP[2])), strict=True):
        assert np.array_equal(one, other)
