"""Synthetic scenes as a fixed camera sees them: walkers and vehicles before a cluttered background.

Places are in pixels from the top left, times in frames, grey values in 0..255. A scene repeats a script of `PERIOD`
frames, each time with new objects: they enter, move, stop for a while, go on and leave; meanwhile the light dims and
recovers; then nothing is there until the next ones enter.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASSES = ("background", "walker", "vehicle")
WALKER, VEHICLE = 1, 2
PERIOD = 240
TRAINING_SEED = 1 << 20
"""Scenes for training have seeds from here on; every smaller seed is free for demonstration and tests."""

# Frame 0 is script time _LEAD, so that the first frame already shows something.
_LEAD, _LAST_ENTRY, _LAST_EXIT = 24, 50, 190
_LIGHT_TIMES = (120, 132, 150, 180)
_BACKGROUND_STREAM, _CAST_STREAM, _NOISE_STREAM = 0, 1, 2

Colour = tuple[float, ...]
Canvas = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Part(NamedTuple):
    """A painted ellipse or box: centre, radii, stripes and swing (sideways, with the stride) in figure sizes."""

    disc: bool
    x: float
    y: float
    rx: float
    ry: float
    colour: Colour
    stripes: float = 0.0
    swing: float = 0.0


@dataclass(frozen=True)
class Figure:
    """A thing of class `label` and height `size` whose foot is at (x, y); `times` and `xs` are its way, if it moves."""

    label: int
    parts: tuple[Part, ...]
    size: float
    y: float
    xs: tuple[float, ...]
    times: tuple[float, ...] = (0.0,)

    def x(self, time: float) -> float:
        """Column of the foot's centre, in pixels, at a time of the script."""
        return float(np.interp(time, self.times, self.xs))


@dataclass(frozen=True)
class Scene:
    """A scene of a fixed camera; equal fields give equal frames, in whatever order they are asked for.

    Attributes:
        height: Rows of the picture; walkers are about 0.3 of it tall, vehicles 0.2.
        width: Columns of the picture.
        seed: Which scene; not negative.
        walkers: Walkers in each period.
        vehicles: Vehicles in each period.
        noise: Standard deviation of the sensor's noise, in grey values of 255.
        dimming: Share of the light that goes when it dims.
    """

    height: int = 288
    width: int = 512
    seed: int = 0
    walkers: int = 5
    vehicles: int = 2
    noise: float = 1.5
    dimming: float = 0.07

    def figures(self, index: int) -> tuple[tuple[Figure, float], ...]:
        """The objects of frame `index` and their columns, the farthest first; some may be just outside the picture."""
        cycle, time = divmod(index + _LEAD, PERIOD)
        return tuple((who, who.x(time)) for who in _cast(self, cycle) if who.times[0] <= time < who.times[-1])

    def light(self, index: int) -> float:
        """The share of the full light in frame `index`."""
        time = (index + _LEAD) % PERIOD
        return 1 - self.dimming * float(np.interp(time, _LIGHT_TIMES, (0, 1, 1, 0)))

    def frame(self, index: int) -> tuple[Bytes, Bytes]:
        """Render frame `index`, counted from 0 without end.

        Returns:
            The picture, uint8 [height, width, 3] in RGB, and the true class of every pixel, uint8 [height, width], an
            index into `CLASSES`.
        """
        canvas = _background(self.seed, self.height, self.width).copy()
        mask = np.zeros((self.height, self.width), np.uint8)
        for figure, x in self.figures(index):
            _paint(canvas, mask, figure, x)
        rng = np.random.default_rng([self.seed, _NOISE_STREAM, index])
        canvas *= self.light(index)
        canvas += self.noise * rng.standard_normal(canvas.shape, dtype=np.float32)
        return np.rint(canvas).clip(0, 255).astype(np.uint8), mask

    def clip(self, frames: int = PERIOD) -> Iterator[tuple[Bytes, Bytes]]:
        """Yield the first `frames` frames as `frame` returns them."""
        return map(self.frame, range(frames))


