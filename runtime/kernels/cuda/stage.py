"""What a convolution multiplies, brought into shared memory: gathered rows as they are, and packed weights."""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.cuda.schedule import Schedule
from skipfx.runtime.kernels.table import CHUNK, THREADS, TOGETHER, chunk_words


@T.inline
def now(to: Any, at: Any, source: Any, start: Any, count: int, present: Any) -> None:
    """Copies `count` floats, or zeros where they are not `present`."""
    whole = T.meta_var((*at[:-1], T.Ramp(at[-1], 1, count) if count > 1 else at[-1]))
    to[whole] = T.Broadcast(T.float32(0), count) if count > 1 else T.float32(0)
    if present:
        to[whole] = source[T.Ramp(start, 1, count) if count > 1 else start]


@T.inline
def later(to: Any, at: Any, source: Any, start: Any, count: int, present: Any) -> None:
    """The same, asynchronously: seen by a thread behind its `wait`, and by the others behind a barrier then."""
    T.evaluate(
        T.call_intrin(
            "float32", "tirx.s_tir.cp_async_raw", T.address_of(to[at]), 0, T.address_of(source[start]), 0,
            count * 4, present,
        )
    )  # fmt: skip


def commit(schedule: Schedule) -> Any:
    """Ends a group of copies."""
    return T.evaluate(T.ptx["cp.async.commit_group"]() if schedule.modern else T.int32(0))


def wait(schedule: Schedule) -> Any:
    """Waits for all groups of copies but those of the stages ahead."""
    return T.evaluate(T.ptx["cp.async.wait_group"](schedule.stages - 2) if schedule.modern else T.int32(0))


def bring_rows(schedule: Schedule, count: int) -> Callable[..., None]:
    """Brings channels of the gathered rows into x [stages, chunks, positions, CHUNK], `count` floats at a time."""
    copy = later if schedule.modern else now
    per_row = schedule.chunks * CHUNK // count

    @T.inline
    def body(mem: Any, thread: Any, base: Any, tap: Any, left: Any, stage: Any, x: Any) -> None:
        for i in T.unroll(schedule.positions * per_row // THREADS):
            element = T.Bind(thread + i * THREADS)
            channel = T.Bind(element % per_row * count)
            place = T.Bind(element // per_row)
            at = T.meta_var((stage, channel // CHUNK, place, channel % CHUNK))
            copy(x, at, mem.a, base[place] + tap + T.Cast("int64", channel), count, channel < left)

    return body


def bring_weights(schedule: Schedule) -> Callable[..., None]:
    """Brings the weights of these channels into b [stages, panels, chunks, words of a chunk].

    `panel` is the distance from one vector of output channels to the next, `spare` how many vectors there are. What is
    left out is never read.
    """
    copy = later if schedule.modern else now
    words = chunk_words(schedule.precision)
    per_panel = schedule.chunks * words // TOGETHER

    @T.inline
    def body(mem: Any, thread: Any, weight: Any, panel: Any, left: Any, spare: Any, stage: Any, b: Any) -> None:
        for i in T.unroll(-(-schedule.panels * per_panel // THREADS)):
            element = T.Bind(thread + i * THREADS)
            word = T.Bind(element % per_panel * TOGETHER)
            beside = T.Bind(element // per_panel)
            if T.And(beside < T.min(spare, schedule.panels), word // words * CHUNK < left):
                at = T.meta_var((stage, beside, word // words, word % words))
                copy(b, at, mem.w, weight + T.Cast("int64", beside * panel + word), TOGETHER, T.bool(True))

    return body
