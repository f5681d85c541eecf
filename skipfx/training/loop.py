"""A small training loop for learned gates: `fit` trains a `SkipModel` on clips, alone or among other processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from skipfx.errors import TrainingError, UsageError
from skipfx.model import SkipModel
from skipfx.options import DynConv, Options, Positive
from skipfx.training.checkpoint import Row, resume, write
from skipfx.training.loss import gate_loss, open_share
from skipfx.training.rates import falling, parameter_groups

Task = Callable[[Any, Any], Tensor]
Watch = Callable[[str], object]
Count = Annotated[int, Field(ge=1)]


class TrainOptions(Options):
    """How to train.

    Attributes:
        steps: batches to train on, in every process.
        rate: learning rate of the network; all rates fall to 0 over the last fifth (`rates.falling`).
        gate_rate: learning rate of the gates, see `rates.parameter_groups`. None: 20 / steps, because some ten logits
            lie between a gate that is open and one that is shut.
        beta: factor on `skipfx.gate_loss`. None: 0.1 for Gumbel gates, where it trades accuracy for cost; 10 for
            DynConv, whose price is the distance from a budget.
        every: steps between two checkpoints, each with a row of the log; a killed training loses no more.
        precision: of the arithmetic; "bfloat16" is PyTorch's automatic mixed precision.
        seed: of the noise; every process has noise of its own.
    """

    steps: Count = 1000
    rate: Positive = 1e-4
    gate_rate: Positive | None = None
    beta: Positive | None = None
    every: Count = 100
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, Field(ge=0)] = 0


class ClipLoss(nn.Module):
    """The loss on one batch, as a module, so that DistributedDataParallel sees it: the mean over processes is taken."""

    def __init__(self, skip: SkipModel, task: Task, beta: float) -> None:
        """See `fit`."""
        super().__init__()
        self.skip, self.task, self.beta = skip, task, beta

    def forward(self, clips: Any, target: Any, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the parts of it: the task's and the gates'. Each []."""
        clips = clips if isinstance(clips, tuple | list) else (clips,)
        task = self.task(self.skip.forward_clip(*clips, progress=progress), target)
        price = gate_loss(self.skip)
        return task + self.beta * price, task.detach(), price.detach()


def fit(
    skip: SkipModel,
    batches: Iterable[Any],
    task: Task,
    options: TrainOptions,
    folder: Path | None = None,
    watch: Watch = str,
) -> tuple[Row, ...]:
    """Trains gates and network; the model is in evaluation mode afterwards.

    In a process group of `torch.distributed` every process calls it with batches of its own; gradients are averaged.

    Args:
        skip: a model with learned gates.
        batches: pairs (clip, target), such as a DataLoader's; clip [B, T, C, H, W], or a tuple of them for several
            inputs. Taken from the start again when they end.
        task: the loss [] of the outputs, in the model's own structure with [B, T, ...] each, against a target.
        options: how to train.
        folder: where checkpoint.pt and log.csv are kept; a training that finds its checkpoint there goes on with it.
        watch: told after each step how it went.

    Returns:
        The log: a row for each `options.every` steps.

    Raises:
        UsageError: the gates do not learn, nothing can be trained, or there are no batches.
        ArtifactError: the folder holds the checkpoint of another training.
        TrainingError: the loss is no longer finite.
    """
    gate_rate, beta = _usual(skip, options)
    optimizer = torch.optim.Adam(parameter_groups(skip, options.rate, gate_rate))
    start, rows = resume(folder, skip, optimizer, options)
    schedule = LambdaLR(optimizer, lambda step: falling(step / options.steps), last_epoch=start - 1)
    torch.manual_seed(options.seed + start * _processes() + _rank())
    loss_of: nn.Module = ClipLoss(skip, task, beta)
    if dist.is_initialized():
        loss_of = DistributedDataParallel(loss_of)
    skip.train()
    sums = torch.zeros(4, dtype=torch.float64)
    for step, (clips, target) in zip(range(start, options.steps), _endless(batches), strict=False):
        parts = torch.tensor(_step(loss_of, clips, target, optimizer, step, options), dtype=torch.float64)
        schedule.step()
        sums += torch.cat([parts, torch.tensor([open_share(skip)])])
        watch(f"loss {parts[0]:.4f}  open {open_share(skip):6.1%}")
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            rows = (*rows, _row(step + 1, sums / (step + 1 - (rows[-1].step if rows else 0))))
            sums.zero_()
            if _rank() == 0:
                write(folder, skip, optimizer, options, rows)
    skip.eval()
    return rows


def _usual(skip: SkipModel, options: TrainOptions) -> tuple[float, float]:
    """The rate of the gates and the factor on their price, as given or as they usually are."""
    beta = 10.0 if isinstance(skip.options.gate, DynConv) else 0.1
    return (
        20 / options.steps if options.gate_rate is None else options.gate_rate,
        beta if options.beta is None else options.beta,
    )


def _step(
    loss_of: nn.Module, clips: Any, target: Any, optimizer: torch.optim.Optimizer, step: int, options: TrainOptions
) -> Sequence[float]:
    """One step of the optimizer; the loss and its parts."""
    device = next(loss_of.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=options.precision == "bfloat16"):
        loss, task, price = loss_of(clips, target, step / options.steps)
    if not loss.isfinite():
        raise TrainingError(
            f"step {step}: the loss is {float(loss.detach())}; lower the learning rates, or check the data"
        )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach()), float(task), float(price)


def _endless(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise UsageError(
                "the data holds no batches, or no more: expected pairs (clip, target), and again when they end"
            )


def _row(step: int, means: Tensor) -> Row:
    """A row of the log, the mean over the processes."""
    if dist.is_initialized():
        dist.all_reduce(means)
        means = means / _processes()
    return Row(step, *means.tolist())


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
