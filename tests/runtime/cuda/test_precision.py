"""Convolutions on tensor cores: operands are rounded, and nothing else is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.build import compile_engine
from skipfx.errors import CompileError, OptionError
from skipfx.model import SkipModel
from skipfx.options import Hold
from skipfx.runtime import Engine, load, pack
from skipfx.runtime.kernels import table as words
from skipfx.runtime.kernels.table import PRECISIONS
from skipfx.transformation import transform
from tests.networks import Frames, seeded
from tests.runtime.check import EXACT, Array, assert_same, changing, flat
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.loops import ORDERS

# half the distance of a number in [1, 2) to the next one
ROUNDING = {"tf32": 2**-11, "fp16": 2**-11, "bf16": 2**-8}
FLOAT32 = 2**-20  # of a sum of absolute products: some hundred float32 additions in any order
# fp16 on sm_75 takes smaller steps, and copies are plain there
KINDS = [("fp16", "sm_75"), ("fp16", "sm_80"), ("bf16", "sm_80"), ("tf32", "sm_80")]
LARGE = ("sm_75", "bf16")  # which of them are tried with the tiles of large maps


class Shapes(nn.Module):
    """Convolutions of the frames alone: wide and narrow, strided, dilated, in groups, aligned to four floats or not."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Conv2d(24, 70, 3, padding=1)
        self.some = nn.Conv2d(24, 6, (1, 2), stride=2)
        self.halves = nn.Conv2d(24, 12, 3, padding=2, dilation=2, groups=2)
        self.stem = nn.Conv2d(3, 20, 5, padding=2)

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [self.main(x), self.some(x), self.halves(x), self.stem(y)]


CLIP = changing((24, 7, 11), (3, 8, 9))


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    return transform(seeded(Shapes()), CLIP[0], gate=EXACT)


def rounded(values: Tensor, precision: str) -> Tensor:
    """As a tensor core reads them; the rounding of TF32 is written as a multiple of the last of its bits."""
    if precision == "tf32":
        fraction, exponent = torch.frexp(values.double())
        return torch.ldexp(torch.sign(fraction) * torch.floor(fraction.abs() * 2**11 + 0.5) / 2**11, exponent)
    return values.to({"fp16": torch.float16, "bf16": torch.bfloat16}[precision]).double()


def convolved(convolution: nn.Conv2d, frame: Tensor, change: Any) -> Tensor:
    """The convolution in float64 of operands that `change` was applied to; the bias is left as it is."""
    weight, bias = change(convolution.weight.detach()), convolution.bias
    assert bias is not None
    shape: Any = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    found: Tensor = F.conv2d(change(frame).double(), weight.double(), bias.detach().double(), *shape)
    return found


def compiled(skip: SkipModel, precision: Any, architecture: str, order: str = "mixed") -> Engine:
    """An engine whose streams run in an order of threads."""
    with loops(LoopDriver(order)), pytest.MonkeyPatch.context() as patch:
        if precision in LARGE or architecture in LARGE:
            patch.setattr(words, "SMALL", 0)
        engine = compile_engine(skip, f"cuda:{architecture}", precision=precision, dense_above=1.0)
        assert engine.device
    return engine


def run(engine: Engine, clip: list[Frames], **options: Any) -> list[list[Array]]:
    """The outputs of a new stream."""
    stream = engine.stream(**options)
    return [[np.array(leaf) for leaf in flat(stream(*(frame.numpy() for frame in frames)))] for frames in clip]


@pytest.mark.parametrize(("precision", "architecture"), KINDS)
def test_operands_alone_are_rounded(skip: SkipModel, precision: Any, architecture: str) -> None:
    """PyTorch's sums of rounded operands, and those of the others but for their rounding."""
    net: Any = seeded(Shapes())
    layers = [(net.main, 0), (net.some, 0), (net.halves, 0), (net.stem, 1)]
    for frames, outputs in zip(CLIP, run(compiled(skip, precision, architecture), CLIP), strict=True):
        for (layer, index), output in zip(layers, outputs, strict=True):
            found, frame = torch.from_numpy(output), frames[index]
            size = convolved(layer, frame, torch.abs)
            exact = convolved(layer, frame, lambda values: rounded(values, precision))
            assert ((found - exact).abs() <= FLOAT32 * size).all()
            error = (found - convolved(layer, frame, lambda values: values)).abs()
            assert (error <= (2.1 * ROUNDING[precision] + FLOAT32) * size).all()
            assert error.max() > ROUNDING[precision] * size.max() / 100, "nothing was rounded"


