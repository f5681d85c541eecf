"""Pools on a GPU: small windows, windows that a whole block of threads reads, the whole picture."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.transformation import transform
from tests.runtime.check import EXACT, Net, assert_close, assert_same, changing, reference
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.test_step import FLOAT32, outputs


def _pooled(m: Any, x: Tensor) -> list[Tensor]:
    """Windows of 9 x 9, 11 x 3, 1 x 33, 5 x 2 taps, and of the picture; over borders, in strides, dilated."""
    x = m.wide(x)
    found = [F.avg_pool2d(x, 9, 4, 4), F.avg_pool2d(x, (11, 3), (1, 5), (5, 1), count_include_pad=False)]
    found += [F.max_pool2d(x, (1, 33), (2, 1), (0, 7)), F.max_pool2d(x, 9, 2, 3, dilation=(2, 3))]
    found += [F.max_pool2d(x, (5, 2), (3, 1), (2, 1), ceil_mode=True), F.avg_pool2d(x, (22, 1))]
    return [*found, F.adaptive_avg_pool2d(x, 1), x.amax((2, 3))]


def test_pools_of_every_size(shuffled: Place) -> None:
    """Of more channels than threads that share a position; only what changed is read again."""
    clip = changing((3, 22, 37))
    skip = transform(Net(_pooled, wide=nn.Conv2d(3, 19, 1)), clip[0], gate=EXACT)
    engine = shuffled.engine(skip)
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        found = outputs(shuffled, stream, frames)
        assert_close(found, expected, f"at frame {time}", FLOAT32)
        assert_same(found, outputs(shuffled, refreshed, frames), f"at frame {time}")
