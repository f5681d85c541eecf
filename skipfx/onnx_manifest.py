"""What an exported ONNX model says of itself: names, shapes, states, and where it came from. No PyTorch, no ONNX.

The manifest stands beside the model as JSON, and inside it under the metadata key `skipfx.manifest`.
"""

from math import prod
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from skipfx.media import Preprocess

FORMAT = 1
KEY = "skipfx.manifest"
REFRESH, ACTIVE = "skipfx_refresh", "skipfx_active"
SIZES = {"float32": 4, "float16": 2, "int64": 8, "bool": 1}


class Record(BaseModel):
    """Base of the records: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorRecord(Record):
    """A tensor that goes in or out."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class OutputRecord(TensorRecord):
    """An output.

    Attributes:
        state: number of the state whose next value holds the same bytes: both may be bound to one buffer, so that
            nothing is copied; None where there is none.
    """

    state: int | None = None


class StateRecord(Record):
    """A state: an output that is the input of the same number on the next frame; zeros before the first.

    Attributes:
        input, output: names of the pair.
        layer: dotted name of the module whose value it keeps.
        layout: "rows": [positions, C]. "planar": [C positions / 4, 4], plane by plane. "planes": [C, positions].
            "nchw": the value as it is.
        border: width of the zeros around the picture, in rows and planes; planes have more at the right and the bottom,
            up to multiples of 4.
        size: C, H, W of the value.
        in_place: input and output may be one buffer.
    """

    input: str
    output: str
    layer: str
    layout: Literal["rows", "planar", "planes", "nchw"]
    border: int
    size: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    in_place: bool

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return prod(self.shape) * SIZES[self.dtype]


class LayerRecord(Record):
    """A convolution that is computed where it changed; its active blocks are counted in the output `skipfx_active`.

    Attributes:
        name: dotted name of its module.
        macs: multiply-accumulates per position.
        positions: of its output.
        block: side of the blocks in which it is gathered.
    """

    name: str
    macs: int
    positions: int
    block: int


class OnnxManifest(Record):
    """The whole.

    Attributes:
        format: of this manifest.
        versions: of skipfx and of what wrote the model.
        source: SHA-256 of the transformed model, graph and weights.
        opset: of the standard operators, which are all there is.
        gathered: whether it computes only what changed; False for an export with `gather=False`.
        refresh, active: name of the input that opens every gate (bool [1]), and of the output that counts active
            blocks per layer (float32 [layers]); None where there is no such output.
        states: in the order of their numbers.
        state_bytes: per stream.
        safe_in_place: every state may be bound to one buffer, as input and output.
        thresholds: per held value, what a change must exceed, in the units of the value.
        options: of the transformation.
        structure: how the outputs are nested in the model's own result (`skipfx.runtime.structure`).
        preprocess: how a picture becomes a frame.
        report: of the transformation.
    """

    kind: Literal["skipfx onnx model"] = "skipfx onnx model"
    format: int = FORMAT
    versions: dict[str, str]
    source: str
    opset: int
    gathered: bool
    frames: tuple[TensorRecord, ...]
    refresh: str = REFRESH
    outputs: tuple[OutputRecord, ...]
    active: str | None
    states: tuple[StateRecord, ...]
    state_bytes: int
    safe_in_place: bool
    layers: tuple[LayerRecord, ...]
    thresholds: dict[str, float]
    options: dict[str, Any]
    structure: Any
    preprocess: Preprocess | None
    report: dict[str, Any]


def state_names(count: int) -> list[tuple[str, str]]:
    """Input and output names of so many states, of one width, so that they sort as they are numbered.

    Triton pairs the states of a model by the order of their sorted names.
    """
    width = max(3, len(str(count - 1)))
    return [(f"skipfx_state_{i:0{width}}_in", f"skipfx_state_{i:0{width}}_out") for i in range(count)]


def leaf_names(structure: Any, name: str = "output") -> list[str]:
    """Names for the leaves of a structure: their way through it, such as output_boxes_0."""
    if structure == "leaf":
        return [name]
    kind, parts = structure
    if kind == "constant":
        return []
    keyed = parts.items() if kind == "dict" else enumerate(parts)
    return [leaf for key, part in keyed for leaf in leaf_names(part, f"{name}_{key}")]
