"""Finds the schedules with which the GPU at hand computes a network's convolutions fastest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from skipfx.build import assembled, program_of
from skipfx.errors import CompileError, DeviceError, FrameError
from skipfx.files import refuse_existing, write_whole
from skipfx.model import SkipModel
from skipfx.runtime.backends import backend, cuda
from skipfx.runtime.engine import Engine
from skipfx.runtime.gpu.batch import Batch
from skipfx.runtime.gpu.driver import Driver, open_driver
from skipfx.runtime.gpu.launches import kernel_name, launches
from skipfx.runtime.gpu.memory import DeviceArray
from skipfx.runtime.gpu.stream import taken
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.cuda.tuned import Cut, candidates, shipped
from skipfx.runtime.kernels.table import Core, Precision

TURNS = 15  # in which every candidate is measured once
REPEATS = 10  # of a class's convolutions in a measurement, which is too short for the GPU's clock otherwise

Times = dict[str, dict[Cut, tuple[float, float]]]


@dataclass(frozen=True)
class Tuned:
    """What was measured.

    Attributes:
        architecture: whose schedules these are, "sm_80".
        times: class of shapes -> schedule (positions, panels, chunks, stages) -> milliseconds of the network's
            convolutions of that class, on a refresh and on the last frame of the clip.
        chosen: class of shapes -> the fastest schedule.
    """

    architecture: str
    times: Times
    chosen: dict[str, Cut]


def tune(
    skip: SkipModel, clip: Iterable[Any], out: str | Path, *, precision: Precision = "fp32", overwrite: bool = False
) -> Tuned:
    """Measures schedules on the first GPU, and writes a table for `skipfx.compile(..., target="cuda", tuned=out)`.

    Args:
        skip: from `skipfx.transform`.
        clip: for each time a frame [1, C, H, W], float32, or a tuple of them for models with several inputs; two or
            more. The convolutions are measured on the first frame, a refresh, and on what the last one changes.
        out: file to write: the table that ships, with the fastest schedules of the classes of shapes that the network
            has, for this precision and the GPU's architecture.
        precision: as for `skipfx.compile`.
        overwrite: whether to replace a file that exists.

    Raises:
        ArtifactError: the file exists and `overwrite` is not set, or cannot be written.
        FrameError: there are fewer than two frames, or one does not fit the model.
        DeviceError: there is no GPU, or it is too old or out of memory.
        CompileError: as compiling for the GPU does, or the network has no convolutions with schedules.
    """
    refuse_existing(Path(out), overwrite=overwrite)
    pictures = [item if isinstance(item, tuple | list) else (item,) for item in clip]
    if len(pictures) < 2:
        raise FrameError(f"tuning needs two frames or more: a refresh, and a change to follow; got {len(pictures)}")
    architecture = newest(open_driver())
    target = f"cuda:{architecture}"
    kind = backend(target)
    plan, image = assembled(skip, kind, target, precision)
    engine = Engine(program_of(skip, plan, image, *kind.compile(target, image), precision))
    batch = Batch(engine.program, engine.device, 1)
    frames = [_on_device(item, batch) for item in pictures]
    times = _measured(batch, frames, _works(batch, image, precision, architecture))
    chosen = {shape: fastest(found) for shape, found in times.items()}
    table = shipped().replaced(precision, architecture, chosen)
    write_whole(Path(out), table.text().encode(), overwrite=overwrite)
    return Tuned(architecture, times, chosen)


def _on_device(item: Sequence[Any], batch: Batch) -> list[Any]:
    """The frames of one time, in the GPU's memory."""
    arrays = [DeviceArray.copied(batch.device.driver, np.ascontiguousarray(frame)) for frame in item]
    return taken(tuple(arrays), batch.program.frames, batch)


def newest(driver: Driver) -> str:
    """The newest architecture whose code a GPU runs.

    Raises:
        DeviceError: it is too old for all.
    """
    for name in reversed(cuda.ARCHITECTURES):
        if driver.runs(name):
            return name
    raise DeviceError(f"this GPU is too old: expected {cuda.ARCHITECTURES[0]} or later")


def fastest(times: Mapping[Cut, Sequence[float]]) -> Cut:
    """The schedule whose times, each as a multiple of the best in its place, add up to the least."""
    best = [min(place) for place in zip(*times.values(), strict=True)]
    return min(times, key=lambda cut: sum(time / least for time, least in zip(times[cut], best, strict=True)))


Works = dict[tuple[str, Cut], Callable[[int], None]]


def _works(batch: Batch, image: Image, precision: Precision, architecture: str) -> Works:
    """For each class of shapes in a network and each candidate, what launches all its convolutions on a queue.

    A module of kernels holds a candidate for every class, so there are as many modules as a class has candidates.
    """
    shapes = {number: tile.shape for number, (core, tile) in enumerate(image.cores) if core is Core.CONV and tile}
    if not shapes:
        raise CompileError("the network has no convolution that a GPU has schedules for (depthwise ones have none)")
    kernels, driver = cuda.kernels_of(image), batch.device.driver
    kernels = kernels._replace(steps=(), pairs=tuple(pair for pair in kernels.pairs if pair[0] in shapes))
    shape_of = {kernel_name(*pair): shapes[pair[0]] for pair in kernels.pairs}
    choices = {shape: candidates(precision, architecture, shape) for shape in shapes.values()}
    works: Works = {}
    for number in range(max(map(len, choices.values()))):
        cuts = {shape: found[number % len(found)] for shape, found in choices.items()}
        table = shipped().replaced(precision, architecture, cuts)
        find = driver.load(cuda.device_code(kernels._replace(table=table), (architecture,)))
        loaded = {name: find(name) for name in shape_of}
        for shape, cut in cuts.items():
            wanted = [launch for launch in launches(batch.program) if shape_of.get(launch.kernel) == shape]
            works[shape, cut] = driver.record(partial(batch.launch, wanted * REPEATS, loaded))
    return works


def _measured(batch: Batch, clip: Sequence[list[Any]], works: Works) -> Times:
    """Milliseconds on the first frame, a refresh, and on the last one.

    What is measured computes more often than a step does and may add up, so the clip begins anew behind it.
    """
    batch.step(clip[0], 0, {0: True})
    first = _medians(batch.device.driver, works)
    for number, frames in enumerate(clip):
        batch.step(frames, 0, {0: number == 0})
    last = _medians(batch.device.driver, works)
    times: Times = {shape: {} for shape, _ in works}
    for shape, cut in works:
        times[shape][cut] = first[shape, cut], last[shape, cut]
    return times


def _medians(driver: Driver, works: Works) -> dict[tuple[str, Cut], float]:
    """Milliseconds, medians over turns in which every candidate has its turn."""
    turns = [[driver.timed(work) / REPEATS for work in works.values()] for _ in range(TURNS)]
    return {key: median(found) for key, found in zip(works, zip(*turns, strict=True), strict=True)}
