"""What an island is made of for a GPU: tensors, and nests of loops that write them. Both come from TVM's operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm_ffi
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, Var

Axis = tuple[Var, int]


@dataclass(eq=False)
class Tensor:
    """A value of an island.

    Attributes:
        shape, dtype: as TVM names types, "float32", "int64", "bool".
        buffer: what expressions call it.
        constant: its elements, where they are known.
    """

    shape: tuple[int, ...]
    dtype: str
    buffer: Any
    constant: NDArray[Any] | None = None

    @classmethod
    def made(cls, shape: tuple[int, ...], dtype: str, constant: NDArray[Any] | None = None) -> "Tensor":
        """A tensor with a name of its own."""
        return cls(shape, dtype, tirx.decl_buffer(shape, dtype), constant)

    def renamed(self, buffer: Any) -> "Tensor":
        """The same by another name."""
        return Tensor(self.shape, self.dtype, buffer, self.constant)

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(eq=False)
class Nest:
    """out[axes] = value, or `value` merged over the reduced axes, one after the other, from `start` on.

    Attributes:
        operator: it comes from, as TVM names it.
        axes: of the output, a variable and an extent each.
        value: an expression over the axes.
        merge: how two values become one: the class of an expression. None: nothing is reduced.
    """

    operator: str
    out: Tensor
    axes: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    value: Any
    merge: type | None = None
    start: Any = None

    @property
    def reads(self) -> list[Any]:
        """The buffers that the value reads, as often as it reads them."""
        return [load.source for load in loads(self.value)]

    @property
    def passes(self) -> int:
        """How often the value is computed."""
        return self.out.size * prod(extent for _, extent in self.reduced)


def loads(value: Any) -> list[Any]:
    """Where an expression reads."""
    found: list[Any] = []
    tvm_ffi.structural_walk(value, (TensorLoad, found.append))
    return found


def replaced(value: Any, variables: Mapping[Any, Any]) -> Any:
    """An expression with other expressions for some variables, buffers among them."""

    def of(load: Any) -> Any:
        return BufferLoad(variables[load.source], list(load.indices)) if load.source in variables else load

    swapped = tvm_ffi.structural_map(value, (TensorLoad, of))
    return tvm_ffi.structural_map(swapped, (Var, lambda var: variables.get(var, var)))
