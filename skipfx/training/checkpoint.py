"""What a training leaves on disk: a checkpoint to go on from, and a log. Each is written whole or not at all."""

import csv
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from skipfx import recipe as r
from skipfx.errors import ArtifactError
from skipfx.files import write_whole
from skipfx.model import SkipModel

if TYPE_CHECKING:
    from skipfx.training.loop import TrainOptions

CHECKPOINT, LOG = "checkpoint.pt", "log.csv"


class Row(NamedTuple):
    """Means over the steps since the row before.

    Attributes:
        step: how many were done.
        loss: what was minimised.
        task: the task's part of it.
        price: `skipfx.gate_loss`.
        open: share of the gated cost that the masks let through.
    """

    step: int
    loss: float
    task: float
    price: float
    open: float


def write(
    folder: Path | None,
    skip: SkipModel,
    optimizer: torch.optim.Optimizer,
    options: "TrainOptions",
    rows: tuple[Row, ...],
) -> None:
    """Writes checkpoint and log, over those before.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    data, text = BytesIO(), StringIO()
    found = {
        "training": _identity(skip, options),
        "rows": [tuple(row) for row in rows],
        "model": skip.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(found, data)
    csv.writer(text).writerows([Row._fields, *rows])
    write_whole(folder / CHECKPOINT, data.getvalue(), overwrite=True)
    write_whole(folder / LOG, text.getvalue().encode(), overwrite=True)


def resume(
    folder: Path | None, skip: SkipModel, optimizer: torch.optim.Optimizer, options: "TrainOptions"
) -> tuple[int, tuple[Row, ...]]:
    """Puts model and optimizer where a checkpoint left them; the steps that were done, and the log so far.

    Raises:
        ArtifactError: the checkpoint is damaged, or one of another training.
    """
    if folder is None or not (folder / CHECKPOINT).is_file():
        return 0, ()
    path = folder / CHECKPOINT
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True)
        same = found["training"] == _identity(skip, options)
    except Exception as error:
        raise ArtifactError(f"{path}: not a readable checkpoint: {error}") from error
    if not same:
        raise ArtifactError(f"{path}: is of a training with another model or other options: choose another folder")
    skip.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    rows = tuple(Row(*row) for row in found["rows"])
    return rows[-1].step, rows


def _identity(skip: SkipModel, options: "TrainOptions") -> tuple[str, str]:
    return r.digest(skip.graph_module), options.model_dump_json()
