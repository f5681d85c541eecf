"""Norm gates, Gumbel gates and DynConv masks on the engine: what PyTorch computes, where it computes it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from skipfx import graph as g
from skipfx import ops
from skipfx.build import compile_engine
from skipfx.errors import CompileError, NothingToTransform
from skipfx.model import SkipModel
from skipfx.options import LEARNED, DynConv, Gate, Gumbel, Hold, InputNorm, OutputNorm
from skipfx.passes.lower import lower
from skipfx.testing import zero_states
from skipfx.transformation import transform
from tests.networks import Branches, Frames, moving_clip, seeded
from tests.runtime.check import assert_close, assert_same, flat, margin, reference
from tests.strategies import Sample, samples

HELD = Hold(threshold=0.1, input_threshold=0.05)
GATES: list[tuple[Gate, int]] = [
    (InputNorm(eps=0.03), 1),
    (InputNorm(eps=0.03, reference="previous"), 4),
    (OutputNorm(eps=0.15), 2),
    (Gumbel(block=1), 1),
    (Gumbel(block=4), 1),
    (Gumbel(block=8), 1),
    (Gumbel(block=4, reference="previous"), 1),
    (DynConv(target=0.5), 1),
    (DynConv(target=0.5, hold=HELD), 1),
    (DynConv(target=0.5, squeeze=True, hold=HELD), 1),
]
gates = pytest.mark.parametrize("gate, block", GATES, ids=lambda value: getattr(value, "name", value))


class Blocks(nn.Module):
    """Residual blocks of several kinds between convolutions of several geometries; sizes that no block divides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 18, 3, 2, 1)
        self.depthwise = nn.Conv2d(18, 18, 3, padding=2, dilation=2, groups=18)
        self.narrow, self.wide = nn.Conv2d(18, 6, 1), nn.Conv2d(6, 18, 3, padding=1, groups=2)
        self.down, self.deep, self.beside = nn.Conv2d(18, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(18, 8, 1, 2)
        self.head = nn.Conv2d(26, 2, 2, 3, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.depthwise(F.silu(self.stem(x)))
        x = F.relu(x + torch.sigmoid(self.wide(F.relu(self.narrow(x)))))
        small = F.relu(self.beside(x) + self.deep(self.down(x)))
        up = F.interpolate(small, scale_factor=2)[:, :, : x.shape[2], : x.shape[3]]
        return [self.head(torch.cat([up, x], 1)), small]


CLIP = moving_clip(3, 21, 27, length=5, noise=0.02)
BLOCKS, BRANCHES = seeded(Blocks()), seeded(Branches())
SAFE = 1e-5  # as MARGIN of `tests.runtime.check`; scores are sums of fewer terms


class _Scores(fx.Interpreter):
    """Notes the scores that learned gates see."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.found: dict[str, list[Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.target is ops.fires:
            score, bias, _ = n.args
            self.found.setdefault(str(bias.target), []).append(self.env[score])  # type: ignore[union-attr, index]
        return super().run_node(n)


def learned(skip: SkipModel, clip: list[Frames], seed: int = 0) -> SkipModel:
    """Gives learned gates random weights, and biases that shut about half of what they see on the clip."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(skip.graph_module.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "gate_weight" in name or "mask_weight" in name or "mask_squeeze" in name:
                shift = 0.3 if "gate_weight" in name else 0.5
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - shift)
        scores, states = _Scores(skip.graph_module), zero_states(skip.graph_module)
        for time, frames in enumerate(clip):
            _, states = scores.run(*frames, *states, torch.tensor(time == 0))
        for name, seen in scores.found.items():
            after = torch.stack(seen[1:]).flatten()
            moved = after[after > 0] if isinstance(skip.options.gate, Gumbel) else after
            parameters[name].fill_(-float(moved.quantile(1 - 0.5 / skip.options.mask_block**2)) * 1.001)
    return skip


def gated(model: nn.Module, gate: Gate, block: Any = 1, still: int = 0) -> tuple[SkipModel, list[Frames]]:
    """A transformed network and a clip on which its gates open and shut, none of them close to its limit.

    In the `still` columns at the right nothing moves.
    """
    skip = transform(model, (torch.rand(1, 3, 21, 27),), gate=gate, block=block)
    for seed in range(30):
        clip = moving_clip(3, 21, 27, length=6, noise=0.02, seed=seed)
        for frames in clip[1:]:
            frames[0][..., 27 - still :] = clip[0][0][..., 27 - still :]
        if isinstance(gate, LEARNED):
            learned(skip, clip, seed)
        if margin(skip.graph_module, clip) > SAFE:
            return skip, clip
    raise AssertionError("no clip keeps every score away from its limit")


@gates
@pytest.mark.parametrize("model", [BLOCKS, BRANCHES], ids=["blocks", "branches"])
def test_gates_give_what_pytorch_gives(model: nn.Module, gate: Gate, block: int) -> None:
    skip, clip = gated(model, gate, block)
    streams = [compile_engine(skip, threads=threads, dense_above=1.0).stream() for threads in (1, 2, 3)]
    shares: list[float] = []
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        alone, *others = [flat(stream(*frames)) for stream in streams]
        assert_close(alone, expected, f"at frame {time}")
        for stream, together in zip(streams[1:], others, strict=True):
            assert_same(together, alone, f"at frame {time}")
            assert stream.stats == streams[0].stats
        shares += streams[0].stats.layers.values()
    assert any(0 < share < 1 for share in shares), "every gate is open or every gate is shut"


@gates
def test_a_refresh_forgets_and_a_snapshot_goes_on(gate: Gate, block: int) -> None:
    skip, clip = gated(BLOCKS, gate, block)
    engine = compile_engine(skip, threads=1, dense_above=1.0)
    used, new, again = engine.stream(), engine.stream(), engine.stream()
    for frames in clip[:3]:
        used(*frames)
    again.load_state_dict(used.state_dict())
    for frames in clip[3:]:
        assert_same(flat(again(*frames)), flat(used(*frames)))
        assert again.stats == used.stats
    used.refresh()
    assert_same(flat(used(*clip[0])), flat(new(*clip[0])))
    assert_same(flat(used(*clip[1])), flat(new(*clip[1])))


@gates
def test_a_still_frame_computes_nothing_and_changes_nothing(gate: Gate, block: int) -> None:
    skip, clip = gated(BRANCHES, gate, block)
    stream = compile_engine(skip, threads=2, dense_above=1.0).stream()
    for frames in clip:
        before = flat(stream(*frames))
    assert_same(flat(stream(*clip[-1])), before)
    assert stream.stats.active_macs == 0


@pytest.mark.parametrize("gate", [Gumbel(block=1), Gumbel(block=4), Gumbel(block=4, reference="previous")])
def test_only_what_a_gate_opens_is_computed(gate: Gumbel) -> None:
    """Channels are read where they changed, and a convolution is computed where its gate fires."""
    model = seeded(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, 2), nn.ReLU()))
    skip, clip = gated(model, gate, still=12)
    masks, states = _Masks(skip.graph_module), zero_states(skip.graph_module)
    stream = compile_engine(skip, threads=2).stream()
    before = None
    for time, frames in enumerate(clip):
        _, states = masks.run(*frames, *states, torch.tensor(time == 0))
        stream(*frames)
        active = stream.active()
        if before is not None:
            moved = (frames[0] != before).any(1)[0].numpy()
            assert np.array_equal(active["0 gate"], moved)
            assert 0 < moved.mean() < 1
            for name in ("0", "2"):
                assert np.array_equal(active[name], masks.found[name]), f"{name} at frame {time}"
        before = frames[0]


