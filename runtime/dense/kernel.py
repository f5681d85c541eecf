"""A nest of loops with the places of its tensors: all that the code of its kernel depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from tvm import tirx
from tvm.tirx import Var

from skipfx.runtime.dense.nest import Axis, Nest, loads, replaced
from skipfx.runtime.kernels.table import SIDE_BY_SIDE, SMALL, THREADS

SERIAL: Final = 32  # terms up to which a thread sums alone
FEW: Final = 1024  # outputs up to which a block sums each


class Place(NamedTuple):
    """How a tensor lies.

    Attributes:
        dtype: of its elements.
        strides: in elements, from one to the next along each axis.
        constant: whether it lies in w; else in a.
    """

    dtype: str
    strides: tuple[int, ...]
    constant: bool

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Kernel:
    """A nest and where its tensors lie; kernels of equal text are one.

    Attributes:
        text: all that the code depends on.
        places: of the output, then of what is read, by what the nest calls them.
        parts: threads that sum an output.
    """

    text: str
    nest: Nest = field(compare=False, repr=False)
    places: Mapping[Any, Place] = field(compare=False, repr=False)
    parts: int = field(compare=False, repr=False)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types of its tensors."""
        return tuple(dict.fromkeys(place.dtype for place in self.places.values()))


def kernel_of(nest: Nest, places: Sequence[tuple[Any, Place]]) -> Kernel:
    """The kernel of a nest.

    Args:
        nest: the loops.
        places: of the output, then of what is read, each by its buffer in the nest.
    """
    names = {buffer: tirx.decl_buffer(buffer.shape, buffer.dtype, f"t{i}") for i, (buffer, _) in enumerate(places)}
    axes, reduced = _renamed(nest.axes, "i", names), _renamed(nest.reduced, "k", names)
    value = replaced(nest.value, names)
    merge = None if nest.merge is None else nest.merge.__name__
    extents = [[extent for _, extent in found] for found in (axes, reduced)]
    text = repr((extents, merge, str(nest.start), str(value), [place for _, place in places]))
    out = nest.out.renamed(names[nest.out.buffer])
    same = Nest(nest.operator, out, axes, reduced, value, nest.merge, nest.start)
    return Kernel(text, same, {names[buffer]: place for buffer, place in places}, shares(nest))


def _renamed(axes: tuple[Axis, ...], letter: str, names: dict[Any, Any]) -> tuple[Axis, ...]:
    names |= {var: Var(f"{letter}{number}", str(var.ty)) for number, (var, _) in enumerate(axes)}
    return tuple((names[var], extent) for var, extent in axes)


def shares(nest: Nest) -> int:
    """How many threads sum an output."""
    terms = prod(extent for _, extent in nest.reduced)
    if terms < SERIAL or nest.out.size >= SMALL:
        return 1
    return THREADS if nest.out.size < FEW else SIDE_BY_SIDE


def innermost(nest: Nest, buffer: Any) -> int:
    """The axis of a constant along which threads side by side read it: the last, or that of the terms of a block."""
    if not nest.reduced or shares(nest) < THREADS:
        return -1
    term = nest.reduced[-1][0]
    indices = [load.indices for load in loads(nest.value) if load.source.same_as(buffer)]
    along = [axis for axis in range(len(buffer.shape)) if all(at[axis].same_as(term) for at in indices)]
    return along[0] if along else -1


def row_by_row(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of elements that lie one behind the other."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
