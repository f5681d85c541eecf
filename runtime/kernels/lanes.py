"""Vectors of LANES numbers merged into one, as a tree: one order, whatever the active set."""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES


@T.inline
def halve(lanes: Any, half: Any, merge: Any) -> None:
    """Merges the upper half of the lanes into the lower."""
    for v in T.vectorized(half):
        lanes[v] = merge(lanes[v], lanes[v + half])


def fold(lanes: Any, merge: Callable[[Any, Any], Any]) -> None:
    """Merges all lanes into lane 0."""
    half = LANES // 2
    while half:
        halve(lanes, half, merge)
        half //= 2
