"""A compiled network: code and weights that any number of streams share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import ArtifactError, OptionError
from skipfx.plan import Island
from skipfx.runtime.backends.levels import host_levels
from skipfx.runtime.image import Call, LayerCell
from skipfx.runtime.islands import IslandRunner
from skipfx.runtime.kernels.table import TASKS, Precision
from skipfx.runtime.lanes import Lanes
from skipfx.runtime.native import load_code, on_cache_line, tensor, usable_cores
from skipfx.runtime.stream import Stream
from skipfx.runtime.structure import Structure

if TYPE_CHECKING:
    from skipfx.media import Preprocess
    from skipfx.runtime.gpu.device import Device


@dataclass(frozen=True)
class Part:
    """One native call and the island behind it.

    Attributes:
        arrays_in: ("frame", i) or ("value", name).
        arrays_out: shapes of what the call gives out.
        dtypes: of these arrays, as NumPy names them; none: all are float32.
    """

    call: Call
    arrays_in: tuple[tuple[str, int | str], ...]
    arrays_out: tuple[tuple[int, ...], ...]
    island: Island | None
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """Everything an engine is made of; an artifact stores it.

    Attributes:
        code: files of object code that make `step` together, or one of device code.
        level: the instruction-set level the code needs, or the GPU architectures it is for, as "sm_80,sm_90".
        frames: shapes [1, C, H, W] of the inputs.
        sizes, per_task: elements of the memory of a stream (`skipfx.runtime.image.Image`).
        outputs: per output of the model, (part, array) or the name of an island's value.
        structure: how the outputs are nested.
        precision: what the operands of convolutions are rounded to.
        info: free data for reports: "options" and "report" of the transformation, "steps": the layers' names in the
            order in which they are computed.
    """

    code: tuple[bytes, ...]
    level: str
    w: NDArray[np.float32]
    c: NDArray[np.int64]
    frames: tuple[tuple[int, ...], ...]
    sizes: tuple[int, int, int, int, int]
    per_task: tuple[int, int]
    held_bytes: int
    parts: tuple[Part, ...]
    outputs: tuple[tuple[int, int] | str, ...]
    layers: tuple[LayerCell, ...]
    structure: Structure
    preprocess: "Preprocess | None" = None
    precision: Precision = "fp32"
    info: dict[str, Any] = field(default_factory=dict)

    def open(self, threads: int | None) -> "Engine":
        """The engine."""
        return Engine(self, threads)


def for_gpu(level: str) -> bool:
    """Whether code of some level is for GPUs, "sm_80,sm_90"."""
    return level.startswith("sm_")


class Engine:
    """A compiled network.

    Engines are immutable: streams hold all state, and may run in different threads. One that was compiled for another
    kind of machine can be saved; its streams refuse frames.

    Args:
        program: what to run.
        threads: cores that a step may use; None: all that this process may use. A GPU uses none.
    """

    def __init__(self, program: Program, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, got {threads}")
        self.program = program
        self.on_gpu = for_gpu(program.level)
        self.threads = 1 if self.on_gpu else min(threads or usable_cores(), TASKS)
        self.step = load_code(program.code) if program.level in host_levels() else _foreign(program.level)
        self.constants = (tensor(on_cache_line(program.w)), tensor(on_cache_line(program.c)))
        self.islands = [
            None if part.island is None else IslandRunner(part.island, self.threads) for part in program.parts
        ]

    def stream(self, refresh_every: int | None = None) -> Stream:
        """A new stream, for one camera.

        Args:
            refresh_every: frames between two refreshes; None: only the first frame is one.

        Raises:
            DeviceError: the engine is for a GPU, and there is none that runs it.
        """
        if self.on_gpu:
            from skipfx.runtime.gpu.batch import Batch
            from skipfx.runtime.gpu.stream import DeviceStream

            return DeviceStream(self, Batch(self.program, self.device, 1), refresh_every=refresh_every)
        return Stream(self, refresh_every=refresh_every)

    def lanes(self, count: int, refresh_every: int | None = None) -> Lanes:
        """New streams that take their frames together, as [count, C, H, W].

        Args:
            count: how many.
            refresh_every: frames between two refreshes; None: only the first frame is one.

        Raises:
            DeviceError: the engine is for a GPU, and there is none that runs it.
        """
        if count < 1:
            raise OptionError(f"expected at least one lane, got {count}")
        if self.on_gpu:
            from skipfx.runtime.gpu.lanes import DeviceLanes

            return DeviceLanes(self, count, refresh_every)
        return Lanes(self, [self.stream(refresh_every) for _ in range(count)])

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes the artifact; see `skipfx.runtime.artifact.save`."""
        from skipfx.runtime.artifact import save

        save(self.program, Path(path), overwrite=overwrite)

    @cached_property
    def device(self) -> "Device":
        """The GPU, with code and constants in its memory; opened by the first stream."""
        from skipfx.runtime.gpu.device import Device

        return Device(self.program)

    @cached_property
    def total_macs(self) -> int:
        """Multiply-accumulates of a frame in the sparse region when everything is computed."""
        return sum(layer.macs * layer.positions for layer in self.program.layers)

    @property
    def preprocess(self) -> "Preprocess | None":
        """How a picture becomes a frame, where that was given."""
        return self.program.preprocess

    @property
    def state_bytes(self) -> int:
        """Bytes of state per stream; on a GPU without the scratch, which depends on the GPU."""
        a, m, s, positions, n = self.program.sizes
        scratch, lines = self.program.per_task
        tasks = 0 if self.on_gpu else self.threads
        return 4 * (a + scratch * tasks) + m + s + lines * self.threads + 8 * (positions + n)

    def __repr__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.program.frames)
        how = self.program.precision if self.on_gpu else f"{self.threads} threads"
        return (
            f"Engine({shapes}, {self.program.level}, {how}, {self.total_macs / 1e6:.1f} MMACs, "
            f"{self.state_bytes / 1e6:.1f} MB state per stream)"
        )


def _foreign(level: str) -> Callable[..., None]:
    """What stands for code that this machine cannot run."""

    def refuse(*arguments: object) -> None:
        raise ArtifactError(f"compiled for {level}; this machine runs {', '.join(host_levels())}")

    return refuse
