"""Clips through a stream graph, as training needs them: no state to carry, every frame differentiable."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx.errors import FrameError, UsageError
from skipfx.inputs import FRESH
from skipfx.options import Gumbel
from skipfx.training.gates import GateRun, Noise, Spent, noise_of

if TYPE_CHECKING:
    from skipfx.model import SkipModel


def forward_clip(skip: "SkipModel", clips: Sequence[Any], progress: float) -> Any:
    """See `SkipModel.forward_clip`."""
    if not 0 <= progress <= 1:
        raise UsageError(f"progress: the share of the training that is done, 0 to 1; got {progress}")
    _check(clips, 2 if isinstance(skip.options.gate, Gumbel) else 1)
    gm, noise = skip.graph_module, noise_of(skip.options.gate, skip.training, progress)
    batch, length = clips[0].shape[:2]
    parts = [slice(None)] if _runs_batched(gm) else [slice(index, index + 1) for index in range(batch)]
    outputs: list[list[Tensor]] = []
    spent: list[tuple[Spent, ...]] = [()] * length
    for part in parts:
        found, costs = _run(skip, [clip[part] for clip in clips], noise)
        outputs.append(found)
        spent = [(*before, *now) for before, now in zip(spent, costs, strict=True)]
    skip.spent, skip.progress = tuple(spent), progress
    return skip.structured([torch.cat(leaf) for leaf in zip(*outputs, strict=True)])


def _run(skip: "SkipModel", clips: Sequence[Tensor], noise: Noise) -> tuple[list[Tensor], list[list[Spent]]]:
    """Outputs [B, T, ...] and costs per frame of streams in lock step."""
    batch, length = clips[0].shape[:2]
    states: Sequence[Tensor] = [v for name, v in skip.init_state(batch).items() if name != FRESH]
    outputs, spent = [], []
    for time in range(length):
        frames = [clip[:, time] for clip in clips]
        skip.check_frames(frames)
        run = GateRun(skip.graph_module, noise)
        found, states = run.run(*frames, *states, torch.tensor(time == 0, device=frames[0].device))
        outputs.append(found)
        spent.append(run.spent)
    return [_stack(leaf, batch) for leaf in zip(*outputs, strict=True)], spent


def _stack(times: Sequence[Tensor], batch: int) -> Tensor:
    """One output of all frames, [B, T, ...]; an output that has no batch dimension of its own gets one."""
    first = times[0]
    has_batch = first.dim() > 0 and first.shape[0] == batch
    return torch.stack([value if has_batch else value[None] for value in times], 1)


def _runs_batched(gm: fx.GraphModule) -> bool:
    """Whether streams can go through the graph side by side: islands may have the batch of one written into them."""
    calls = (node for node in gm.graph.nodes if node.op == "call_function")
    return all(g.record(node).role in ("local", "gate") for node in calls) and all(map(g.is_map, g.outputs(gm.graph)))


def _check(clips: Sequence[Any], shortest: int) -> None:
    for clip in clips:
        if not isinstance(clip, Tensor) or clip.dim() != 5:
            found = list(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__
            raise FrameError(f"expected clips [B, T, C, H, W], one for each input of the model; got {found}")
        if clip.shape[:2] != clips[0].shape[:2]:
            raise FrameError(f"clips of one call have the same B and T; got {[list(c.shape[:2]) for c in clips]}")
    if not clips or clips[0].shape[1] < shortest:
        length = clips[0].shape[1] if clips else 0
        wanted = f"expected a clip of {shortest} or more frames, got {length}"
        raise FrameError(f"{wanted}: a residual needs a frame before it" if shortest > 1 else wanted)
