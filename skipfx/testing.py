"""Helpers to run stream graphs over clips and to look inside them; for tests, of this project and of its users."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from skipfx import graph as g
from skipfx import ops
from skipfx.errors import FrameError
from skipfx.model import SkipModel

Frames = tuple[Tensor, ...]
Step = Callable[[tuple[NDArray[Any], ...], bool], list[NDArray[Any]]]  # of a frame, and whether it is a refresh


def as_frames(item: Any) -> Frames:
    """One time of a clip as a tuple of tensors [1, C, H, W].

    Args:
        item: a frame [1, C, H, W] or [C, H, W], tensor or array, or a tuple of them.

    Raises:
        FrameError: it is something else.
    """
    parts = item if isinstance(item, tuple | list) else (item,)
    if not all(isinstance(part, Tensor | np.ndarray) and part.ndim in (3, 4) for part in parts):
        raise FrameError("a clip holds frames [1, C, H, W] or [C, H, W], tensors or arrays, or tuples of them")
    tensors = (part if isinstance(part, Tensor) else torch.from_numpy(part) for part in parts)
    return tuple(tensor if tensor.dim() == 4 else tensor[None] for tensor in tensors)


def zero_states(gm: fx.GraphModule) -> list[Tensor]:
    """The states of a stream graph before its first frame, which must be a refresh."""
    return [torch.zeros(g.value(node).shape, dtype=g.value(node).dtype) for node in g.states(gm.graph)]


def run_clip(gm: fx.GraphModule, clip: Sequence[Frames], refresh_all: bool = False) -> list[tuple[Tensor, ...]]:
    """The outputs of a stream graph for every frame of a clip; the first is a refresh, or all are."""
    states: Sequence[Tensor] = zero_states(gm)
    results = []
    with torch.no_grad():
        for index, frames in enumerate(clip):
            outputs, states = gm(*frames, *states, torch.tensor(refresh_all or index == 0))
            results.append(outputs)
    return results


def run_dense(program: ExportedProgram, clip: Sequence[Frames]) -> list[list[NDArray[Any]]]:
    """The outputs of the captured model for every frame, flattened."""
    module = program.module(check_guards=False)
    results = []
    with torch.no_grad():
        for frames in clip:
            args, kwargs = pytree.tree_unflatten(frames, program.call_spec.in_spec)
            results.append(_arrays(module(*args, **kwargs)))
    return results


def run_refreshed(gm: fx.GraphModule, clip: Sequence[Frames]) -> list[list[NDArray[Any]]]:
    """The outputs of a stream graph for every frame with all gates open, flattened."""
    return [[leaf.numpy(force=True) for leaf in outputs] for outputs in run_clip(gm, clip, refresh_all=True)]


def stepper(skip: SkipModel) -> Step:
    """A transformed model as a function of (frames, refresh) on arrays that keeps its state."""
    state = skip.init_state()

    def step(frames: tuple[NDArray[Any], ...], refresh: bool) -> list[NDArray[Any]]:
        nonlocal state
        with torch.no_grad():
            outputs, state = skip(*map(torch.from_numpy, frames), state, refresh=refresh)
        return _arrays(outputs)

    return step


def _arrays(outputs: Any) -> list[NDArray[Any]]:
    """The tensors of some outputs."""
    return [leaf.numpy(force=True) for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def drift(gm: fx.GraphModule, clip: Sequence[Frames]) -> float | None:
    """The largest N(y'_t - y_t) / tau of any held value at any position and frame, at most 1 if nothing drifts.

    None where the gate holds nothing.
    """
    meter = _Drift(gm)
    states: Sequence[Tensor] = zero_states(gm)
    with torch.no_grad():
        for index, frames in enumerate(clip):
            _, states = meter.run(*frames, *states, torch.tensor(index == 0))
    return meter.largest


class _Drift(fx.Interpreter):
    """Runs a stream graph and compares every held value with the value it stands for."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.largest: float | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node; at a hold, measures."""
        result = super().run_node(n)
        test = _hold_test(n)
        if test is not None:
            new, _, threshold, norm = cast(tuple[Any, ...], self.map_nodes_to_values(test.args, n))
            share = float(ops.distance(new, result, norm).max()) / threshold
            self.largest = max(self.largest or 0.0, share)
        return result


def _hold_test(node: fx.Node) -> fx.Node | None:
    """The `changed` behind the mask of a hold."""
    mask = node.args[0] if node.target is ops.select else None
    while isinstance(mask, fx.Node) and mask.target in (ops.dilate, ops.block_mask):
        mask = mask.args[0]
    return mask if isinstance(mask, fx.Node) and mask.target is ops.changed else None


def check_golden(path: Path, text: str, regenerate: bool = False) -> None:
    """Compares a text with the one that a file keeps, or writes the file.

    Raises:
        AssertionError: they differ, or the file is missing.
    """
    if regenerate:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path}: missing; run pytest with --regen to write it"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs; if that is meant, run pytest with --regen"
