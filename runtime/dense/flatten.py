"""A plan for a GPU: one segment, in which dense islands are kernels among the other steps.

The kernels of an island that hang together run together: for a stream in which any map has a change that any of them
reads, or a map that an island before it read. So what one leaves to another is never of another frame, and the memory
between them is free for the next ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipfx.plan import Buffer, Compute, Dense, Emit, Give, Ingest, Plan, Room, Segment, Source, Step, View
from skipfx.plan import Island as OnnxIsland
from skipfx.runtime.dense.fuse import fuse
from skipfx.runtime.dense.kernel import Place, innermost, kernel_of, row_by_row
from skipfx.runtime.dense.nest import Nest, Tensor
from skipfx.runtime.dense.read import read
from skipfx.runtime.image import floats, pitch, pixel

Maps = tuple[int, ...]
Key = tuple[int, int] | str  # of an output in a plan


def flatten(plan: Plan) -> Plan:
    """The plan as one segment without islands.

    Raises:
        CompileError: an island holds what a GPU does not run.
    """
    return _Flattening(plan).plan() if any(segment.island for segment in plan.segments) else plan


@dataclass(frozen=True)
class _Value:
    """A value of an island that others read: where it lies, how, and the maps on which it depends."""

    at: View | Room
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    maps: Maps


Constants = Mapping[Any, NDArray[Any]]  # by what the nests of an island call them
Values = dict[Any, _Value]


@dataclass
class _Flattening:
    old: Plan
    buffers: list[Buffer] = field(default_factory=list)
    rooms: list[int] = field(default_factory=list)
    free: set[int] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    values: dict[str, _Value] = field(default_factory=dict)
    turned: dict[tuple[Any, int], NDArray[Any]] = field(default_factory=dict)

    def plan(self) -> Plan:
        old = self.old
        self.buffers = list(old.buffers)
        frames = tuple(key for segment in old.segments for key in segment.arrays_in if key[0] == "frame")
        for index, segment in enumerate(old.segments):
            self._segment(segment)
            if segment.island is not None:
                self._island(segment.island, segment, self._taken(index + 1))
        # elements of 8 bytes must lie on 8 bytes
        keys = sorted(dict.fromkeys(old.outputs), key=lambda key: self._dtype(key) == "float32")
        given = [self._given(number, key) for number, key in enumerate(keys)]
        shapes = tuple(self._shape(key) for key in keys)
        segment = Segment((*self.steps, *given), frames, shapes, dtypes=tuple(map(self._dtype, keys)))
        outputs = tuple((0, keys.index(key)) for key in old.outputs)
        return Plan(old.frames, tuple(self.buffers), old.maps, (segment,), outputs, tuple(self.rooms))

    def _taken(self, first: int) -> set[str]:
        """The values that later segments take in as maps."""
        return {str(key) for segment in self.old.segments[first:] for kind, key in segment.arrays_in if kind == "value"}

    def _segment(self, segment: Segment) -> None:
        for step in segment.steps:
            if isinstance(step, Ingest) and not step.is_frame:
                self.steps.append(self._held(step, str(segment.arrays_in[step.array][1])))
            elif not isinstance(step, Emit):
                self.steps.append(step)

    def _held(self, step: Ingest, name: str) -> Compute:
        """Takes a value in, all positions where it may have changed; the gate lets through what did."""
        value = self.values[name]
        assert isinstance(value.at, View)
        buffer = self.buffers[value.at.buffer]
        active = (Source(value.maps, "whole"),) if value.maps else ()
        return Compute(
            name, "none", None, (value.at,), ("input", 0), (), step.out, step.map, step.gate, active,
            (buffer.height, buffer.width),
        )  # fmt: skip

    def _island(self, found: OnnxIsland, segment: Segment, taken: set[str]) -> None:
        island = read(found.name, found.onnx)
        inputs = zip(island.inputs, found.inputs, strict=True)
        known = {tensor.buffer: self._input(key, segment) for tensor, key in inputs}
        named = {tensor.buffer: name for tensor, name in zip(island.outputs, found.outputs, strict=True)}
        constants = {tensor.buffer: tensor.constant for tensor in island.constants if tensor.constant is not None}
        for group in _groups(fuse(island)):
            self._group(group, constants, known, named, taken)

    def _input(self, key: tuple[str, int | str], segment: Segment) -> _Value:
        """What an island reads: a value of another one, or a map where it lies."""
        if key[0] == "value":
            return self.values[str(key[1])]
        view = _emitted(segment, int(key[1]))
        return self._map(view, view.maps)

    def _map(self, view: View, maps: Maps) -> _Value:
        buffer = self.buffers[view.buffer]
        shape, step = (1, view.channels, buffer.height, buffer.width), pixel(buffer)
        return _Value(view, shape, (0, 1, pitch(buffer) * step, step), maps)

    def _group(
        self, group: Sequence[Nest], constants: Constants, known: Values, named: Mapping[Any, str], taken: set[str]
    ) -> None:
        """Makes the steps of nests that hang together; a room is free once the last of them has read it."""
        read = {buffer for nest in group for buffer in nest.reads}
        maps = tuple(sorted({change for buffer in read if buffer in known for change in known[buffer].maps}))
        own: dict[Any, _Value] = {}
        for number, nest in enumerate(group):
            out = nest.out.buffer
            own[out] = self._made(nest.out, maps, is_map=named.get(out) in taken, keep=out in named)
            self.steps.append(self._step(nest, known | own, constants, maps))
            later = {buffer for after in group[number + 1 :] for buffer in after.reads}
            for buffer in own.keys() - later - named.keys():
                self._let_go(own.pop(buffer).at)
        self.values |= {named[buffer]: value for buffer, value in own.items()}

    def _made(self, tensor: Tensor, maps: Maps, *, is_map: bool, keep: bool) -> _Value:
        """Where a nest writes: a map, a room of its own, or one that nobody needs any more."""
        if is_map:
            _, channels, height, width = tensor.shape
            self.buffers.append(Buffer(height, width, channels, 0))
            return self._map(View(len(self.buffers) - 1, 0, channels, ()), maps)
        room = Room(self._room(floats(tensor.shape, tensor.dtype), keep), tensor.dtype)
        return _Value(room, tensor.shape, row_by_row(tensor.shape), maps)

    def _room(self, size: int, keep: bool) -> int:
        """A free room with the least that is missing, then the least that is left over."""
        if keep or not self.free:
            self.rooms.append(size)
            return len(self.rooms) - 1
        index = min(self.free, key=lambda room: (max(0, size - self.rooms[room]), self.rooms[room]))
        self.free.remove(index)
        self.rooms[index] = max(size, self.rooms[index])
        return index

    def _let_go(self, at: View | Room) -> None:
        if isinstance(at, Room):
            self.free.add(at.index)

    def _step(self, nest: Nest, values: Values, constants: Constants, maps: Maps) -> Dense:
        """The step of a nest; what it writes comes first."""
        places: list[tuple[Any, Place]] = []
        tensors: list[View | Room | NDArray[Any]] = []
        for buffer in dict.fromkeys([nest.out.buffer, *nest.reads]):
            dtype = str(buffer.dtype)
            if buffer in values:
                places.append((buffer, Place(dtype, values[buffer].strides, constant=False)))
                tensors.append(values[buffer].at)
            else:
                lying, strides = self._constant(buffer, constants[buffer], innermost(nest, buffer))
                places.append((buffer, Place(dtype, strides, constant=True)))
                tensors.append(lying)
        return Dense(kernel_of(nest, places), tuple(tensors), maps)

    def _constant(self, buffer: Any, values: NDArray[Any], axis: int) -> tuple[NDArray[Any], tuple[int, ...]]:
        """A constant as it lies in memory, one axis innermost, and the strides of all; it has one axis or more."""
        axis %= values.ndim
        lying = self.turned.setdefault((buffer, axis), np.ascontiguousarray(np.moveaxis(values, axis, -1)))
        *strides, last = row_by_row(lying.shape)
        return lying, (*strides[:axis], last, *strides[axis:])

    def _given(self, array: int, key: Key) -> Step:
        """The step that gives an output of the model."""
        if isinstance(key, str):
            at = self.values[key].at
            assert isinstance(at, Room)
            return Give(array, at, self.values[key].maps)
        return Emit(array, _emitted(self.old.segments[-1], key[1]))

    def _shape(self, key: Key) -> tuple[int, ...]:
        return self.values[key].shape if isinstance(key, str) else self.old.segments[-1].arrays_out[key[1]]

    def _dtype(self, key: Key) -> str:
        at = self.values[key].at if isinstance(key, str) else None
        return at.dtype if isinstance(at, Room) else "float32"


def _emitted(segment: Segment, array: int) -> View:
    """The map that an array of a segment is."""
    return next(step.view for step in segment.steps if isinstance(step, Emit) and step.array == array)


def _groups(nests: Sequence[Nest]) -> list[list[Nest]]:
    """The nests that hang together by what they write and read, each in order."""
    groups: list[list[Nest]] = []
    for nest in nests:
        reads = set(nest.reads)
        near = [group for group in groups if any(other.out.buffer in reads for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), nest])
    return groups
