"""skipfx: a compiler that makes trained video networks cost what changed in the picture.

    report = skipfx.inspect(model, (frame,))       # what becomes sparse, what not and why
    skip = skipfx.transform(model, (frame,))       # a stateful model in plain PyTorch
    engine = skipfx.compile(skip)                  # native kernels
    outputs = engine.stream()(frame)               # one stream per camera

Names are imported when they are first used, so that `import skipfx.runtime` needs no PyTorch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from skipfx import errors
from skipfx.options import DynConv, Gumbel, Hold, InputNorm, OutputNorm

if TYPE_CHECKING:
    from skipfx.build import compile_engine as compile
    from skipfx.export import export_onnx
    from skipfx.media import Preprocess
    from skipfx.model import SkipModel
    from skipfx.report import Report
    from skipfx.runtime.artifact import load
    from skipfx.runtime.base_stream import Stats
    from skipfx.runtime.engine import Engine
    from skipfx.runtime.sizes import Engines
    from skipfx.runtime.stream import Stream
    from skipfx.training.loss import gate_loss
    from skipfx.training.rates import parameter_groups
    from skipfx.transformation import inspect, transform
    from skipfx.tuning import tune
    from skipfx.verification import Verification, verify

__version__ = version("skipfx")

_HOMES = {
    "Engine": "skipfx.runtime.engine",
    "Engines": "skipfx.runtime.sizes",
    "Preprocess": "skipfx.media",
    "Report": "skipfx.report",
    "SkipModel": "skipfx.model",
    "Stats": "skipfx.runtime.base_stream",
    "Stream": "skipfx.runtime.stream",
    "Verification": "skipfx.verification",
    "compile": "skipfx.build",
    "export_onnx": "skipfx.export",
    "gate_loss": "skipfx.training.loss",
    "inspect": "skipfx.transformation",
    "load": "skipfx.runtime.artifact",
    "parameter_groups": "skipfx.training.rates",
    "transform": "skipfx.transformation",
    "tune": "skipfx.tuning",
    "verify": "skipfx.verification",
}

__all__ = [
    "DynConv",
    "Engine",
    "Engines",
    "Gumbel",
    "Hold",
    "InputNorm",
    "OutputNorm",
    "Preprocess",
    "Report",
    "SkipModel",
    "Stats",
    "Stream",
    "Verification",
    "compile",
    "errors",
    "export_onnx",
    "gate_loss",
    "inspect",
    "load",
    "parameter_groups",
    "transform",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skipfx' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return getattr(home, "compile_engine" if name == "compile" else name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
