# mypy: disable-error-code="valid-type, no-untyped-def"
"""How a kernel sees the memory of a stream, and how a kernel's body becomes a TVM function of its own."""

import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import FrameType
from typing import Any, NamedTuple

from tvm.ir import GlobalVar
from tvm.script import tirx as T
from tvm.script.parser.core.diagnostics import Source
from tvm.script.parser.core.doc import parse
from tvm.script.parser.core.parser import ScriptMacro
from tvm.tirx import Buffer, PrimFunc

from skipfx.runtime.kernels.table import MASK, SHIFT, Column

K = Column

ENDLESS = 1 << 40  # the buffers' sizes are the assembler's business


class Memory(NamedTuple):
    """The buffers of `skipfx.runtime.kernels.table`, and the arrays of the call: taken in (f) and given out (o)."""

    a: Buffer
    m: Buffer
    s: Buffer
    q: Buffer
    n: Buffer
    w: Buffer
    c: Buffer
    f: Buffer
    o: Buffer


DTYPES = Memory("float32", "uint8", "uint8", "int64", "int64", "float32", "int64", "float32", "float32")


def declare(pointer: Any, dtype: str) -> Any:
    """A flat buffer behind a pointer."""
    return T.decl_buffer((ENDLESS,), dtype, data=pointer)


def address(mem: Any, column: Any, y: Any, x: Any) -> Any:
    """Where a position lies: its map's first position, floats per row and per position stand in three columns."""
    return mem.c[column] + y * mem.c[column + 1] + x * mem.c[column + 2]


@T.inline
def mark(mem: Any, row: Any, y: Any, x: Any) -> None:
    """A position of the map that a step writes has changed."""
    mem.m[mem.c[row + K.MAP] + y * mem.c[row + K.MAP_ROW] + x] = T.uint8(1)
    mem.m[mem.c[row + K.FLAGS] + y] = T.uint8(1)


def offset(mem: Any, row: Any, position: Any) -> Any:
    """Where the window of a packed position starts, from the first position of the padded input."""
    y = (position >> SHIFT) * mem.c[row + K.STRIDE_H] * mem.c[row + K.IN_ROW]
    return y + (position & MASK) * mem.c[row + K.STRIDE_W] * mem.c[row + K.IN_PIXEL]


def _running_parser(macro: ScriptMacro) -> Any:
    """The parser of the script that calls an inlined function.

    TVM looks for it in the same frames, but reads the source lines of every one first: nine tenths of the time that
    compiling a module takes where PyTorch is loaded.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get(macro.parser_object_name) is None:
        frame = frame.f_back
    if frame is None:
        raise RuntimeError("an inlined function was called outside a script")
    return frame.f_globals[macro.parser_object_name]


ScriptMacro._find_parser_def = _running_parser
_parsed = cache(parse)  # by TVM the source of an inlined function is parsed for each of its calls
Source.as_ast = lambda source: _parsed(source.source)


def kernel(body: Callable[..., None]) -> PrimFunc:
    """A private TVM function around an inlined body.

    Args:
        body: (memory, task, tasks, row, first, count, panel); `first` and `count` are a run of an active list and
            `panel` a run of output channels for the kernels that work on them, and unused by the others.
    """

    # fmt: off
    @T.prim_func(s_tir=True, private=True)
    def function(
        task: T.int64, tasks: T.int64, row: T.int64, first: T.int64, count: T.int64, panel: T.int64,
        ap: T.handle("float32"), mp: T.handle("uint8"), sp: T.handle("uint8"), qp: T.handle("int64"),
        np: T.handle("int64"), wp: T.handle("float32"), cp: T.handle("int64"), fp: T.handle("float32"),
        op: T.handle("float32"),
    ):
        T.func_attr({"tir.noalias": True})
        a = declare(ap, "float32")
        m = declare(mp, "uint8")
        s = declare(sp, "uint8")
        q = declare(qp, "int64")
        n = declare(np, "int64")
        w = declare(wp, "float32")
        c = declare(cp, "int64")
        f = declare(fp, "float32")
        o = declare(op, "float32")
        body(Memory(a, m, s, q, n, w, c, f, o), task, tasks, row, first, count, panel)
    # fmt: on

    return function


def public(name: str, body: Callable[..., None]) -> PrimFunc:
    """`kernel`, but other modules may call it by its name, with the same arguments."""
    packed = 1  # TVM's calling convention of a function that has its final arguments
    return kernel(body).with_attr("global_symbol", name).with_attr("calling_conv", packed)


def call(function: GlobalVar | str, mem: Memory, *arguments: Any) -> None:
    """Calls a kernel of the same module, or by its name one of another."""
    everything = (*arguments, *(buffer.data for buffer in mem))
    if isinstance(function, str):
        T.evaluate(T.call_extern("void", function, *everything))
    else:
        T.evaluate(function(*everything))


def switch(column: int, table: Mapping[Any, GlobalVar | str]) -> Callable[..., None]:
    """The body that calls the kernel whose number stands in a column of the row."""

    def body(mem: Memory, task: Any, tasks: Any, row: Any, *arguments: Any) -> None:
        for number, function in table.items():
            with T.If(mem.c[row + column] == int(number)), T.Then():
                call(function, mem, task, tasks, row, *arguments)

    return body
