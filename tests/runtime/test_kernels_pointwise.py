"""Pointwise operators, alone and behind a convolution, equal PyTorch's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.passes.rules.unary import UNARY
from tests.runtime.check import EXACT, TOLERANCE, Net, assert_agrees, changing, noise
from tests.strategies import FEW, SIZES, changes

aten = torch.ops.aten


def _power(x: Tensor, exponent: float) -> Tensor:
    return (x.abs() + 0.1) ** exponent


ACTIVATIONS: dict[Any, list[Callable[[Tensor], Tensor]]] = {
    aten.relu.default: [F.relu],
    aten.relu6.default: [F.relu6],
    aten.silu.default: [F.silu],
    aten.sigmoid.default: [torch.sigmoid],
    aten.tanh.default: [torch.tanh],
    aten.mish.default: [F.mish],
    aten.gelu.default: [F.gelu, lambda x: F.gelu(x, approximate="tanh")],
    aten.hardtanh.default: [lambda x: F.hardtanh(x, -0.7, 1.3)],
    aten.hardsigmoid.default: [F.hardsigmoid],
    aten.hardswish.default: [F.hardswish],
    aten.leaky_relu.default: [lambda x: F.leaky_relu(x, 0.1), lambda x: F.leaky_relu(x, -0.1)],
    aten.elu.default: [lambda x: F.elu(x, 1.5)],
    aten.selu.default: [F.selu],
    aten.celu.default: [lambda x: F.celu(x, 0.7)],
    aten.softplus.default: [F.softplus, lambda x: F.softplus(x, 2.0), lambda x: F.softplus(x, 1.0, 0.5)],
    aten.pow.Tensor_Scalar: [partial(_power, exponent=n) for n in (0.5, 2, 3, 4, -0.5, -1, -2, 1.7)],
    aten.log_sigmoid.default: [F.logsigmoid],
    aten.rrelu.default: [F.rrelu],
    aten.hardshrink.default: [F.hardshrink],
    aten.softshrink.default: [lambda x: F.softshrink(x, 0.3), F.tanhshrink],
    aten.threshold.default: [lambda x: F.threshold(x, 0.1, 2.0)],
    aten.rsqrt.default: [lambda x: torch.rsqrt(x.abs() + 0.1)],
    aten.exp2.default: [torch.exp2],
    aten.expm1.default: [torch.expm1, lambda x: torch.expm1(x * 1e-3)],
    aten.log2.default: [lambda x: torch.log2(x.abs() + 0.1)],
    aten.log10.default: [lambda x: torch.log10(x.abs() + 0.1)],
    aten.log1p.default: [lambda x: torch.log1p(x.abs()), lambda x: torch.log1p(x * 1e-3)],
    aten.erf.default: [torch.erf],
    aten.erfc.default: [torch.erfc],
    aten.sign.default: [torch.sign, F.softsign],
    aten.sgn.default: [torch.sgn],
    aten.floor.default: [lambda x: torch.floor(3 * x)],
    aten.ceil.default: [lambda x: torch.ceil(3 * x)],
    aten.trunc.default: [lambda x: torch.trunc(3 * x)],
    aten.round.default: [lambda x: torch.round(3 * x)],
    aten.frac.default: [lambda x: torch.frac(3 * x)],
    aten.deg2rad.default: [torch.deg2rad],
    aten.rad2deg.default: [torch.rad2deg],
    aten.sin.default: [torch.sin],
    aten.cos.default: [torch.cos],
    aten.tan.default: [lambda x: torch.tan(torch.tanh(x))],
    aten.asin.default: [lambda x: torch.asin(0.9 * torch.tanh(x))],
    aten.acos.default: [lambda x: torch.acos(0.9 * torch.tanh(x))],
    aten.atan.default: [torch.atan],
    aten.sinh.default: [torch.sinh, lambda x: torch.sinh(x * 1e-3)],
    aten.cosh.default: [torch.cosh],
    aten.asinh.default: [torch.asinh],
    aten.acosh.default: [lambda x: torch.acosh(x.abs() + 1.1)],
    aten.atanh.default: [lambda x: torch.atanh(0.9 * torch.tanh(x))],
    aten.square.default: [torch.square],
    aten.reciprocal.default: [lambda x: (x.abs() + 0.5).reciprocal()],
    aten.log.default: [lambda x: torch.log(x.abs() + 0.1)],
    aten.exp.default: [torch.exp],
    aten.neg.default: [torch.neg],
    aten.abs.default: [torch.abs],
    aten.sqrt.default: [lambda x: torch.sqrt(x.abs() + 0.1)],
    aten.clamp_min.default: [lambda x: torch.clamp_min(x, -0.3)],
    aten.clamp_max.default: [lambda x: torch.clamp_max(x, 0.3)],
    aten.clamp.default: [lambda x: x.clamp(-0.5, 0.6), lambda x: x.clamp(max=0.4), lambda x: x.clamp(min=-0.1)],
}
ALL = [function for functions in ACTIVATIONS.values() for function in functions]


def test_no_operator_is_forgotten() -> None:
    assert set(ACTIVATIONS) == set(UNARY)


@pytest.mark.parametrize("scale", [1, 12], ids=["small", "large"])
def test_activations_behind_convolutions(scale: float) -> None:
    """Seventeen channels, so that there is a vector and a rest."""
    net = Net(
        lambda m, x: [function(conv(x)) for function, conv in zip(ALL, m.convs, strict=True)],
        convs=nn.ModuleList(nn.Conv2d(3, 17, 1) for _ in ALL),
    )
    engine = assert_agrees(net, [(scale * frame,) for (frame,) in changing((3, 5, 6))])
    assert len(engine.program.layers) == len(ALL)
    assert not engine.program.info["report"]["islands"]


@FEW
@given(st.data())
def test_activations_at_random_sizes_and_active_sets(data: st.DataObject) -> None:
    """In the module of the test above, so beside it: a process compiles a module once."""
    net = Net(
        lambda m, x: [function(conv(x)) for function, conv in zip(ALL, m.convs, strict=True)],
        convs=nn.ModuleList(nn.Conv2d(3, 17, 1) for _ in ALL),
    )
    assert_agrees(net, data.draw(changes((3, data.draw(SIZES), data.draw(SIZES)), length=3)), gate=EXACT)


def test_activations_of_a_map() -> None:
    net = Net(lambda m, x: [m.keep(x), F.relu(x), F.gelu(x), F.leaky_relu(x)], keep=nn.Conv2d(5, 3, 1))
    assert not assert_agrees(net, changing((5, 4, 7))).program.info["report"]["islands"]


def test_prelu() -> None:
    slopes = nn.PReLU(17), nn.PReLU(1)
    net = Net(lambda m, x: [m.many(m.conv(x)), m.one(m.conv(x))], conv=nn.Conv2d(3, 17, 3, padding=1),
              many=slopes[0], one=slopes[1])  # fmt: skip
    assert not assert_agrees(net, changing((3, 6, 5))).program.info["report"]["islands"]


def _arithmetic(m: Any, x: Tensor, y: Tensor) -> list[Tensor]:
    a, b, one, pixel = m.a(x), m.b(y), m.one(x), m.pixel(y)
    positive = torch.exp(m.positive(x)), torch.exp(m.positive_pixel(y))
    sums = [a + b, a - b, b - a, a * b, torch.maximum(a, b), torch.minimum(b, a), torch.add(a, b, alpha=0.3)]
    sums += [a / (b * b + 0.5), torch.sub(a, b, alpha=2), torch.rsub(a, b, alpha=0.5)]
    channel = m.channel
    sums += [a + channel, channel - a, a * channel, a / (channel * channel + 1), channel / (a * a + 1)]
    sums += [torch.maximum(a, channel)]
    sums += [a + 1.5, 2 - a, 3 * a, a / 4, 1 / (a * a + 1), 1 - (a + b)]
    sums += [a * m.scalar, m.scalar - a, a + m.map_of_one]
    # one channel serves all; both orders
    sums += [a * one, one * a, one - a, a / positive[0]]
    # one channel against a parameter per channel makes a map of all channels
    sums += [one * channel, channel + one]
    # one position serves all; both orders, and against one channel
    sums += [a * pixel, pixel * a, pixel - a, a / positive[1], one * pixel, pixel + channel]
    return [*sums, *positive]


@pytest.mark.parametrize("size", [(5, 6), (1, 7), (1, 1)])
def test_arithmetic(size: tuple[int, int]) -> None:
    net = Net(
        _arithmetic, a=nn.Conv2d(3, 17, 1), b=nn.Conv2d(2, 17, 1), one=nn.Conv2d(3, 1, 1),
        pixel=nn.Conv2d(2, 17, size), positive=nn.Conv2d(3, 1, 1), positive_pixel=nn.Conv2d(2, 17, size),
        channel=noise(17, 1, 1), scalar=torch.tensor(0.7), map_of_one=noise(1, 1, 1, 1),
    )  # fmt: skip
    engine = assert_agrees(net, changing((3, *size), (2, *size)))
    assert not engine.program.info["report"]["islands"]


def _two_operands(m: Any, x: Tensor) -> list[Tensor]:
    y, small, positive = m.a(x), torch.tanh(m.b(x)), m.b(x).abs() + 0.2
    row, column = y.mean(2, keepdim=True), y.mean(3, keepdim=True)
    found = [torch.remainder(y, 0.7), torch.remainder(y, positive), torch.fmod(y, 0.7), torch.fmod(y, positive)]
    found += [torch.div(y, positive, rounding_mode=mode) for mode in ("floor", "trunc")]
    found += [torch.floor_divide(y, positive), torch.fmax(y, small), torch.fmin(y, small), torch.hypot(y, small)]
    found += [torch.clamp(y, min=small), torch.clamp(y, max=small), torch.clamp(y, -positive, positive)]
    found += [torch.clamp_min(y, small), torch.clamp_max(y, small), 2**y, positive**small, torch.pow(positive, 1.5)]
    found += [
        torch.addcmul(y, small, positive, value=0.5),
        torch.addcdiv(y, small, positive),
        torch.lerp(y, small, 0.3),
    ]
    found += [torch.lerp(y, small, positive), torch.atan2(y, small), torch.logaddexp(y, small), F.glu(y, 1)]
    return [*found, y * row, column - y, row * column, y.mean((2, 3), keepdim=True) * row, column.expand(y.shape)]


def _truths(m: Any, x: Tensor) -> list[Tensor]:
    y, other = m.a(x), m.b(x)
    half = torch.round(2 * y)
    truths = [y > 0, y < other, half >= 1, half <= -1, half == 2, half != 2, (y > 0) & (other > 0), (y > 0) | ~(y < 1)]
    truths += [torch.logical_xor(y > 0, other > 0), torch.logical_not(y > 0), torch.logical_and(y > 0, other < 0)]
    found = [truth.float() for truth in truths]
    found += [torch.where(y > other, y, other * 2), torch.where(y > 0, y, 0.5), torch.where(y > 0, 0.5, y)]
    return [
        *found,
        y.masked_fill(y < 0.5, 1.0),
        y * (y > 0),
        y - (other > m.channel),
        torch.where(y[:, :1] > 0, y, 0.0),
    ]


@pytest.mark.parametrize("size", [(5, 6), (1, 7), (1, 1)])
@pytest.mark.parametrize("body", [_two_operands, _truths])
def test_functions_of_two_maps(body: Callable[..., Any], size: tuple[int, int]) -> None:
    net = Net(body, a=nn.Conv2d(3, 18, 1), b=nn.Conv2d(3, 18, 1), channel=noise(18, 1, 1))
    engine = assert_agrees(net, changing((3, *size)), tolerance=10 * TOLERANCE)
    assert not engine.program.info["report"]["islands"]


@FEW
@given(st.data())
def test_arithmetic_at_random_sizes_and_active_sets(data: st.DataObject) -> None:
    """Between maps, parameters and numbers; of two and three operands; comparisons and choices."""
    size = data.draw(SIZES), data.draw(SIZES)
    parts: dict[str, Any] = {
        "a": nn.Conv2d(3, 17, 1), "b": nn.Conv2d(2, 17, 1), "one": nn.Conv2d(3, 1, 1), "positive": nn.Conv2d(3, 1, 1),
        "pixel": nn.Conv2d(2, 17, size), "positive_pixel": nn.Conv2d(2, 17, size), "channel": noise(17, 1, 1),
        "scalar": torch.tensor(0.7), "map_of_one": noise(1, 1, 1, 1),
    }  # fmt: skip
    assert_agrees(Net(_arithmetic, **parts), data.draw(changes((3, *size), (2, *size))), gate=EXACT)
    clip = data.draw(changes((3, *size)))
    for body in (_two_operands, _truths):
        net = Net(body, a=nn.Conv2d(3, 18, 1), b=nn.Conv2d(3, 18, 1), channel=noise(18, 1, 1))
        assert_agrees(net, clip, 10 * TOLERANCE, gate=EXACT)


def test_truth_values_as_outputs_keep_their_type() -> None:
    """What the model returns as bool is made of the float map at the end."""
    net = Net(lambda m, x: [m.a(x) > 0, m.a(x)], a=nn.Conv2d(3, 2, 1))
    assert_agrees(net, changing((3, 5, 6)))


def test_residual_adds() -> None:
    """Before the activation, after it, of the input itself, of two convolutions, and in a row."""

    def body(m: Any, x: Tensor) -> Tensor:
        y = F.relu(m.a(x) + x)
        y = F.silu(m.b(y)) + y
        y = m.c(y) + m.d(y)
        y = F.relu(m.e(F.relu(m.e(y))) + y)
        result: Tensor = y + y
        return result

    parts = {name: nn.Conv2d(18, 18, 3, padding=1) for name in "abce"} | {"d": nn.Conv2d(18, 18, 1)}
    assert_agrees(Net(body, **parts), changing((18, 9, 7)), tolerance=10 * TOLERANCE)


def test_more_operands_and_parameters_than_a_step_takes() -> None:
    """Long pointwise chains are cut, and nothing is lost where they are."""

    def body(m: Any, x: Tensor) -> list[Tensor]:
        maps = [conv(x) for conv in m.convs]
        total = m.convs[0](x)
        for other in maps:
            total = torch.tanh(total * 0.5 + other)
        scaled = m.convs[1](x)
        for index in range(6):
            scaled = scaled * m.scale[index] + m.shift[index]
        return [total, scaled]

    net = Net(
        body, convs=nn.ModuleList(nn.Conv2d(3, 17, 1) for _ in range(6)), scale=noise(6, 17, 1, 1),
        shift=noise(6, 17, 1, 1, seed=1),
    )  # fmt: skip
    assert_agrees(net, changing((3, 5, 6)))


def test_many_activations_in_a_row() -> None:
    """Each reads its operand more than once; the code must not grow with the power of the chain's length."""

    def body(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.conv(x)
        for function in (F.silu, F.mish, F.gelu, F.silu):
            y = function(y)
        return y

    assert_agrees(Net(body, conv=nn.Conv2d(3, 17, 1)), changing((3, 5, 6)))
