"""Models from files."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from skipfx.errors import ArtifactError, CaptureError

SCRIPTED = (
    "TorchScript cannot be captured: load the original nn.Module and pass it, or save it with torch.export.save "
    "(torch.jit is deprecated; torch._export.converter.TS2EPConverter converts some scripted models)."
)


Model = nn.Module | ExportedProgram | str | Path


def load(model: Model, *, trust_pickle: bool = False) -> nn.Module | ExportedProgram:
    """A model that may still lie in a file.

    Raises:
        ArtifactError: the file is missing or is not a saved program.
        CaptureError: it is something else than a model, or TorchScript.
    """
    if isinstance(model, str | Path):
        model = load_model(Path(model), trust_pickle=trust_pickle)
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(SCRIPTED)
    if not isinstance(model, nn.Module | ExportedProgram):
        raise CaptureError(f"expected a torch.nn.Module, an ExportedProgram or a path, got {type(model).__name__}")
    if isinstance(model, nn.Module) and _shadows(model):
        return _Apart(model)
    return model


def _shadows(model: nn.Module) -> bool:
    """Whether a layer is called like an attribute of torch's graphs, such as `graph` or `code`."""
    graph = fx.GraphModule(nn.Module(), fx.Graph())
    return any(hasattr(graph, name.partition(".")[0]) for name in model.state_dict())


class _Apart(nn.Module):
    """Puts the layers of a model one level down, where their names disturb nobody."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward = model.forward


def load_model(
    path: Path, *, trust_pickle: bool = False, extra_files: dict[str, Any] | None = None
) -> nn.Module | ExportedProgram:
    """Loads a `.pt2` program, or a whole-module pickle where that is asked for.

    Both execute code of their author when they are loaded: only open files that you trust.

    Args:
        path: the file.
        trust_pickle: also load whole-module pickles.
        extra_files: name -> "", filled in with what stands in the file beside the program.

    Raises:
        ArtifactError: the file is missing, damaged or of another kind; the message says what to do.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        with quiet():
            return torch.export.load(str(path), extra_files=extra_files)
    except Exception as error:
        if path.suffix == ".pt2" and not trust_pickle:
            raise ArtifactError(f"{path}: not a readable torch.export file: {first_line(error)}") from error
    if not trust_pickle:
        raise ArtifactError(
            f"{path}: not a .pt2 program. Save the model with torch.export.save(torch.export.export(model, (frame,)), "
            "path), or, if it is a pickled module that you trust, pass --trust-pickle (trust_pickle=True)."
        )
    try:
        with quiet():
            loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ArtifactError(f"{path}: cannot be unpickled: {first_line(error)}") from error
    if isinstance(loaded, torch.jit.ScriptModule):
        raise CaptureError(SCRIPTED)
    if not isinstance(loaded, nn.Module):
        raise ArtifactError(f"{path}: holds {type(loaded).__name__}, expected a torch.nn.Module")
    return loaded


def first_line(error: Exception) -> str:
    """The first line of an error's message, or what it is called."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps warnings about torch's own deprecations from the user, who cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
