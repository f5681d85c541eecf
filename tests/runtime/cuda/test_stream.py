"""Streams on a GPU: careful with bad frames and full memory, and outputs that belong to the caller."""

from typing import Any

import numpy as np
import pytest
import torch

from skipfx.build import compile_engine
from skipfx.errors import DeviceError, FrameError, UsageError
from skipfx.model import SkipModel
from skipfx.options import Hold
from skipfx.runtime import Engine
from skipfx.runtime.gpu.memory import DeviceArray
from skipfx.transformation import transform
from tests.runtime.check import assert_same, flat
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.network import Geometry, network
from tests.runtime.cuda.test_step import outputs

CLIP = Geometry().clip(share=0.3)


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    return transform(network(Geometry()), CLIP[0], gate=Hold(threshold=0.05))


def on(driver: LoopDriver, skip: SkipModel) -> Engine:
    """An engine for a driver; its device is opened by the first stream."""
    with loops(driver):
        engine = compile_engine(skip, target="cuda", dense_above=1.0)
        assert engine.device
    return engine


def test_a_bad_frame_changes_nothing(device: Place, skip: SkipModel) -> None:
    engine = device.engine(skip)
    stream, undisturbed = engine.stream(), engine.stream()
    for bad in (float("nan"), float("inf")):
        for frames in CLIP[:4]:
            spoilt = frames[0].clone()
            spoilt[0, 1, 3, 2] = bad
            with pytest.raises(FrameError, match="NaN or infinity"):
                stream(device.frame(spoilt))
            assert_same(outputs(device, stream, frames), outputs(device, undisturbed, frames))
    assert stream.stats == undisturbed.stats


def test_streams_refresh_reset_and_go_back(device: Place, skip: SkipModel) -> None:
    engine = device.engine(skip)
    stream, regular = engine.stream(), engine.stream(refresh_every=2)
    first = outputs(device, stream, CLIP[0])
    snapshot = stream.state_dict()
    expected = [outputs(device, stream, frames) for frames in CLIP[1:4]]
    stream.load_state_dict(snapshot)
    for frames, wanted in zip(CLIP[1:4], expected, strict=True):
        assert_same(outputs(device, stream, frames), wanted)
    stream.reset()
    assert_same(outputs(device, stream, CLIP[0]), first)
    refreshed = []
    for frames in CLIP[:4]:
        outputs(device, regular, frames)
        refreshed.append(regular.stats.refreshed)
    assert refreshed == [True, False, True, False]
    with pytest.raises(UsageError, match="does not fit"):
        stream.load_state_dict({"a": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (lambda frame: frame[:, :2], "shape"),
        (lambda frame: frame.double(), "contiguous float32"),
        (lambda frame: frame.transpose(2, 3).contiguous().transpose(2, 3), "contiguous float32"),
        (lambda frame: [1.0], "device .* got list"),
    ],
)
def test_a_frame_that_does_not_fit_is_named(skip: SkipModel, frame: Any, words: str) -> None:
    stream = on(LoopDriver(), skip).stream()
    with pytest.raises(FrameError, match=words):
        stream(frame(CLIP[0][0]))
    with pytest.raises(FrameError, match="expected 1 frames, got 2"):
        stream(CLIP[0][0], CLIP[0][0])


def test_a_frame_elsewhere_is_refused(skip: SkipModel) -> None:
    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 1)

    with pytest.raises(FrameError, match=r"device \(1, 0\).* got \(2, 1\)"):
        on(LoopDriver(), skip).stream()(Elsewhere())


def test_full_memory_is_an_error_that_frees_what_was_taken(skip: SkipModel) -> None:
    driver = LoopDriver()
    engine = on(driver, skip)
    shared = len(driver.memory)
    stream = engine.stream()
    each = sum(size for _, _, size in driver.memory.values())
    driver.room = each + each // 2
    with pytest.raises(DeviceError, match="out of memory"):
        engine.stream()
    flat(stream(CLIP[0][0]))
    del stream
    assert len(driver.memory) == shared
    flat(engine.stream()(CLIP[0][0]))


def test_outputs_are_the_callers_without_a_copy(skip: SkipModel) -> None:
    """Results stay as they were while somebody holds them, in the caller's own library, and lie in device memory."""
    driver = LoopDriver()
    stream = on(driver, skip).stream()
    held, copies = [], []
    for frames in CLIP:
        held.append(stream(frames[0]))
        copies.append([leaf.clone() for leaf in held[-1]])
        assert all(isinstance(leaf, torch.Tensor) for leaf in held[-1])
        addresses = [leaf.data_ptr() for leaf in held[-1]]
        inside = [any(start <= at < start + size for start, (_, _, size) in driver.memory.items()) for at in addresses]
        assert all(inside)
    for leaves, copied in zip(held, copies, strict=True):
        assert all(torch.equal(leaf, copy) for leaf, copy in zip(leaves, copied, strict=True))
    count = len(driver.memory)
    del held, leaves
    for frames in CLIP * 2:
        stream(frames[0].numpy())
    assert len(driver.memory) <= count, "memory is taken for every frame"


def test_an_output_that_nobody_takes_is_let_go() -> None:
    driver = LoopDriver()
    array = DeviceArray(driver, (3, 4), np.float32)
    capsule = array.__dlpack__()
    del array
    assert len(driver.memory) == 1
    del capsule
    assert not driver.memory
    taken = np.from_dlpack(DeviceArray.copied(driver, np.arange(6, dtype=np.float32).reshape(2, 3)))
    assert np.array_equal(taken, [[0, 1, 2], [3, 4, 5]])
    del taken
    assert not driver.memory


def test_a_step_is_recorded_once(skip: SkipModel) -> None:
    """The host launches nothing after the first frame, wherever frames and outputs lie."""
    driver = LoopDriver()
    stream = on(driver, skip).stream()
    stream(CLIP[0][0])
    launched = list(driver.launched)
    for frames in CLIP[1:]:
        stream(frames[0].clone())
    assert driver.launched == launched
    assert launched[:6] == ["compare", "clear", "begin", "dilate", "decide", "commit"]
