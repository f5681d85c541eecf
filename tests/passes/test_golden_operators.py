"""What becomes of each operator, as text: the graph of a small network around it, and why a part of it stays dense."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx import graph as g
from skipfx.capture import capture
from skipfx.recipe import classify

OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "activation": F.silu,
    "arithmetic": lambda x: 2 * x + x.abs(),
    "constant map": lambda x: x + torch.linspace(0, 1, 8),
    "where": lambda x: torch.where(x > 0, x, -x),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "LP pool": lambda x: F.lp_pool2d(x, 2.0, 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "global pool": lambda x: x * F.adaptive_avg_pool2d(x, 1),
    "resize by factor": lambda x: F.interpolate(x, scale_factor=2.0),
    "resize by size": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
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
    "reduction over channels": lambda x: x.amax(1, keepdim=True),
    "softmax over channels": lambda x: x.softmax(1),
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

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.operator = nn.Conv2d(3, 8, 1), operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(self.first(x))


def test_golden_graph_of_each_operator(golden: Callable[[str, str], None]) -> None:
    sections = []
    for name, operator in OPERATORS.items():
        gm = classify(capture(_Around(operator).eval(), (torch.zeros(1, 3, 6, 8),)))
        reasons = [
            f"{node.name} stays dense: {g.record(node).reason}" for node in gm.graph.nodes if g.record(node).reason
        ]
        sections.append("\n".join([f"# {name}", g.text(gm).rstrip("\n"), *reasons]))
    golden("each_operator", "\n\n".join(sections) + "\n")
