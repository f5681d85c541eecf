"""The clips and networks that benchmarks measure on; they are not part of the repository.

SKIPFX_DATA names their folder; without it the folder `shared/data` beside the checkout is taken.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from skipfx.media import Preprocess, open_frames

Floats = NDArray[np.float32]


def data_folder() -> Path:
    """The folder of clips and networks.

    Raises:
        SystemExit: there is none.
    """
    folder = Path(os.environ.get("SKIPFX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"{folder} does not exist: set SKIPFX_DATA to the folder that holds clips/, models/ and pets/")
    return folder


def clip(name: str, preprocess: Preprocess, start: int = 0, frames: int | None = None) -> list[Floats]:
    """Frames [1, C, H, W] of a clip of the data folder."""
    return list(_frames(name, preprocess, start, frames))


def _frames(name: str, preprocess: Preprocess, start: int, frames: int | None) -> Iterator[Floats]:
    limit = None if frames is None else start + frames
    with open_frames(data_folder() / name, limit=limit) as source:
        for index, picture in enumerate(source):
            if index >= start:
                yield preprocess(picture)


def network_module(name: str) -> ModuleType:
    """The Python file of a network of the data folder, imported."""
    path = data_folder() / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
