"""What a stream graph expects of its caller, and the messages for when it does not get that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from skipfx import graph as g
from skipfx.errors import FrameError

FRESH = "fresh"
_ORIGIN = "make one with init_state(batch), and pass on what the call before returned"


@dataclass(frozen=True)
class Inputs:
    """The frames and states of a stream graph.

    Attributes:
        frames: name -> (C, H, W).
        states: name -> the fake tensor of one stream, [1, ...].
    """

    frames: dict[str, tuple[int, ...]]
    states: dict[str, Tensor]

    def zeros(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        """A state before the first frame; `fresh`, bool [batch], says so.

        Raises:
            FrameError: the batch is empty.
        """
        if batch < 1:
            raise FrameError(f"batch: expected at least one stream, got {batch}")
        fresh = torch.ones(batch, dtype=torch.bool, device=device)
        zeros = {
            name: torch.zeros((batch, *like.shape[1:]), dtype=like.dtype, device=device)
            for name, like in self.states.items()
        }
        return {FRESH: fresh, **zeros}

    def check_frames(self, frames: Sequence[Any], device: torch.device) -> int:
        """The batch size of frames that are as expected.

        Raises:
            FrameError: says which frame is not, what was expected and what came.
        """
        if len(frames) != len(self.frames):
            raise FrameError(
                f"expected {len(self.frames)} frame(s) ({', '.join(self.frames)}) and then the state, "
                f"got {len(frames)} before the last argument"
            )
        for (name, shape), frame in zip(self.frames.items(), frames, strict=True):
            want = f"{name}: expected a float32 tensor [B, {', '.join(map(str, shape))}] on {device}"
            if not isinstance(frame, Tensor):
                raise FrameError(f"{want}, got {_describe(frame)}")
            if frame.dtype != torch.float32 or frame.device != device:
                raise FrameError(f"{want}, got {_describe(frame)} on {frame.device}")
            if tuple(frame.shape[1:]) != shape or frame.shape[0] != frames[0].shape[0] or frame.shape[0] == 0:
                raise FrameError(f"{want}, the same B for every frame, got {_describe(frame)}")
            if not torch.isfinite(frame).all():
                raise FrameError(f"{want} of finite values, got NaN or infinity")
        return int(frames[0].shape[0])

    def check_state(self, state: Any, batch: int, device: torch.device) -> Mapping[str, Tensor]:
        """The state, if it is one of this graph and of this batch.

        Raises:
            FrameError: it is not; says where it differs.
        """
        if not isinstance(state, Mapping):
            raise FrameError(f"expected the state as the last argument, got {_describe(state)}: {_ORIGIN}")
        like = {FRESH: torch.empty(1, dtype=torch.bool), **self.states}
        if odd := sorted(map(str, like.keys() ^ state.keys())):
            raise FrameError(f"not a state of this model, it differs in {', '.join(odd)}: {_ORIGIN}")
        for name, tensor in state.items():
            want = (batch, *like[name].shape[1:])
            if (
                not isinstance(tensor, Tensor)
                or (tensor.dtype, tensor.device) != (like[name].dtype, device)
                or tuple(tensor.shape) != want
            ):
                expected = f"expected {like[name].dtype} {list(want)} on {device} for a batch of {batch}"
                raise FrameError(f"state {name}: {expected}, got {_describe(tensor)}: {_ORIGIN}")
        return state


def check_refresh(refresh: Any, batch: int) -> bool | Tensor:
    """`refresh`, if it is a bool or a bool tensor [] or [batch].

    Raises:
        FrameError: it is something else.
    """
    fits = isinstance(refresh, Tensor) and refresh.dtype == torch.bool and tuple(refresh.shape) in ((), (batch,))
    if not fits and not isinstance(refresh, bool):
        raise FrameError(f"refresh: expected a bool, or a bool tensor [] or [{batch}], got {_describe(refresh)}")
    return refresh  # type: ignore[no-any-return]


def read_inputs(gm: fx.GraphModule) -> Inputs:
    """Reads off a stream graph what it expects."""
    return Inputs(
        {node.name: tuple(g.value(node).shape[1:]) for node in g.frames(gm.graph)},
        {node.name: g.value(node) for node in g.states(gm.graph)},
    )


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
