"""Streams: independent, careful with bad frames, and outputs that belong to the caller."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from skipfx.errors import FrameError, OptionError, UsageError
from skipfx.options import Hold
from skipfx.runtime import Engine, Stream
from tests.networks import Branches, moving_clip, seeded
from tests.runtime.check import Net, assert_same, compiled, flat

SHAPE = (3, 13, 18)
CLIP = [frames[0].numpy() for frames in moving_clip(*SHAPE, length=6)]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return compiled(seeded(Branches()), (torch.from_numpy(CLIP[0]),), Hold(threshold=0.1))[1]


def run(stream: Stream, clip: list[Any]) -> list[list[np.ndarray[Any, Any]]]:
    return [flat(stream(frame)) for frame in clip]


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name


def test_streams_share_no_state(engine: Engine) -> None:
    one, other = engine.stream(), engine.stream()
    expected, reverse = run(engine.stream(), CLIP), run(engine.stream(), CLIP[::-1])
    for frame, mirrored, want, want_mirrored in zip(CLIP, CLIP[::-1], expected, reverse, strict=True):
        assert_same(flat(one(frame)), want)
        assert_same(flat(other(mirrored)), want_mirrored)


def test_streams_run_in_threads_at_once(engine: Engine) -> None:
    expected = run(engine.stream(), CLIP * 5)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: run(engine.stream(), CLIP * 5), range(3)):
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)


def test_a_stream_serves_one_thread_at_a_time(engine: Engine) -> None:
    """The second caller is refused while the first is inside; the first, and all that follow, get what is theirs."""
    slow, inside, go_on = Engine(engine.program, threads=1), threading.Event(), threading.Event()
    step = slow.step

    def waiting(*arguments: Any) -> None:
        inside.set()
        assert go_on.wait(60)
        step(*arguments)

    slow.step = waiting
    stream, untouched = slow.stream(), engine.stream()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stream, CLIP[0])
        assert inside.wait(60)
        with pytest.raises(UsageError, match="one stream per camera"):
            stream(CLIP[1])
        go_on.set()
        assert_same(flat(first.result()), flat(untouched(CLIP[0])))
    assert_same(flat(stream(CLIP[2])), flat(untouched(CLIP[2])))


BAD = {
    "shape": (np.zeros((1, 3, 13, 19), np.float32), r"shape \[1, 3, 13, 18\], got \[1, 3, 13, 19\].*compile"),
    "rank": (np.zeros((3, 13, 18), np.float32), "shape"),
    "batch": (np.zeros((2, 3, 13, 18), np.float32), "shape"),
    "dtype": (np.zeros((1, 3, 13, 18), np.float64), "float32 frame, got float64"),
    "bytes": (np.zeros((1, 3, 13, 18), np.uint8), "float32 frame, got uint8"),
    "no array": ("frame.png", "NumPy array or a CPU tensor.*got str"),
    "none": (None, "got NoneType"),
    "list": ([[[[0.0]]]], "got list"),
    "byte order": (np.zeros((1, 3, 13, 18), ">f4"), "float32 frame"),
    "tensor's dtype": (torch.zeros(1, 3, 13, 18, dtype=torch.float64), "float32 frame, got float64"),
    "tensor's shape": (torch.zeros(1, 3, 13), r"shape \[1, 3, 13, 18\], got \[1, 3, 13\]"),
    "tensor of half precision": (torch.zeros(1, 3, 13, 18, dtype=torch.bfloat16), "bfloat16"),
    "tensor elsewhere": (torch.zeros(1, 3, 13, 18, device="meta"), "on the CPU"),
    "tensor with nan": (torch.full((1, 3, 13, 18), torch.nan), "NaN or infinity"),
    "nan": (np.full((1, 3, 13, 18), np.nan, np.float32), "NaN or infinity"),
    "infinity": (np.where(CLIP[1] == CLIP[1].max(), np.inf, CLIP[1]).astype(np.float32), "NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_frame_is_refused_and_leaves_the_stream_as_it_was(engine: Engine, name: str) -> None:
    frame, message = BAD[name]
    stream, untouched = engine.stream(), engine.stream()
    run(stream, CLIP[:2])
    run(untouched, CLIP[:2])
    state, stats = stream.state_dict(), stream.stats
    with pytest.raises(FrameError, match=message):
        stream(frame)
    assert_equal(stream.state_dict(), state)
    assert stream.stats == stats
    for next_frame in CLIP[2:]:
        assert_same(flat(stream(next_frame)), flat(untouched(next_frame)))
        assert stream.stats == untouched.stats


def test_a_bad_first_frame_leaves_the_stream_new(engine: Engine) -> None:
    stream = engine.stream()
    with pytest.raises(FrameError):
        stream(BAD["nan"][0])
    assert_same(flat(stream(CLIP[0])), flat(engine.stream()(CLIP[0])))


def test_the_number_of_frames_is_checked(engine: Engine) -> None:
    with pytest.raises(FrameError, match="expected 1 frames, got 2"):
        engine.stream()(CLIP[0], CLIP[1])
    with pytest.raises(FrameError, match="expected 1 frames, got 0"):
        engine.stream()()


def test_options_are_checked(engine: Engine) -> None:
    with pytest.raises(OptionError, match="refresh_every"):
        engine.stream(refresh_every=0)
    with pytest.raises(OptionError, match="threads"):
        Engine(engine.program, threads=0)


def test_outputs_never_change_under_their_owner(engine: Engine) -> None:
    stream = engine.stream()
    kept, copies = [], []
    for frame in CLIP * 2:
        kept.append(flat(stream(frame)))
        copies.append([leaf.copy() for leaf in kept[-1]])
    for one, other in zip(kept, copies, strict=True):
        assert_same(one, other)


def test_outputs_cannot_be_written_through(engine: Engine) -> None:
    """What a caller does to an output does not reach the next ones."""
    stream, untouched = engine.stream(), engine.stream()
    for frame in CLIP:
        with pytest.raises(ValueError, match="read-only"):
            stream(frame)["map"] *= 2
        untouched(frame)
    for frame in CLIP:
        outputs = stream(torch.from_numpy(frame.copy()))
        assert_same(flat(outputs), flat(untouched(frame)))
        outputs["map"].mul_(2)


def test_outputs_outlive_their_stream(engine: Engine) -> None:
    outputs = engine.stream()(CLIP[0])["map"][0, :, 2:]
    copy = outputs.copy()
    for frame in CLIP:
        engine.stream()(frame)
    assert np.array_equal(outputs, copy)


def test_dropped_outputs_are_written_again(engine: Engine) -> None:
    stream, places = engine.stream(), set()
    for frame in CLIP * 3:
        places.add(flat(stream(frame))[0].ctypes.data)
    assert len(places) <= 2


def test_frames_may_be_tensors_or_arrays_of_any_layout(engine: Engine) -> None:
    frame = CLIP[0]
    read_only = frame.copy()
    read_only.setflags(write=False)
    tensor = torch.from_numpy(frame.copy())
    wide, learning = np.zeros((1, 3, 26, 36), np.float32), tensor.clone().requires_grad_()
    wide[:, :, ::2, ::-2] = frame
    tensors = tensor.contiguous(memory_format=torch.channels_last), tensor.flip(3).flip(3), learning
    expected = flat(engine.stream()(frame))
    for form in (read_only, np.asfortranarray(frame), wide[:, :, ::2, ::-2], tensor, *tensors):
        found = engine.stream()(form)
        assert isinstance(found["map"], type(form))
        assert_same(flat(found), expected)


def test_reset_and_refresh_every(engine: Engine) -> None:
    stream = engine.stream(refresh_every=3)
    refreshed = []
    for frame in CLIP:
        stream(frame)
        refreshed.append(stream.stats.refreshed)
    assert refreshed == [True, False, False, True, False, False]
    stream.reset()
    assert_same(flat(stream(CLIP[0])), flat(engine.stream()(CLIP[0])))


def test_much_change_is_a_refresh() -> None:
    model = seeded(Branches())
    frame = torch.from_numpy(CLIP[0])
    engine = compiled(model, (frame,), Hold(threshold=0.1), dense_above=0.5)[1]
    stream = engine.stream()
    stream(CLIP[0])
    stream(CLIP[1])
    assert not stream.stats.refreshed
    stream(CLIP[1] + np.float32(1))
    assert stream.stats.refreshed and stream.stats.active_fraction == 1


def test_a_state_is_a_value(engine: Engine) -> None:
    stream = engine.stream()
    run(stream, CLIP[:3])
    state = stream.state_dict()
    expected = run(stream, CLIP[3:])
    for other in (engine.stream(), stream, Engine(engine.program, threads=2).stream()):
        other.load_state_dict(state)
        assert_equal(other.state_dict(), state)
        for one, want in zip(run(other, CLIP[3:]), expected, strict=True):
            assert_same(one, want)


def test_a_state_remembers_its_last_refresh(engine: Engine) -> None:
    stream, new = engine.stream(refresh_every=3), engine.stream()
    run(stream, CLIP[:2])
    other = engine.stream(refresh_every=3)
    other.load_state_dict(stream.state_dict())
    refreshed = [(other(frame), other.stats.refreshed)[1] for frame in CLIP[2:]]
    assert refreshed == [False, True, False, False]
    stream.load_state_dict(new.state_dict())
    stream(CLIP[3])
    assert stream.stats.refreshed


def test_a_foreign_state_is_refused(engine: Engine) -> None:
    foreign = compiled(Net(lambda net, x: net.c(x), c=torch.nn.Conv2d(3, 2, 1)), (torch.from_numpy(CLIP[0]),))[1]
    stream, untouched = engine.stream(), engine.stream()
    run(stream, CLIP[:2])
    run(untouched, CLIP[:2])
    with pytest.raises(UsageError, match="does not fit"):
        stream.load_state_dict(foreign.stream().state_dict())
    assert_same(flat(stream(CLIP[2])), flat(untouched(CLIP[2])))


def test_statistics_count_what_was_computed(engine: Engine) -> None:
    stream = engine.stream()
    stream(CLIP[0])
    assert stream.stats.active_macs == stream.stats.total_macs == engine.total_macs > 0
    stream(CLIP[1])
    stats = stream.stats
    assert 0 < stats.active_fraction < 1
    layers = {layer.name: layer for layer in engine.program.layers}
    assert stats.active_macs == round(sum(s * layers[n].macs * layers[n].positions for n, s in stats.layers.items()))
