"""The transformed model in plain PyTorch: the reference that compiled engines are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from skipfx import recipe as r
from skipfx.capture import constant_outputs
from skipfx.errors import ArtifactError, CaptureError, OptionError
from skipfx.inputs import FRESH, check_refresh, read_inputs
from skipfx.media import Preprocess
from skipfx.options import LEARNED
from skipfx.passes.base import Observer
from skipfx.recipe import Recipe
from skipfx.resize import Recapture, Size, resized
from skipfx.survey import dense_ends, make_report, survey
from skipfx.training.clip import forward_clip
from skipfx.training.gates import Spent


class SkipModel(nn.Module):
    """A per-frame model that carries its state from frame to frame: `outputs, state = skip(frame, state)`.

    It is functional (inputs are never written to, and results share no memory with them) and differentiable with
    respect to frames, states and parameters; outside training run it under `torch.no_grad()`, or the state keeps the
    history of all frames alive. A batch is B independent streams in lock step, each with masks of its own. It comes in
    evaluation mode; training mode, and `forward_clip`, are for gates that learn.

    Attributes:
        program: the captured model.
        recipe: what turned it into a stream graph.
        graph_module: the stream graph, `graph_module(*frames, *states, refresh)` for one stream.
        report: what is sparse and what is not.
        out_spec: structure of the model's outputs.
        constants: outputs that are no tensors, by their place among all outputs.
        preprocess: how pictures become frames, where known.
        recapture: captures the model for frames of another size.
        spent: for each frame of the last clip, what its learned masks let through; `skipfx.gate_loss` adds it up.
        progress: of the training, as `forward_clip` was told.
    """

    def __init__(
        self, program: ExportedProgram, recipe: Recipe, classified: fx.GraphModule, observe: Observer | None = None
    ) -> None:
        """Finishes a classified graph (`skipfx.recipe.classify`), which is edited in place."""
        super().__init__()
        surveyed, ends = survey(classified), dense_ends(classified)
        self.program = program
        self.recipe = recipe
        self.graph_module = r.finish(classified, recipe, observe)
        self.report = make_report(surveyed, ends, self.graph_module, recipe)
        self.out_spec: pytree.TreeSpec = program.call_spec.out_spec
        self.preprocess: Preprocess | None = None
        self.options = recipe.options
        self.input_threshold = recipe.input_threshold
        self.constants = constant_outputs(program)
        self.recapture: Recapture = partial(resized, program)
        self._inputs = read_inputs(self.graph_module)
        self.eval()
        self.spent: tuple[tuple[Spent, ...], ...] = ()
        self.progress = 0.0
        if isinstance(recipe.options.gate, LEARNED):
            r.own_parameters(self.graph_module)

    def init_state(self, batch: int = 1) -> dict[str, Tensor]:
        """A state before the first frame: zeros, and `fresh`, bool [batch], which makes the next frame a refresh.

        Args:
            batch: number of streams.

        Raises:
            FrameError: the batch is empty.
        """
        return self._inputs.zeros(batch, self._device())

    def forward(self, *args: Any, refresh: bool | Tensor = False) -> tuple[Any, dict[str, Tensor]]:
        """Computes one frame of every stream.

        Args:
            *args: the frames, float32 tensors [B, C, H, W], then the state that came with the frame before.
            refresh: open every gate; a bool, or a bool tensor [] or [B].

        Returns:
            The outputs in the model's own structure, and the next state. An output that has no batch dimension of its
            own is stacked along a new first one when B > 1.

        Raises:
            FrameError: a frame, the state or `refresh` is not as expected.
        """
        *frames, given = args or (None,)
        device = self._device()
        batch = self._inputs.check_frames(frames, device)
        state = self._inputs.check_state(given, batch, device)
        fresh = state[FRESH] | check_refresh(refresh, batch)
        streams = []
        for index in range(batch):
            values = [value[index : index + 1] for value in (*frames, *(state[name] for name in self._inputs.states))]
            streams.append(self.graph_module(*values, fresh[index]))
        outputs = self.structured([_join(parts) for parts in zip(*(outputs for outputs, _ in streams), strict=True)])
        states = [torch.cat(parts) for parts in zip(*(following for _, following in streams), strict=True)]
        following = dict(zip(self._inputs.states, states, strict=True))
        return outputs, {FRESH: torch.zeros_like(fresh), **following}

    def forward_clip(self, *clips: Tensor, progress: float = 0.0) -> Any:
        """Computes whole clips, differentiably and without a state to carry: what training needs.

        In evaluation mode it equals stepping through the clips with `forward`. In training mode learned masks are drawn
        with noise (`skipfx.training.gates`); `forward` never draws. Either way the clips' costs are kept for
        `skipfx.gate_loss`.

        Args:
            *clips: for each input of the model a float32 tensor [B, T, C, H, W]; T >= 2 for Gumbel gates, which look at
                residuals.
            progress: share of the training that is done, 0 to 1. In the last fifth masks have no noise; the schedules
                of DynConv go by it.

        Returns:
            The outputs in the model's own structure, each [B, T, ...].

        Raises:
            FrameError: a clip is not as expected, or too short.
            UsageError: `progress` is not a share.
        """
        return forward_clip(self, clips, progress)

    def structured(self, tensors: Sequence[Tensor]) -> Any:
        """Flat outputs in the model's own structure, with its constants."""
        rest, leaves = iter(tensors), range(self.out_spec.num_leaves)
        outputs = [self.constants[index] if index in self.constants else next(rest) for index in leaves]
        return pytree.tree_unflatten(outputs, self.out_spec)

    def check_frames(self, frames: Sequence[Any]) -> int:
        """The batch size of the frames of one time.

        Raises:
            FrameError: a frame is not as expected.
        """
        return self._inputs.check_frames(frames, self._device())

    def at_size(self, size: Size) -> SkipModel:
        """The same transformation of the same model, for frames of another size.

        Args:
            size: height and width.

        Raises:
            OptionError: the model takes several frames.
            CaptureError: a size is built into the model; the message names the operator and what to do.
        """
        if len(self._inputs.frames) != 1:
            raise OptionError("sizes: the model takes several frames: transform and compile it for each size")
        found = self.recapture(size)
        other = SkipModel(found.program, self.recipe, r.classify(found.program, self.options.exclude))
        own, new = (dict(skip.graph_module.named_parameters()) for skip in (self, other))
        if [(n, p.shape) for n, p in own.items()] != [(n, p.shape) for n, p in new.items()]:
            raise CaptureError(f"sizes: at {size} the model is another network: transform and compile it for each size")
        self._hand_on(other)
        if self.preprocess is not None:
            other.preprocess = self.preprocess.model_copy(update={"size": tuple(size)})
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> SkipModel:
        """A model with parameters of its own; the captured program, which nothing writes to, is shared."""
        other = memo[id(self)] = SkipModel(self.program, self.recipe, r.classify(self.program, self.options.exclude))
        r.own_parameters(other.graph_module)
        self._hand_on(other)
        other.preprocess = self.preprocess
        return other.to(self._device()).train(self.training)

    @torch.no_grad()
    def _hand_on(self, other: SkipModel) -> None:
        """Gives a model of the same network what this one has learned."""
        own = dict(self.graph_module.named_parameters())
        for name, parameter in other.graph_module.named_parameters():
            parameter.copy_(own[name]).requires_grad_(own[name].requires_grad)
        other.recapture = self.recapture

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes a `.skip.pt2` file: the captured program, the recipe and, with learned gates, the weights beside it.

        Raises:
            ArtifactError: the file exists and `overwrite` is not set, or the folder cannot be written.
        """
        saved = r.Saved(
            format=r.FORMAT,
            torch=torch.__version__,
            digest=r.digest(self.graph_module),
            recipe=self.recipe,
            preprocess=self.preprocess,
        )
        learned = isinstance(self.options.gate, LEARNED)
        weights = dict(self.graph_module.named_parameters()) if learned else {}
        r.write(Path(path), self.program, saved, weights, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> SkipModel:
        """Reads a `.skip.pt2` file. It executes code of its author: only open files that you trust.

        Raises:
            ArtifactError: the file is missing, damaged, of another version, or gives another graph than was saved.
        """
        program, saved, weights = r.read(Path(path))
        skip = cls(program, saved.recipe, r.classify(program, saved.recipe.options.exclude))
        if r.digest(skip.graph_module) != saved.digest:
            raise ArtifactError(
                f"{path}: gives another graph than was saved (PyTorch {saved.torch} then, {torch.__version__} now): "
                "transform the model again"
            )
        if isinstance(skip.options.gate, LEARNED):
            r.restore(skip.graph_module, weights, Path(path))
        skip.preprocess = saved.preprocess
        return skip

    def __repr__(self) -> str:
        """The report's summary."""
        return f"{type(self).__name__}\n{self.report.summary()}"

    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self.graph_module.state_dict().values()), torch.device("cpu"))


def _join(parts: tuple[Tensor, ...]) -> Tensor:
    """One output of all streams as a batch, in memory of its own."""
    first = parts[0]
    if first.dim() > 0 and first.shape[0] == 1:
        return torch.cat(parts)
    return first.clone() if len(parts) == 1 else torch.stack(parts)
