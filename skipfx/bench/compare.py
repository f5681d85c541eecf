"""A stream beside dense engines on one clip: the same frames, in turns, each in a process of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from skipfx.runtime.base_stream import Stats
from skipfx.runtime.engine import Engine, Program
from skipfx.runtime.onnx_engine import OnnxEngine, OnnxProgram

Frames = tuple[NDArray[np.float32], ...]
Tick = Callable[[str, int], object]

WARMUP = 2  # frames at the start of the clip that do not count: the refresh, and one to settle
STREAM, STILL, REFRESH = "skipfx", "skipfx, still frame", "skipfx, refresh on every frame"
WAYS: dict[str, tuple[slice, Callable[[int], bool]]] = {  # part of the clip, and which of its frames are refreshes
    STREAM: (slice(None), lambda index: index == 0),
    STILL: (slice(1), lambda index: False),
    REFRESH: (slice(None), lambda index: True),
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
class Streamed:
    """A stream that is to be timed.

    Attributes:
        program: what it runs.
        clip: its frames.
        way: how it takes them, of `WAYS`.
    """

    program: Program | OnnxProgram
    clip: Clip
    way: str = STREAM


@dataclass(frozen=True)
class Comparison:
    """What the frames of a clip took.

    Attributes:
        dense: engine -> its timing.
        stream: name of a stream -> its timing.
        unavailable: engine -> why it was not timed.
        memory: engine or stream -> the most bytes it held while it ran (`skipfx.bench.worker.Worker.memory`).
    """

    dense: dict[str, Timing]
    stream: dict[str, Timing]
    unavailable: dict[str, str]
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def fastest(self) -> str:
        """The dense engine with the lowest mean."""
        return min(self.dense, key=lambda name: self.dense[name].seconds.mean)

    def speedup(self, name: str = STREAM) -> Spread:
        """How many times longer the fastest dense engine takes than a stream, round by round."""
        return ratio(self.dense[self.fastest], self.stream[name])


def all_ways(program: Program | OnnxProgram, clip: Clip) -> dict[str, Streamed]:
    """A program's stream in each of the `WAYS`."""
    return {way: Streamed(program, clip, way) for way in WAYS}


def compare(
    program: ExportedProgram,
    clip: Clip,
    threads: int,
    streams: Mapping[str, Streamed],
    against: Sequence[str],
    rounds: int,
    tick: Tick,
) -> Comparison:
    """Times streams and dense engines in turns, all with the same number of threads.

    A block is the whole clip from its first frame, which is a refresh; the first `WARMUP` frames do not count.

    Args:
        program: the model that dense engines compute.
        clip: its frames, more than `WARMUP`.
        threads: of every engine.
        streams: what is timed beside them, on clips of the same length.
        against: names of dense engines, see `skipfx.bench.dense.ENGINES`; those that cannot run are left out.
        rounds: how often everyone has a turn.
        tick: told what is done and how many steps of (engines + streams) * (rounds + 1) are over.

    Raises:
        UsageError: a clip is too short, or of another length; or a name is unknown.
        EngineUnavailable: no dense engine can run the network.
    """
    if len(clip) <= WARMUP:
        raise UsageError(f"the clip has {len(clip)} frame(s), of which {WARMUP} do not count: give a longer one")
    if lengths := {len(streamed.clip) for streamed in streams.values()} - {len(clip)}:
        raise UsageError(f"clips of {sorted(lengths)} and {len(clip)} frames do not compare: give the same length")
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in against:
            tick(f"starting {name}", 0)
            try:
                workers[name] = stack.enter_context(dense_worker(name, program, threads, clip))
                tick(name, 1)
            except EngineUnavailable as error:
                unavailable[name] = str(error)
                tick(name, rounds + 1)
        if not workers:
            raise EngineUnavailable("\n".join(["nothing to compare with", *unavailable.values()]))
        for name, streamed in streams.items():
            workers[name] = stack.enter_context(Worker(_steps, streamed, threads))
            tick(name, 1)
        runners = {name: _ticking(name, worker, tick) for name, worker in workers.items()}
        timings = interleave(runners, len(clip) - WARMUP, rounds, warmup=WARMUP)
        memory = {name: worker.memory for name, worker in workers.items()}
    dense = {name: timing for name, timing in timings.items() if name not in streams}
    return Comparison(dense, {name: timings[name] for name in streams}, unavailable, memory)


def activity(engine: Engine | OnnxEngine, clip: Clip, tick: Tick) -> list[Stats]:
    """What each frame of a clip costs a stream, but for the first `WARMUP`."""
    stream = engine.stream()
    found = []
    for frames in clip:
        stream(*frames)
        found.append(stream.stats)
        tick("counting", 1)
    return found[WARMUP:]


def _ticking(name: str, runner: Runner, tick: Tick) -> Runner:
    def run(frames: int) -> list[float]:
        tick(f"timing {name}", 0)
        seconds = runner(frames)
        tick(name, 1)
        return seconds

    return run


def _steps(streamed: Streamed, threads: int) -> Iterator[Step]:
    """The frames of a clip, over and over."""
    stream = streamed.program.open(threads).stream()
    part, refreshed = WAYS[streamed.way]

    def steps() -> Iterator[Step]:
        for index, frames in chain.from_iterable(map(enumerate, repeat(streamed.clip[part]))):
            if refreshed(index):
                stream.refresh()
            yield partial(stream, *frames)

    return steps()
