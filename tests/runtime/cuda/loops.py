"""Runs GPU kernels on a CPU: the same TensorIR, with its thread axes turned into loops.

A block's threads must all have come to a barrier before any of them goes on. So the body of a kernel is cut at its
barriers, and each piece becomes a loop over the threads of its own: every thread runs the piece to its end before any
begins the next. A loop or branch that holds a barrier goes around the loops over threads, and stops with an error where
the threads do not agree on it, which on a GPU would never end. What a thread keeps for itself across a barrier becomes
an array with one place per thread; what a block shares stays one array.

The threads of a warp multiply on their tensor core together, and wait for each other there. So a piece that holds such
products becomes a loop over warps, each of which goes to its end before another begins; within, it is cut at the
products into loops over the threads of the warp. A product is its definition (`warps.py`). An asynchronous copy is a
plain one, where it is asked for or where it is waited for (`copies.py`).

At the edges of a loop or branch that holds a barrier (on the way in, from pass to pass, on the way out) all threads
wait here, which they need not on a GPU. A kernel that has something shared on both sides of such an edge, and no
barrier, is refused (`shared_ends`).

Between two barriers the threads of a GPU run in any order, here in the order that `order` gives. A kernel that needs a
barrier it does not have gives other results in another order, so tests run every kernel forwards, backwards and mixed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tvm_ffi
from tvm import IRModule, tirx
from tvm.ir import Call, StringImm
from tvm.ir.expr import TensorLoad
from tvm.tirx import (
    AllocBuffer,
    AssertStmt,
    Bind,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    PrimFunc,
    SeqStmt,
    Var,
)

from tests.runtime.cuda.barriers import has_barrier, shared_ends
from tests.runtime.cuda.copies import Late, at_once
from tests.runtime.cuda.warps import WARP, has_product, multiplied

Order = Callable[[Any, Any], Any]

ORDERS: dict[str, Order] = {
    "forwards": lambda i, count: i,
    "backwards": lambda i, count: count - 1 - i,
    "mixed": lambda i, count: (i * 61 + 7) % count,  # 61 is prime to the numbers of threads and blocks
}


def looped(module: IRModule, order: Order, *, late: bool = False) -> IRModule:
    """The kernels of a module as plain functions of the same arguments.

    Args:
        module: as `cuda_module` makes it.
        order: of threads and blocks.
        late: whether asynchronous copies land where a thread waits for them, not where it asks for them.
    """
    return IRModule({name: _function(function, order, late) for name, function in module.functions.items()})


def _function(function: PrimFunc, order: Order, late: bool) -> PrimFunc:
    head, blocks = list(function.body.seq)[:-1], function.body.seq[-1]
    threads = blocks.body
    assert [loop.thread_binding.thread_tag for loop in (blocks, threads)] == ["blockIdx.x", "threadIdx.x"]
    shared_ends(threads.body)
    block = _Block(threads.loop_var, int(threads.extent), order, Late() if late else at_once)
    number = Var("block", "int64")
    inside = tvm_ffi.structural_map(
        block.all(threads.body), (Var, _replace({blocks.loop_var: order(number, blocks.extent)}))
    )
    body: Any = SeqStmt([*head, For(number, 0, blocks.extent, ForKind.SERIAL, inside)])
    place = tirx.decl_buffer((1,), "int64", "place")  # a tensor on the CPU, so that arrays are allocated there
    plain = PrimFunc([*function.params, place], body, function.ret_type)
    return plain.with_attr({"global_symbol": function.attrs["global_symbol"], "tirx.noalias": True, "s_tir": True})


class _Group(NamedTuple):
    """Threads side by side that meet somewhere.

    Attributes:
        first: the number of its first thread.
        size: how many there are.
        meets: whether they wait for each other in a statement.
    """

    first: Any
    size: int
    meets: Callable[[Any], bool]


@dataclass
class _Block:
    """The rewriting of one kernel.

    Attributes:
        thread: the thread axis; count: its extent.
        private: what a thread keeps across barriers, as an array over the threads.
        copies: what becomes of asynchronous copies.
        shared: what the block shares, as an ordinary buffer.
    """

    thread: Var
    count: int
    order: Order
    copies: Any
    private: dict[Any, Any] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)

    def all(self, body: Any) -> Any:
        """The body of the kernel, for all threads of the block."""
        whole = _Group(IntImm("int32", 0), self.count, has_barrier)
        if not (isinstance(self.copies, Late) and self.copies.find(body)):
            return self.region(body, whole)
        arrays = [
            AllocBuffer(self._per_thread(array, array.name, array.dtype, tuple(array.shape)))
            for array in self.copies.arrays
        ]
        return SeqStmt([*arrays, self._each([self.copies.start()], whole), self.region(body, whole)])

    def region(self, stmt: Any, group: _Group) -> Any:
        """A statement that all threads of a group run."""
        if not group.meets(stmt):
            return self._each([stmt], group)
        if isinstance(stmt, SeqStmt):
            return self._sequence(list(stmt.seq), group)
        if isinstance(stmt, For):
            extent, agree = self._agreed(stmt.extent, group)
            loop = For(stmt.loop_var, stmt.min, extent, ForKind.SERIAL, self.region(stmt.body, group))
            return SeqStmt([agree, loop])
        if isinstance(stmt, IfThenElse):
            condition, agree = self._agreed(stmt.condition, group)
            otherwise = None if stmt.else_case is None else self.region(stmt.else_case, group)
            return SeqStmt([agree, IfThenElse(condition, self.region(stmt.then_case, group), otherwise)])
        if has_product(stmt):
            return multiplied(stmt.value, self.private, group.first)
        return Evaluate(0)  # a barrier by itself: there is nothing to wait for

    def _sequence(self, stmts: list[Any], group: _Group) -> Any:
        done: list[Any] = []
        piece: list[Any] = []
        for stmt in stmts:
            if isinstance(stmt, AllocBuffer):
                done.append(self._allocation(stmt.buffer))
            elif isinstance(stmt, Bind):
                done.append(AllocBuffer(self._per_thread(stmt.var, stmt.var.name, str(stmt.var.ty), ())))
                piece.append(BufferStore(self.private[stmt.var], stmt.value, [self.thread]))
            elif group.meets(stmt):
                done += [self._each(piece, group), self.region(stmt, group)]
                piece = []
            else:
                piece.append(stmt)
        return SeqStmt([*done, self._each(piece, group)])

    def _allocation(self, buffer: Any) -> Any:
        if buffer.scope() == "shared":
            self.shared[buffer] = tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name)
            return AllocBuffer(self.shared[buffer])
        return AllocBuffer(self._per_thread(buffer, buffer.name, buffer.dtype, tuple(buffer.shape)))

    def _per_thread(self, key: Any, name: str, dtype: str, shape: tuple[Any, ...]) -> Any:
        self.private[key] = tirx.decl_buffer((self.count, *shape), dtype, name)
        return self.private[key]

    def _each(self, stmts: list[Any], group: _Group) -> Any:
        """Loops over the threads of a group around statements at which they do not meet."""
        if not stmts:
            return Evaluate(0)
        body = SeqStmt(stmts) if len(stmts) > 1 else stmts[0]
        if group.size > WARP and has_product(body):
            warp = Var("warp", "int32")
            first = self.order(warp, group.size // WARP) * WARP
            return For(warp, 0, group.size // WARP, ForKind.SERIAL, self.region(body, _Group(first, WARP, has_product)))
        number = Var("thread", "int32")
        thread = group.first + self.order(number, group.size)
        return For(number, 0, group.size, ForKind.SERIAL, self._at(body, thread))

    def _at(self, value: Any, thread: Any) -> Any:
        """A statement or expression as one thread runs it."""
        value = tvm_ffi.structural_map(value, ((Evaluate, BufferStore), _plain_atomic))
        value = tvm_ffi.structural_map(value, (Evaluate, self.copies))
        callbacks = [(TensorLoad, self._load), (BufferStore, self._store), (Var, self._variable), (For, _rolled)]
        value = tvm_ffi.structural_map(value, callbacks)
        return tvm_ffi.structural_map(value, (Var, _replace({self.thread: thread})))

    def _variable(self, var: Any) -> Any:
        if var in self.private and not tirx.is_buffer_var(var):
            return BufferLoad(self.private[var], [self.thread])
        return var

    def _load(self, load: Any) -> Any:
        buffer, indices = self._moved(load.source, load.indices)
        return BufferLoad(buffer, indices)

    def _store(self, store: Any) -> Any:
        buffer, indices = self._moved(store.buffer, store.indices)
        return BufferStore(buffer, store.value, indices)

    def _moved(self, buffer: Any, indices: Any) -> tuple[Any, list[Any]]:
        if buffer in self.private and tirx.is_buffer_var(buffer):
            return self.private[buffer], [self.thread, *indices]
        return self.shared.get(buffer, buffer), list(indices)

    def _agreed(self, value: Any, group: _Group) -> tuple[Any, Any]:
        """The value that the first thread of a group finds, and a check that all threads find the same."""
        if isinstance(value, IntImm):
            return value, Evaluate(0)
        number = Var("thread", "int32")
        first = self._at(value, group.first)
        same = self._at(value, group.first + number).astype("int64").equal(first.astype("int64"))
        message = [StringImm("a barrier that not all threads come to")]
        check = AssertStmt(same, StringImm("RuntimeError"), message)  # in the order of TVM's code
        return first, For(number, 0, group.size, ForKind.SERIAL, check)


def _replace(table: dict[Any, Any]) -> Callable[[Any], Any]:
    return lambda var: table.get(var, var)


def _is_atomic(value: Any) -> bool:
    return isinstance(value, Call) and value.op.name == "tirx.call_extern" and value.args[0].value == "atomic_add"


def _plain_atomic(stmt: Any) -> Any:
    """An atomic addition as a plain one, behind the store of what was there before, where that is asked for."""
    if not _is_atomic(stmt.value):
        return stmt
    cell, added = stmt.value.args[1].args[0], stmt.value.args[2]
    addition = BufferStore(cell.source, cell + added, cell.indices)
    if isinstance(stmt, Evaluate):
        return addition
    return SeqStmt([BufferStore(stmt.buffer, cell, stmt.indices), addition])


def _rolled(loop: For) -> For:
    """An unrolled loop as a loop: the same, and much less to compile."""
    return For(loop.loop_var, loop.min, loop.extent, ForKind.SERIAL, loop.body)
