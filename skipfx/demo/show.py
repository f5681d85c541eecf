"""What `skipfx demo` runs: its network on its scene, dense and as a stream."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from skipfx.bench.compare import WARMUP, Clip
from skipfx.build import compile_engine
from skipfx.capture import capture
from skipfx.demo.network import load_demo_net, mean_iou
from skipfx.demo.scene import Scene
from skipfx.media import Picture, Preprocess
from skipfx.runtime.base_stream import Stats
from skipfx.runtime.engine import Engine
from skipfx.runtime.stream import Stream
from skipfx.transformation import transform

Classes = NDArray[np.uint8]
Tick = Callable[[str, int], object]

MOMENTS = {60: "objects come and go", 106: "the light dims", 216: "nothing is there"}  # of the scene's script


@dataclass(frozen=True)
class Material:
    """What the demonstration works on.

    Attributes:
        clip: the frames of the scene.
        masks: for each frame the true class of every pixel.
        program: the network as it was trained.
        engine: the network, transformed with the default gate and compiled.
    """

    clip: Clip
    masks: tuple[Classes, ...]
    program: ExportedProgram
    engine: Engine


@dataclass(frozen=True)
class Seen:
    """What was seen of the scene, and what it took.

    Attributes:
        dense_iou, stream_iou: mean intersection over union with the true masks, over the whole clip.
        stats: for each frame what it cost the stream.
    """

    dense_iou: float
    stream_iou: float
    stats: tuple[Stats, ...]

    @property
    def active_fraction(self) -> float:
        """Mean share of the multiply-accumulates that were done, over the frames that count."""
        return float(np.mean([stats.active_fraction for stats in self.stats[WARMUP:]]))


@dataclass(frozen=True)
class Moment:
    """A frame to be drawn.

    Attributes:
        title: what happens.
        picture: what the camera sees.
        work: for each pixel, the share of its multiply-accumulates that were done.
        classes: what the stream sees.
    """

    title: str
    picture: Picture
    work: NDArray[np.float64]
    classes: Classes


def prepare(frames: int, threads: int | None) -> Material:
    """Renders the scene and makes the network ready."""
    pictures, masks = zip(*Scene().clip(frames), strict=True)
    clip = Clip(pictures, Preprocess())
    example = (torch.from_numpy(clip[0][0]),)
    program = capture(load_demo_net(), example)
    return Material(clip, masks, program, compile_engine(transform(program, example), threads=threads))


def watch(material: Material, tick: Tick) -> Seen:
    """Runs the clip through the dense network in PyTorch, then through a stream, and compares both with the truth."""
    dense, by_stream, stats = [], [], []
    for classes in _dense(material):
        dense.append(classes)
        tick("dense network", 1)
    stream = material.engine.stream()
    for (frame,) in material.clip:
        by_stream.append(_classes(stream(frame)))
        stats.append(stream.stats)
        tick("stream", 1)
    truth = np.stack(material.masks)
    return Seen(mean_iou(np.stack(dense), truth), mean_iou(np.stack(by_stream), truth), tuple(stats))


def _dense(material: Material) -> Iterator[Classes]:
    """What the dense network sees. On one thread: more would wait for each other where other programs run."""
    network, threads = material.program.module(check_guards=False), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for (frame,) in material.clip:
            with torch.inference_mode():
                classes = _classes(network(torch.from_numpy(frame)).numpy())
            yield classes
    finally:
        torch.set_num_threads(threads)


def moments(material: Material) -> Iterator[Moment]:
    """The frames of `MOMENTS` that the clip has, else its last one."""
    last = len(material.clip) - 1
    wanted = {index: title for index, title in MOMENTS.items() if index <= last} or {last: "the last frame"}
    stream = material.engine.stream()
    for index, (frame,) in enumerate(material.clip[: max(wanted) + 1]):
        classes = _classes(stream(frame))
        if index in wanted:
            picture = material.clip.pictures[index]
            yield Moment(f"frame {index}: {wanted[index]}", picture, work(stream, classes.shape), classes)


def work(stream: Stream, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """What the last frame cost, where: the active positions of all layers, each weighed with its share of the MACs."""
    found = np.zeros(shape)
    active = stream.active()
    for layer in stream.engine.program.layers:
        rows, columns = (np.arange(n) * m // n for n, m in zip(shape, (layer.height, layer.width), strict=True))
        share = layer.macs * layer.positions / stream.engine.total_macs
        found += share * active[layer.name][np.ix_(rows, columns)]
    return found


def _classes(logits: NDArray[np.float32]) -> Classes:
    return np.asarray(logits[0].argmax(0), np.uint8)
