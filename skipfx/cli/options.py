"""The options that commands share, as records (`skipfx.cli.command`). None means: not given."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from skipfx.cli.parsers import number, numbers, size
from skipfx.errors import OptionError, UsageError
from skipfx.media import INTERPOLATIONS, Preprocess
from skipfx.options import GATES, gate_from

GATE_FIELDS = ("threshold", "input_threshold", "norm", "dilation", "eps", "p", "reference", "target", "squeeze")


def option(name: str, text: str, default: str, panel: str | None = None, **more: Any) -> Any:
    """An option whose help ends with its default, in words."""
    return typer.Option(*name.split(), help=text, show_default=default, rich_help_panel=panel, **more)


def gate_option(name: str, text: str, default: str, **more: Any) -> Any:
    """An option of the transformation."""
    return option(name, text, default, "Transformation", **more)


def picture_option(name: str, text: str, default: str, **more: Any) -> Any:
    """An option of the way from a picture to the model's input."""
    return option(name, text, default, "Pictures", **more)


ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Saved with torch.export.save (.pt2). Loading executes code of its author.",
        show_default=False,
    ),
]
SkipPath = Annotated[
    Path, typer.Argument(metavar="SKIP", help="From skipfx transform (.skip.pt2).", show_default=False)
]
AnyPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Compiled (.skipfx), exported (.onnx), transformed (.skip.pt2) or plain (.pt2); missing steps are done.",
        show_default=False,
    ),
]
DenseModel = Annotated[
    Path | None,
    option("--model", "The model that a compiled one was made of (.pt2 or .skip.pt2).", "none", metavar="MODEL"),
]
Example = Annotated[
    Path | None,
    option(
        "--example",
        "Picture, folder or video of the camera; its first frame scales the thresholds.",
        "the input saved with the model",
        metavar="CLIP",
    ),
]
Overwrite = Annotated[bool, option("--overwrite", "Replace what exists.", "off")]
TrustPickle = Annotated[
    bool, option("--trust-pickle", "Also load whole-module pickles, which execute code of their author.", "off")
]
Exclude = Annotated[
    list[str] | None,
    gate_option(
        "--exclude", "Module names that stay dense, such as 'head.*'; may be repeated.", "none", metavar="PATTERN"
    ),
]
Frames = Annotated[
    list[str] | None,
    option(
        "--frame",
        "Input that is a frame; may be repeated. The others are fixed at the values saved with the model.",
        "all inputs",
        metavar="NAME",
    ),
]
Until = Annotated[
    list[str] | None,
    option(
        "--until",
        "Module, or node of the graph, after which the model is cut; may be repeated. Its value becomes the output.",
        "the model's end",
        metavar="NAME",
    ),
]
Threads = Annotated[int | None, option("--threads", "Cores that a frame may use.", "all usable cores", min=1)]
Runtime = Annotated[
    str, option("--runtime", "What computes an exported model: onnxruntime or openvino.", "onnxruntime", metavar="NAME")
]
ClipPath = Annotated[
    str,
    typer.Option("--clip", metavar="CLIP", help="Video, folder of images, or - for raw frames.", show_default=False),
]
RawSize = Annotated[
    Any, option("--raw-size", "Size of raw frames (rgb24) on standard input.", "none", parser=size, metavar="HxW")
]


