"""Maps that leave the caches are stored past them on a refresh, and hold the same bits."""

from typing import Any

import pytest
import torch
import tvm
from torch import Tensor, nn

from skipfx.options import Hold
from skipfx.passes.lower import lower
from skipfx.runtime.assemble import assemble
from skipfx.runtime.image import Alone, Fused, Image
from skipfx.runtime.kernels.modules import modules
from skipfx.runtime.kernels.nontemporal import NAME
from skipfx.runtime.kernels.table import Tile
from skipfx.transformation import transform
from tests.runtime.check import Net, assert_same, changing, compiled, flat, noise

WIDE = (1, 3, 192, 256)  # with 64 channels 12 MB


def body(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.relu(net.stem(x))
    gated = nn.functional.gelu(net.each(nn.functional.silu(net.point(wide))))
    return gated, net.uneven(gated)


def network() -> Net:
    """Kernels in one with their end and not, of all channels and of each, and of channels that are no whole vectors."""
    parts = {
        "stem": nn.Conv2d(3, 32, 3, padding=1),
        "point": nn.Conv2d(32, 64, 1),
        "each": nn.Conv2d(64, 64, 3, padding=1, groups=64),
        "uneven": nn.Conv2d(64, 40, 1),
    }
    return Net(body, **parts).eval()


def image(frame: Tensor) -> Image:
    skip = transform(network(), (frame,), gate=Hold(threshold=0.1))
    return assemble(lower(skip.graph_module), tiles=[Tile(6, 1)])


def past(kernels: tuple[Fused, ...] | tuple[Alone, ...]) -> list[bool]:
    return [kernel.nontemporal for kernel in kernels]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_values_are_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = changing((3, 21, 17))
    _, usual = compiled(network(), clip[0], threads=threads)
    monkeypatch.setattr("skipfx.runtime.ends.VAST", 0)
    _, engine = compiled(network(), clip[0], threads=threads)
    assert set(engine.program.code) != set(usual.program.code)
    stream, expected = engine.stream(refresh_every=3), usual.stream(refresh_every=3)
    for time, frames in enumerate(clip):
        assert_same(flat(stream(*frames)), flat(expected(*frames)), f"at frame {time}")


def test_maps_of_many_megabytes_are_meant() -> None:
    large, small = image(noise(*WIDE)), image(noise(1, 3, 21, 17))
    assert past(large.fused) == [False, False]  # 6 MB; vectors that are not whole
    assert past(large.alone) == [True, True]
    assert not any(past(small.fused) + past(small.alone))


def test_the_store_is_inlined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipfx.runtime.ends.VAST", 0)
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v4"})
    small = image(noise(1, 3, 21, 17))
    made = modules(small)
    kernels = [made[name]() for name in made if name.startswith(("end", "fused"))]
    code = [tvm.compile(kernel, target=target).mod.inspect_source("asm") for kernel in kernels]
    assert not any(NAME in text for text in code)
    stored = ["vmovntps" in text for text in code]
    assert sum(stored) == sum(past(small.fused) + past(small.alone)) == len(code) - 1