def training_batch(rng: np.random.Generator, size: int, height: int, width: int) -> tuple[Bytes, Bytes]:
    """Cut `size` crops out of random frames of random scenes whose seeds start at `TRAINING_SEED`.

    Returns:
        The pictures, uint8 [size, height, width, 3], and the true classes, uint8 [size, height, width].

    Raises:
        ValueError: The crops are larger than a default scene.
    """
    if height > Scene.height or width > Scene.width:
        raise ValueError(f"crops of {height}x{width} do not fit in scenes of {Scene.height}x{Scene.width}")
    frames = np.empty((size, height, width, 3), np.uint8)
    masks = np.empty((size, height, width), np.uint8)
    for item in range(size):
        # A background costs more than a frame, so two crops share one.
        if item % 2 == 0:
            scene = Scene(seed=int(rng.integers(TRAINING_SEED, 1 << 31)), noise=float(rng.uniform(1, 3)), dimming=0.2)
        frame, mask = scene.frame(int(rng.integers(_LAST_EXIT - _LEAD)))
        top, left = rng.integers(scene.height - height + 1), rng.integers(scene.width - width + 1)
        window = slice(top, top + height), slice(left, left + width)
        frames[item], masks[item] = frame[window], mask[window]
    return frames, masks


def _paint(canvas: Canvas, mask: Bytes, figure: Figure, foot: float) -> None:
    size, sway = figure.size, math.sin(4 * foot / figure.size)
    for part in figure.parts:
        x, y = foot + size * (part.x + part.swing * sway), figure.y - size * part.y
        rx, ry = size * part.rx, size * part.ry
        rows = np.arange(max(0, int(y - ry - 1)), min(mask.shape[0], int(y + ry + 2)))
        columns = np.arange(max(0, int(x - rx - 1)), min(mask.shape[1], int(x + rx + 2)))
        if not (rows.size and columns.size):
            continue
        dy, dx = np.float32(rows[:, None] - y), np.float32(columns - x)
        beyond = (np.hypot(dx / rx, dy / ry) - 1) * min(rx, ry) if part.disc else np.maximum(abs(dx) - rx, abs(dy) - ry)
        # Partial cover at the rim lets objects move by less than a pixel, as in a real picture.
        cover = np.clip(0.5 - beyond, 0, 1)
        shade = 1 + 0.35 * np.sin(2 * math.pi * part.stripes / size * (dx + dy))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        canvas[window] += cover[..., None] * (shade[..., None] * np.array(part.colour, np.float32) - canvas[window])
        mask[window][cover > 0.5] = figure.label


def _colour(rng: np.random.Generator, low: float, high: float, tint: float = 0.8) -> Colour:
    grey = rng.uniform(low, high)
    return tuple(grey + tint * (rng.uniform(low, high, 3) - grey))


def _walker(rng: np.random.Generator) -> tuple[Part, ...]:
    coat, trousers, shoes = _colour(rng, 20, 235), _colour(rng, 15, 110), _colour(rng, 10, 60)
    tone = rng.uniform(0.45, 1)
    legs = [Part(False, s * 0.07, 0.25, 0.05, 0.23, trousers, swing=s * 0.06) for s in (-1, 1)]
    feet = [Part(True, s * 0.09, 0.03, 0.08, 0.03, shoes, swing=s * 0.07) for s in (-1, 1)]
    arms = [Part(False, s * 0.165, 0.62, 0.035, 0.17, coat, swing=-s * 0.03) for s in (-1, 1)]
    body = Part(False, 0, 0.64, 0.13, 0.19, coat, rng.choice([0, 6, 12]))
    head = Part(True, 0, 0.905, 0.075, 0.09, (235 * tone, 185 * tone, 150 * tone))
    return (*legs, *feet, *arms, body, head, Part(True, 0, 0.96, 0.075, 0.045, shoes))


def _vehicle(rng: np.random.Generator) -> tuple[Part, ...]:
    paint, tyre, hub = _colour(rng, 40, 235), (22, 22, 24), (185, 185, 190)
    cabin = Part(False, 0, 0.78, 0.72, 0.22, paint)
    windows = [Part(False, s * 0.34, 0.78, 0.29, 0.15, (45, 65, 85), 3) for s in (-1, 1)]
    shell = Part(False, 0, 0.4, 1.2, 0.24, paint, rng.choice([0, 2, 4]))
    doors = [Part(False, x, 0.44, 0.012, 0.2, tyre) for x in (-0.68, 0, 0.68)]
    lamps = [Part(True, s * 1.12, 0.48, 0.07, 0.07, c) for s, c in ((-1, (240, 60, 50)), (1, (250, 240, 190)))]
    wheels = [Part(True, s * 0.75, 0.2, r, r, c) for s in (-1, 1) for r, c in ((0.21, tyre), (0.11, hub))]
    return (cabin, *windows, shell, *doors, *lamps, *wheels)


