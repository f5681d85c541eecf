"""Whether a runtime computes what PyTorch computes, apart from changes whose norm lies at their threshold.

Two runtimes round differently, so such a change may be let through in one and not in the other, and from there on their
values differ by up to a threshold. `Agreement` tells that from an error: PyTorch's graph runs beside the runtime and
lets through what the runtime let through, which shows in the states before and after a frame. Then the outputs must
agree on every frame, and each decision that PyTorch would have made otherwise must lie at its threshold.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import UsageError
from skipfx.model import SkipModel
from skipfx.onnx_manifest import StateRecord
from skipfx.passes.portable import lower_portable
from skipfx.passes.portable.sites import hold_test
from skipfx.runtime import OnnxEngine
from skipfx.testing import zero_states

Array = NDArray[Any]


@dataclass
class Decisions:
    """What the gates of all frames decided.

    Attributes:
        all: decisions, one per held position and frame.
        other: those that PyTorch would have made otherwise.
        margin: the largest |norm - threshold| among them, relative to the threshold.
        rounding: the same, relative to the largest value of the map.
    """

    all: int = 0
    other: int = 0
    margin: float = 0.0
    rounding: float = 0.0

    def add(self, mask: Tensor, taken: Tensor, new: Tensor, old: Tensor, gate: fx.Node) -> None:
        """Counts the decisions of one map, by PyTorch and by the runtime, bool [1, 1, H, W]."""
        differ = (mask != taken) & (new != old).any(1, keepdim=True)  # writing the same value does not show
        self.all += differ.numel()
        self.other += int(differ.sum())
        if differ.any():
            test: Any = hold_test(gate)
            threshold = float(test.args[2])
            farthest = float((_norms(gate.args[0], new, old)[differ] - threshold).abs().max())
            self.margin = max(self.margin, farthest / threshold)
            self.rounding = max(self.rounding, farthest / float(new.abs().max()))


@dataclass
class Agreement:
    """PyTorch's graph of a model beside a stream of the same model, each on the same frames.

    Args:
        skip: the model; its gates are `Hold`.
        engine: its export.
        in_place: as for `OnnxEngine.stream`.
    """

    skip: SkipModel
    engine: OnnxEngine
    in_place: bool = True
    decisions: Decisions = field(default_factory=Decisions)

    def __post_init__(self) -> None:
        self.stream = self.engine.stream(in_place=self.in_place)
        portable = lower_portable(self.skip.graph_module)
        self._records = {
            state.source: record
            for state, record in zip(portable.states, self.engine.program.manifest.states, strict=True)
            if state.source is not None
        }
        self._graph = _Led(self.skip.graph_module, self.decisions)
        self._states = zero_states(self.skip.graph_module)

    def step(self, frame: Array, refresh: bool) -> tuple[list[Array], list[Array]]:
        """The outputs of the next frame, by the runtime and by PyTorch with its decisions."""
        if refresh:
            self.stream.refresh()
        before = self.stream.state_dict()
        outputs = [leaf.copy() for leaf in self.stream.leaves([frame])]
        after = self.stream.state_dict()
        self._graph.taken = {
            name: _moved(record, before[record.input], after[record.input]) for name, record in self._records.items()
        }
        with torch.no_grad():
            expected, self._states = self._graph.run(torch.from_numpy(frame), *self._states, torch.tensor(refresh))
        return outputs, [value.numpy() for value in expected]


def _moved(record: StateRecord, before: Array, after: Array) -> Tensor:
    """Where a state was written, bool [1, 1, H, W]."""
    differs, (channels, height, width) = torch.from_numpy(before != after), record.size
    if record.layout == "nchw":
        return differs.any(1, keepdim=True)
    unit = 4 if record.layout == "planar" else 1
    high, wide = (-(-(length + 2 * record.border) // unit) * unit for length in (height, width))
    map_ = differs.reshape(channels, high, wide).any(0) if unit > 1 else differs.any(1).reshape(high, wide)
    return map_[record.border :, record.border :][:height, :width][None, None]


class _Led(fx.Interpreter):
    """A stream graph whose gates let through what they are told."""

    def __init__(self, gm: fx.GraphModule, decisions: Decisions) -> None:
        super().__init__(gm)
        self.decisions, self.taken = decisions, dict[str, Tensor]()
        self._gates = set(g.next_states(gm.graph))
        for gate in self._gates:
            if gate.target is not ops.select or hold_test(gate) is None:
                raise UsageError("only models whose gates are all Hold can be compared with their decisions")

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node; a gate with the decisions of the runtime, unless the frame is a refresh."""
        if n not in self._gates:
            return super().run_node(n)
        mask, new, old, refresh = self.fetch_args_kwargs_from_env(n)[0]
        if not refresh:
            state: Any = n.args[2]
            taken = self.taken[state.name]
            self.decisions.add(mask, taken, new, old, n)
            mask = taken
        return ops.select(mask, new, old, refresh)


def _norms(mask: Any, new: Tensor, old: Tensor) -> Tensor:
    """What a mask compares with the threshold: the norm of a position, or the largest that it takes in."""
    if mask.target is ops.changed:
        return ops.distance(new.double(), old.double(), mask.args[3])
    norms, side = _norms(mask.args[0], new, old), mask.args[1]
    if mask.target is ops.dilate:
        return functional.max_pool2d(norms, side, 1, side // 2)
    return ops.block_maximum(norms, side)


def relative_error(found: list[Array], expected: list[Array]) -> float:
    """The largest difference of the outputs over their largest value."""
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))
