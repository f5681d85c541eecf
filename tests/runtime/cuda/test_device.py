"""What can go wrong with a GPU is named and leaves nothing behind, and long runs take no memory."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from skipfx.build import compile_engine
from skipfx.errors import DeviceError, FrameError, UsageError
from skipfx.model import SkipModel
from skipfx.runtime import Engine
from skipfx.runtime.gpu.driver import fits
from skipfx.transformation import transform
from tests.networks import seeded
from tests.runtime.check import EXACT, assert_same, changing
from tests.runtime.cuda.conftest import Place
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.test_step import outputs

CLIP = changing((3, 9, 10))


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    return transform(seeded(net), CLIP[0], gate=EXACT)


def on(driver: LoopDriver, skip: SkipModel) -> Engine:
    """An engine whose device is open already."""
    with loops(driver):
        engine = compile_engine(skip, target="cuda:sm_80", dense_above=1.0)
        assert engine.device
    return engine


def test_a_gpu_that_is_too_old_is_refused(skip: SkipModel) -> None:
    class Old(LoopDriver):
        def runs(self, level: str) -> bool:
            return fits((7, 5), level)

    driver = Old()
    with loops(driver):
        engine = compile_engine(skip, target="cuda:sm_80")
        with pytest.raises(DeviceError, match=r"does not run code for sm_80: compile for its own architecture"):
            engine.stream()
        with pytest.raises(DeviceError, match="does not run code for sm_80"):
            engine.lanes(2)
    assert not driver.memory


def test_lanes_that_do_not_fit_give_back_what_they_took(skip: SkipModel) -> None:
    driver = LoopDriver()
    engine = on(driver, skip)
    shared = len(driver.memory)
    lanes = engine.lanes(1)
    driver.room = 2 * sum(size for _, _, size in driver.memory.values())
    with pytest.raises(DeviceError, match="out of memory"):
        engine.lanes(50)
    lanes(CLIP[0][0])
    del lanes
    assert len(driver.memory) == shared
    engine.lanes(1)(CLIP[0][0])


def test_no_room_for_outputs_that_are_all_held_changes_nothing(skip: SkipModel) -> None:
    driver = LoopDriver()
    engine = on(driver, skip)
    lanes, undisturbed = engine.lanes(2), engine.lanes(2)
    frames = [torch.cat([clip[0], clip[0] + 1]) for clip in CLIP]
    held = [lanes(frame) for frame in frames[:2]]
    expected = [undisturbed(frame).clone() for frame in frames[:4]]
    driver.room = 0
    with pytest.raises(DeviceError, match="out of memory"):
        lanes(frames[2])
    assert torch.equal(held[1], expected[1])
    del held[0]
    assert all(torch.equal(lanes(frames[time]), expected[time]) for time in (2, 3))


def test_a_stream_serves_one_thread_at_a_time(skip: SkipModel) -> None:
    """While a step of one thread waits for the device, another thread is refused; the first is not disturbed."""
    waits, goes_on = threading.Event(), threading.Event()

    class Slow(LoopDriver):
        def wait_for(self, replay: Callable[[int], None], queue: int) -> None:
            waits.set()
            assert goes_on.wait(60)
            replay(queue)

        def record(self, work: Callable[[int], None]) -> Callable[[int], None]:
            replay = super().record(work)
            return lambda queue: self.wait_for(replay, queue)

    stream, alone = on(Slow(), skip).stream(), on(LoopDriver(), skip).stream()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(stream(CLIP[0][0]).clone()))
    thread.start()
    assert waits.wait(60)
    with pytest.raises(UsageError, match="another thread"):
        stream(CLIP[1][0])
    goes_on.set()
    thread.join()
    assert torch.equal(found[0], alone(CLIP[0][0]))
    assert torch.equal(stream(CLIP[2][0]), alone(CLIP[2][0]))


def test_lanes_refuse_frames_of_another_device(skip: SkipModel) -> None:
    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 1)

    lanes = on(LoopDriver(), skip).lanes(2)
    with pytest.raises(FrameError, match=r"device \(1, 0\).* got \(2, 1\)"):
        lanes(Elsewhere())
    with pytest.raises(FrameError, match=r"expected a frame of shape \[2, 3, 9, 10\]"):
        lanes(CLIP[0][0])


@pytest.fixture
def taken(device: Place, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Addresses of what was allocated on the device since, and is not yet given back."""
    found: set[int] = set()
    allocate, free = device.driver.allocate, device.driver.free

    def allocated(size: int) -> int:
        address = allocate(size)
        found.add(address)
        return address

    def freed(address: int) -> None:
        found.discard(address)
        free(address)

    monkeypatch.setattr(device.driver, "allocate", allocated)
    monkeypatch.setattr(device.driver, "free", freed)
    return found


def many(device: Place, count: int) -> int:
    """So many on a GPU, and a few where its threads are loops."""
    return 10 if isinstance(device.driver, LoopDriver) else count


def test_a_long_run_takes_no_memory_and_does_not_drift(device: Place, skip: SkipModel, taken: set[int]) -> None:
    """1,000 frames of a stream equal, bit for bit, those of one that is refreshed on every frame."""
    engine = device.engine(skip)
    stream, refreshed = engine.stream(), engine.stream(refresh_every=1)
    for time in range(many(device, 1000)):
        frames = CLIP[time * 5 % len(CLIP)]
        assert_same(outputs(device, stream, frames), outputs(device, refreshed, frames), f"at frame {time}")
        if time == 4:
            before = set(taken)
    assert taken == before


def test_resets_and_new_streams_take_no_memory(device: Place, skip: SkipModel, taken: set[int]) -> None:
    engine = device.engine(skip)
    stream = engine.stream()
    first = outputs(device, stream, CLIP[0])
    before = set(taken)
    for time in range(many(device, 3000)):
        outputs(device, stream, CLIP[1 + time % (len(CLIP) - 1)])
        stream.reset()
        assert_same(outputs(device, stream, CLIP[0]), first, f"after reset {time}")
        assert_same(outputs(device, engine.stream(), CLIP[0]), first, f"of new stream {time}")
    assert taken == before
