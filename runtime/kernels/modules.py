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
from skipfx.runtime.kernels.epilogue import epilogue, to_map, value_of
from skipfx.runtime.kernels.hold import hold
from skipfx.runtime.kernels.memory import public, switch
from skipfx.runtime.kernels.move import move
from skipfx.runtime.kernels.pool import pool
from skipfx.runtime.kernels.resize import resize
from skipfx.runtime.kernels.step import step_module
from skipfx.runtime.kernels.table import Column, Core, CoreSpec, Tile

Body = Callable[..., None]

TILED: dict[Core, Callable[[Tile, End], Body]] = {Core.CONV: conv, Core.DEPTHWISE: depthwise}
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


def modules(image: Image) -> dict[str, Callable[[], IRModule]]:
    """What makes each module of a network, by its name."""
    cores, epilogues = image.cores, image.epilogues
    ends = {index: epilogues[index] for index in image.alone}
    held = [("hold", epilogues[one.epilogue], one.channels, one.rms) for one in image.held]
    fused = [(cores[one.core], epilogues[one.epilogue], one.cut) for one in image.fused]
    bodies: dict[str, Callable[[], Body]] = {}
    bodies |= {_name(one): partial(_core, one, to_scratch) for one in cores}
    bodies |= {_name(one): partial(_end, one) for one in ends.values()}
    bodies |= {_name(one): partial(_held, *one) for one in held}
    bodies |= {_name(one): partial(_fused, *one) for one in fused}
    numbers: dict[str, tuple[Column, dict[int, str]]] = {
        "run_core": (Column.CORE, {index: _name(one) for index, one in enumerate(cores)}),
        "run_end": (Column.EPILOGUE, {index: _name(one) for index, one in ends.items()}),
        "run_hold": (Column.HOLD, {index: _name(one) for index, one in enumerate(held)}),
        "run_fused": (Column.FUSED, {index: _name(one) for index, one in enumerate(fused)}),
    }
    made: dict[str, Callable[[], IRModule]] = {"step": step_module}
    made |= {name: partial(_kernel_module, name, body) for name, body in bodies.items()}
    return made | {_name(numbers): partial(_switch_module, numbers)}


def _name(spec: Any) -> str:
    return f"kernel_{hashlib.sha256(repr(spec).encode()).hexdigest()[:24]}"


def _kernel_module(name: str, body: Callable[[], Body]) -> IRModule:
    return IRModule({GlobalVar(name): public(name, body())})


def _switch_module(numbers: dict[str, tuple[Column, dict[int, str]]]) -> IRModule:
    """The functions that call the kernel whose number stands in a row."""
    bodies = {name: switch(column, names) for name, (column, names) in numbers.items()}
    return IRModule({GlobalVar(name): public(name, body) for name, body in bodies.items()})


def _core(spec: CoreSpec, end: End) -> Body:
    core, tile = spec
    return CORES[core] if tile is None else TILED[core](tile, end)


def _end(spec: EpilogueSpec) -> Body:
    return epilogue(value_of(*spec))


def _held(kind: str, end: EpilogueSpec, channels: int, rms: bool) -> Body:
    return hold(value_of(*end), channels, rms)


def _fused(core: CoreSpec, end: EpilogueSpec, cut: bool) -> Body:
    return _core(core, to_map(value_of(*end), cut))
