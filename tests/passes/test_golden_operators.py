"""What becomes of each operator, as text: the graph of a small network around it, and why a part of it stays dense."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx import graph as g
from skipfx.capture import capture
from skipfx.passes.rules import RULES, Refuse, local
from skipfx.recipe import classify
from tests.runtime.check import Net, noise
from tests.runtime.test_kernels_pointwise import ALL, _truths, _two_operands

OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "activation": F.silu,
    "arithmetic": lambda x: 2 * x + x.abs(),
    "constant map": lambda x: x + torch.linspace(0, 1, 8),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1])),
    "reversed difference": lambda x: torch.rsub(x, x.abs()),
    "where": lambda x: torch.where(x > 0, x, -x),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "LP pool": lambda x: F.lp_pool2d(x, 2.0, 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "global pool": lambda x: x * F.adaptive_avg_pool2d(x, 1),
    "resize by factor": lambda x: F.interpolate(x, scale_factor=2.0),
    "resize by size": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
    "nearest exact": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
    "antialiased": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
    "antialiased bicubic": lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
    "uneven adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "uneven pad": lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), torch.ones(1, 8, 2, 2)),
    "constant pad": lambda x: F.pad(x, (0, 1, 2, 0), value=1.0),
    "reflect pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel shuffle": lambda x: x.reshape(1, 2, 4, 6, 8).transpose(1, 2).reshape(1, 8, 6, 8),
    "space to depth": lambda x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], 1),
    "concat": lambda x: torch.cat([x, x + 1], 1),
    "stack": lambda x: torch.stack([x, x + 1], 1).sum(1),
    "split": lambda x: torch.split(x, [2, 6], 1)[1],
    "chunk": lambda x: x.chunk(2, 1)[0],
    "index select": lambda x: x[:, [3, 1, 4]],
    "flip": lambda x: x.flip(3),
    "reductions over channels": lambda x: [x.amax(1, True), x.amin(1, True), x.sum(1, True), x.mean(1, True)],
    "softmax over channels": lambda x: x.softmax(1),
    "log-softmax over channels": lambda x: x.log_softmax(1),
    "argmax over channels": lambda x: x.argmax(1),
    "layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
    "group norm": lambda x: F.group_norm(x, 2),
    "softmax over rows": lambda x: x.softmax(2),
    "transposed picture": lambda x: x.transpose(2, 3),
    "concat along rows": lambda x: torch.cat([x, x], 2),
    "sort": lambda x: x.sort(1)[0],
    "grid sample": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
}


class _Around(nn.Module):
    """A convolution, and an operator behind it."""

    def __init__(self, operator: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.operator = nn.Conv2d(3, 8, 1), operator

    def forward(self, x: Tensor) -> Any:
        return self.operator(self.first(x))


PAIR: dict[str, nn.Module | Tensor] = {"a": nn.Conv2d(3, 18, 1), "b": nn.Conv2d(3, 18, 1), "channel": noise(18, 1, 1)}
NETWORKS: dict[str, nn.Module] = {
    **{name: _Around(operator) for name, operator in OPERATORS.items()},
    "functions of one map": _Around(lambda x: [function(x) for function in ALL]),
    "functions of two maps": Net(_two_operands, **PAIR),
    "truth values": Net(_truths, **PAIR),
}
# `torch.export` writes these as others that are in the golden graphs; programs of other versions may hold them
ALSO_WRITTEN = {
    "hardshrink.default", "softshrink.default", "log_softmax.int", "_softmax.default", "_log_softmax.default",
    "adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default", "upsample_nearest2d.default",
    "upsample_bilinear2d.default", "upsample_bicubic2d.default", "_upsample_nearest_exact2d.default",
    "_upsample_bilinear2d_aa.default", "_upsample_bicubic2d_aa.default",
}  # fmt: skip


@cache
def classified(name: str) -> fx.GraphModule:
    return classify(capture(NETWORKS[name].eval(), (torch.zeros(1, 3, 6, 8),)))


def test_golden_graph_of_each_operator(golden: Callable[[str, str], None]) -> None:
    sections = []
    for name in NETWORKS:
        gm = classified(name)
        reasons = [
            f"{node.name} stays dense: {g.record(node).reason}" for node in gm.graph.nodes if g.record(node).reason
        ]
        sections.append("\n".join([f"# {name}", g.text(gm).rstrip("\n"), *reasons]))
    golden("each_operator", "\n\n".join(sections) + "\n")


def local_calls() -> dict[Any, tuple[fx.GraphModule, fx.Node]]:
    """Every operator of the registry that is local somewhere in the golden graphs, and where."""
    nodes = [(classified(name), node) for name in NETWORKS for node in classified(name).graph.nodes]
    return {node.target: (gm, node) for gm, node in nodes if g.record(node).role == "local"}


def test_every_operator_of_the_registry_has_its_golden_graph() -> None:
    unseen = {str(target).removeprefix("aten.") for target in set(RULES) - set(local_calls())}
    assert unseen <= ALSO_WRITTEN, "add a line to OPERATORS"


def test_every_operator_of_the_registry_is_refused_where_it_makes_no_map() -> None:
    """The refusal that all share; pointwise operators have no other. `test_rules` has those of single operators."""
    for gm, node in local_calls().values():
        val = node.meta["val"]
        try:
            node.meta["val"] = val.new_empty(1, 8, 48)
            with pytest.raises(Refuse, match=r"which is no (float )?map \[1, C, H, W\]"):
                local(gm, node)
        finally:
            node.meta["val"] = val
