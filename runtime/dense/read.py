"""Reads an island: ONNX through TVM's importer and its definitions of the operators, into nests of loops."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import onnx
from tvm import IRModule, ir, relax, tirx
from tvm.ir import GlobalVar
from tvm.ir.expr import TensorLoad
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import SBlockRealize
from tvm.tirx import BufferStore, For, SeqStmt

from skipfx.errors import CompileError
from skipfx.runtime.dense.nest import Axis, Nest, Tensor, loads, replaced
from skipfx.runtime.dense.operators import LEGAL

MERGES = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min, tirx.And, tirx.Or)
REDUCED = 2  # TVM's number for the kind of an axis that is reduced


class Island(NamedTuple):
    """An island as nests, in the order in which they run."""

    inputs: list[Tensor]
    constants: list[Tensor]
    nests: list[Nest]
    outputs: list[Tensor]


def read(name: str, model: bytes) -> Island:
    """Reads an ONNX model.

    Args:
        name: of the island, for messages.
        model: serialised.

    Raises:
        CompileError: an operator is unknown to TVM, or is no nest of loops of sizes that are known; it is named.
    """
    try:
        imported = from_onnx(onnx.load_from_string(model))
        module = ir.transform.Sequential(
            [
                relax.transform.DecomposeOpsForInference(),
                relax.transform.CanonicalizeBindings(),
                relax.transform.LegalizeOps(LEGAL),
                relax.transform.FoldConstant(),
                relax.transform.DeadCodeElimination(),
            ]
        )(imported)
    except Exception as error:
        operators = ", ".join(sorted({node.op_type for node in onnx.load_from_string(model).graph.node}))
        why = str(error).strip() or type(error).__name__
        raise refusal(name, f"one of {operators}", why.splitlines()[-1]) from error
    return _Reader(name, module).island()


def refusal(name: str, operator: str, why: str) -> CompileError:
    """Why an island does not run on a GPU, and what to do."""
    return CompileError(
        f"a GPU does not run {operator} of dense {name.replace('_', ' ')}: {why}. Cut the model before it with "
        "until=... (--until; skipfx inspect says where), or compile for a CPU"
    )


@dataclass
class _Reader:
    name: str
    module: IRModule
    values: dict[Any, Any] = field(default_factory=dict)  # of variables: a tensor, or a tuple of values
    constants: dict[Any, Tensor] = field(default_factory=dict)
    nests: list[Nest] = field(default_factory=list)

    def island(self) -> Island:
        main = self.module["main"]
        inputs = [self._tensor(parameter.ty, "an input") for parameter in main.params]
        self.values |= dict(zip(main.params, inputs, strict=True))
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self._bound(binding.value)
        result = self._value(main.body.body)
        outputs: list[Tensor] = []
        for tensor in result if isinstance(result, tuple) else (result,):
            written = any(nest.out is tensor for nest in self.nests) and tensor not in outputs
            outputs.append(tensor if written else self._copied(tensor))
        return Island(inputs, list(self.constants.values()), self.nests, outputs)

    def _copied(self, tensor: Tensor) -> Tensor:
        """An output that no operator makes, or that another output is too."""
        axes = tuple((tirx.Var(f"i{axis}", "int64"), extent) for axis, extent in enumerate(tensor.shape))
        made = Tensor.made(tensor.shape, tensor.dtype)
        self.nests.append(Nest("copy", made, axes, (), tirx.BufferLoad(tensor.buffer, [var for var, _ in axes])))
        return made

    def _bound(self, value: Any) -> Any:
        if not isinstance(value, ir.Call):
            return self._value(value)
        operator = str(getattr(value.op, "name", value.op)).removeprefix("relax.")
        if operator != "call_tir":
            raise refusal(self.name, operator, "TVM has no loops for it, or its sizes are known only at run time")
        return self._called(value.args[0], [self._value(item) for item in value.args[1].fields], value.ty)

    def _value(self, value: Any) -> Any:
        if value in self.values:
            return self.values[value]
        if isinstance(value, relax.Tuple):
            return tuple(self._value(item) for item in value.fields)
        if isinstance(value, relax.TupleGetItem):
            return self._value(value.tuple_value)[value.index]
        if isinstance(value, ir.GenericConst):
            if value not in self.constants:
                found = value.value.numpy()
                self.constants[value] = Tensor.made(found.shape, str(found.dtype), found)
            return self.constants[value]
        raise refusal(self.name, "an operator", f"it needs {type(value).__name__}, which is known only at run time")

    def _tensor(self, type: Any, what: str) -> Tensor:
        shape = getattr(type, "shape", None)
        if shape is None or not all(isinstance(extent, tirx.IntImm) for extent in shape):
            raise refusal(self.name, what, "its shape is known only at run time")
        return Tensor.made(tuple(int(extent) for extent in shape), str(type.dtype))

    def _called(self, name: GlobalVar, given: list[Tensor], type: Any) -> Any:
        """Makes the nests of a function; gives what it writes."""
        operator, function = name.name_hint, self.module[name]
        several = isinstance(type, ir.TupleType)
        made = [self._tensor(one, operator) for one in (type.fields if several else [type])]
        tensors = dict(zip(function.params, [*given, *made], strict=True))
        root = function.body.block
        for buffer in root.alloc_buffers:
            tensors[buffer] = Tensor.made(tuple(int(extent) for extent in buffer.shape), str(buffer.dtype))
        for block in self._blocks(operator, root.body):
            self.nests.append(self._nest(operator, block, tensors))
        return tuple(made) if several else made[0]

    def _blocks(self, operator: str, stmt: Any) -> Iterator[Any]:
        """The blocks of a function, each of which stands in loops over exactly its own axes."""
        if isinstance(stmt, SeqStmt):
            for part in stmt.seq:
                yield from self._blocks(operator, part)
            return
        loops = []
        while isinstance(stmt, For):
            loops.append(stmt.loop_var)
            stmt = stmt.body
        block = isinstance(stmt, SBlockRealize)
        if not block or [value for value in stmt.iter_values if not isinstance(value, tirx.IntImm)] != loops:
            raise refusal(self.name, operator, "it is no plain nest of loops")
        yield stmt.block

    def _nest(self, operator: str, block: Any, tensors: dict[Any, Tensor]) -> Nest:
        spatial = [axis for axis in block.iter_vars if axis.iter_type != REDUCED]
        reduced = [axis for axis in block.iter_vars if axis.iter_type == REDUCED]
        store = block.body
        indices = list(store.indices) if isinstance(store, BufferStore) else []
        axes = [axis for axis in spatial if any(axis.var.same_as(index) for index in indices)]
        single = {axis.var: tirx.const(0, str(axis.var.ty)) for axis in spatial if axis not in axes}
        in_order = len(axes) == len(indices) and all(
            a.var.same_as(index) for a, index in zip(axes, indices, strict=True)
        )
        if not in_order or any(int(axis.dom.extent) > 1 for axis in spatial if axis.var in single):
            raise refusal(self.name, operator, "it writes more than one value at a time, or out of order")
        merge, value, start = None, store.value, None
        if reduced:
            merge, value, start = type(store.value), self._merged(operator, store), block.init.value
        if any(load.source not in tensors for load in loads(value)):
            raise refusal(self.name, operator, "it reads what it does not say")
        names = single | {buffer: tensor.buffer for buffer, tensor in tensors.items()}
        return Nest(operator, tensors[store.buffer], _axes(axes), _axes(reduced), replaced(value, names), merge, start)

    def _merged(self, operator: str, store: Any) -> Any:
        """What a reduction merges into its output."""
        if isinstance(store.value, MERGES):
            for own, other in ((store.value.a, store.value.b), (store.value.b, store.value.a)):
                if isinstance(own, TensorLoad) and own.source.same_as(store.buffer):
                    return other
        raise refusal(self.name, operator, "it reduces in a way that has no kernel")


def _axes(found: list[Any]) -> tuple[Axis, ...]:
    return tuple((axis.var, int(axis.dom.extent)) for axis in found)
