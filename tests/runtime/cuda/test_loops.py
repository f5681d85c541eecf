# mypy: disable-error-code="untyped-decorator"
"""Threads as loops: barriers are kept, and what depends on the order of threads is found."""

import ctypes
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import IRModule
from tvm.ir import GlobalVar
from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.schedule import Schedule
from skipfx.runtime.kernels.cuda.stage import commit, later, wait
from skipfx.runtime.kernels.cuda.thread import Body, atomic_add, device, sync
from skipfx.runtime.kernels.table import THREADS, Cell
from tests.runtime.cuda.driver import PLACE
from tests.runtime.cuda.loops import ORDERS, looped

BLOCKS = 3


@T.inline
def neighbour(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Writes what the next thread brought, behind a barrier."""
    shared = T.alloc_buffer((THREADS,), "int64", scope="shared")
    kept = T.alloc_buffer((1,), "int64", scope="local")
    kept[0] = mem.q[block * THREADS + thread]
    shared[thread] = kept[0]
    sync()
    mem.q[block * THREADS + thread] = shared[(thread + 1) % THREADS] - kept[0]


@T.inline
def careless(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """The same without the barrier."""
    shared = T.alloc_buffer((THREADS,), "int64", scope="shared")
    sync()
    shared[thread] = mem.q[block * THREADS + thread]
    mem.q[block * THREADS + thread] = shared[(thread + 1) % THREADS]


@T.inline
def hasty(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """A thread may bring the next number before another has read the last."""
    shared = T.alloc_buffer((THREADS,), "int64", scope="shared")
    for i in range(blocks):
        shared[thread] = mem.q[i * THREADS + thread]
        sync()
        mem.q[i * THREADS + thread] = shared[(thread + 1) % THREADS]


@T.inline
def divided(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """A barrier that half of the threads come to."""
    if thread < THREADS // 2:
        sync()
        mem.q[thread] = T.int64(0)


@T.inline
def counted(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
    """Every thread takes a number of its own."""
    number = T.alloc_buffer((1,), "int64", scope="local")
    number[0] = atomic_add(mem.n, T.int64(row), T.int64(1))
    mem.q[number[0]] = block * THREADS + thread


def copying(waits: bool) -> Any:
    """Writes what the next thread copied; two groups of copies are on their way at a time."""
    schedule = Schedule("fp16", 64, 4, 1, 3, True)

    @T.inline
    def body(mem: Any, block: Any, blocks: Any, thread: Any, row: Any) -> None:
        shared = T.alloc_buffer((3, THREADS), "float32", scope="shared")
        for stage in T.unroll(2):
            later(shared, (stage, thread), mem.w, thread + stage, 1, thread != 5)
            commit(schedule)
        for stage in range(4):
            if waits:
                wait(schedule)
            sync()
            later(shared, ((stage + 2) % 3, thread), mem.w, thread + stage + 2, 1, thread != 5)
            commit(schedule)
            got = T.Cast("int64", shared[stage % 3, (thread + 1) % THREADS])
            mem.q[block * THREADS + thread] = (
                T.if_then_else(stage == 0, T.int64(0), mem.q[block * THREADS + thread]) + got
            )

    return body


def run(body: Body, order: str, *, late: bool = False) -> tuple[NDArray[np.int64], int]:
    """What stands in `q` after a launch, and in the first cell of `n`."""
    module = looped(IRModule({GlobalVar("k"): device("k", body)}), ORDERS[order], late=late)
    kernel = tvm.compile(module, target="llvm")["k"]
    q, n = np.arange(BLOCKS * THREADS) ** 2, np.zeros(Cell.FIRST_COUNT, np.int64)
    memory: list[NDArray[Any]] = [
        np.zeros(8, np.float32),
        np.zeros(8, np.uint8),
        q,
        n,
        np.arange(THREADS + 8, dtype=np.float32),
        np.zeros(8, np.int64),
    ]
    kernel(*(ctypes.c_void_p(array.ctypes.data) for array in memory), 0, 1, 0, 0, 0, BLOCKS, PLACE)
    return q, int(n[0])


@pytest.mark.parametrize("order", ORDERS)
def test_a_barrier_divides_what_threads_do(order: str) -> None:
    before = (np.arange(BLOCKS * THREADS) ** 2).reshape(BLOCKS, THREADS)
    assert np.array_equal(run(neighbour, order)[0], (np.roll(before, -1, 1) - before).reshape(-1))


def test_a_missing_barrier_shows_in_another_order() -> None:
    assert not np.array_equal(run(careless, "forwards")[0], run(careless, "backwards")[0])


def test_a_loop_without_a_barrier_between_its_passes_is_refused() -> None:
    with pytest.raises(ValueError, match="the edge of a loop"):
        run(hasty, "forwards")


def test_a_barrier_that_not_all_threads_come_to_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not all threads come to"):
        run(divided, "forwards")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_a_copy_is_there_behind_the_wait_for_it(order: str, late: bool) -> None:
    found, _ = run(copying(waits=True), order, late=late)
    expected = sum(np.where(np.arange(THREADS) == 5, 0, np.arange(THREADS) + stage) for stage in range(4))
    assert np.array_equal(found.reshape(BLOCKS, THREADS), [np.roll(expected, -1)] * BLOCKS)


def test_a_copy_that_nobody_waits_for_is_missed() -> None:
    assert not np.array_equal(
        run(copying(waits=False), "forwards")[0], run(copying(waits=False), "forwards", late=True)[0]
    )


@pytest.mark.parametrize("order", ORDERS)
def test_an_atomic_addition_gives_every_thread_its_own_number(order: str) -> None:
    found, total = run(counted, order)
    assert total == BLOCKS * THREADS
    assert np.array_equal(np.sort(found), np.arange(BLOCKS * THREADS))
