"""Options of a transformation: frozen, validated, and the same words in Python, on the command line and in files."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from skipfx.errors import OptionError

Block = Literal[1, 2, 4, 8, 16]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BaseModel):
    """Base of all option records: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise OptionError(f"{type(self).__name__}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Says in one line what a validation error found, field by field."""
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "value"
        parts.append(f"{where}: {item['msg']} (got {item['input']!r})")
    return "; ".join(parts)


class Hold(Options):
    """Holds every tensor of the sparse region until it has moved by more than a threshold.

    y_t[p] = y'_t[p] where N(y'_t[p] - y_{t-1}[p]) > tau, else y_{t-1}[p], per position p over all channels.

    Attributes:
        threshold: tau as a share of the tensor's RMS on the example frame.
        input_threshold: tau of the frame itself, in the units of the model's input; the norm there is always the
            maximum. None: 0.05 of the example frame's range.
        norm: N over the channels, root mean square or maximum.
        dilation: odd D; a changed pixel of the frame marks its D x D neighbourhood.
    """

    name: Literal["hold"] = "hold"
    threshold: Positive = 0.1
    input_threshold: Positive | None = None
    norm: Literal["rms", "max"] = "rms"
    dilation: Annotated[int, Field(ge=1)] = 3

    @field_validator("dilation")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("dilation is the width of a neighbourhood around a pixel, so it must be odd")
        return value


class NormGate(Options):
    """What the two norm gates of Skip-Convolutions (CVPR 2021, section 3.2) share.

    Attributes:
        eps: a position is computed where the norm exceeds it, strictly.
        p: order of the norm, 1 or 2.
        reference: what the residual is taken against. "held": the input as it was last let through, so that small
            changes add up. "previous": the input of the frame before, as in the paper, which forgets them.
    """

    eps: Positive
    p: Literal[1, 2] = 1
    reference: Literal["held", "previous"] = "held"


class InputNorm(NormGate):
    """Gate on the mean of |r|^p over the kernel window and the input channels (Skip-Convolutions, eq. 6)."""

    name: Literal["input_norm"] = "input_norm"


class OutputNorm(NormGate):
    """Gate on the norm of the residual times the norm of the weights, a bound on the output (eq. 7)."""

    name: Literal["output_norm"] = "output_norm"


class Gumbel(Options):
    """A learned gate on every convolution (Skip-Convolutions, section 3.2): a convolution on |r| decides what fires.

    Attributes:
        block: side of the mask's blocks, in training as afterwards.
        reference: as for the norm gates, "held" or "previous".
    """

    name: Literal["gumbel"] = "gumbel"
    block: Block = 1
    reference: Literal["held", "previous"] = "held"


class DynConv(Options):
    """A learned mask on every residual block (DynConv, CVPR 2020): where it is shut the block is its shortcut.

    Attributes:
        target: share of the blocks' multiply-accumulates that training aims at, in (0, 1].
        squeeze: the mask unit also sees the whole picture: a 3x3 convolution plus a linear layer on the mean, in place
            of a 1x1 convolution.
        temperatures: of the noise in training, one after the other in equal parts; (5, 2.5, 1) for large data sets.
        hold: what to keep from frame to frame; by default only what is exactly the same.
    """

    name: Literal["dynconv"] = "dynconv"
    target: Annotated[float, Field(gt=0, le=1)]
    squeeze: bool = False
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (1.0,)
    hold: Hold = Hold(threshold=0, input_threshold=0)


Gate = Hold | InputNorm | OutputNorm | Gumbel | DynConv
LEARNED = (Gumbel, DynConv)
GATES: dict[str, type[Hold] | type[InputNorm] | type[OutputNorm] | type[Gumbel] | type[DynConv]] = {
    "hold": Hold,
    "input_norm": InputNorm,
    "output_norm": OutputNorm,
    "gumbel": Gumbel,
    "dynconv": DynConv,
}

_Record = TypeVar("_Record", bound=Options)


class TransformOptions(Options):
    """Everything that decides what a transformation does to a given model.

    Attributes:
        gate: the gate and its options.
        block: side b of the mask's blocks; a block is computed where any of its positions fires.
        update: "recompute": a computed position is the operator of the current input. "residual": it is the former
            value plus the operator of the residual, as in the paper.
        exclude: patterns (shell style) of module names that stay dense.
        thresholds: pattern of module names -> threshold in place of the gate's; the last match wins. A value that
            several modules compute, as a convolution and its activation, goes by the names of all of them.
    """

    gate: Annotated[Gate, Field(discriminator="name")]
    block: Block = 1
    update: Literal["recompute", "residual"] = "recompute"
    exclude: tuple[str, ...] = ()
    thresholds: dict[str, Positive] = {}

    @property
    def hold(self) -> Hold | None:
        """The hold gate, by itself or beside a learned mask."""
        return self.gate.hold if isinstance(self.gate, DynConv) else self.gate if isinstance(self.gate, Hold) else None

    @property
    def mask_block(self) -> int:
        """Side of the mask's blocks; a Gumbel gate may name its own, and the larger counts."""
        return max(self.block, self.gate.block if isinstance(self.gate, Gumbel) else 1)


def gate_from(name: str, values: Mapping[str, Any]) -> Gate:
    """Builds the gate called `name`; for dynconv the values of a hold gate are those of its own.

    Raises:
        OptionError: the name is unknown, or a value is outside its range.
    """
    if name not in GATES:
        raise OptionError(f"gate: {name!r} is unknown; expected one of {', '.join(GATES)}")
    given = dict(values)
    if name == "dynconv":
        hold = {field: given.pop(field) for field in Hold.model_fields if field in given}
        given |= {"hold": Hold(**hold)} if hold else {}
    return GATES[name](**given)