class _Masks(fx.Interpreter):
    """Keeps the masks of gates by layer."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.found: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is ops.fires:
            self.found[g.record(n).layer] = result[0, 0].numpy()
        return result


@pytest.mark.parametrize("block", [1, 4])
def test_gates_that_are_open_without_a_change(block: Any) -> None:
    """What shuts them is a change; a block that was open and is still has nothing new to compute."""
    skip = transform(BLOCKS, CLIP[0], gate=Gumbel(block=block))
    parameters = dict(skip.graph_module.named_parameters())
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(sorted(parameters.items())):
            if "gate_weight" in name:
                parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(seed)) - 0.7)
            elif "gate_bias" in name:
                parameter.fill_(0.3)
    stream = compile_engine(skip, threads=2, dense_above=1.0).stream()
    for time, (frames, expected) in enumerate(zip(CLIP, reference(skip, CLIP), strict=True)):
        assert_close(flat(stream(*frames)), expected, f"at frame {time}")
        shares = stream.stats.layers
    assert any(0 < share < 1 for name, share in shares.items() if "gate" not in name)


def test_untrained_gates_are_the_dense_model() -> None:
    for gate in (Gumbel(), DynConv(target=0.5)):
        stream = compile_engine(transform(BLOCKS, CLIP[0], gate=gate), threads=1).stream()
        for frames in CLIP:
            assert_close(flat(stream(*frames)), [leaf.detach().numpy() for leaf in BLOCKS(*frames)])


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(samples(), st.sampled_from(GATES))
def test_random_networks(sample: Sample, chosen: tuple[Gate, Any]) -> None:
    gate, block = chosen
    try:
        skip = transform(sample.model, sample.clip[0], gate=gate, block=block)
    except NothingToTransform:
        return
    if isinstance(gate, LEARNED):
        learned(skip, sample.clip)
    assume(margin(skip.graph_module, sample.clip) > SAFE)
    stream = compile_engine(skip, threads=2, dense_above=1.0).stream()
    for time, (frames, expected) in enumerate(zip(sample.clip, reference(skip, sample.clip), strict=True)):
        assert_close(flat(stream(*frames)), expected, f"at frame {time}")


@pytest.mark.parametrize(
    "gate, options, message",
    [
        (Hold(), {"block": 4}, "hold gates with blocks"),
        (Hold(), {"update": "residual"}, "residual sums"),
        (InputNorm(eps=0.1, p=2), {}, "norm gates with p=2"),
        (Gumbel(reference="previous"), {}, "stem: its gate is open where nothing changed"),
    ],
)
def test_what_the_engine_does_not_run_is_refused(gate: Gate, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        lower(transform(BLOCKS, CLIP[0], gate=gate, **options).graph_module)
