"""Dense islands: parts that mix the whole picture, run by ONNX Runtime when an input changed."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from skipfx.plan import Island


class IslandRunner:
    """One island, shared by all streams (ONNX Runtime sessions are thread-safe)."""

    def __init__(self, island: Island, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # between two frames the cores belong to the kernels
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.island = island
        self.session = onnxruntime.InferenceSession(island.onnx, options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]

    def __call__(self, inputs: list[NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The island's outputs by name."""
        results = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        return dict(zip(self.island.outputs, results, strict=True))
