"""Timing in turns: a block of frames of one runner, a block of the next, round after round.

Runners that are timed one after the other meet different machines: clocks, caches and neighbours change by more than
the difference that is to be measured. Blocks in turns meet the same machine, and ratios are taken within a round.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from skipfx.errors import UsageError

Step = Callable[[], object]
Runner = Callable[[int], list[float]]

FLAGS = {"avx2": "avx2", "avx512f": "avx512", "asimd": "neon", "neon": "neon"}
LIBRARIES = ("numpy", "torch", "apache-tvm", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Spread:
    """Measured values and how they spread.

    Attributes:
        values: the values in the order they were measured.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean, which holds the rare slow frames too."""
        return float(np.mean(self.values))

    @property
    def median(self) -> float:
        """The value that half of the values do not exceed."""
        return float(np.median(self.values))

    @property
    def p10(self) -> float:
        """The value that a tenth of the values do not exceed."""
        return float(np.percentile(self.values, 10))

    @property
    def p90(self) -> float:
        """The value that nine tenths of the values do not exceed."""
        return float(np.percentile(self.values, 90))


@dataclass(frozen=True)
class Timing:
    """What the frames of one runner took.

    Attributes:
        rounds: seconds of each frame, [rounds][frames].
    """

    rounds: tuple[tuple[float, ...], ...]

    @property
    def seconds(self) -> Spread:
        """Seconds per frame over all rounds."""
        return Spread(tuple(seconds for block in self.rounds for seconds in block))


def timed(steps: Iterator[Step], clock: Callable[[], float] = time.perf_counter) -> Runner:
    """Turns an iterator of steps, one per frame, into a runner.

    Args:
        steps: what is timed is the call of a step. What the iterator does to get there (decode, resize) is not.
        clock: the time now in seconds.

    Returns:
        A runner: given a number of frames it takes the next so many steps and gives the seconds of each.
    """

    def run(frames: int) -> list[float]:
        seconds = []
        for step in islice(steps, frames):
            start = clock()
            step()
            seconds.append(clock() - start)
        return seconds

    return run


def interleave(
    runners: Mapping[str, Runner],
    frames: int,
    rounds: int,
    *,
    warmup: int = 2,
    pause: float = 0.1,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Timing]:
    """Times runners in turns: every round has one block of each, and every second round runs backwards.

    Args:
        runners: the runners by name.
        frames: timed frames of a block.
        rounds: number of rounds.
        warmup: frames before each block that run but do not count: they wake the threads and fill the caches.
        pause: seconds of rest before each block, in which the threads of the runner before stop spinning (0.05 s at
            most were seen).
        sleep: what rests.

    Raises:
        UsageError: there is nothing to time, or a runner ended before its last frame.
    """
    if not runners or frames < 1 or rounds < 1:
        raise UsageError(f"nothing to time: {len(runners)} runners, {rounds} rounds of {frames} frames; give 1 or more")
    blocks: dict[str, list[tuple[float, ...]]] = {name: [] for name in runners}
    for index in range(rounds):
        for name in list(runners)[:: -1 if index % 2 else 1]:
            sleep(pause)
            seconds = runners[name](warmup + frames)
            if len(seconds) != warmup + frames:
                raise UsageError(f"{name} ran {len(seconds)} of {warmup + frames} frames: its clip must not end")
            blocks[name].append(tuple(seconds[warmup:]))
    return {name: Timing(tuple(block)) for name, block in blocks.items()}


def ratio(a: Timing, b: Timing) -> Spread:
    """How many times longer `a` took than `b`, one value per round.

    A round's value compares the whole time of its two blocks, so that rare slow frames (a refresh) count.

    Raises:
        UsageError: the two were not timed in the same rounds.
    """
    if len(a.rounds) != len(b.rounds):
        raise UsageError(f"only timings of the same rounds compare, got {len(a.rounds)} and {len(b.rounds)} rounds")
    return Spread(tuple(float(np.mean(x) / np.mean(y)) for x, y in zip(a.rounds, b.rounds, strict=True)))


def machine() -> dict[str, Any]:
    """What a timing depends on, to be printed beside it.

    Returns:
        "cpu": the model's name. "cores": those this process may use. "load": processes that ran or waited for a core in
        the last minute; well above 0 before a timing, others disturb it. "flags": of "avx2", "avx512", "neon" those
        the CPU has. "python": its version. "libraries": name -> version of those installed.
    """
    facts = _cpuinfo()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "flags": sorted({name for flag, name in FLAGS.items() if flag in flags}),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    if not path.exists():
        return {}
    pairs = (line.partition(":") for line in path.read_text().splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
