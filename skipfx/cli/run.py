"""`skipfx run`."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from skipfx.bench.timing import Spread
from skipfx.cli.asked import Asked
from skipfx.cli.command import with_records
from skipfx.cli.masks import MaskPictures
from skipfx.cli.options import AnyPath, Overwrite, Pictures, RawSize, Runtime, Threads, Transformation, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output, make_ready
from skipfx.errors import UsageError
from skipfx.files import write_whole
from skipfx.media import Picture, Preprocess, open_frames
from skipfx.runtime.base_stream import BaseStream
from skipfx.runtime.stream import Stream


@dataclass(frozen=True)
class Cost:
    """What a frame cost.

    Attributes:
        ms: in the network, from its input to its outputs.
        active_fraction: of the multiply-accumulates that can be skipped.
        refreshed: whether everything was computed.
    """

    ms: float
    active_fraction: float
    refreshed: bool


@with_records
def command(
    model: AnyPath,
    clip: Annotated[
        str, typer.Argument(metavar="CLIP", help="Video, folder of images, or - for raw frames.", show_default=False)
    ],
    choices: Transformation,
    pictures: Pictures,
    output: Output,
    frames: Annotated[int | None, option("--frames", "Stop after this many frames.", "the whole clip", min=1)] = None,
    raw_size: RawSize = None,
    threads: Threads = None,
    runtime: Runtime = "onnxruntime",
    refresh_every: Annotated[
        int | None, option("--refresh-every", "Frames between two refreshes.", "the first frame only", min=1)
    ] = None,
    out: Annotated[
        Path | None, option("--out -o", "Folder for the outputs, one .npz per frame.", "none", metavar="FOLDER")
    ] = None,
    masks: Annotated[
        Path | None,
        option("--masks", "Folder for pictures of how often each layer computed where.", "none", metavar="FOLDER"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Runs a model on a clip and says what each frame cost.

    The thresholds of a plain model are scaled on the first frame of the clip.
    """
    for folder, old in ((out, "*[0-9].npz"), (masks, "[0-9]*-*.png")):
        if folder is not None:
            _make_folder(folder, old, overwrite)
    with open_frames(clip, raw_size=raw_size, limit=frames) as source:
        first = next(iter(source))
        ready = make_ready(model, first, Asked(choices, pictures, output, runtime), threads)
        stream = ready.engine.stream(refresh_every)
        if masks is not None and not isinstance(stream, Stream):
            raise UsageError("--masks: an exported model does not tell where it computes; run the compiled one")
        costs, seen, start = [], MaskPictures(), perf_counter()
        with output.progress("running", source.len_hint) as advance:
            for cost in _costs(stream, ready.preprocess, chain([first], source), out):
                costs.append(cost)
                if isinstance(stream, Stream) and masks is not None:
                    seen.add(stream)
                rate = len(costs) / (perf_counter() - start)
                advance(f"active {cost.active_fraction:6.1%}  {rate:5.1f} frames/s")
        elapsed = perf_counter() - start
    if masks is not None:
        seen.write(masks)
    folders = {"out": None if out is None else str(out), "masks": None if masks is None else str(masks)}
    document = _summary(costs, elapsed) | folders
    output.show(_text(document), document | {"per_frame": [asdict(cost) for cost in costs]})


def _make_folder(path: Path, pattern: str, overwrite: bool) -> None:
    """An empty folder but for what is not ours: files of that pattern are."""
    check_output(path, overwrite=overwrite)
    path.mkdir(exist_ok=True)
    for old in path.glob(pattern):
        old.unlink()


def _costs(
    stream: BaseStream, preprocess: Preprocess, pictures: Iterator[Picture], folder: Path | None
) -> Iterator[Cost]:
    for index, picture in enumerate(pictures):
        frame = preprocess(picture)
        start = perf_counter()
        outputs = stream(frame)
        seconds = perf_counter() - start
        if folder is not None:
            _save(outputs, folder / f"{index:06}.npz")
        yield Cost(seconds * 1e3, stream.stats.active_fraction, stream.stats.refreshed)


def _save(outputs: Any, path: Path) -> None:
    data = BytesIO()
    np.savez(data, **dict(_named(outputs, "")))
    write_whole(path, data.getvalue(), overwrite=True)


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Names for arrays: their way through dicts, lists and tuples, with dots between; "output" for one alone."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _named(part, f"{name}.{key}" if name else str(key))
    else:
        yield name or "output", value


def _summary(costs: list[Cost], elapsed: float) -> dict[str, Any]:
    ms = Spread(tuple(cost.ms for cost in costs))
    return {
        "frames": len(costs),
        "seconds": elapsed,
        "ms": {"median": ms.median, "p10": ms.p10, "p90": ms.p90, "mean": ms.mean},
        "active_fraction": float(np.mean([cost.active_fraction for cost in costs])),
        "refreshes": sum(cost.refreshed for cost in costs),
    }


def _text(found: dict[str, Any]) -> str:
    ms = found["ms"]
    lines = [
        f"frames   {found['frames']} in {found['seconds']:.1f} s, "
        f"{found['frames'] / found['seconds']:.1f} frames/s with reading and preparing them",
        f"network  {ms['median']:.1f} ms per frame (10-90 %: {ms['p10']:.1f} - {ms['p90']:.1f}), "
        f"{1e3 / ms['mean']:.1f} frames/s",
        f"active   {found['active_fraction']:.1%} of what can be skipped; {found['refreshes']} refresh(es)",
    ]
    lines += [f"{word:8} in {found[key]}" for key, word in (("out", "outputs"), ("masks", "masks")) if found[key]]
    return "\n".join(lines)
