"""The scenes are reproducible and hold the events that the demonstration is about."""

from itertools import pairwise

import numpy as np
import pytest

from skipfx.demo.scene import CLASSES, PERIOD, VEHICLE, WALKER, Scene, training_batch

SCENE = Scene(seed=3)
EMPTY = range(170, 210)


def changed_share(previous: np.ndarray, frame: np.ndarray) -> float:
    return float((abs(frame.astype(int) - previous).max(axis=-1) > 12).mean())


def test_shapes_and_types() -> None:
    frame, mask = Scene(height=96, width=160).frame(40)
    assert (frame.shape, mask.shape) == ((96, 160, 3), (96, 160))
    assert frame.dtype == mask.dtype == np.uint8


def test_frames_do_not_depend_on_the_order_of_access() -> None:
    scene = Scene(height=96, width=160, seed=5)
    backwards = [scene.frame(index) for index in reversed(range(6))][::-1]
    for (frame, mask), (other_frame, other_mask) in zip(scene.clip(6), backwards, strict=True):
        np.testing.assert_array_equal(frame, other_frame)
        np.testing.assert_array_equal(mask, other_mask)


def test_seeds_and_periods_differ() -> None:
    small = {"height": 96, "width": 160}
    assert (Scene(**small, seed=1).frame(0)[0] != Scene(**small, seed=2).frame(0)[0]).mean() > 0.5
    assert (Scene(**small).frame(40)[1] != Scene(**small).frame(40 + PERIOD)[1]).any()


def test_first_frame_and_busy_stretch_show_objects() -> None:
    assert any(Scene(seed=seed).frame(0)[1].any() for seed in range(4))
    assert set(np.unique(SCENE.frame(60)[1])) == set(range(len(CLASSES)))


def test_mask_marks_what_differs_from_the_background() -> None:
    background = SCENE.frame(EMPTY[0])[0].astype(int)
    frame, mask = SCENE.frame(60)
    differs = abs(frame - background).max(axis=-1) > 12
    assert differs[mask == 0].mean() < 0.01
    assert differs[mask == WALKER].mean() > 0.8
    assert differs[mask == VEHICLE].mean() > 0.8


def test_every_object_stops_and_still_counts() -> None:
    columns: dict[int, list[float]] = {}
    for index in range(PERIOD - 24):
        for figure, x in SCENE.figures(index):
            columns.setdefault(id(figure), []).append(x)
    assert len(columns) >= SCENE.walkers + SCENE.vehicles
    still = [sum(a == b for a, b in pairwise(way)) for way in columns.values() if len(way) > 60]
    assert len(still) == SCENE.walkers + SCENE.vehicles
    assert min(still) >= 10
    index = next(i for i in range(60, 120) if SCENE.figures(i) == SCENE.figures(i + 1))
    assert SCENE.frame(index)[1].any()
    assert changed_share(SCENE.frame(index)[0], SCENE.frame(index + 1)[0]) < 1e-4


def test_empty_stretch_holds_only_noise() -> None:
    frames = [SCENE.frame(index) for index in EMPTY[::4]]
    assert not any(mask.any() for _, mask in frames)
    pictures = np.stack([frame for frame, _ in frames]).astype(float)
    assert pictures.std(axis=0, ddof=1).mean() == pytest.approx(SCENE.noise, rel=0.1)
    assert max(changed_share(a, b) for a, b in pairwise(pictures)) < 1e-4


def test_moving_objects_change_a_small_part() -> None:
    shares = [changed_share(SCENE.frame(index)[0], SCENE.frame(index + 1)[0]) for index in range(20, 50, 5)]
    assert 0.01 < np.mean(shares) < 0.15


def test_light_dims_and_recovers() -> None:
    lights = [SCENE.light(index) for index in range(PERIOD)]
    assert (lights[0], min(lights), lights[EMPTY[0]]) == (1, 1 - SCENE.dimming, 1)
    index = lights.index(min(lights))
    full, dim = (Scene(seed=3, walkers=0, vehicles=0, dimming=share).frame(index)[0] for share in (0, SCENE.dimming))
    assert dim.mean() / full.mean() == pytest.approx(1 - SCENE.dimming, abs=0.01)


def test_training_batch() -> None:
    frames, masks = training_batch(np.random.default_rng(0), 5, 64, 80)
    again, _ = training_batch(np.random.default_rng(0), 5, 64, 80)
    assert (frames.shape, masks.shape) == ((5, 64, 80, 3), (5, 64, 80))
    assert masks.max() < len(CLASSES)
    np.testing.assert_array_equal(frames, again)
    with pytest.raises(ValueError, match="do not fit"):
        training_batch(np.random.default_rng(0), 1, 400, 80)
