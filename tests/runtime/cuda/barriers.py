"""Where kernels have barriers, and where they lack one that loops for threads would not miss."""

from typing import Any

import tvm_ffi
from tvm.ir import Call
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferStore, For, IfThenElse, SeqStmt


def calls(stmt: Any, name: str) -> bool:
    """Whether a statement calls an operator somewhere."""
    found: list[bool] = []

    def look(call: Any) -> None:
        if getattr(call.op, "name", "") == name:
            found.append(True)

    tvm_ffi.structural_walk(stmt, (Call, look))
    return bool(found)


def has_barrier(stmt: Any) -> bool:
    """Whether a statement holds a barrier."""
    return calls(stmt, "tirx.tvm_storage_sync")


def shared_ends(stmt: Any) -> tuple[bool, bool]:
    """Whether threads touch shared arrays before the first barrier of a statement, and behind the last.

    Raises:
        ValueError: only the edge of a loop or branch divides what threads do with shared arrays.
    """
    if not has_barrier(stmt):
        return (_touches_shared(stmt),) * 2
    if isinstance(stmt, SeqStmt):
        return _sequence_ends(list(stmt.seq))
    if isinstance(stmt, For):
        first, last = shared_ends(stmt.body)
        _refuse(first and last)
        return first, last
    if isinstance(stmt, IfThenElse):
        ends = [shared_ends(case) for case in (stmt.then_case, stmt.else_case) if case is not None]
        return any(first for first, _ in ends), any(last for _, last in ends)
    return False, False


def _sequence_ends(stmts: list[Any]) -> tuple[bool, bool]:
    first: bool | None = None
    before = here = False  # since the last barrier: before the last edge, and behind it
    for stmt in stmts:
        start, end = shared_ends(stmt)
        if not has_barrier(stmt):
            _refuse(before and start)
            here |= start
            continue
        edge = isinstance(stmt, For | IfThenElse | SeqStmt)
        _refuse(edge and start and (before or here))
        first = before or here or start if first is None else first
        before, here = end, False
    return bool(first), before or here


def _refuse(divided: bool) -> None:
    if divided:
        raise ValueError("only the edge of a loop or branch divides what threads do with shared arrays")


def _touches_shared(stmt: Any) -> bool:
    found: list[bool] = []

    def look(access: Any) -> None:
        buffer = access.source if isinstance(access, TensorLoad) else access.buffer
        found.append(buffer.scope() == "shared")

    tvm_ffi.structural_walk(stmt, ((TensorLoad, BufferStore), look))
    return any(found)
