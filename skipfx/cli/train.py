"""`skipfx train`."""

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import distributed as dist

from skipfx.cli.command import with_records
from skipfx.cli.options import Given, Overwrite, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output
from skipfx.errors import UsageError
from skipfx.model import SkipModel
from skipfx.training.checkpoint import Row
from skipfx.training.loop import TrainOptions, fit


@dataclass(frozen=True)
class Training(Given):
    """Options of `skipfx.training.loop.TrainOptions`."""

    steps: Annotated[int | None, option("--steps", "Batches to train on.", "1000")] = None
    rate: Annotated[float | None, option("--rate", "Learning rate of the network.", "1e-4")] = None
    gate_rate: Annotated[float | None, option("--gate-rate", "Learning rate of the gates.", "20 / steps")] = None
    beta: Annotated[float | None, option("--beta", "Factor on the price of open gates.", "0.1; dynconv 10")] = None
    every: Annotated[int | None, option("--every", "Steps between two checkpoints.", "100")] = None
    precision: Annotated[str | None, option("--precision", "float32, or bfloat16 (mixed).", "float32")] = None
    seed: Annotated[int | None, option("--seed", "Of the noise.", "0")] = None


@with_records
def command(
    skip: Annotated[
        Path,
        typer.Argument(
            metavar="SKIP",
            help="Transformed with --gate gumbel or dynconv (.skip.pt2). Loading executes code of its author.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="MODULE:FACTORY",
            help="Function that makes an iterable of (clip, target), clip [B, T, C, H, W].",
            show_default=False,
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="MODULE:FUNCTION",
            help="Loss of (outputs, target), outputs [B, T, ...] each.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="File to write, OUT.skip.pt2.", show_default=False),
    ],
    training: Training,
    output: Output,
    folder: Annotated[
        Path | None,
        option("--folder", "Where checkpoint and log are kept; a killed training goes on from there.", "none"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Trains the gates of a model, and the model with them.

    Modules are looked for in the working folder, too. Under torchrun each process trains on batches of its own, and
    gradients are averaged.
    """
    check_output(out, overwrite=overwrite)
    options = TrainOptions(**training.given())
    sys.path.insert(0, os.getcwd())
    make_batches, loss = _find("--data", data), _find("--task", task)
    model = SkipModel.load(skip)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group()
    try:
        with output.progress("training", options.steps) as advance:
            rows = fit(model, make_batches(), loss, options, folder, advance)
        if not dist.is_initialized() or dist.get_rank() == 0:
            model.save(out, overwrite=overwrite)
            output.show(_text(rows[-1], out), {"out": str(out), "log": [row._asdict() for row in rows]})
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _find(name: str, text: str) -> Any:
    """The function that MODULE:NAME names."""
    module, _, attribute = text.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{name}: expected MODULE:NAME of a function that can be imported, got {text!r}: {error}"
        ) from error
    if not callable(found):
        raise UsageError(f"{name}: {text} is no function")
    return found


def _text(row: Row, out: Path) -> str:
    return (
        f"steps    {row.step}\n"
        f"loss     {row.loss:.4f}: the task's {row.task:.4f}, the gates' {row.price:.4f}\n"
        f"open     {row.open:.1%} of the gated cost\n"
        f"wrote    {out}"
    )
