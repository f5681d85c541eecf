"""Where the time of a frame goes: the rows of a compiled step run one by one, each with a clock around it.

A row by itself does what it does within a whole step, where the threads meet behind every row as well. What a call that
does nothing takes is subtracted.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipfx.bench.compare import WARMUP, Clip
from skipfx.runtime.engine import Engine
from skipfx.runtime.kernels.table import Column, Op

EMPTY_CALLS = 200
TICK = 1e-7  # seconds; less than that is not told apart
FRAMES, OUTPUTS, ISLANDS = "frames", "outputs", "islands"


@dataclass(frozen=True)
class LayerTime:
    """Seconds per frame that a layer took, mean over the frames of a clip.

    Attributes:
        name: of the layer; or FRAMES, OUTPUTS, ISLANDS for what goes in, comes out, and is run as a whole.
        compute: computing its active positions.
        listing: finding them, unless it shares the list of an earlier layer.
        full: both, when everything is computed.
    """

    name: str
    compute: float
    listing: float
    full: float

    def realised(self, active: float) -> float:
        """Its realised share: (full time / time) / (all positions / active positions)."""
        return self.full / (self.compute + self.listing) * active


def layer_times(engine: Engine, clip: Clip, rounds: int) -> list[LayerTime]:
    """Times every layer on a clip, and with everything computed.

    Args:
        engine: from `skipfx.compile` or `skipfx.load`.
        clip: more than `WARMUP` frames.
        rounds: how often the clip is run; the median of each row and frame counts.
    """
    now, full = (_seconds(engine, clip, rounds, refresh) for refresh in (False, True))
    names: Iterator[str] = iter(engine.program.info["steps"])
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    listing: list[Any] = []
    for row, op in _rows(engine):
        if op in (Op.LIST, Op.KEEP):  # they stand before the layer that needs them
            listing.append(row)
            continue
        name = OUTPUTS if op == Op.EMIT else FRAMES if op <= Op.COMMIT else next(names)
        times = (now[row], sum(now[one] for one in listing), full[row] + sum(full[one] for one in listing))
        found[name] = [old + new for old, new in zip(found[name], times, strict=True)]
        listing.clear()
    if ISLANDS in full:  # on the clip they may have had nothing to do
        found[ISLANDS] = [now.get(ISLANDS, 0.0), 0.0, full[ISLANDS]]
    return [LayerTime(name, *times) for name, times in found.items()]


def _rows(engine: Engine) -> Iterator[tuple[int, int]]:
    """Where each row starts, and what it runs."""
    for part in engine.program.parts:
        for index in range(part.call.rows):
            row = part.call.begin + index * int(Column.NUMBERS)
            yield row, int(engine.program.c[row + Column.OP])


def _seconds(engine: Engine, clip: Clip, rounds: int, refresh: bool) -> dict[Any, float]:
    """Seconds per frame of each row, and of all islands together."""
    taken: dict[Any, float] = defaultdict(float)
    watched = _watched(engine, taken)
    measured = []
    for _ in range(rounds):
        stream, frames = watched.stream(), []
        for inputs in clip:
            taken.clear()
            if refresh:
                stream.refresh()
            stream(*inputs)
            frames.append(dict(taken))
        measured.append(frames[WARMUP:])
    keys = {key for frame in measured[0] for key in frame}
    return {
        key: float(np.median([[frame.get(key, 0.0) for frame in frames] for frames in measured], axis=0).mean())
        for key in keys
    }


def _watched(engine: Engine, taken: dict[Any, float]) -> Engine:
    """An engine of the same program that adds to `taken` what each row and the islands take."""
    watched = Engine(engine.program, engine.threads)
    step, nothing = watched.step, 0.0

    def by_rows(*arguments: Any) -> None:
        nonlocal nothing
        *memory, begin, takes, computes, gives, threads = arguments
        if not nothing:
            nothing = float(np.median([_clocked(step, *memory, begin, 0, 0, 0, threads) for _ in range(EMPTY_CALLS)]))
        for row in range(begin, begin + (takes + computes + gives) * Column.NUMBERS, Column.NUMBERS):
            taken[row] += max(TICK, _clocked(step, *memory, row, 1, 0, 0, threads) - nothing)

    def timed(run: Callable[..., Any]) -> Callable[..., Any]:
        def island(inputs: Any) -> Any:
            start = time.perf_counter()
            found = run(inputs)
            taken[ISLANDS] += time.perf_counter() - start
            return found

        return island

    watched.step = by_rows
    watched.islands = [None if run is None else timed(run) for run in watched.islands]  # type: ignore[misc]
    return watched


def _clocked(run: Callable[..., None], *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start
