"""The modules of a network: each is compiled by itself, into a file of code of its own.

A module's name says all that decides what is in it, so that networks share what they have in common.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import IRModule
from tvm.ir import GlobalVar

from skipfx.runtime.image import EpilogueSpec, Image
from skipfx.runtime.kernels import reduce
from skipfx.runtime.kernels.conv import End, conv, depthwise, to_scratch
from skipfx.runtime.kernels.dot import dot
from skipfx.runtime.kernels.epilogue import epilogue, to_map, value_of
from skipfx.runtime.kernels.hold import hold
from skipfx.runtime.kernels.memory import public, switch
from skipfx.runtime.kernels.move import move
from skipfx.runtime.kernels.nontemporal import storing_nontemporal
from skipfx.runtime.kernels.pool import pool
from skipfx.runtime.kernels.resize import resize
from skipfx.runtime.kernels.step import step_module
from skipfx.runtime.kernels.table import Column, Core, CoreSpec, Tile

Body = Callable[..., None]

TILED: dict[Core, Callable[[Tile, End], Body]] = {Core.CONV: conv, Core.DEPTHWISE: depthwise, Core.DOT: dot}
CORES: dict[Core, Body] = {
    Core.MAX_POOL: pool(maximum=True),
    Core.AVG_POOL: pool(maximum=False),
    Core.RESIZE: resize,
    Core.MOVE: move,
    Core.SUM: reduce.channel_sum,
    Core.MAX: reduce.channel_max,
    Core.MIN: reduce.channel_min,
    Core.ARGMAX: reduce.channel_argmax,
    Core.NORM: reduce.channel_norm,
    Core.SOFTMAX: reduce.channel_softmax,
    Core.LOG_SOFTMAX: reduce.channel_log_softmax,
}


Spec = tuple[Any, ...]  # a kind of kernel, and what it is made from


def modules(image: Image) -> dict[str, Callable[[], IRModule]]:
    """What makes each module of a network, by its name."""
    cores, ends = image.cores, image.epilogues
    tables: dict[str, tuple[Column, dict[int, Spec]]] = {
        "run_core": (Column.CORE, {index: ("core", core) for index, core in enumerate(cores)}),
        "run_end": (
            Column.END,
            {index: ("end", ends[one.epilogue], one.nontemporal) for index, one in enumerate(image.alone)},
        ),
        "run_hold": (
            Column.HOLD,
            {index: ("hold", ends[one.epilogue], one.channels, one.rms) for index, one in enumerate(image.held)},
        ),
        "run_fused": (
            Column.FUSED,
            {
                index: ("fused", cores[one.core], ends[one.epilogue], one.cut, one.nontemporal)
                for index, one in enumerate(image.fused)
            },
        ),
    }
    made: dict[str, Callable[[], IRModule]] = {"step": step_module}
    for _, table in tables.values():
        made |= {_name(spec): partial(_kernel_module, spec) for spec in table.values()}
    return made | {_name(("switch", tables)): partial(_switch_module, tables)}


def _name(spec: Spec) -> str:
    return f"{spec[0]}_{hashlib.sha256(repr(spec).encode()).hexdigest()[:24]}"


def _kernel_module(spec: Spec) -> IRModule:
    kind, *parts = spec
    return IRModule({GlobalVar(_name(spec)): public(_name(spec), KINDS[kind](*parts))})


def _switch_module(tables: dict[str, tuple[Column, dict[int, Spec]]]) -> IRModule:
    """The functions that call the kernel whose number stands in a row."""
    functions = {}
    for name, (column, table) in tables.items():
        names = {number: _name(spec) for number, spec in table.items()}
        functions[GlobalVar(name)] = public(name, switch(column, names))
    return IRModule(functions)


def _core(spec: CoreSpec, end: End = to_scratch) -> Body:
    core, tile = spec
    return CORES[core] if tile is None else TILED[core](tile, end)


def _end(spec: EpilogueSpec, nontemporal: bool) -> Body:
    return _storing(epilogue(value_of(*spec), nontemporal), nontemporal)


def _hold(spec: EpilogueSpec, channels: int, rms: bool) -> Body:
    return hold(value_of(*spec), channels, rms)


def _fused(core: CoreSpec, spec: EpilogueSpec, cut: bool, nontemporal: bool) -> Body:
    return _storing(_core(core, to_map(value_of(*spec), cut, nontemporal)), nontemporal)


def _storing(body: Body, nontemporal: bool) -> Body:
    return storing_nontemporal(body) if nontemporal else body


KINDS: dict[str, Callable[..., Body]] = {"core": _core, "end": _end, "hold": _hold, "fused": _fused}
