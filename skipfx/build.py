"""From a SkipModel to an engine: lower, assemble, compile. Passes and runtime meet here, and in `tuning`."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch.utils._pytree import TreeSpec

from skipfx.errors import OptionError
from skipfx.passes.lower import lower
from skipfx.plan import Named, Plan
from skipfx.runtime.assemble import assemble
from skipfx.runtime.backends import Backend, backend, named
from skipfx.runtime.engine import Engine, Part, Program
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.table import PRECISIONS, Precision
from skipfx.runtime.sizes import Engines, Size
from skipfx.runtime.structure import Structure

if TYPE_CHECKING:
    from tvm.target import Target

    from skipfx.model import SkipModel

STAGES = ("lowering", "packing weights", "compiling kernels")
Tick = Callable[[str], None]


@overload
def compile_engine(
    skip: "SkipModel",
    target: "str | Target" = ...,
    *,
    sizes: None = ...,
    precision: Precision = ...,
    threads: int | None = ...,
    dense_above: float = ...,
    tuned: str | Path | None = ...,
    tick: Tick = ...,
) -> Engine: ...


@overload
def compile_engine(
    skip: "SkipModel",
    target: "str | Target" = ...,
    *,
    sizes: Sequence[Size],
    precision: Precision = ...,
    threads: int | None = ...,
    dense_above: float = ...,
    tuned: str | Path | None = ...,
    tick: Tick = ...,
) -> Engines: ...


def compile_engine(
    skip: "SkipModel",
    target: "str | Target" = "cpu",
    *,
    sizes: Sequence[Size] | None = None,
    precision: Precision = "fp32",
    threads: int | None = None,
    dense_above: float = 0.6,
    tuned: str | Path | None = None,
    tick: Tick = lambda stage: None,
) -> Engine | Engines:
    """Compiles a transformed model for a target.

    Args:
        skip: from `skipfx.transform`.
        target: "cpu" for this machine; "cpu:NAME" for others, with an instruction-set level (x86-64-v2, -v3, -v4,
            armv8-a) or a CPU that LLVM knows, such as znver4. It decides the register tiles.
            "cuda" for GPUs, or "cuda:sm_80,sm_90" for some architectures. Or an object of TVM, `tvm.target.Target`.
        sizes: heights and widths of the frame, for an engine each; None: the size of the example, for one engine.
        precision: what a GPU rounds the operands of convolutions to; sums are float32, as is all else. "tf32", "fp16"
            and "bf16" run on tensor cores. A CPU computes in "fp32".
        threads: cores that a step may use; None: all that this process may use.
        dense_above: share of a frame's pixels that may change before the frame is a refresh; where gates sit on
            convolutions, which decide for themselves whether a change counts, no share makes it one.
        tuned: a table of schedules for GPUs that `skipfx.tune` wrote; None: the one that ships.
        tick: called with the name of each of `STAGES` before it begins, for every size.

    Raises:
        CompileError: the target is unknown or lacks the precision, or the graph has a gate that it does not run, or a
            dense island an operator that a GPU does not.
        OptionError: an option is outside its range, or `sizes` is for a model of several frames.
        ArtifactError: `tuned` cannot be read, or is no table of schedules.
        CaptureError: a size is built into the model; the message says what to do.
    """
    if sizes is not None:
        several = [skip.at_size(size) for size in sizes]
        options: Any = {"precision": precision, "threads": threads, "dense_above": dense_above}
        options |= {"tuned": tuned, "tick": tick}
        return Engines([compile_engine(one, target, **options) for one in several])
    if not 0 < dense_above <= 1:
        raise OptionError(f"dense_above is a share of the frame, in (0, 1]; got {dense_above}")
    name = named(target)
    kind = backend(name, None if tuned is None else Path(tuned))
    plan, image = assembled(skip, kind, name, precision, dense_above, tick)
    tick("compiling kernels")
    return Engine(program_of(skip, plan, image, *kind.compile(name, image), precision), threads)


def assembled(
    skip: "SkipModel",
    kind: Backend,
    name: str,
    precision: Precision = "fp32",
    dense_above: float = 0.6,
    tick: Tick = lambda stage: None,
) -> tuple[Plan, Image]:
    """The plan of a model for a target, and what assembling makes of it.

    Args:
        skip: from `skipfx.transform`.
        kind: of the target.
        name: of the target.
        precision: as for `compile_engine`, as are the others.
        dense_above: see there.
        tick: see there.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
    tiles = kind.tiles(name, precision)
    tick("lowering")
    plan = kind.prepare(lower(skip.graph_module))
    tick("packing weights")
    return plan, assemble(plan, 1.0 if skip.options.hold is None else dense_above, tiles)


def program_of(
    skip: "SkipModel", plan: Plan, image: Image, code: tuple[bytes, ...], level: str, precision: Precision
) -> Program:
    """What an engine runs, with the code that was compiled for an assembled plan."""
    parts = tuple(
        Part(call, segment.arrays_in, segment.arrays_out, segment.island, segment.dtypes)
        for call, segment in zip(image.calls, plan.segments, strict=True)
    )
    return Program(
        code=code,
        level=level,
        precision=precision,
        w=image.w,
        c=image.c,
        frames=plan.frames,
        sizes=image.sizes,
        per_task=image.per_task,
        held_bytes=image.held_bytes,
        parts=parts,
        outputs=plan.outputs,
        layers=image.layers,
        structure=structure(skip.out_spec, skip.constants),
        preprocess=skip.preprocess,
        info={
            "options": skip.options.model_dump(mode="json"),
            "report": skip.report.model_dump(mode="json"),
            "steps": [step.name for segment in plan.segments for step in segment.steps if isinstance(step, Named)],
        },
    )


def structure(spec: TreeSpec, constants: Mapping[int, Any], first: int = 0) -> Structure:
    """A pytree of PyTorch as data; named tuples and data classes become dicts of their fields.

    Args:
        spec: the pytree.
        constants: leaves that are no tensors, by their number among all leaves.
        first: the number of the first leaf of `spec`.
    """
    if spec.is_leaf():
        return ["constant", constants[first]] if first in constants else "leaf"
    parts: list[Any] = []
    for child in spec.children():
        parts.append(structure(child, constants, first))
        first += child.num_leaves
    if spec.type is list:
        return ["list", parts]
    if spec.type is tuple:
        return ["tuple", parts]
    return ["dict", dict(zip(_names(spec), parts, strict=True))]


def _names(spec: TreeSpec) -> list[str]:
    """The names of a node's children; their numbers where it has none."""
    context: Any = spec.context
    if spec.type in (dict, OrderedDict):
        return [str(name) for name in context]
    if spec.type is defaultdict:
        return [str(name) for name in context[1]]
    if isinstance(context, list) and all(isinstance(name, str) for name in context):
        return list(context)  # the outputs of transformers, dicts that are data classes too
    if is_dataclass(spec.type):
        return list(context[0])
    return list(getattr(context, "_fields", map(str, range(spec.num_children))))
