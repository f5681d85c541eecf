"""Operators that TVM defines by algorithms of their own, as sums and extremes, which the threads of a GPU share.

What is sorted is ranked first: the rank of an element counts what stands before it, of equals the first ones. So they
take time with the square of a line's length.
"""

from collections.abc import Callable
from typing import Any, Final

from tvm import te, tirx, topi
from tvm.ir import Call
from tvm.relax import BlockBuilder, Expr

Indices = tuple[Any, ...]


def _put(at: Indices, axis: int, index: Any) -> Indices:
    """Indices with another one at an axis."""
    return (*at[:axis], index, *at[axis + 1 :])


def _along(data: Any, axis: int, shape: list[Any], term: Callable[[Indices, Any], Any]) -> Any:
    """The sum of `term(at, k)` over all k of an axis."""

    def total(*at: Any) -> Any:
        k = te.reduce_axis((0, data.shape[axis]), "k")
        return te.sum(term(at, k), axis=k)

    return te.compute(shape, total)


def _ranks(data: Any, axis: int, largest: bool) -> Any:
    """How many elements of a line stand before each."""

    def before(at: Indices, k: Any) -> Any:
        other, own = data(*_put(at, axis, k)), data(*at)
        first = other > own if largest else other < own
        return tirx.Cast("int64", tirx.any(first, tirx.all(other.equal(own), k < at[axis])))

    return _along(data, axis, list(data.shape), before)


def _sorted(data: Any, axis: int, count: Any, largest: bool) -> tuple[Any, Any]:
    """The first elements of each sorted line, and where they stood."""
    ranks = _ranks(data, axis, largest)
    shape = [count if number == axis else extent for number, extent in enumerate(data.shape)]

    def chosen(value: Callable[[Indices], Any], dtype: str) -> Any:
        def term(at: Indices, k: Any) -> Any:
            there = _put(at, axis, k)
            return tirx.if_then_else(ranks(*there).equal(at[axis]), value(there), tirx.const(0, dtype))

        return _along(data, axis, shape, term)

    return chosen(lambda at: data(*at), data.dtype), chosen(lambda at: tirx.Cast("int64", at[axis]), "int64")


def _axis(number: int | None, data: Any) -> int:
    return int(-1 if number is None else number) % len(data.shape)


def _as(dtype: Any, data: Any) -> Any:
    return data if data.dtype == str(dtype) else topi.cast(data, str(dtype))


def _topk(builder: BlockBuilder, call: Call) -> Expr:
    attrs = call.attrs

    def made(data: Any) -> Any:
        axis = _axis(attrs.axis, data)
        count = data.shape[axis] if int(attrs.k) < 1 else tirx.const(int(attrs.k), "int64")
        values, places = _sorted(data, axis, count, bool(attrs.largest))
        found = {"values": [values], "indices": [_as(attrs.dtype, places)]}
        return found.get(str(attrs.ret_type), [values, _as(attrs.dtype, places)])

    return builder.call_te(made, call.args[0])


def _sort(places: bool) -> Callable[[BlockBuilder, Call], Expr]:
    def legal(builder: BlockBuilder, call: Call) -> Expr:
        def made(data: Any) -> Any:
            axis = _axis(call.attrs.axis, data)
            found = _sorted(data, axis, data.shape[axis], bool(call.attrs.descending))
            return _as(call.attrs.dtype, found[1]) if places else found[0]

        return builder.call_te(made, call.args[0])

    return legal


def _extreme(largest: bool) -> Callable[[BlockBuilder, Call], Expr]:
    """The place of the first of the largest, or smallest, of a line or of everything."""

    def legal(builder: BlockBuilder, call: Call) -> Expr:
        def made(data: Any) -> Any:
            whole = call.attrs.axis is None
            line = topi.reshape(data, (topi.utils.prod(data.shape),)) if whole else data
            axis = _axis(call.attrs.axis, line)
            best = (topi.max if largest else topi.min)(line, axis, True)
            shape = [1 if number == axis else extent for number, extent in enumerate(line.shape)]

            def first(*at: Any) -> Any:
                k = te.reduce_axis((0, line.shape[axis]), "k")
                here = line(*_put(at, axis, k)).equal(best(*_put(at, axis, 0)))
                return te.min(tirx.if_then_else(here, tirx.Cast("int64", k), line.shape[axis]), axis=k)

            return _as(call.ty.dtype, topi.reshape(te.compute(shape, first), list(call.ty.shape)))

        return builder.call_te(made, call.args[0])

    return legal


def _running(builder: BlockBuilder, call: Call) -> Expr:
    """A running sum."""

    def made(data: Any) -> Any:
        axis, dtype = _axis(call.attrs.axis, data), str(call.ty.dtype)

        def upto(at: Indices, k: Any) -> Any:
            inside = k < at[axis] if call.attrs.exclusive else k <= at[axis]
            value = data(*_put(at, axis, k)).astype(dtype)
            return tirx.if_then_else(inside, value, tirx.const(0, dtype))

        return _along(data, axis, list(data.shape), upto)

    return builder.call_te(made, call.args[0])


def _take(builder: BlockBuilder, call: Call) -> Expr:
    """Where TVM would read outside of a tensor, its first or last element."""
    return builder.call_te(topi.take, call.args[0], call.args[1], call.attrs.axis, mode="clip")


LEGAL: Final[dict[str, Callable[[BlockBuilder, Call], Expr]]] = {
    "relax.topk": _topk,
    "relax.sort": _sort(places=False),
    "relax.argsort": _sort(places=True),
    "relax.argmax": _extreme(largest=True),
    "relax.argmin": _extreme(largest=False),
    "relax.cumsum": _running,
    "relax.take": _take,
}
