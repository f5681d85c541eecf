"""What the runtime's tests share: small networks, clips whose changes have a known shape, and the comparison.

The engine and the PyTorch reference sum in different orders, so a norm that lies at its threshold may open a gate in
one and not in the other, and all that follows differs. The tests with thresholds take clips on which no norm lies
within MARGIN of its threshold (`settled`), which is far more than the orders of summation differ by; then every gate
must agree.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from skipfx import ops
from skipfx.build import compile_engine
from skipfx.model import SkipModel
from skipfx.options import Hold
from skipfx.runtime import Engine
from skipfx.testing import zero_states
from skipfx.transformation import transform
from tests.networks import Frames, seeded

Array = NDArray[Any]
EXACT = Hold(threshold=0, input_threshold=0)
TOLERANCE = 1e-5  # of the output's largest value; float32 sums of some hundred terms in another order
MARGIN = 1e-4


class Net(nn.Module):
    """A network written as a function of itself and its frames."""

    def __init__(self, body: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.body = body
        for seed, (name, part) in enumerate(parts.items()):
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, seeded(part, seed))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, *frames: Tensor) -> Any:
        return self.body(self, *frames)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masks(height: int, width: int, seed: int = 0) -> list[Tensor]:
    """Sets of positions: none, one, a corner, the other corner, 5 % at random, a cluster, all, none."""
    generator = torch.Generator().manual_seed(seed)
    none = torch.zeros(height, width, dtype=torch.bool)
    one, first, last, cluster = none.clone(), none.clone(), none.clone(), none.clone()
    one.view(-1)[torch.randint(height * width, (1,), generator=generator)] = True
    first[0, 0] = last[-1, -1] = True
    cluster[height // 3 : height // 3 + 3, width // 2 : width // 2 + 4] = True
    scattered = torch.rand(height, width, generator=generator) < 0.05
    return [none, one, first, last, scattered, cluster, ~none, none]


def changing(*shapes: tuple[int, int, int], seed: int = 0, share: float = 1.0) -> list[Frames]:
    """A clip of which each frame changes at one of the sets of `masks`.

    Args:
        shapes: of the frames.
        seed: of the values.
        share: size of the changes; 1 replaces values altogether.
    """
    clip = [tuple(noise(1, *shape, seed=seed + index) for index, shape in enumerate(shapes))]
    sets = zip(*(masks(*shape[1:], seed=seed + index) for index, shape in enumerate(shapes)), strict=True)
    for time, chosen in enumerate(sets):
        new = [noise(1, *shape, seed=seed + 100 * time + index + 7) for index, shape in enumerate(shapes)]
        moved = [old + share * (fresh - old) for old, fresh in zip(clip[-1], new, strict=True)]
        clip.append(tuple(torch.where(*parts) for parts in zip(chosen, moved, clip[-1], strict=True)))
    return clip


def compiled(
    model: nn.Module, frames: Frames, gate: Hold = EXACT, threads: int = 1, dense_above: float = 1.0, **options: Any
) -> tuple[SkipModel, Engine]:
    """The two that must agree. The reference never refreshes of itself, so neither does the engine by default."""
    skip = transform(model, frames, gate=gate, **options)
    return skip, compile_engine(skip, threads=threads, dense_above=dense_above)


def reference(skip: SkipModel, clip: Iterable[Frames]) -> Iterable[list[Array]]:
    """The outputs of a transformed model, frame by frame, flattened."""
    state = skip.init_state()
    for frames in clip:
        with torch.no_grad():
            outputs, state = skip(*frames, state)
        yield flat(outputs)


def flat(outputs: Any) -> list[Array]:
    """The leaves of some outputs, as arrays."""
    return [np.asarray(leaf) for leaf in pytree.tree_leaves(outputs)]


def assert_close(found: list[Array], expected: list[Array], note: str = "", tolerance: float = TOLERANCE) -> None:
    """The outputs have the same number, shapes, types and, but for the order of sums, values."""
    assert len(found) == len(expected)
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), f"output {index} {note}"
        if not np.issubdtype(one.dtype, np.floating):
            assert np.array_equal(one, other), f"output {index} {note}"
        elif other.size:
            error, largest = np.abs(one - other).max(), np.abs(other).max()
            assert error <= tolerance * max(largest, 1e-3), f"output {index} is off by {error} of {largest} {note}"


def assert_same(found: list[Array], expected: list[Array], note: str = "") -> None:
    """The outputs are equal bit by bit."""
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.tobytes() == other.tobytes(), f"output {index} differs {note}"


def assert_agrees(model: nn.Module, clip: list[Frames], tolerance: float = TOLERANCE, **options: Any) -> Engine:
    """The engine gives what the PyTorch reference gives, frame by frame."""
    skip, engine = compiled(model, clip[0], **options)
    stream = engine.stream()
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        assert_close(flat(stream(*frames)), expected, f"at frame {time}", tolerance)
    return engine


def settled(skip: SkipModel, make: Callable[[int], list[Frames]], tries: int = 30) -> list[Frames]:
    """The first clip of `make(seed)` on which no norm lies within MARGIN of its threshold."""
    for seed in range(tries):
        clip = make(seed)
        if margin(skip.graph_module, clip) > MARGIN:
            return clip
    raise AssertionError(f"none of {tries} clips keeps every norm away from its threshold")


def margin(gm: fx.GraphModule, clip: list[Frames]) -> float:
    """How close any norm of a stream graph comes to its threshold, as a share of it."""
    meter = _Margin(gm)
    states: Any = zero_states(gm)
    with torch.no_grad():
        for time, frames in enumerate(clip):
            meter.active = time > 0
            _, states = meter.run(*frames, *states, torch.tensor(time == 0))
    return meter.smallest


class _Margin(fx.Interpreter):
    """Runs a stream graph; notes how close any norm comes to its threshold, as a share of it."""

    smallest, active = float("inf"), False

    def run_node(self, n: fx.Node) -> Any:
        arguments: Any = self.map_nodes_to_values(n.args, n)
        if n.target is ops.changed and self.active:
            new, old, threshold, norm = arguments
            self._note(ops.distance(new, old, norm), threshold)
        elif n.target is torch.ops.aten.gt.Scalar and self.active:
            self._note(*arguments)
        elif n.target is ops.fires:
            score, bias, _ = arguments
            self._note(score, -bias)
        return super().run_node(n)

    def _note(self, norm: Tensor, threshold: Any) -> None:
        self.smallest = min(self.smallest, float((norm / threshold - 1).abs().min()))
