"""Clips through a stream graph: the same as frame by frame, with noise in training alone."""

import pytest
import torch

from skipfx import gate_loss
from skipfx.errors import FrameError, UsageError
from skipfx.options import LEARNED, DynConv, Gate, Gumbel, Hold, InputNorm
from skipfx.training.loss import open_share
from skipfx.transformation import transform
from tests.networks import Branches, Squeeze, TwoFrames, seeded
from tests.training.material import clips, stir

GATES: list[tuple[Gate, float]] = [
    (Gumbel(), -0.5),
    (Gumbel(block=4, reference="previous"), -1.0),
    (DynConv(target=0.5), -0.3),
    (DynConv(target=0.5, hold=Hold(threshold=0.2, input_threshold=0.02)), -0.3),
    (Hold(threshold=0.2, input_threshold=0.02), 0.0),
    (InputNorm(eps=0.05), 0.0),
]


@pytest.mark.parametrize("gate, bias", GATES, ids=str)
@torch.no_grad()
def test_a_clip_is_its_frames_one_by_one(gate: Gate, bias: float) -> None:
    clip = clips(3, 13, 18)
    skip = stir(transform(seeded(Branches()), (clip[0, :1],), gate=gate), bias)
    found, state = skip.forward_clip(clip), skip.init_state(2)
    assert found["map"].shape[:2] == clip.shape[:2]
    for time in range(clip.shape[1]):
        stepped, state = skip(clip[:, time], state)
        torch.testing.assert_close(found["map"][:, time], stepped["map"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["parts"][0][:, time], stepped["parts"][0], rtol=1e-5, atol=1e-5)
    if isinstance(gate, LEARNED):
        assert 0.05 < open_share(skip) < 0.95


@torch.no_grad()
def test_clips_of_models_with_islands_and_several_inputs() -> None:
    clip = clips(3, 9, 11)
    skip = stir(transform(seeded(Squeeze()), (clip[0, :1],), gate=Gumbel()), -0.5)
    found, state = skip.forward_clip(clip), skip.init_state(2)
    for time in range(clip.shape[1]):
        stepped, state = skip(clip[:, time], state)
        torch.testing.assert_close(found[:, time], stepped, rtol=1e-5, atol=1e-5)
    image, depth = clips(3, 8, 10), clips(1, 4, 5)
    two = transform(seeded(TwoFrames()), (image[0, :1], depth[0, :1]), gate=Gumbel())
    total, mean = two.forward_clip(image, depth)
    assert total.shape == (2, 4, 4, 4, 5) and mean.shape == (2, 4)
    torch.testing.assert_close(mean, total.mean((2, 3, 4)))


def test_noise_is_for_training_alone() -> None:
    clip = clips(3, 13, 18)
    skip = stir(transform(seeded(Branches()), (clip[0, :1],), gate=Gumbel()), 0.0)
    still = [skip.forward_clip(clip)["map"] for _ in range(2)]
    skip.train()
    noisy = [skip.forward_clip(clip)["map"] for _ in range(2)]
    assert torch.equal(*still) and not torch.equal(*noisy)
    stepped = [skip(clip[:, 0], skip.init_state(2))[0]["map"] for _ in range(2)]
    assert torch.equal(*stepped)


def test_training_leaves_the_captured_program_alone() -> None:
    clip, model = clips(3, 13, 18), seeded(Branches())
    skip = transform(model, (clip[0, :1],), gate=Gumbel())
    memory = {value.data_ptr() for value in (*model.parameters(), *skip.program.state_dict.values())}
    assert memory.isdisjoint(value.data_ptr() for value in skip.parameters())


def test_wrong_clips_are_refused() -> None:
    clip = clips(3, 13, 18)
    skip = transform(seeded(Branches()), (clip[0, :1],), gate=Gumbel())
    with pytest.raises(UsageError, match="no clip went through the model yet"):
        gate_loss(skip)
    with pytest.raises(FrameError, match="2 or more frames, got 1: a residual needs a frame before it"):
        skip.forward_clip(clip[:, :1])
    with pytest.raises(FrameError, match=r"expected clips \[B, T, C, H, W\].*got \[2, 3, 13, 18\]"):
        skip.forward_clip(clip[:, 0])
    with pytest.raises(FrameError, match=r"x: expected.*\[B, 3, 13, 18\]"):
        skip.forward_clip(clip[..., 1:])
    with pytest.raises(UsageError, match="progress"):
        skip.forward_clip(clip, progress=2.0)
    two = transform(seeded(TwoFrames()), (torch.rand(1, 3, 8, 10), torch.rand(1, 1, 4, 5)), gate=Gumbel())
    with pytest.raises(FrameError, match=r"the same B and T; got \[\[2, 4\], \[2, 3\]\]"):
        two.forward_clip(clips(3, 8, 10), clips(1, 4, 5, length=3))
    with pytest.raises(UsageError, match="a hold gate learns nothing"):
        gate_loss(transform(seeded(Branches()), (clip[0, :1],), gate=Hold()))
    assert skip.spent == ()
