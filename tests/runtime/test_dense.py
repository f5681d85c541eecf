"""Dense islands as nests of loops: what is a kernel of its own, what is shared, what lies where."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.passes.lower import lower
from skipfx.plan import Dense, Give, Plan, Room
from skipfx.runtime.dense.flatten import flatten
from skipfx.runtime.dense.kernel import Kernel
from skipfx.transformation import transform
from tests.runtime.check import EXACT, Net, noise


def plan(body: Any, **parts: nn.Module | Tensor) -> Plan:
    """The plan for a GPU of a network behind a convolution."""
    net = Net(body, conv=nn.Conv2d(3, 16, 3, padding=1), **parts)
    return flatten(lower(transform(net, (noise(1, 3, 8, 10),), gate=EXACT).graph_module))


def kernels(found: Plan) -> list[Kernel]:
    """Of all launches, in order."""
    steps = [step.kernel for step in found.segments[0].steps if isinstance(step, Dense)]
    assert all(isinstance(kernel, Kernel) for kernel in steps)
    return steps  # type: ignore[return-value]


def test_what_only_moves_or_is_computed_once_needs_no_kernel() -> None:
    found = kernels(plan(lambda net, x: net.conv(x).flatten(2).transpose(1, 2).softmax(1) * 2))
    shapes = [((1, 16), True), ((1, 16), True), ((1, 80, 16), False)]
    assert [(kernel.nest.out.shape, bool(kernel.nest.reduced)) for kernel in found] == shapes


def test_a_product_does_not_compute_its_operand_again() -> None:
    found = kernels(plan(lambda net, x: net.wide(F.gelu(net.conv(x).flatten(1))), wide=nn.Linear(1280, 600)))
    assert [kernel.nest.out.size for kernel in found] == [1280, 600, 600]


def test_layers_of_equal_shape_share_kernels_and_memory() -> None:
    def layers(count: int) -> Plan:
        parts = {f"layer{i}": nn.Linear(16, 16) for i in range(count)}

        def body(net: Any, x: Tensor) -> Tensor:
            tokens: Tensor = net.conv(x).flatten(2).transpose(1, 2)
            for name in parts:
                tokens = tokens + getattr(net, name)(tokens).softmax(1)
            return tokens

        return plan(body, **parts)

    two, four = layers(2), layers(4)
    assert len(kernels(four)) > 1.5 * len(kernels(two)) > 1.5 * len(set(kernels(two)))
    assert set(kernels(four)) == set(kernels(two))
    assert four.rooms == two.rooms


def test_outputs_have_rooms_of_their_own_and_elements_of_eight_bytes_come_first() -> None:
    def body(net: Any, x: Tensor) -> list[Tensor]:
        y = net.conv(x).flatten(1)[:, :5].cumsum(1)
        return [y, y.argmax(1), y > 0, y * torch.ones(3, 1)]

    found = plan(body)
    (segment,) = found.segments
    rooms = [step.room for step in segment.steps if isinstance(step, Give)]
    assert len({room.index for room in rooms}) == 4
    written = [step.tensors[0] for step in segment.steps if isinstance(step, Dense)]
    assert all(written.count(room) == 1 for room in rooms) and all(isinstance(at, Room) for at in written)
    assert segment.dtypes == ("int64", "bool", "float32", "float32")
    assert found.outputs == ((0, 2), (0, 0), (0, 1), (0, 3))


def test_a_plan_without_islands_stays_as_it_is() -> None:
    before = lower(
        transform(Net(lambda net, x: net.conv(x), conv=nn.Conv2d(3, 4, 1)), (noise(1, 3, 8, 10),)).graph_module
    )
    assert flatten(before) is before
