"""Resizing as a separable linear map: each output row (column) is a weighted sum of a few input rows (columns).

The weights are read off PyTorch itself, by resizing the identity: so every convention (corners, scale or size,
rounding) is right by construction.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import fx

from skipfx import graph as g
from skipfx.passes.rules.common import Local, Pair, Refuse, rule

aten = torch.ops.aten
MAX_TAPS = 64


@rule(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default, aten.upsample_bilinear2d.vec)
@rule(aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.vec, aten.upsample_bicubic2d.default)
@rule(aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact2d.default)
@rule(aten._upsample_bilinear2d_aa.vec, aten._upsample_bilinear2d_aa.default)
@rule(aten._upsample_bicubic2d_aa.vec, aten._upsample_bicubic2d_aa.default)
def upsample(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Nearest, bilinear and bicubic resizing by factor or size, both corner conventions, antialiased or not."""
    return _read_off(node)


@rule(aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default)
def adaptive_average(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Adaptive average pooling to a fixed number of rows and columns."""
    return _read_off(node)


def _read_off(node: fx.Node) -> Local:
    source: Any = node.args[0]
    if len(node.all_input_nodes) > 1:
        raise Refuse("resizing to a size that is computed from the frame")
    sizes = tuple(g.value(source).shape[2:]), tuple(g.value(node).shape[2:])
    given = {name: value for name, value in g.arguments(node).items() if name not in ("self", "input")}
    matrices = [_matrix(node.target, tuple(given.items()), *sizes, axis) for axis in (0, 1)]
    return Local("resize", (source,), attrs=separable(*matrices))


def separable(rows: np.ndarray, columns: np.ndarray) -> dict[str, Any]:
    """What lowering needs of a map that is linear in the rows [out, in] and in the columns [out, in]."""
    return {"rows": _taps(rows), "columns": _taps(columns)}


@lru_cache(maxsize=256)
def _matrix(target: Any, given: tuple[tuple[str, Any], ...], before: Pair, after: Pair, axis: int) -> np.ndarray:
    """Weights [out, in] along one axis: resizes one-hot lines, constant and short along the other axis."""
    size, options = before[axis], dict(given)
    short = -(-before[1 - axis] // after[1 - axis])
    if options.get("output_size") is not None:
        options["output_size"] = [after[0], 1] if axis == 0 else [1, after[1]]
    hot = torch.eye(size).view(1, size, size, 1) if axis == 0 else torch.eye(size).view(1, size, 1, size)
    resized = target(hot.repeat(1, 1, 1, short) if axis == 0 else hot.repeat(1, 1, short, 1), **options)
    line = resized[0, :, :, 0] if axis == 0 else resized[0, :, 0, :]
    result: np.ndarray = line.T.contiguous().numpy()
    return result


def _taps(matrix: np.ndarray) -> list[list[list[float]]]:
    """Per output line: [first tap index.., weights..] as two lists, padded to the same number of taps."""
    count = int((matrix != 0).sum(1).max())
    if count > MAX_TAPS:
        raise Refuse(f"resizing that mixes {count} lines into one; at most {MAX_TAPS} are local")
    taps = []
    for line in matrix:
        index = np.flatnonzero(line)
        index = np.concatenate([index, np.repeat(index[-1:], count - len(index))])
        weight = line[index].copy()
        weight[len(np.flatnonzero(line)) :] = 0
        taps.append([[float(i) for i in index], [float(w) for w in weight]])
    return taps
