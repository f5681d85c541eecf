"""The runtime of skipfx: engines, streams and artifacts. It needs neither PyTorch nor the compiler's passes."""

if __name__ != "skipfx.runtime":
    raise ImportError("import skipfx.runtime: the folder `runtime` is not a package of its own")

from skipfx.runtime.artifact import load
from skipfx.runtime.base_stream import Stats
from skipfx.runtime.engine import Engine
from skipfx.runtime.onnx_engine import OnnxEngine, load_onnx
from skipfx.runtime.stream import Stream

__all__ = ["Engine", "OnnxEngine", "Stats", "Stream", "load", "load_onnx"]
