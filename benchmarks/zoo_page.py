"""Writes docs/zoo.md from the results that `benchmarks.zoo` collected.

python -m benchmarks.zoo_page zoo.jsonl > docs/zoo.md
"""

import sys
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.architectures import ARCHITECTURES
from benchmarks.zoo import SPARSE, Result, read_results, summary

PACKAGES = ("skipfx", "torch", "apache-tvm", "onnxruntime", "timm", "torchvision", "transformers")
SHOWN = 3  # reasons in a row
HEAD = """# Architectures that were tried

    python -m benchmarks.zoo --out zoo.jsonl
    python -m benchmarks.zoo_page zoo.jsonl > docs/zoo.md

Every architecture has random weights. It is captured, transformed with all thresholds 0, compiled, and run on a
synthetic clip of 10 frames in which a patch moves over a still picture; frames are 3 x 128 x 160 unless the
architecture asks for something else. Detectors of torchvision are taken up to their maps, before anchors and
non-maximum suppression.

* *sparse*: share of the multiply-accumulates of a dense frame that are computed only where something changed;
* *active*: share of those that the clip needed after its first frame;
* *error*: the largest difference from PyTorch on any frame, over the largest value of the output;
* *exact*: whether every frame is bit for bit what a refresh on that frame gives;
* *compile*: seconds from the transformed model to native code, on a busy machine: for the order of magnitude only;
* *dense*: what is not sparse, and why, the most work first.

An architecture verifies where the error is at most 1e-3 and the stream is exact. Batch-norm statistics are taken on the
clip and on 16 pictures that differ, as in training. On one of them alone a deep random network can become
ill-conditioned: PyTorch's own float32 is then up to 7e-4 away from its float64 (Inception-v4, the clip alone) or 3e-3
(EfficientNet-B0, the pictures alone). Every layer of the stream is as close to float64 as PyTorch's is: 1.0 to 1.2
times its error in Inception-v4.

All rows are of one code. The statistics of most were taken on the 16 pictures alone; those of Inception-v4 and
EfficientNet-B0 on the clip as well, which is the rule since.
"""


def main() -> None:
    """Prints the page."""
    order = {one.name: place for place, one in enumerate(ARCHITECTURES)}
    results = sorted(read_results(Path(sys.argv[1])), key=lambda result: order.get(result["name"], len(order)))
    print("\n".join(page(results)))


def page(results: Sequence[Result]) -> Iterator[str]:
    """The lines of the page."""
    yield HEAD
    yield f"{date.today():%d %B %Y}; {', '.join(filter(None, map(_version, PACKAGES)))}.\n"
    yield "| count | |\n|---|---|"
    yield from (f"| {name} | {value} |" for name, value in summary(results).items())
    for result in [r for r in results if not r.get("ok") and "skipped" not in r]:
        yield f"\n{result['name']} does not verify: {result.get('error') or _verdict(result)}."
    below = [r for r in results if r["kind"] == "convolutional" and r.get("sparse_share", 0) < SPARSE]
    for result in below:
        yield f"\n{result['name']} is below: {_reasons(result) or result.get('error') or result.get('skipped')}."
    if missing := {one.name for one in ARCHITECTURES} - {result["name"] for result in results}:
        yield f"\nOn the list, not tried: {', '.join(sorted(missing))}."
    yield "\n| architecture | family | MACs | sparse | active | error | exact | compile | dense |"
    yield "|---|---|---|---|---|---|---|---|---|"
    yield from map(_row, results)


def _row(result: Result) -> str:
    cells = [result["name"], result["family"]]
    if "ok" not in result:
        return f"| {' | '.join([*cells, '', '', '', '', '', ''])} | {result.get('skipped') or result.get('error')} |"
    cells += [
        f"{result['macs'] / 1e6:.0f} M",
        f"{result['sparse_share']:.1%}",
        f"{result['active']:.0%}",
        f"{result['error_against_torch']:.0e}",
        "yes" if result["equals_refresh"] else "NO",
        f"{result['compile_seconds']:.0f} s",
        _reasons(result),
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(result: Result) -> str:
    exact = "exact" if result["equals_refresh"] else "not exact"
    return f"error {result['error_against_torch']:.1e}, {exact}"


def _reasons(result: Result) -> str:
    """The reasons of what is dense, with the share of the work that each costs."""
    islands = result.get("islands", ())
    shares = [f" ({share:.1%})" if (share := island["macs"] / result["macs"]) >= 0.0005 else "" for island in islands]
    words = [f"{island['count']} x {island['reason']}{share}" for island, share in zip(islands, shares, strict=True)]
    return "; ".join(words[:SHOWN] + ["..."] * (len(words) > SHOWN))


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
