"""A stream of a compiled engine: the state of one camera, and the way from a frame to the outputs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import FrameError, UsageError
from skipfx.runtime.base_stream import BaseStream, Stats
from skipfx.runtime.kernels.table import LANES, SHIFT, TASKS, TILE, Cell
from skipfx.runtime.native import tensor, use_threads
from skipfx.runtime.outputs import OutputSlots, on_host

if TYPE_CHECKING:
    from skipfx.runtime.engine import Engine, Part

Array = NDArray[Any]
EMPTY = np.zeros(1, np.float32)


class Stream(BaseStream):
    """The state of one camera. Made by `Engine.stream`; used by one thread at a time."""

    def __init__(self, engine: "Engine", refresh_every: int | None = None) -> None:
        program = engine.program
        super().__init__(program.frames, program.structure, refresh_every)
        self.engine = engine
        self._emitted_full = True  # what islands read must be written in full
        self._values: dict[str, Array] = {}
        self._allocate()

    def _allocate(self) -> None:
        """The memory of the stream."""
        program, threads = self.engine.program, self.engine.threads
        a, m, s, positions, n = program.sizes
        scratch, lines = program.per_task
        self._a, self._m = _aligned(a + scratch * threads, np.float32), _aligned(m, np.uint8)
        self._s, self._q = _aligned(s + lines * threads, np.uint8), _aligned(positions, np.int64)
        self._n = _aligned(n, np.int64)
        self._memory = tuple(tensor(array) for array in (self._a, self._m, self._s, self._q, self._n))
        self._slots: OutputSlots[Any] = OutputSlots(max(1, program.parts[-1].call.o_size), on_host)
        self._emitted = [np.zeros(max(1, part.call.o_size), np.float32) for part in program.parts[:-1]]

    def reset(self) -> None:
        """Forgets all frames: the next one is the first."""
        self._values.clear()
        self._since_refresh = None

    @property
    def stats(self) -> Stats:
        """What the last frame cost."""
        layers, macs, counts = {}, 0, self._numbers()
        for layer in self.engine.program.layers:
            active = int(counts[layer.counts : layer.counts + self.engine.threads].sum())
            macs += active * layer.macs
            layers[layer.name] = active / layer.positions
        return Stats(macs, self.engine.total_macs, bool(counts[Cell.REFRESH]), layers)

    def active(self) -> dict[str, NDArray[np.bool_]]:
        """The positions of each layer that the last frame computed, bool [H, W]."""
        maps, threads = {}, self.engine.threads
        for layer in self.engine.program.layers:
            computed = maps[layer.name] = np.zeros((layer.height, layer.width), np.bool_)
            for task in range(threads):
                start = layer.list + layer.height * task // threads * layer.width + task * TILE
                found = self._q[start : start + self._n[layer.counts + task]]
                computed[found >> SHIFT, found & ((1 << SHIFT) - 1)] = True
        return maps

    def state_dict(self) -> dict[str, Array]:
        """A copy of the state: the values that are held, and the age of the last refresh."""
        a = self._a[: self.engine.program.sizes[0]]
        since = -1 if self._since_refresh is None else self._since_refresh
        state = {"a": a.copy(), "since_refresh": np.array(since)}
        return state | {f"value.{name}": value.copy() for name, value in self._values.items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Goes back to a state of the same engine.

        Raises:
            UsageError: the state belongs to another network; this stream stays as it was.
        """
        own = self.state_dict()
        for name in ("a", "since_refresh"):
            if name not in state or state[name].shape != own[name].shape or state[name].dtype != own[name].dtype:
                raise UsageError(f"the state does not fit this engine: {name!r} is missing or has another shape")
        self._a[: state["a"].size] = state["a"]
        self._forget_changes()
        self._values = {name[6:]: value.copy() for name, value in state.items() if name.startswith("value.")}
        since = int(state["since_refresh"])
        self._since_refresh = None if since < 0 else since
        self._emitted_full = True

    def held(self, like: list[Array]) -> list[Array]:
        """The outputs of the last frame, flattened; before the first, zeros in the shapes of `like`."""
        if self._values.keys() < {key for key in self.engine.program.outputs if isinstance(key, str)}:
            return [np.zeros_like(leaf) for leaf in like]
        return self._leaves(self._slots.last, self._values)

    def _numbers(self) -> Array:
        """The numbers of the last frame, the cells first."""
        return self._n

    def _forget_changes(self) -> None:
        """Forgets what the last frame changed, because the state was replaced."""
        self._m[:], self._n[:] = 0, 0
        self._slots.forget()

    def _run(self, frames: list[Array]) -> list[Array]:
        use_threads(self.engine.threads)
        program = self.engine.program
        array, slot, full = self._slots.take()
        self._n[[Cell.REFRESH, Cell.BAD, Cell.STIRRED]] = self._is_due(), 0, 0
        last = len(program.parts) - 1
        values = dict(self._values)
        for index, part in enumerate(program.parts):
            taken = _joined([frames[key] if kind == "frame" else values[key] for kind, key in part.arrays_in])  # type: ignore[index]
            given = array if index == last else self._emitted[index]
            self._n[Cell.FULL] = full if index == last else self._emitted_full
            self._n[Cell.SLOT] = 1 << slot if index == last else 1
            call = part.call
            self.engine.step(
                *self._memory, *self.engine.constants, tensor(taken), tensor(given),
                call.begin, call.takes, call.computes, call.gives, self.engine.threads,
            )  # fmt: skip
            if self._n[Cell.BAD]:
                raise FrameError("the frame holds NaN or infinity; the stream is as it was before")
            if not self._n[Cell.STIRRED]:  # what counts was skipped
                self._n[Cell.FIRST_COUNT :] = 0
            self._island(index, given, values)
        self._values, self._emitted_full = values, False
        self._slots.written(slot)
        self._since_refresh = 0 if self._n[Cell.REFRESH] else (self._since_refresh or 0) + 1
        return self._leaves(array, values)

    def _island(self, index: int, given: Array, values: dict[str, Array]) -> None:
        """Runs the island behind a part, if one of its inputs changed."""
        part, runner = self.engine.program.parts[index], self.engine.islands[index]
        if runner is None or part.island is None:
            return
        known = all(name in values for name in part.island.outputs)
        changed = any(self._n[cell : cell + TASKS].any() for cell in part.call.changed)
        earlier = [str(key) for kind, key in part.island.inputs if kind == "value"]
        chained = any(values[key] is not self._values.get(key) for key in earlier)
        if known and not changed and not chained and not self._n[Cell.REFRESH]:
            return
        emitted = _split(given, part)
        inputs = [emitted[key] if kind == "array" else values[key] for kind, key in part.island.inputs]  # type: ignore[index]
        values.update(runner(inputs))

    def _leaves(self, array: Array, values: dict[str, Array]) -> list[Array]:
        emitted = _split(array, self.engine.program.parts[-1])
        leaves = []
        for key in self.engine.program.outputs:
            leaf = (values[key] if isinstance(key, str) else emitted[key[1]]).view()
            leaf.flags.writeable = False
            leaves.append(leaf)
        return leaves


def _aligned(count: int, dtype: Any) -> Array:
    """Zeros on a 64-byte boundary."""
    raw = np.zeros(count * np.dtype(dtype).itemsize + 64 + LANES, np.uint8)
    start = -raw.ctypes.data % 64
    aligned: Array = raw[start : start + count * np.dtype(dtype).itemsize].view(dtype)
    return aligned


def _joined(arrays: list[Array]) -> Array:
    if not arrays:
        return EMPTY
    if len(arrays) == 1:
        return arrays[0].reshape(-1)
    return np.concatenate([array.reshape(-1) for array in arrays])


def _split(array: Array, part: "Part") -> list[Array]:
    """The arrays that a part emitted, [1, C, H, W] whatever the order in memory."""
    parts, start = [], 0
    for number, shape in enumerate(part.arrays_out):
        one = array[start : start + int(np.prod(shape))]
        if number in part.call.channels_last:
            parts.append(one.reshape(shape[0], *shape[2:], shape[1]).transpose(0, 3, 1, 2))
        else:
            parts.append(one.reshape(shape))
        start += one.size
    return parts
