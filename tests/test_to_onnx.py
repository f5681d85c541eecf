"""Operators that the portable lowering has nodes of its own for mean what PyTorch means, however a model uses them."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from skipfx.to_onnx import to_onnx

INDEX, OTHER = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 3])
FRESH = torch.arange(60.0).reshape(3, 4, 5) + 100
USES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "rows that a bool names": (lambda x: x[x[:, 0, 0] > 4], "Compress"),
    "elements that a bool names": (lambda x: x[x > 4], "GatherND"),
    "rows": (lambda x: x[INDEX], "GatherND"),
    "two axes": (lambda x: x[INDEX, OTHER], "GatherND"),
    "a later axis": (lambda x: x[:, OTHER], "GatherND"),
    "slices": (lambda x: x.index_select(-1, OTHER), "Gather"),
    "one slice": (lambda x: x.index_select(1, torch.tensor(2)), "Gather"),
    "rows replaced": (lambda x: x.index_copy(0, INDEX, FRESH), "ScatterND"),
    "columns replaced": (lambda x: x.index_copy(1, INDEX, FRESH[:, :3]), "ScatterElements"),
    "the last axis replaced": (lambda x: x.index_copy(-1, INDEX, FRESH[:, :, :3]), "ScatterElements"),
    "elements replaced": (lambda x: x.index_put((INDEX, OTHER), FRESH[0, :3]), "ScatterND"),
}


class Use(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", USES)
def test_indices_of_every_kind(name: str) -> None:
    function, node = USES[name]
    x = torch.arange(60.0).reshape(3, 4, 5).flip(0)
    data = to_onnx(torch.export.export(Use(function), (x,)), portable=True)
    assert Counter(node.op_type for node in onnx.load_from_string(data).graph.node)[node] == 1
    (found,) = onnxruntime.InferenceSession(data).run(None, {"x": x.numpy()})
    assert np.array_equal(found, function(x).numpy())
