"""Asynchronous copies of a thread, as late as they may land: where it waits for them.

CUDA lets them land at any time between. So tests run kernels with both extremes: `at_once`, and `Late`.
"""

from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, StringImm
from tvm.tirx import (
    AssertStmt,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    SeqStmt,
    Var,
)

COPY, COMMIT, WAIT = "tirx.s_tir.cp_async_raw", "tirx.ptx.cp_async_commit_group", "tirx.ptx.cp_async_wait_group"
ROOM = 256  # floats on their way, per thread and shared array


def name_of(stmt: Any) -> str:
    """The name of what a statement calls, if it does."""
    return getattr(getattr(stmt.value, "op", None), "name", "")


def at_once(stmt: Any) -> Any:
    """A copy as a plain one, where it is asked for."""
    if name_of(stmt) in (COMMIT, WAIT):
        return Evaluate(0)
    if name_of(stmt) != COPY:
        return stmt
    return _each_float(stmt.value, lambda to, at, value: BufferStore(to, value, at))


def _each_float(call: Any, act: Any) -> Any:
    """A loop over the floats of a copy, zeros where it is not done: act(array, place, value)."""
    to, source, present = call.args[0].args[0], call.args[2].args[0], call.args[5]
    number = Var("number", "int32")
    (*outer, at), (start,) = to.indices, source.indices
    value = tirx.if_then_else(present, BufferLoad(source.source, [start + number]), tirx.const(0.0, "float32"))
    body = act(to.source, [*outer, at + number], value)
    return For(number, 0, int(call.args[4]) // 4, ForKind.SERIAL, body)


@dataclass
class _Queue:
    """Floats on their way into a shared array: their number, and of each the group, the value and the place."""

    length: Any
    kept: Any
    group: Any
    value: Any
    place: Any

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.length, self.kept, self.group, self.value, self.place


@dataclass
class Late:
    """The copies of a kernel; all arrays are a thread's own.

    Attributes:
        groups: how many a thread has ended.
    """

    groups: Any = field(default_factory=lambda: tirx.decl_buffer((1,), "int32", "groups"))
    queues: dict[Any, _Queue] = field(default_factory=dict)

    def find(self, body: Any) -> bool:
        """Makes a queue for each array that something is copied into; says whether there are any."""

        def look(call: Any) -> None:
            if getattr(call.op, "name", "") == COPY:
                to = call.args[0].args[0].source
                shapes = {"length": (1,), "kept": (1,), "group": (ROOM,), "place": (ROOM, len(to.shape))}
                arrays = {name: tirx.decl_buffer(shape, "int32", name) for name, shape in shapes.items()}
                self.queues[to] = _Queue(**arrays, value=tirx.decl_buffer((ROOM,), "float32", "value"))

        tvm_ffi.structural_walk(body, (Call, look))
        return bool(self.queues)

    @property
    def arrays(self) -> list[Any]:
        """What a thread needs."""
        return [self.groups, *(array for queue in self.queues.values() for array in queue.arrays)]

    def start(self) -> Any:
        """Nothing is on its way."""
        return SeqStmt([_put(array, 0) for array in (self.groups, *(queue.length for queue in self.queues.values()))])

    def __call__(self, stmt: Any) -> Any:
        """What a statement does with copies."""
        if name_of(stmt) == COMMIT:
            return _put(self.groups, _get(self.groups) + 1)
        if name_of(stmt) == WAIT:
            behind = stmt.value.args[0]
            return SeqStmt([Evaluate(0), *(self._land(to, queue, behind) for to, queue in self.queues.items())])
        return _each_float(stmt.value, self._ask) if name_of(stmt) == COPY else stmt

    def _ask(self, to: Any, place: list[Any], value: Any) -> Any:
        queue = self.queues[to]
        last = _get(queue.length)
        room = AssertStmt(last < ROOM, StringImm("RuntimeError"), [StringImm("too many copies on their way")])
        noted = [_put(queue.place, at.astype("int32"), last, axis) for axis, at in enumerate(place)]
        entry = [_put(queue.group, _get(self.groups), last), _put(queue.value, value, last)]
        return SeqStmt([room, *entry, *noted, _put(queue.length, last + 1)])

    def _land(self, to: Any, queue: _Queue, behind: Any) -> Any:
        """Does the copies of all groups but the last `behind`, and keeps the others."""
        entry, kept, axes = Var("entry", "int32"), _get(queue.kept), range(len(to.shape))
        done = BufferStore(to, _get(queue.value, entry), [_get(queue.place, entry, axis) for axis in axes])
        moved = [_put(array, _get(array, entry), kept) for array in (queue.group, queue.value)]
        moved += [_put(queue.place, _get(queue.place, entry, axis), kept, axis) for axis in axes]
        due = _get(queue.group, entry) + behind < _get(self.groups)
        body = IfThenElse(due, done, SeqStmt([*moved, _put(queue.kept, kept + 1)]))
        loop = For(entry, 0, _get(queue.length), ForKind.SERIAL, body)
        return SeqStmt([_put(queue.kept, 0), loop, _put(queue.length, kept)])


def _get(array: Any, *at: Any) -> Any:
    return BufferLoad(array, list(at) or [0])


def _put(array: Any, value: Any, *at: Any) -> Any:
    value = tirx.const(value, array.dtype) if isinstance(value, int) else value
    return BufferStore(array, value, list(at) or [0])
