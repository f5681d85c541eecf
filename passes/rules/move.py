"""Operators that only move values about: pads, flips, rolls, slices and shuffles of rows, columns and channels.

Where each value comes from is read off PyTorch itself, by moving numbers. The move is local if the row depends on the
output's row (and channel), the column on its column (and channel): then three tables hold all of it,

    place of y[c, p, q] = rows[p] + columns[q] + channels[c],  each a (row, column, channel).

A transposed picture has such tables too; there any change makes every position active, and those that changed go on.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from skipfx import graph as g
from skipfx import ops
from skipfx.passes.rules.common import Local, Refuse, rule

Integers = NDArray[np.signedinteger[Any]]
Place = tuple[int, int, int]
Tables = tuple[tuple[Place | None, ...], ...]
Taps = list[list[list[float]]]
MAX_READS = 1 << 14  # lines read by all output lines of an axis together


@rule(ops.rearrange)
def move(gm: fx.GraphModule, node: fx.Node) -> Local:
    """Moves of rows, columns and channels: pads, flips, rolls, crops, strided slices, shuffles, transposed pictures.

    Constant, reflect, replicate and circular padding; flip, roll, crop; strided slices and index lists; repeat; pixel
    shuffle and unshuffle, space to depth, channel shuffle; reshapes and permutations that amount to one of these.
    """
    args: Any = node.args
    source, steps = args
    if not g.is_map(source):
        return Local("move", (source,))  # the registry says what is wrong with it
    shape = tuple(g.value(source).shape)
    tables = _tables(shape, steps)
    turned = _is_turned(tables)
    rows, columns = (_taps(tables[i], tables[2], axis, shape[2 + axis]) for i, axis in enumerate((turned, not turned)))
    _, fill = origins(shape, steps)
    attrs = {"rows": rows, "columns": columns, "tables": tables, "number": fill, "turned": turned}
    return Local("move", (source,), attrs=attrs)


def is_local(shape: tuple[int, ...], steps: tuple[Any, ...]) -> bool:
    """Whether the steps lead from a feature map of the shape to one, position by position."""
    try:
        _tables(shape, steps)
    except Refuse:
        return False
    return True


def in_order(shape: tuple[int, ...], steps: tuple[Any, ...]) -> bool:
    """Whether the values stay in their order in memory, and only the shape changes."""
    try:
        found, _ = origins(shape, steps)
    except Refuse:
        return False
    return np.array_equal(found.reshape(-1), np.arange(int(np.prod(shape))))


@lru_cache(maxsize=2)  # they are large
def origins(shape: tuple[int, ...], steps: tuple[Any, ...]) -> tuple[Integers, float]:
    """For every value of the result the flat place in the source that it comes from, -1 for a fill; and the fill."""
    fills = {float(step[3] or 0) if len(step) > 3 else 0.0 for step in steps if _is_fill(step)}
    if len(fills) > 1:
        raise Refuse("padding with different constants, one after the other")
    numbered = torch.arange(int(np.prod(shape)), dtype=torch.float64).view(shape)
    marked = tuple(_marked(step) if _is_fill(step) else step for step in steps)
    narrow = np.int32 if numbered.numel() < 1 << 31 else np.int64
    return ops.rearrange(numbered, marked).numpy().astype(narrow), (fills or {0.0}).pop()


def _is_fill(step: tuple[Any, ...]) -> bool:
    constant_pad = step[0] == "constant_pad_nd.default"
    return constant_pad or (step[0] == "pad.default" and (len(step) < 3 or step[2] == "constant"))


def _marked(step: tuple[Any, ...]) -> tuple[Any, ...]:
    return ("constant_pad_nd.default", step[1], -1.0)


@lru_cache(maxsize=256)
def _tables(shape: tuple[int, ...], steps: tuple[Any, ...]) -> Tables:
    """The three tables; None as row or column for the fill."""
    found, _ = origins(shape, steps)
    if found.ndim != 4 or len(found) != 1:
        raise Refuse(f"lays the picture out as {list(found.shape)}, which is no map [1, C, H, W]")
    _, _, height, width = shape
    inside = found[0] >= 0
    rows, columns = inside.any((0, 2)), inside.any((0, 1))
    if not np.array_equal(inside, np.broadcast_to(rows[:, None] & columns, inside.shape)) or not rows.any():
        raise Refuse("padding of channels")
    kept = found[0] if rows.all() and columns.all() else found[0][:, rows][:, :, columns]
    summands = _summands(kept, height, width)
    if summands is None:
        raise Refuse("values that change rows with columns or mix the picture")
    by_row, by_column, by_channel = summands
    return (_places(by_row, rows), _places(by_column, columns), _places(by_channel, np.ones(len(found[0]), bool)))


def _summands(kept: Integers, height: int, width: int) -> tuple[Integers, Integers, Integers] | None:
    """Places [3, H], [3, W], [3, C] that add up to that of every value [C, H, W]; none where there are no such."""
    found = []
    for axis in range(3):  # one at a time, because they are large
        place = kept // width % height if axis == 0 else kept % width if axis == 1 else kept // (height * width)
        by_row, by_column, by_channel = place[0, :, 0] - place[0, 0, 0], place[0, 0] - place[0, 0, 0], place[:, 0, 0]
        plane = by_row[:, None] + by_column
        if not all(np.array_equal(one, first + plane) for one, first in zip(place, by_channel, strict=True)):
            return None
        found.append((by_row, by_column, by_channel))
    by_row, by_column, by_channel = (np.stack(lines) for lines in zip(*found, strict=True))
    crossed = by_row[1].any() or by_column[0].any()
    turned = not (by_row[[0, 2]].any() or by_column[1:].any() or np.ptp(by_channel[:2], 1).any())  # channels stay
    return None if crossed and not turned else (by_row, by_column, by_channel)


def _is_turned(tables: Tables) -> bool:
    """Whether rows come from columns."""
    return any(place and place[1 - axis] for axis in (0, 1) for place in tables[axis])


def _places(found: Integers, kept: NDArray[np.bool_]) -> tuple[Place | None, ...]:
    """One place per line, found [3, lines that are kept]."""
    places = iter(found.T.tolist())
    return tuple(tuple(next(places)) if inside else None for inside in kept)


def _taps(lines: tuple[Place | None, ...], channels: tuple[Place | None, ...], axis: int, size: int) -> Taps:
    """Per output line the input lines it reads, in the form of `skipfx.passes.rules.resize`."""
    spread = sorted({place[axis] for place in channels if place is not None})
    if len(spread) * len(lines) > MAX_READS:
        raise Refuse(f"a position that takes in {len(spread)} lines of the picture")
    # a line of the fill reads nothing: any line will do
    read = [[min((line[axis] if line else 0) + step, size - 1) for step in spread] for line in lines]
    return [[[float(max(0, i)) for i in index], [1.0] * len(spread)] for index in read]
