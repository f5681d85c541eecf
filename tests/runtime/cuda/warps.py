"""What the threads of a warp do together on a tensor core, as loops: the definitions of CUDA's PTX ISA.

Sums of products are taken in order here; a tensor core takes them in an order of its own.
"""

from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, For, ForKind, SeqStmt, Var

from tests.runtime.cuda.barriers import calls

WARP = 32
LOW_BITS = 0xFFFFE000  # a tensor core reads no others of a number in TF32


def has_product(stmt: Any) -> bool:
    """Whether a statement holds a product of a tensor core."""
    return calls(stmt, "tirx.ptx_legacy.mma")


def multiplied(call: Any, private: dict[Any, Any], first: Any) -> Any:
    """mma.sync.m16n8k{8,16}.row.col of the warp that begins with thread `first`.

    Args:
        call: with a thread's shares of rows, weights and sums as arrays, and where in them they begin.
        private: these arrays -> arrays over the threads.
        first: number of a thread.
    """
    depth, kind = int(str(call.args[0].value).partition("k")[2]), str(call.args[3].value)
    (a, a_at), (b, b_at), (c, c_at) = ((private[call.args[i].args[0]], call.args[i + 1]) for i in (6, 8, 10))
    packed = 1 if kind == "tf32" else 2
    rows, weights = (tirx.decl_buffer(shape, "float32", "fragment") for shape in ((16, depth), (depth, 8)))
    row, column, k = (Var(name, "int32") for name in ("row", "column", "k"))
    ours = k % (4 * packed) // packed  # which of four threads has a channel
    part = k // (4 * packed)  # and in which register
    share = (part * 2 + row // 8) * packed + k % packed
    word = BufferLoad(b, [first + column * 4 + ours, b_at + part])
    sums = [first + row % 8 * 4 + column // 2, c_at + row // 8 * 2 + column % 2]
    product = BufferLoad(rows, [row, k]) * BufferLoad(weights, [k, column])
    return SeqStmt(
        [
            AllocBuffer(rows),
            AllocBuffer(weights),
            _loops(
                BufferStore(rows, _row(BufferLoad(a, [first + row % 8 * 4 + ours, a_at + share]), kind), [row, k]),
                (row, 16), (k, depth),
            ),
            _loops(BufferStore(weights, _weight(word, k % packed, kind), [k, column]), (k, depth), (column, 8)),
            _loops(BufferStore(c, BufferLoad(c, sums) + product, sums), (row, 16), (column, 8), (k, depth)),
        ]
    )  # fmt: skip


def _row(value: Any, kind: str) -> Any:
    """What a tensor core reads of a thread's share of the rows.

    On a CPU, TVM keeps arrays of bfloat16 in float32, so they are rounded here, to nearest and ties to even.
    """
    if kind == "fp16":
        return value.astype("float32")
    if kind == "tf32":
        return _tf32(value)
    bits = T.reinterpret("uint32", value.astype("float32"))
    return T.reinterpret(
        "float32", (bits + T.uint32(0x7FFF) + ((bits >> T.uint32(16)) & T.uint32(1))) & T.uint32(0xFFFF0000)
    )


def _weight(word: Any, half: Any, kind: str) -> Any:
    """What it reads of a word of weights."""
    if kind == "tf32":
        return _tf32(word)
    bits = (T.reinterpret("uint32", word) >> T.Cast("uint32", half * 16)) & T.uint32(0xFFFF)
    if kind == "bf16":
        return T.reinterpret("float32", bits << T.uint32(16))
    return T.Cast("float32", T.reinterpret("float16", T.Cast("uint16", bits)))


def _tf32(value: Any) -> Any:
    return T.reinterpret("float32", T.reinterpret("uint32", value) & T.uint32(LOW_BITS))


def _loops(stmt: Any, *loops: tuple[Any, int]) -> Any:
    for var, extent in reversed(loops):
        stmt = For(var, 0, extent, ForKind.SERIAL, stmt)
    return stmt