@dataclass(frozen=True)
class Given:
    """A record that knows which of its options were given."""

    def given(self) -> dict[str, Any]:
        """Name -> value of the options that were given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value is not False}


@dataclass(frozen=True)
class Transformation(Given):
    """Options of `skipfx.transform`."""

    gate: Annotated[
        str | None, gate_option("--gate", f"What decides that a position changed: {', '.join(GATES)}.", "hold")
    ] = None
    threshold: Annotated[
        float | None,
        gate_option("--threshold", "hold, dynconv: share of a tensor's RMS that counts as a change.", "0.1"),
    ] = None
    input_threshold: Annotated[
        float | None,
        gate_option(
            "--input-threshold",
            "hold, dynconv: change of a pixel that counts, in units of the model's input.",
            "0.05 of the example's range",
        ),
    ] = None
    norm: Annotated[str | None, gate_option("--norm", "hold, dynconv: over the channels, rms or max.", "rms")] = None
    dilation: Annotated[
        int | None, gate_option("--dilation", "hold, dynconv: odd width of the neighbourhood that a pixel marks.", "3")
    ] = None
    eps: Annotated[
        float | None, gate_option("--eps", "input_norm, output_norm: compute where the norm exceeds it.", "none")
    ] = None
    p: Annotated[int | None, gate_option("--p", "input_norm, output_norm: order of the norm, 1 or 2.", "1")] = None
    reference: Annotated[
        str | None, gate_option("--reference", "input_norm, output_norm, gumbel: held or previous input.", "held")
    ] = None
    target: Annotated[
        float | None, gate_option("--target", "dynconv: share of the residual blocks' cost to train for.", "none")
    ] = None
    squeeze: Annotated[bool, gate_option("--squeeze", "dynconv: the masks also see the whole picture.", "off")] = False
    block: Annotated[
        int | None, gate_option("--block", "Side of the blocks that fire together: 1, 2, 4, 8 or 16.", "1")
    ] = None
    update: Annotated[
        str | None, gate_option("--update", "recompute, or residual (sums as in the paper).", "recompute")
    ] = None
    frame: Frames = None
    until: Until = None
    exclude: Exclude = None
    set: Annotated[
        list[str] | None,
        gate_option(
            "--set",
            "Threshold of the modules of that name, such as 'stem.*=0.05'; may be repeated.",
            "none",
            metavar="PATTERN=VALUE",
        ),
    ] = None
    trust_pickle: TrustPickle = False

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `skipfx.transform` that are not about the file.

        Raises:
            OptionError: a value is outside its range, or belongs to another gate.
        """
        given = self.given()
        given.pop("trust_pickle", None)
        values = {name: given.pop(name) for name in GATE_FIELDS if name in given}
        gate = gate_from(given.pop("gate", "hold"), values)
        thresholds = dict(map(_assignment, given.pop("set", ())))
        named = {name: tuple(given.pop(name, ())) for name in ("exclude", "until")}
        return {**named, "frames": given.pop("frame", None), "gate": gate, "thresholds": thresholds, **given}


def _assignment(text: str) -> tuple[str, float]:
    pattern, _, value = text.rpartition("=")
    try:
        return pattern, float(value)
    except ValueError:
        raise OptionError(f"--set: expected PATTERN=VALUE such as 'stem.*=0.05', got {text!r}") from None


@dataclass(frozen=True)
class Pictures(Given):
    """Options of `skipfx.Preprocess`; the size is the model's own."""

    scale: Annotated[
        Any, picture_option("--scale", "Factor on the 8-bit values.", "1/255", parser=number, metavar="N")
    ] = None
    mean: Annotated[
        Any,
        picture_option(
            "--mean", "Subtracted then: one value or one per channel.", "0", parser=numbers, metavar="N[,N,N]"
        ),
    ] = None
    std: Annotated[
        Any,
        picture_option(
            "--std", "Divided by then: one value or one per channel.", "1", parser=numbers, metavar="N[,N,N]"
        ),
    ] = None
    channels: Annotated[
        str | None, picture_option("--channels", "rgb, bgr, gray or luma.", "rgb for 3 channels, luma for 1")
    ] = None
    interpolation: Annotated[
        str | None,
        picture_option("--interpolation", f"Of pictures of another size: {', '.join(INTERPOLATIONS)}.", "area"),
    ] = None

    def preprocess(self, shapes: Sequence[tuple[Any, ...]] | None) -> Preprocess | None:
        """How pictures become frames of a model; None where it does not take one picture.

        Args:
            shapes: of the model's inputs, where sizes may be open; None: not known.

        Raises:
            OptionError: an option is outside its range.
            UsageError: the channels are not those of the model.
        """
        given = self.given()
        if shapes is None:
            return Preprocess(**given)
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
            return None
        _, depth, *place = shapes[0]
        given.setdefault("channels", "luma" if depth == 1 else "rgb")
        found = Preprocess(size=tuple(place) if all(isinstance(n, int) for n in place) else None, **given)
        if found.depth != depth:
            raise UsageError(f"--channels {found.channels}: gives {found.depth} channel(s), the model takes {depth}")
        return found
