# mypy: disable-error-code="valid-type, no-untyped-def"
"""How the body of a GPU kernel becomes a TensorIR function, and what the bodies share.

Every kernel runs on as many blocks as fill the GPU and finds out there how much there is to do, so a step is the same
sequence of launches for every frame and the host reads nothing in between. All kernels take the same arguments. The
arrays of a call (frames in, outputs out) are found through their addresses, which stand in cells of `n`: a sequence of
launches that was recorded once stays right when a frame lies elsewhere.

Barriers are explicit (`sync`), and the compiler adds none. A thread writes what another one reads only across a barrier
or a launch, or through `atomic_add`, or both write the same number; so results do not depend on the order of threads.
The pointers are not declared free of aliases: a compiler could then keep a value of another thread's across a barrier.
"""

from collections.abc import Callable
from typing import Any

from tvm.ir import PointerType, PrimType
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from skipfx.runtime.kernels.cuda.streams import DeviceMemory, Typed
from skipfx.runtime.kernels.memory import ENDLESS, declare
from skipfx.runtime.kernels.table import BLOCKS, LANES, THREADS, Cell

Body = Callable[..., None]


def device(name: str, body: Body, types: tuple[str, ...] = ()) -> PrimFunc:
    """A kernel of THREADS threads in any number of blocks.

    Args:
        name: under which it is launched.
        body: (memory, block, blocks, thread, row); all but the memory as int64.
        types: as which the body sees memory too.
    """

    # fmt: off
    @T.prim_func(s_tir=True)
    def function(
        ap: T.handle("float32"), mp: T.handle("uint8"), qp: T.handle("int64"), np: T.handle("int64"),
        wp: T.handle("float32"), cp: T.handle("int64"), row: T.int64, streams: T.int64, floats: T.int64,
        bytes: T.int64, numbers: T.int64, blocks: T.int64,
    ):
        T.func_attr({
            "global_symbol": name, "tirx.is_global_func": True, "calling_conv": 2,
            "tirx.kernel_launch_params": ["blockIdx.x", "threadIdx.x"],
            "tirx.launch_bounds_min_blocks_per_sm": BLOCKS,
        })
        a = declare(ap, "float32")
        m = declare(mp, "uint8")
        q = declare(qp, "int64")
        n = declare(np, "int64")
        w = declare(wp, "float32")
        c = declare(cp, "int64")
        fp: T.let[T.handle("float32")] = T.reinterpret(PointerType(PrimType("float32")), n[int(Cell.TAKEN) * streams])
        op: T.let[T.handle("float32")] = T.reinterpret(PointerType(PrimType("float32")), n[int(Cell.GIVEN) * streams])
        f = T.decl_buffer((ENDLESS,), "float32", data=fp)
        o = T.decl_buffer((ENDLESS,), "float32", data=op)
        views = T.meta_var({dtype: Typed(*(declare(data, dtype) for data in (ap, wp, op))) for dtype in types})
        for block in T.thread_binding(blocks, "blockIdx.x"):
            for thread in T.thread_binding(THREADS, "threadIdx.x"):
                mem = T.meta_var(DeviceMemory(a, m, q, n, w, c, f, o, streams, floats, bytes, numbers, views))
                body(mem, block, blocks, T.Cast("int64", thread), row)
    # fmt: on

    return function


def sync() -> Any:
    """Waits for all threads of the block, and makes what they wrote visible to each other."""
    return T.evaluate(T.tvm_storage_sync("shared"))


def atomic_add(buffer: Any, index: Any, value: Any) -> Any:
    """Adds to an int64 cell; gives what it was before."""
    return T.call_extern("int64", "atomic_add", T.address_of(buffer[index]), value)


def share(total: Any, part: Any, parts: int) -> Any:
    """How many of the items part, part + parts, part + 2 parts ... are below `total`; none is negative."""
    return T.truncdiv(total - part + (parts - 1), parts)


@T.inline
def halve(lanes: Any, thread: Any, half: Any, merge: Any) -> None:
    """Merges the upper half of the lanes into the lower, in every row of an array [rows, THREADS]."""
    for i in T.unroll(int(lanes.shape[0])):
        lanes[i, thread] = merge(lanes[i, thread], lanes[i, thread + half])


def halve_each(thread: Any, half: Any, pairs: tuple[tuple[Any, Any], ...]) -> None:
    """`halve` of every array with its own way to merge."""
    for lanes, merge in pairs:
        halve(lanes, thread, half, merge)


@T.inline
def fold(thread: Any, *pairs: Any) -> None:
    """Merges the lanes of each position onto its first, in arrays [rows, THREADS]: (array, how), between barriers."""
    for level in T.unroll(LANES.bit_length() - 1):
        half = T.meta_var(T.int64(LANES // 2) >> T.Cast("int64", level))
        sync()
        if thread % LANES < half:
            halve_each(thread, half, pairs)
    sync()


@T.inline
def running_sum(sums: Any, thread: Any) -> None:
    """Replaces the numbers of the threads by their sums up to and with each thread; all threads must come here."""
    for level in T.unroll(THREADS.bit_length() - 1):
        before = T.alloc_buffer((1,), "int64", scope="local")
        before[0] = T.int64(0)
        sync()
        if thread >= T.int64(1) << level:
            before[0] = sums[thread - (T.int64(1) << level)]
        sync()
        sums[thread] = sums[thread] + before[0]
    sync()
