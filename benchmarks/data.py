"""The clips and networks that benchmarks measure on; they are not part of the repository.

SKIPFX_DATA names their folder; without it the folder `shared/data` beside the checkout is taken.
"""

import importlib.util
import os
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

from skipfx.bench.compare import Clip
from skipfx.media import Preprocess, open_frames


def data_folder() -> Path:
    """The folder of clips and networks.

    Raises:
        SystemExit: there is none.
    """
    folder = Path(os.environ.get("SKIPFX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"{folder} does not exist: set SKIPFX_DATA to the folder that holds clips/, models/ and pets/")
    return folder


def load_clip(name: str, preprocess: Preprocess, frames: int, start: int = 0) -> Clip:
    """Frames of a clip of the data folder, from the frame `start` on."""
    with open_frames(data_folder() / name, limit=start + frames) as source:
        return Clip(list(islice(source, start, None)), preprocess)


def network_module(name: str) -> ModuleType:
    """The Python file of a network of the data folder, imported."""
    path = data_folder() / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