def _clutter(rng: np.random.Generator) -> tuple[Part, ...]:
    """Things that share colours and shapes with the objects without being one."""
    first, second, stripes = _colour(rng, 20, 235), _colour(rng, 15, 110), rng.choice([0, 6, 12])
    sign = (Part(False, 0, 0.45, 0.025, 0.45, second), Part(True, 0, 0.9, 0.11, 0.11, first))
    barrel = (Part(False, 0, 0.3, 0.17, 0.3, first, stripes), Part(False, 0, 0.62, 0.19, 0.03, second))
    crate = (Part(False, 0, 0.4, 0.8, 0.4, first, stripes / 2), Part(False, 0, 0.4, 0.75, 0.03, second))
    tyres = tuple(Part(True, 0.45 * i, 0.2, 0.2, 0.2, (25, 25, 28)) for i in range(-1, 2))
    leaves = [(*rng.normal(0, 0.25, 2), rng.uniform(0.12, 0.25), rng.uniform(0.4, 1)) for _ in range(9)]
    bush = tuple(Part(True, x, 0.45 + y, r, r, (70 * g, 120 * g, 50 * g), 9) for x, y, r, g in leaves)
    return (sign, barrel, crate, tyres, bush)[rng.integers(5)]


def _building(rng: np.random.Generator) -> tuple[Part, ...]:
    wall, glass = _colour(rng, 70, 200, 0.3), _colour(rng, 40, 120, 0.3)
    panes = [Part(False, -0.3 + 0.2 * i, 0.2 + 0.2 * j, 0.06, 0.07, glass) for i in range(4) for j in range(4)]
    return (Part(False, 0, 0.5, 0.42, 0.5, wall, 20.0 * rng.integers(2)), *panes)


@functools.lru_cache(maxsize=8)
def _background(seed: int, height: int, width: int) -> Canvas:
    rng = np.random.default_rng([seed, _BACKGROUND_STREAM])
    canvas, unused = np.empty((height, width, 3), np.float32), np.zeros((height, width), np.uint8)
    horizon = int(height * rng.uniform(0.35, 0.5))
    canvas[:horizon], canvas[horizon:] = _colour(rng, 90, 210, 0.3), _colour(rng, 70, 150, 0.2)
    low = horizon + 0.03 * height
    things = [Figure(0, _building(rng), height * rng.uniform(0.4, 0.6), low, (0,)) for _ in range(4)]
    for _ in range(14):
        size, y = height * rng.uniform(0.12, 0.35), rng.uniform(horizon, 1.05 * height)
        things.append(Figure(0, _clutter(rng), size, y, (0,)))
    for thing in things:
        _paint(canvas, unused, thing, rng.uniform(0, width))
    for cells, strength in ((2, 18), (9, 9), (36, 6), (120, 5)):
        canvas += strength * _smooth_noise(rng, height, width, height / cells)
    canvas.setflags(write=False)
    return canvas


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Canvas:
    """Noise [height, width, 3] of unit size, linear between knots that are `cell` pixels apart."""
    pixels, knots = np.arange(max(height, width))[:, None] / cell, np.arange(math.ceil(max(height, width) / cell) + 1)
    tents = np.maximum(0, 1 - abs(pixels - knots))
    # Half of the noise is common to the channels: shade rather than colour.
    grid = rng.standard_normal((3, knots.size, knots.size)) + rng.standard_normal((knots.size, knots.size))
    return (tents[:height] @ grid @ tents[:width].T).transpose(1, 2, 0).astype(np.float32) / np.float32(math.sqrt(2))


@functools.lru_cache(maxsize=8)
def _cast(scene: Scene, cycle: int) -> tuple[Figure, ...]:
    rng = np.random.default_rng([scene.seed, _CAST_STREAM, cycle])
    labels = [WALKER] * scene.walkers + [VEHICLE] * scene.vehicles
    return tuple(sorted((_mover(rng, scene, label) for label in labels), key=lambda figure: figure.y))


def _mover(rng: np.random.Generator, scene: Scene, label: int) -> Figure:
    nearness, walks = rng.uniform(0, 1), label == WALKER
    size = scene.height * (0.25 + 0.12 * nearness if walks else 0.19 + 0.07 * nearness)
    half = size * (0.25 if walks else 1.25)
    ends = (-half, scene.width + half)
    side = int(rng.integers(2))
    stop = scene.width * abs(side - rng.uniform(*((0.15, 0.5) if walks else (0.3, 0.7))))
    xs = (ends[side], stop, stop, ends[side if walks and rng.random() < 0.5 else 1 - side])
    enter, leave = rng.uniform(0, _LAST_ENTRY), rng.uniform(150, _LAST_EXIT)
    halt = enter + (leave - enter) * rng.uniform(0.3, 0.45)
    times = (enter, halt, halt + rng.uniform(20, 45), leave)
    parts = _walker(rng) if walks else _vehicle(rng)
    return Figure(label, parts, size, scene.height * (0.62 + 0.36 * nearness), xs, times)
