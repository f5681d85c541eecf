"""Dense islands on a GPU: right wherever they stand, and computed only where an input changed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipfx.build import compile_engine
from skipfx.errors import CompileError, FrameError
from skipfx.model import SkipModel
from skipfx.options import DynConv
from skipfx.passes.lower import lower
from skipfx.runtime import load
from skipfx.transformation import transform
from tests.runtime.check import EXACT, Array, Net, assert_close, assert_same, reference
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.test_gate import BLOCK
from tests.runtime.cuda.test_lanes import of_lane
from tests.runtime.cuda.test_step import assert_equal_steps, outputs
from tests.runtime.test_gates import gated
from tests.runtime.test_islands import CLIP, NETWORKS


def operators(net: Any, x: Tensor) -> list[Tensor]:
    """Norms, what is sorted, other types than float32, values by their place; sums by one thread, by some, by all."""
    y = net.conv(x)
    flat = y.flatten(1)
    return [
        net.groups(y), F.instance_norm(y), F.layer_norm(y, y.shape[1:]), torch.einsum("bchw,bdhw->bcd", y, y),
        y.topk(2, 1).indices, flat.sort(1, descending=True).values[:, :9], flat.argmax(1), y > 0.1, (y > 0).sum(),
        y.sum((2, 3)).to(torch.float64), F.gelu(net.few(flat)), net.many(flat), net.deep(y)[0], net.table[:, :5],
        y.mean((2, 3))[:, net.places], flat.std(1),
    ]  # fmt: skip


OPERATORS = Net(
    operators,
    conv=nn.Conv2d(3, 6, 3, stride=2, padding=1),
    groups=nn.GroupNorm(2, 6),
    few=nn.Linear(120, 40),
    many=nn.Linear(120, 1100),
    deep=nn.ConvTranspose2d(6, 2, 3, 2),
    table=torch.arange(12.0).reshape(2, 6) / 4,
    places=torch.tensor([3, 0, 3]),
)


def chained(net: Any, x: Tensor) -> list[Tensor]:
    """Two islands one behind the other, a map between them, and one beside them that reads a part of the frame."""
    first = net.conv(x)
    scale = torch.softmax(first.flatten(2), 2).amax(2)
    second = net.conv(first * scale[:, :, None, None])
    return [second, second.flatten(1).argmax(1), x[:, :1].flatten(2).cumsum(2)]


CHAINED = Net(chained, conv=nn.Conv2d(3, 3, 3, padding=1))
SMALL = ("squeeze and excite", "attention in the middle", "one island after another", "parts of maps")


@pytest.mark.parametrize("name", SMALL)
def test_an_island_is_right(shuffled: Place, name: str) -> None:
    assert_equal_steps(shuffled, transform(NETWORKS[name], CLIP[0], gate=EXACT), CLIP)


def test_operators(shuffled: Place) -> None:
    skip = transform(OPERATORS, CLIP[0], gate=EXACT)
    stream = shuffled.engine(skip).stream()
    for time, (frames, expected) in enumerate(zip(CLIP[:3], reference(skip, CLIP[:3]), strict=True)):
        assert_close(outputs(shuffled, stream, frames), expected, f"at frame {time}", 1e-4)


def test_mask_units_that_look_at_the_whole_picture(shuffled: Place) -> None:
    skip, clip = gated(BLOCK, DynConv(target=0.5, squeeze=True), 1)
    assert any(segment.island for segment in lower(skip.graph_module).segments)
    assert_equal_steps(shuffled, skip, clip)


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    return transform(CHAINED, CLIP[0], gate=EXACT)


def test_the_order_of_threads_does_not_matter(skip: SkipModel) -> None:
    found: list[list[list[Array]]] = []
    for order in ("forwards", "mixed"):
        with loops(LoopDriver(order)):
            stream = compile_engine(skip, target="cuda").stream()
            found.append([[np.asarray(leaf).copy() for leaf in stream(*frames)] for frames in CLIP[:2]])
    for mine, theirs in zip(*found, strict=True):
        assert_same(mine, theirs)


def test_an_island_is_computed_only_for_a_stream_in_which_an_input_changed(device: Place, skip: SkipModel) -> None:
    """Without weights, what is computed shows."""
    engine = device.engine(skip)
    lanes = engine.lanes(2)
    before = lanes(device.frame(torch.cat([CLIP[0][0], CLIP[1][0]])))
    held = [of_lane(before, lane) for lane in range(2)]
    engine.device.w[:] = 0
    for _ in range(3):  # as often as there are output arrays, and once more
        still = lanes(device.frame(torch.cat([CLIP[0][0], CLIP[1][0]])))
        for lane in range(2):
            assert_same(of_lane(still, lane), held[lane])
    moved = lanes(device.frame(torch.cat([CLIP[0][0], CLIP[2][0]])))
    assert_same(of_lane(moved, 0), held[0])
    assert not of_lane(moved, 1)[0].any()


def test_only_what_reads_the_change_is_computed(device: Place) -> None:
    """Of two islands, each of a frame of its own."""

    def apart(net: Any, x: Tensor, y: Tensor) -> list[Tensor]:
        return [net.x(net.conv(x).flatten(1)), net.y(net.conv(y).flatten(1))]

    net = Net(apart, conv=nn.Conv2d(1, 1, 1), x=nn.Linear(12, 3), y=nn.Linear(12, 3))
    frames = [torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    engine = device.engine(transform(net, (frames[0], frames[1]), gate=EXACT))
    stream = engine.stream()
    first = outputs(device, stream, (frames[0], frames[1]))
    engine.device.w[:] = 0
    found = outputs(device, stream, (frames[2], frames[1]))
    assert not found[0].any() and np.array_equal(found[1], first[1]) and first[1].any()


def test_a_lane_is_a_stream_of_its_own(device: Place, skip: SkipModel) -> None:
    """Lane 0 misses frames, lane 1 is refreshed, lane 2 is reset."""
    engine = device.engine(skip)
    lanes, streams = engine.lanes(3), [engine.stream() for _ in range(3)]
    last: dict[int, list[Array]] = {}
    for time, only in enumerate([None, [1, 2], [2], [0, 1, 2]]):
        for group in (lanes.streams, streams):
            if time == 2:
                group[2].reset()
            if time == 1:
                group[1].refresh()
        taken = [CLIP[(time + lane) % len(CLIP)] for lane in range(3)]
        found = lanes(device.frame(torch.cat([frames[0] for frames in taken])), only=only)
        for lane in range(3) if only is None else only:
            last[lane] = outputs(device, streams[lane], taken[lane])
        for lane, expected in last.items():
            assert_same(of_lane(found, lane), expected, f"lane {lane} at frame {time}")


def test_snapshots_and_refused_frames(device: Place, skip: SkipModel) -> None:
    engine = device.engine(skip)
    stream, other = engine.stream(), engine.stream()
    outputs(device, stream, CLIP[0])
    state = stream.state_dict()
    expected = [outputs(device, stream, frames) for frames in CLIP[1:3]]
    for frames in reversed(CLIP):
        outputs(device, other, frames)
    other.load_state_dict(state)
    for frames, wanted in zip(CLIP[1:3], expected, strict=True):
        bad = frames[0].clone()
        bad[0, 0, 0, 0] = float("nan")
        with pytest.raises(FrameError, match="NaN or infinity"):
            other(device.frame(bad))
        assert_same(outputs(device, other, frames), wanted)


def test_outputs_stay_the_callers_and_an_artifact_runs(tmp_path: Any, skip: SkipModel) -> None:
    """In the caller's library, in every type."""
    with loops(LoopDriver()):
        engine = compile_engine(skip, target="cuda")
        engine.save(tmp_path / "net.skipfx")
        stream, stored = engine.stream(), load(tmp_path / "net.skipfx").stream()
        held = [stream(*frames) for frames in CLIP]
        for leaves, frames in zip(held, CLIP, strict=True):
            for leaf, expected in zip(leaves, stored(*frames), strict=True):
                assert torch.equal(leaf, expected)
        assert [leaf.dtype for leaf in held[0]] == [torch.float32, torch.int64, torch.float32]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda net, x: torch.linalg.det(net.conv(x)[:, :, :3, :3]), "det|Det"),
        (lambda net, x: net.conv(x).flatten().scatter(0, net.places, 1.0), "scatter"),
    ],
)
def test_what_a_gpu_does_not_run_is_named(body: Callable[..., Tensor], message: str) -> None:
    net = Net(body, conv=nn.Conv2d(3, 3, 3, padding=1), places=torch.tensor([1, 2]))
    with pytest.raises(CompileError, match=f"({message}).*until") as refused:
        compile_engine(transform(net, CLIP[0], gate=EXACT), target="cuda")
    assert "compile for a CPU" in str(refused.value)
