"""The memory of one stream of an exported model, bound to a session: states, and outputs.

The states are two sets of arrays, which take turns as input and output; a state that may be written in place is the
same array in both. An output that holds what a state holds is bound to the memory of that state, so that nothing is
copied; where a caller still holds what is about to be written, the state moves to other memory first.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from skipfx.onnx_manifest import OnnxManifest, OutputRecord
from skipfx.runtime.onnx_session import Session
from skipfx.runtime.outputs import OutputSlots, on_host

Array = NDArray[Any]


class BoundState:
    """The memory of one stream.

    Args:
        session: where it runs.
        manifest: of the model.
        in_place: write those states in place that allow it; the session must allow it too.
    """

    def __init__(self, session: Session, manifest: OnnxManifest, in_place: bool) -> None:
        self._manifest, self._turn = manifest, 0
        arrays = [np.zeros(state.shape, state.dtype) for state in manifest.states]
        others = [
            array if in_place and session.in_place and state.in_place else np.zeros_like(array)
            for array, state in zip(arrays, manifest.states, strict=True)
        ]
        self._sets = (arrays, others)
        self._spares: dict[int, Array] = {}  # by number of the state
        self._given: WeakValueDictionary[int, Array] = WeakValueDictionary()  # by id of the array: what callers hold
        self._slots = {
            record.name: OutputSlots(int(np.prod(record.shape)), on_host)
            for record in manifest.outputs
            if record.state is None and record.dtype == "float32"
        }
        self._refresh = np.zeros(1, np.bool_)
        self.active = np.zeros(len(manifest.layers), np.int64)
        self._bindings = (session.binding(), session.binding())
        for binding in self._bindings:
            binding.set(manifest.refresh, self._refresh, is_input=True)
            if manifest.active is not None:
                binding.set(manifest.active, self.active, is_input=False)
        for index in range(len(arrays)):
            self._bind(index)

    def run(self, frames: Sequence[Array], refresh: bool) -> list[Array]:
        """Computes a frame; the outputs are read-only, and keep their values for as long as they are held."""
        self._let_go(1 - self._turn)
        binding, manifest = self._bindings[self._turn], self._manifest
        own = {record.name: self._memory(record) for record in manifest.outputs if record.state is None}
        for record, array in zip(manifest.frames, frames, strict=True):
            binding.set(record.name, array, is_input=True)
        for name, array in own.items():
            binding.set(name, array, is_input=False)
        self._refresh[0] = refresh
        binding.run()
        self._turn = 1 - self._turn
        return [
            _read_only(own[record.name]) if record.state is None else self._give(record) for record in manifest.outputs
        ]

    @property
    def states(self) -> list[Array]:
        """The arrays that hold the state now."""
        return self._sets[self._turn]

    def load(self, states: Sequence[Array]) -> None:
        """Replaces the state."""
        self._let_go(self._turn)
        for own, array in zip(self.states, states, strict=True):
            own[:] = array

    def _bind(self, index: int) -> None:
        """Binds a state, and the outputs that hold what it holds."""
        state = self._manifest.states[index]
        for turn, binding in enumerate(self._bindings):
            binding.set(state.input, self._sets[turn][index], is_input=True)
            after = self._sets[1 - turn][index]
            binding.set(state.output, after, is_input=False)
            for record in self._manifest.outputs:
                if record.state == index:
                    binding.set(record.name, after.reshape(record.shape), is_input=False)

    def _memory(self, record: OutputRecord) -> Array:
        """Memory for an output, which nobody else holds."""
        if record.name not in self._slots:
            return np.empty(record.shape, record.dtype)
        slots = self._slots[record.name]
        array, slot, _ = slots.take()
        slots.written(slot)
        return array.reshape(record.shape)

    def _give(self, record: OutputRecord) -> Array:
        """The memory of a state as an output."""
        assert record.state is not None
        array = self.states[record.state]
        flat = self._given.get(id(array))
        if flat is None:  # lives for as long as any view of it, since its own base is no array
            flat = self._given[id(array)] = np.frombuffer(array.data, array.dtype)
            flat.flags.writeable = False
        return flat.reshape(record.shape)

    def _let_go(self, turn: int) -> None:
        """Moves the states of a set to other memory where a caller holds theirs."""
        for index in {record.state for record in self._manifest.outputs if record.state is not None}:
            array = self._sets[turn][index]
            if id(array) not in self._given:
                continue
            spare = self._spares.get(index)
            if spare is None or id(spare) in self._given:
                spare = np.empty_like(array)
            spare[:], self._spares[index] = array, array
            for arrays in self._sets:
                if arrays[index] is array:
                    arrays[index] = spare
            self._bind(index)


def _read_only(output: Array) -> Array:
    view = output.view()
    view.flags.writeable = False
    return view
