"""`skipfx demo`."""

from pathlib import Path
from typing import Annotated, Any

from rich.console import Group
from rich.table import Table

from skipfx.bench.compare import STREAM, WARMUP, Comparison, Streamed, compare
from skipfx.bench.timing import machine
from skipfx.cli.command import with_records
from skipfx.cli.figures import cells, machine_lines, times, timings, warn_of_load
from skipfx.cli.options import Overwrite, Threads, option
from skipfx.cli.output import Output
from skipfx.cli.steps import check_output
from skipfx.demo.draw import draw
from skipfx.demo.scene import PERIOD
from skipfx.demo.show import Material, Seen, moments, prepare, watch
from skipfx.files import write_whole

AGAINST = ("torch", "onnxruntime")
ROUNDS = 2


@with_records
def command(
    output: Output,
    out: Annotated[Path, option("--out -o", "Picture to write.", "skipfx-demo.png", metavar="PNG")] = Path(
        "skipfx-demo.png"
    ),
    frames: Annotated[
        int, option("--frames", "Frames of the scene; its whole script has 240.", "240", min=WARMUP + 1)
    ] = PERIOD,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Tries it all on a built-in network and scene: a fixed camera sees walkers and vehicles come, stop and go.

    A small segmentation network is transformed with the default options and compiled. The clip then runs through dense
    engines and through the stream, in turns, and both are compared with the true masks.
    """
    check_output(out, overwrite=overwrite)
    facts = machine()
    warn_of_load(facts, output)
    with output.working("rendering the scene, transforming and compiling the network"):
        material = prepare(frames, threads)
    with output.progress("comparing with the truth", 2 * frames) as advance:
        seen = watch(material, advance)
    write_whole(out, draw(list(moments(material))), overwrite=overwrite)
    with output.progress("timing", (len(AGAINST) + 1) * (ROUNDS + 1)) as advance:
        streams = {STREAM: Streamed(material.engine.program, material.clip)}
        timed = compare(material.program, material.clip, material.engine.threads, streams, AGAINST, ROUNDS, advance)
    document = _document(material, seen, timed, facts) | {"out": str(out)}
    output.show(Group(_table(document), "", _lines(document)), document)


def _document(material: Material, seen: Seen, timed: Comparison, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        **timings(timed),
        "active_fraction": seen.active_fraction,
        "dense_iou": seen.dense_iou,
        "stream_iou": seen.stream_iou,
        "frames": len(material.clip),
        "threads": material.engine.threads,
        "machine": facts,
    }


def _table(found: dict[str, Any]) -> Table:
    table = Table("engine", box=None, pad_edge=False)
    for column in ("ms per frame", "10-90 %", "MACs computed", "mean IoU"):
        table.add_column(column, justify="right")
    for name, ms in found["dense"].items():
        table.add_row(f"{name} (dense)", *cells(ms), "100.0%", f"{found['dense_iou']:.3f}")
    stream = found["stream"][STREAM]
    table.add_row(STREAM, *cells(stream), f"{found['active_fraction']:.1%}", f"{found['stream_iou']:.3f}")
    return table


def _lines(found: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"speed-up {times(found['speedup'][STREAM])} over {found['fastest']}, the faster of the dense engines here",
            f"timing   {found['frames']} frames, {found['threads']} thread(s), {ROUNDS} rounds in turns",
            *machine_lines(found["machine"], found["unavailable"]),
            f"picture  {found['out']}",
        ]
    )
