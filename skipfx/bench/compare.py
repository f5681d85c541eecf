"""A stream beside dense engines on one clip: the same frames, in turns, each in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from skipfx.bench.dense import EngineUnavailable, dense_worker
from skipfx.bench.timing import Runner, Spread, Step, Timing, interleave, ratio
from skipfx.bench.worker import Worker
from skipfx.errors import UsageError
from skipfx.media import Picture, Preprocess
from skipfx.runtime.engine import Engine, Program
from skipfx.runtime.stream import Stats

Frames = tuple[NDArray[np.float32], ...]
Tick = Callable[[str, int], object]

WARMUP = 2  # frames at the start of the clip that do not count: the refresh, and one to settle
STREAM = "skipfx"
WAYS: dict[str, tuple[slice, Callable[[int], bool]]] = {  # part of the clip, and which of its frames are refreshes
    STREAM: (slice(None), lambda index: index == 0),
    "skipfx, still frame": (slice(1), lambda index: False),
    "skipfx, refresh on every frame": (slice(None), lambda index: True),
}


class Clip(Sequence[Frames]):
    """The frames of a clip, each made of its picture when it is asked for: a fourth of the memory.

    Args:
        pictures: the clip.
        preprocess: how a picture becomes a frame.
    """

    def __init__(self, pictures: Sequence[Picture], preprocess: Preprocess) -> None:
        self.pictures, self.preprocess = pictures, preprocess

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Clip(self.pictures[index], self.preprocess)
        return (self.preprocess(self.pictures[index]),)


@dataclass(frozen=True)
class Comparison:
    """What the frames of a clip took.

    Attributes:
        dense: engine -> its timing.
        stream: way of the stream, see `WAYS` -> its timing.
        unavailable: engine -> why it was not timed.
    """

    dense: dict[str, Timing]
    stream: dict[str, Timing]
    unavailable: dict[str, str]

    @property
    def fastest(self) -> str:
        """The dense engine with the lowest mean."""
        return min(self.dense, key=lambda name: self.dense[name].seconds.mean)

    def speedup(self, way: str = STREAM) -> Spread:
        """How many times longer the fastest dense engine takes, round by round."""
        return ratio(self.dense[self.fastest], self.stream[way])


def compare(
    engine: Engine,
    program: ExportedProgram,
    clip: Clip,
    against: Sequence[str],
    rounds: int,
    tick: Tick,
    ways: Sequence[str] = tuple(WAYS),
) -> Comparison:
    """Times a stream and dense engines, all with the threads of `engine`.

    A block is the whole clip from its first frame, which is a refresh; the first `WARMUP` frames do not count.

    Args:
        engine: the compiled model.
        program: the model that dense engines compute.
        clip: more than `WARMUP` frames.
        against: names of dense engines, see `skipfx.bench.dense.ENGINES`; those that cannot run are left out.
        rounds: how often everyone has a turn.
        tick: told what is done and how many steps of (engines + ways) * (rounds + 1) are over.
        ways: how the stream is timed, of `WAYS`.

    Raises:
        UsageError: the clip is too short, or a name is unknown.
        EngineUnavailable: no dense engine can run the network.
    """
    if len(clip) <= WARMUP:
        raise UsageError(f"the clip has {len(clip)} frame(s), of which {WARMUP} do not count: give a longer one")
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name in against:
            tick(f"starting {name}", 0)
            try:
                worker = stack.enter_context(dense_worker(name, program, engine.threads, clip))
            except EngineUnavailable as error:
                unavailable[name] = str(error)
                tick(name, rounds + 1)
                continue
            runners[name] = _ticking(name, worker, tick)
        if not runners:
            raise EngineUnavailable("\n".join(["nothing to compare with", *unavailable.values()]))
        for way in ways:
            worker = stack.enter_context(Worker(_steps, engine.program, engine.threads, clip, way))
            runners[way] = _ticking(way, worker, tick)
        timings = interleave(runners, len(clip) - WARMUP, rounds, warmup=WARMUP)
    dense = {name: timing for name, timing in timings.items() if name not in ways}
    return Comparison(dense, {way: timings[way] for way in ways}, unavailable)


def activity(engine: Engine, clip: Clip, tick: Tick) -> list[Stats]:
    """What each frame of a clip costs a stream, but for the first `WARMUP`."""
    stream = engine.stream()
    found = []
    for frames in clip:
        stream(*frames)
        found.append(stream.stats)
        tick("counting", 1)
    return found[WARMUP:]


def _ticking(name: str, runner: Runner, tick: Tick) -> Runner:
    tick(name, 1)

    def run(frames: int) -> list[float]:
        tick(f"timing {name}", 0)
        seconds = runner(frames)
        tick(name, 1)
        return seconds

    return run


def _steps(program: Program, threads: int, clip: Clip, way: str) -> Iterator[Step]:
    """The frames of a clip, over and over, taken in one of the `WAYS`."""
    stream = Engine(program, threads).stream()
    part, refreshed = WAYS[way]

    def steps() -> Iterator[Step]:
        for index, frames in chain.from_iterable(map(enumerate, repeat(clip[part]))):
            if refreshed(index):
                stream.refresh()
            yield partial(stream, *frames)

    return steps()
