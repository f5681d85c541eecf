"""Puts nests into the ones that read them, where that costs less than a kernel launch and memory between."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import tvm_ffi
from tvm import ir, tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer

from skipfx.runtime.dense.nest import Nest, Tensor, replaced
from skipfx.runtime.dense.read import Island

LAUNCH: Final = 1 << 16  # operations that a launch is worth
LOADS: Final = 32  # of an expression, at most
CALL: Final = 8  # operations that a function such as exp is worth
DIVIDED: Final = 4  # and a division of an index


def fuse(island: Island) -> list[Nest]:
    """The nests of an island that are kernels, in the order in which they run."""
    kept = _alive(island.nests, island.outputs)
    for nest in kept:
        nest.value = _simple(nest, _with_numbers(nest.value, island))
    wanted = {tensor.buffer for tensor in island.outputs}
    done: list[Nest] = []
    for number, nest in enumerate(kept):
        readers = [reader for reader in kept[number + 1 :] if nest.out.buffer in reader.reads]
        if nest.merge is None and nest.out.buffer not in wanted and _pays(nest, readers):
            for reader in readers:
                reader.value = _simple(reader, _put_in(reader.value, nest))
        else:
            done.append(nest)
    return done


def _alive(nests: Sequence[Nest], outputs: Sequence[Tensor]) -> list[Nest]:
    """The nests that an output needs."""
    needed = {tensor.buffer for tensor in outputs}
    found = []
    for nest in reversed(nests):
        if nest.out.buffer in needed:
            needed |= set(nest.reads)
            found.append(nest)
    return found[::-1]


def _with_numbers(value: Any, island: Island) -> Any:
    """An expression with constants of one element as numbers."""
    numbers = {
        tensor.buffer: tirx.const(tensor.constant.reshape(-1)[0].item(), tensor.dtype)
        for tensor in island.constants
        if tensor.constant is not None and tensor.size == 1
    }
    return tvm_ffi.structural_map(value, (TensorLoad, lambda load: numbers.get(load.source, load)))


def _put_in(value: Any, nest: Nest) -> Any:
    """An expression with what a nest computes in place of what reads it."""

    def computed(load: Any) -> Any:
        if not load.source.same_as(nest.out.buffer):
            return load
        at = {var: index for (var, _), index in zip(nest.axes, load.indices, strict=True)}
        return replaced(nest.value, at)

    return tvm_ffi.structural_map(value, (TensorLoad, computed))


def _pays(nest: Nest, readers: Sequence[Nest]) -> bool:
    own = len(nest.reads)
    reads = 0
    for reader in readers:
        found = Counter(reader.reads)
        times = found[nest.out.buffer]
        if len(reader.reads) + times * (own - 1) > LOADS:
            return False
        reads += times * reader.passes
    return _cost(nest.value) * (reads - nest.out.size) <= LAUNCH


def _cost(value: Any) -> int:
    """Roughly, operations of an expression; what only copies costs nothing."""
    if isinstance(value, TensorLoad):
        return sum(_divisions(index) for index in value.indices)
    if isinstance(value, tirx.Cast):
        return _cost(value.value)
    if isinstance(value, ir.Call):
        copies = getattr(value.op, "name", "") == "tirx.if_then_else"
        return (0 if copies else CALL) + sum(map(_cost, value.args[copies:]))
    if isinstance(value, tirx.Select):
        return _cost(value.true_value) + _cost(value.false_value)
    parts = [getattr(value, name) for name in ("a", "b") if hasattr(value, name)]
    return bool(parts) + sum(map(_cost, parts))


def _divisions(index: Any) -> int:
    found: list[Any] = []
    tvm_ffi.structural_walk(index, ((tirx.FloorDiv, tirx.FloorMod, tirx.Div, tirx.Mod), found.append))
    return DIVIDED * len(found)


def _simple(nest: Nest, value: Any) -> Any:
    """The value of a nest, as simple as the extents of its axes allow."""
    analyzer = Analyzer()
    for var, extent in (*nest.axes, *nest.reduced):
        analyzer.bind(var, ir.Range(0, extent))
    return analyzer.simplify(value)
