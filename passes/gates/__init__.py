"""The gates: which positions count as changed. One file per gate, listed here by the type of its options."""

from collections.abc import Callable
from typing import Any

from torch import fx

from skipfx.options import DynConv, Gumbel, Hold, InputNorm, OutputNorm, TransformOptions
from skipfx.passes.gates.gumbel import insert_gumbel
from skipfx.passes.gates.hold import insert_hold
from skipfx.passes.gates.norm import insert_norm

InsertGate = Callable[[fx.GraphModule, TransformOptions, float], bool]
INSERT: dict[type[Any], InsertGate] = {
    Hold: insert_hold,
    InputNorm: insert_norm,
    OutputNorm: insert_norm,
    Gumbel: insert_gumbel,
    DynConv: insert_hold,  # its masks are in the graph already (`skipfx.passes.mask_blocks`)
}
