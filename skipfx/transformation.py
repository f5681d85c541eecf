"""From a model to a `SkipModel`, and the look at a model that comes before it."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx import ops
from skipfx.adapt import adapt
from skipfx.errors import FrameError, OptionError
from skipfx.loading import Model, load
from skipfx.model import SkipModel
from skipfx.options import Block, Gate, Hold, TransformOptions
from skipfx.passes.base import Observer
from skipfx.recipe import Recipe, classify
from skipfx.report import Report
from skipfx.resize import recapture

INPUT_SHARE = 0.05
NAMED_LAYERS = 10
_HOLD = Hold()


def transform(
    model: Model,
    inputs: Sequence[Any] | None = None,
    *,
    frames: Sequence[str | int] | None = None,
    until: str | Sequence[str] = (),
    gate: Gate = _HOLD,
    block: Block = 1,
    update: Literal["recompute", "residual"] = "recompute",
    exclude: tuple[str, ...] = (),
    thresholds: Mapping[str, float] | None = None,
    trust_pickle: bool = False,
    observe: Observer | None = None,
) -> SkipModel:
    """Transforms a per-frame model into one that computes what changed.

    Args:
        model: a module, an ExportedProgram, or the path of a `.pt2` file.
        inputs: example frames, float32 [1, C, H, W] each, as the model sees them; they fix the shapes, and with the
            hold gate the scale of every threshold, so take them from the camera. None: those saved with the program.
        frames: names or numbers of the inputs that are frames; the others may be anything, and are fixed at the values
            that `inputs` gives. None: all are frames.
        until: modules, or nodes of the graph, after which the model is cut; their values are the outputs then.
        gate: which positions count as changed.
        block: side of the mask's blocks, 1, 2, 4, 8 or 16.
        update: "recompute" or "residual", see `TransformOptions`.
        exclude: shell-style patterns of module names that stay dense.
        thresholds: pattern of module names -> threshold in place of the gate's; the last match wins. A value that
            several modules compute, as a convolution and its activation, goes by the names of all of them.
        trust_pickle: also load whole-module pickles, which execute code of their author.
        observe: called after every pass, see `skipfx.passes.base.run_passes`.

    Raises:
        OptionError: an option is out of its range, or a pattern matches no module.
        FrameError: the example frames are missing, of the wrong kind, or give values that are not finite.
        CaptureError, ArtifactError: the model cannot be captured, or its file cannot be read.
        NothingToTransform: no convolution of the model is local in space.
    """
    overrides = dict(thresholds or {})
    options = TransformOptions(gate=gate, block=block, update=update, exclude=exclude, thresholds=overrides)
    model, until = load(model, trust_pickle=trust_pickle), _several(until)
    found = adapt(model, inputs, frames=frames, until=until)
    gm = classify(found.program, options.exclude, observe)
    _check_patterns(gm, options)
    threshold, scales = _input_threshold(options.hold, found.frames), measure(gm, found.frames)
    recipe = Recipe(options=options, input_threshold=threshold, scales=scales, notes=found.notes)
    skip = SkipModel(found.program, recipe, gm, observe)
    skip.recapture = recapture(model, found, frames, until)
    return skip


def inspect(
    model: Model,
    inputs: Sequence[Any] | None = None,
    *,
    frames: Sequence[str | int] | None = None,
    until: str | Sequence[str] = (),
    gate: Gate = _HOLD,
    exclude: tuple[str, ...] = (),
    trust_pickle: bool = False,
) -> Report:
    """Says what would become sparse, what not and why, what it is worth and what state it needs.

    The arguments are those of `transform`; only the shapes of the example frames matter.

    Raises:
        OptionError, FrameError, CaptureError, ArtifactError, NothingToTransform: as `transform` does.
    """
    options = TransformOptions(gate=gate, exclude=exclude)
    found = adapt(model, inputs, frames=frames, until=_several(until), trust_pickle=trust_pickle)
    gm = classify(found.program, options.exclude)
    _check_patterns(gm, options)
    scales = {node.name: 1.0 for node in gm.graph.nodes}
    recipe = Recipe(options=options, input_threshold=1.0, scales=scales, notes=found.notes)
    return SkipModel(found.program, recipe, gm).report


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def measure(gm: fx.GraphModule, frames: Sequence[Tensor]) -> dict[str, float]:
    """The RMS of every feature map of a classified graph, by the name of its node, on example frames.

    Raises:
        FrameError: a value is NaN or infinite.
    """
    meter = _Meter(gm)
    with torch.no_grad():
        meter.run(*frames, torch.tensor(True))
    for node in gm.graph.nodes:
        if not torch.tensor(meter.scales.get(node.name, 0.0)).isfinite():
            where = f"{g.record(node).layer or 'the model'} ({node.name})"
            raise FrameError(f"the value of {where} is NaN or infinite on the example frame: check frame and weights")
    return meter.scales


class _Meter(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.scales: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node and notes the RMS of its value; a border is none, and may hold -inf."""
        result = super().run_node(n)
        if g.is_map(n) and n.op != "get_attr" and n.target is not ops.border:
            self.scales[n.name] = float(result.double().square().mean().sqrt())
        return result


def _input_threshold(hold: Hold | None, frames: Sequence[Tensor]) -> float:
    """The threshold of the frames: as given, or a share of the smallest range among the example frames."""
    if hold is None:
        return 0.0
    smallest = min(float(frame.max() - frame.min()) for frame in frames)
    if hold.input_threshold is not None:
        if smallest == 0 and hold.threshold > 0:
            warnings.warn(
                "the example frame is constant, so the thresholds, which are shares of each tensor's RMS on it, may be "
                "far from what real frames need: pass a frame of the camera",
                stacklevel=3,
            )
        return hold.input_threshold
    if smallest == 0:
        raise FrameError(
            "the example frame is constant, so no threshold can be taken from its range: pass a frame of the camera, "
            "or set input_threshold in the units of the model's input"
        )
    return INPUT_SHARE * smallest


def _check_patterns(gm: fx.GraphModule, options: TransformOptions) -> None:
    """Refuses patterns that match no module, which are typing errors."""
    layers = sorted({g.record(node).layer for node in gm.graph.nodes if node.op == "call_function"})
    for option, patterns in (("exclude", options.exclude), ("thresholds", options.thresholds)):
        for pattern in patterns:
            if not any(g.matches(layer, pattern) for layer in layers):
                known = [layer for layer in layers if layer]
                some = ", ".join(known[:NAMED_LAYERS]) + (", ..." if len(known) > NAMED_LAYERS else "")
                raise OptionError(f"{option}: {pattern!r} matches no module; there are {some}")