@pytest.mark.parametrize(("precision", "architecture"), KINDS)
def test_threshold_zero_is_bit_identical_to_refreshing_on_every_frame(
    skip: SkipModel, precision: Any, architecture: str
) -> None:
    engine = compiled(skip, precision, architecture)
    for one, other in zip(run(engine, CLIP), run(engine, CLIP, refresh_every=1), strict=True):
        assert_same(one, other)


def test_the_order_of_threads_does_not_matter(skip: SkipModel) -> None:
    first, *others = [run(compiled(skip, "fp16", "sm_80", order), CLIP) for order in ORDERS]
    for found in others:
        for one, other in zip(first, found, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(("precision", "architecture"), KINDS)
def test_thresholds_mean_the_same(precision: Any, architecture: str) -> None:
    """Where nothing needs rounding, all is as in float32 on a CPU: what is held, and what is computed."""

    def whole(frames: Frames) -> Frames:
        return tuple((4 * frame).round().clamp(-8, 8) for frame in frames)

    net = seeded(Shapes())
    for parameter in net.parameters():
        parameter.data = (16 * parameter.data).round().clamp(-8, 8)
    clip = [whole(frames) for frames in CLIP]
    skip = transform(net, clip[0], gate=Hold(threshold=0.5, input_threshold=1.5))
    stream, other = compiled(skip, precision, architecture).stream(), compile_engine(skip, dense_above=1.0).stream()
    for frames in clip:
        found = flat(stream(*(frame.numpy() for frame in frames)))
        for one, expected in zip(found, flat(other(*frames)), strict=True):
            assert np.array_equal(one, expected)
        assert stream.stats == other.stats


def test_an_engine_knows_its_precision(skip: SkipModel, tmp_path: Path) -> None:
    with loops(LoopDriver()):
        engine = compile_engine(skip, "cuda:sm_80", precision="fp16")
    engine.save(tmp_path / "net.skipfx")
    loaded = load(tmp_path / "net.skipfx")
    assert loaded.program.precision == "fp16" and "sm_80, fp16" in repr(loaded)


def test_an_unknown_precision_is_refused(skip: SkipModel) -> None:
    unknown: Any = "fp8"
    with pytest.raises(OptionError, match="fp32, tf32, fp16, bf16; got 'fp8'"):
        compile_engine(skip, "cuda", precision=unknown)


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_a_cpu_computes_in_float32(skip: SkipModel, precision: Any) -> None:
    with pytest.raises(CompileError, match="a CPU computes in fp32"):
        compile_engine(skip, "cpu", precision=precision)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_an_architecture_without_the_precision_is_refused(skip: SkipModel, precision: Any) -> None:
    with pytest.raises(CompileError, match=r"sm_75 has no tensor cores for .* sm_80 or later"):
        compile_engine(skip, "cuda:sm_75,sm_80", precision=precision)
    with loops(LoopDriver()):
        assert "sm_75" not in compile_engine(skip, "cuda", precision=precision).program.level


def test_a_weight_beyond_fp16_is_refused() -> None:
    net: Any = seeded(nn.Conv2d(3, 4, 1))
    net.weight.data[0, 0] = 1e5
    with pytest.raises(CompileError, match="100000 is beyond the range of fp16"):
        compile_engine(transform(net, (CLIP[0][1],), gate=EXACT), "cuda", precision="fp16")


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_weights_are_rounded_as_the_rows_are(precision: Any) -> None:
    """Ties too: halves between two neighbours."""
    step = 2 * ROUNDING[precision]
    values = torch.cat([torch.randn(64), 1 + step * (torch.arange(8) + 0.5), -1 - step * (torch.arange(8) + 0.5)])
    packed = pack.rounded(values.numpy(), precision)
    if precision == "fp16":
        found = torch.from_numpy(packed.view(np.float16)).double()
    elif precision == "bf16":
        found = torch.from_numpy(packed.view(np.int16)).view(torch.bfloat16).double()
    else:
        found = torch.from_numpy(packed).double()
    assert torch.equal(found, rounded(values, precision))
