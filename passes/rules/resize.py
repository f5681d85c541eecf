"""Resizing as a separable linear map: each output row (column) is a weighted sum of a few input rows (columns).

The weights are read off PyTorch itself, by resizing the identity: so every convention (corners, scale or size,
rounding) is right by construction.
"""

import numpy as np
import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.rules.common import Local, Refuse, rule

aten = torch.ops.aten
MAX_TAPS = 4


@rule(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default, aten.upsample_bilinear2d.vec)
@rule(aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.vec, aten.upsample_bicubic2d.default)
@rule(aten._upsample_nearest_exact2d.vec, aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec)
def upsample(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Nearest, bilinear and bicubic resizing by factor or size, antialiased or not."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = g.value(source).shape[2:], g.value(node).shape[2:]
    rows, columns = (_matrix(node, before, after, axis) for axis in (0, 1))
    return Local("resize", (source,), attrs={"rows": _taps(rows), "columns": _taps(columns)})


def _matrix(node: fx.Node, before: torch.Size, after: torch.Size, axis: int) -> np.ndarray:
    """Weights [out, in] along one axis: resizes one-hot lines, constant along the other axis."""
    size = before[axis]
    hot = torch.eye(size).view(1, size, size, 1) if axis == 0 else torch.eye(size).view(1, size, 1, size)
    shape = [1, size, before[0], before[1]]
    resized = node.target(hot.expand(shape).contiguous(), *node.args[1:], **node.kwargs)  # type: ignore[operator]
    line = resized[0, :, :, 0] if axis == 0 else resized[0, :, 0, :]
    result: np.ndarray = line.T.contiguous().numpy()
    return result


def _taps(matrix: np.ndarray) -> list[list[list[float]]]:
    """Per output line: [first tap index.., weights..] as two lists, padded to the same number of taps."""
    count = int((matrix != 0).sum(1).max())
    if count > MAX_TAPS:
        raise Refuse(f"resizing that mixes {count} lines; at most {MAX_TAPS} are local")
    taps = []
    for line in matrix:
        index = np.flatnonzero(line)
        index = np.concatenate([index, np.repeat(index[-1:], count - len(index))])
        weight = line[index].copy()
        weight[len(np.flatnonzero(line)) :] = 0
        taps.append([[float(i) for i in index], [float(w) for w in weight]])
    return taps
