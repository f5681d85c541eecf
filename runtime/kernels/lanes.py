"""Vectors of LANES numbers: copied, and merged into one as a tree, in one order whatever the active set."""

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


@T.inline
def copy_vector(target: Any, at: Any, source: Any, start: Any) -> None:
    """Copies a vector."""
    for v in T.vectorized(LANES):
        target[at + v] = source[start + v]


@T.inline
def partly(target: Any, at: Any, source: Any, start: Any, count: Any) -> None:
    """Copies the first `count` numbers of a vector, fewer than LANES."""
    half = T.meta_var(LANES // 2)
    done = T.Bind(count // half * half)
    if done > 0:
        for v in T.vectorized(half):
            target[at + v] = source[start + v]
    for k in range(count - done):
        target[at + done + k] = source[start + done + k]


@T.inline
def copy(target: Any, at: Any, source: Any, start: Any, count: Any, spare: Any) -> None:
    """Copies `count` numbers, and up to `spare` more where that makes a vector whole."""
    vectors = T.Bind((count + spare) // LANES)
    for block in range(vectors):
        copy_vector(target, at + block * LANES, source, start + block * LANES)
    done = T.Bind(vectors * LANES)
    if count > done:
        partly(target, at + done, source, start + done, count - done)
