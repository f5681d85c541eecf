"""Tries one architecture: captures, transforms, compiles it and runs a clip at thresholds 0 beside PyTorch.

    python -m benchmarks.zoo_trial '{"factory": "my_models:make_net()", "shape": [3, 128, 160], "frames": 10}'

The last line of standard output is the result, as JSON.
"""

import ast
import json
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skipfx import Hold
from skipfx.build import compile_engine
from skipfx.errors import SkipfxError
from skipfx.report import Report
from skipfx.runtime.engine import Engine
from skipfx.transformation import transform

TOLERANCE = 1e-3
PICTURES = 16
EXACT = Hold(threshold=0, input_threshold=0)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Clip = list[Tensor]


def build(factory: str) -> nn.Module:
    """The module that `module:function(keyword=value, ...)` makes, with random weights drawn from one seed."""
    path, _, rest = factory.partition(":")
    call = ast.parse(rest if "(" in rest else f"{rest}()", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError(f"expected module:function(keyword=value, ...), got {factory!r}")
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    torch.manual_seed(0)
    model: nn.Module = getattr(import_module(path), call.func.id)(**arguments)
    return model.eval()


def moving_clip(shape: tuple[int, ...], frames: int) -> Clip:
    """A smooth still picture with a little noise in a corner, and a bright patch that moves. [1, C, H, W] each."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, shape[0], 6, 8, generator=generator)
    still = nn.functional.interpolate(small, size=shape[1:], mode="bilinear", align_corners=False)
    height, width = max(1, shape[1] // 6), max(1, shape[2] // 6)
    patch = torch.rand(1, shape[0], height, width, generator=generator)
    clip = []
    for time in range(frames):
        frame = still.clone()
        top, left = shape[1] // 3, time * shape[2] // 16
        frame[:, :, top : top + height, left : left + width] = patch[..., : shape[2] - left]
        corner = frame[:, :, -height:, -width:]
        corner += 0.01 * torch.rand(corner.shape, generator=generator)
        clip.append(frame)
    return clip


def settle(model: nn.Module, clip: Clip) -> None:
    """Sets the statistics of batch-norms on the clip and on pictures that differ, as training does.

    So values in a deep random network keep their size. Frames of one clip are so much alike that their variances are
    small, and pictures that are unlike the clip say nothing of it; dividing by either makes a network ill-conditioned:
    PyTorch's own float32 is 7e-4 away from its float64 for Inception-v4 on the clip alone, and 3e-3 for
    EfficientNet-B0 on pictures alone.
    """
    shape = tuple(clip[0].shape[1:])
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(PICTURES, shape[0], 6, 8, generator=generator)
    pictures = nn.functional.interpolate(small, size=shape[1:], mode="bilinear", align_corners=False)
    norms = [module for module in model.modules() if isinstance(module, NORMS) and module.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(torch.cat([pictures, *clip]))
    for norm in norms:
        norm.eval()


def trial(factory: str, shape: tuple[int, ...], frames: int) -> dict[str, Any]:
    """All that the table shows of one architecture; where a step fails, up to that step and why."""
    found: dict[str, Any] = {"step": "build"}
    try:
        model, clip = build(factory), moving_clip(shape, frames)
        settle(model, clip)
        found["step"] = "capture"
        start = perf_counter()
        skip = transform(model, (clip[0],), gate=EXACT)
        found |= {"step": "compile", "transform_seconds": perf_counter() - start, **_shares(skip.report)}
        start = perf_counter()
        engine = compile_engine(skip)
        found |= {"step": "run", "compile_seconds": perf_counter() - start, "state_bytes": engine.state_bytes}
        found |= run(engine, model, clip)
        found["step"] = "done"
    except SkipfxError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    except Exception as error:
        found["error"] = f"{type(error).__name__} (not an error of skipfx's own): {error}"
    return found


def run(engine: Engine, model: nn.Module, clip: Clip) -> dict[str, Any]:
    """The clip through a stream, beside PyTorch and beside a stream that refreshes on every frame."""
    stream, fresh = engine.stream(), engine.stream(refresh_every=1)
    error, identical, active = 0.0, True, []
    for frame in clip:
        with torch.no_grad():
            expected = _leaves(model(frame))
        outputs = _leaves(stream(frame.numpy()))
        active.append(stream.stats.active_fraction)
        refreshed = _leaves(fresh(frame.numpy()))
        error = max([error, *map(_error, outputs, expected)], key=_nan_last)
        identical = identical and all(map(np.array_equal, outputs, refreshed))
    ok = identical and error <= TOLERANCE
    return {"error_against_torch": error, "equals_refresh": identical, "ok": ok, "active": float(np.mean(active[1:]))}


def _shares(report: Report) -> dict[str, Any]:
    islands = [island.model_dump() for island in report.islands]
    return {"macs": report.total_macs, "sparse_share": report.sparse_share, "islands": islands}


def _leaves(outputs: Any) -> list[NDArray[Any]]:
    return [np.asarray(leaf) for leaf in pytree.tree_leaves(outputs) if leaf is not None]


def _error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0)
    return float(difference / (np.abs(expected).max(initial=0) or 1.0))


def _nan_last(error: float) -> float:
    return float("inf") if np.isnan(error) else error


def main(report: Callable[[str], Any] = print) -> None:
    """Tries what the first argument says."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report(json.dumps(trial(asked["factory"], tuple(asked["shape"]), asked["frames"])))


if __name__ == "__main__":
    main()
