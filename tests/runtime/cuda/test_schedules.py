"""The shipped schedules of convolutions: what they become, and that they fit."""

import re
from typing import Any

import pytest
from torch import nn

from skipfx.errors import CompileError
from skipfx.model import SkipModel
from skipfx.passes.lower import lower
from skipfx.runtime.assemble import assemble
from skipfx.runtime.backends import cuda as backend
from skipfx.runtime.gpu.launches import kernel_name
from skipfx.runtime.kernels.cuda.module import Kernels, cuda_module, schedules
from skipfx.runtime.kernels.cuda.tuned import shipped
from skipfx.runtime.kernels.table import CHUNK, LANES, POSITIONS, PRECISIONS, Core, Tile, chunk_words, shape_class
from skipfx.transformation import transform
from tests.networks import seeded
from tests.runtime.check import EXACT, changing

CLASSES = [f"{width} {size}" for width in ("narrow", "wide") for size in ("small", "large")]
PRODUCTS = {
    ("fp16", "sm_75"): ("m16n8k8.row.col.f32.f16.f16.f32", 2),  # instruction, and how often per 16 channels
    ("fp16", "sm_80"): ("m16n8k16.row.col.f32.f16.f16.f32", 1),
    ("bf16", "sm_80"): ("m16n8k16.row.col.f32.bf16.bf16.f32", 1),
    ("tf32", "sm_80"): ("m16n8k8.row.col.f32.tf32.tf32.f32", 2),
}


@pytest.fixture(scope="module")
def skip() -> SkipModel:
    return transform(seeded(nn.Conv2d(3, 8, 3)), changing((3, 7, 9))[0], gate=EXACT)


def of_classes(skip: SkipModel, precision: Any, classes: list[str] = CLASSES) -> Kernels:
    """A convolution of each class of shapes, with the first end of a network."""
    image = assemble(lower(skip.graph_module), tiles=backend.tiles_cuda("cuda", precision))
    cores = tuple((Core.CONV, Tile(POSITIONS, 1, precision, shape)) for shape in classes)
    return Kernels((), tuple((number, 0) for number in range(len(cores))), cores, image.epilogues, (), shipped())


@pytest.mark.parametrize(("precision", "architecture"), PRODUCTS)
def test_schedules_become_device_code(skip: SkipModel, precision: Any, architecture: str) -> None:
    """The shipped schedules of an architecture: products, copies, barriers and shared memory are those of the tile."""
    kernels = of_classes(skip, precision, ["narrow small", "wide large"])
    text = backend.source(cuda_module(kernels, architecture))
    head, *parts = re.split(r'extern "C" __global__ void [^;{]*? (compute_\w+)\([^;{]*\) {', text)
    bodies = dict(zip(parts[::2], parts[1::2], strict=True))
    name, steps = PRODUCTS[precision, architecture]
    assert ("cp.async.cg.shared.global" in head) is ("cp_async" in text) is (architecture != "sm_75")
    for number, cut in enumerate(schedules(kernels, architecture)):
        body = bodies[kernel_name(number, 0)]
        products = cut.chunks * cut.positions // 16 * cut.panels * 2 // 4 * steps  # of 16 x 8, by four warps
        assert body.count(f"mma.sync.aligned.{name}") == body.count("mma.sync") == products
        assert body.count("__syncthreads()") == 3 + 6  # of the convolution, and of the end of a step
        assert body.count("cp_async_wait_group") == int(architecture != "sm_75")


@pytest.mark.parametrize(("precision", "names"), [("fp16", ("sm_80", "sm_90")), ("tf32", ("sm_90",))])
def test_schedules_fit(skip: SkipModel, precision: Any, names: tuple[str, ...]) -> None:
    try:
        backend.nvcc()
    except CompileError as error:
        pytest.skip(str(error))
    kernels = of_classes(skip, precision)
    expected = {}
    for architecture in names:
        for number, cut in enumerate(schedules(kernels, architecture)):
            stage = cut.chunks * (cut.positions * CHUNK + cut.panels * chunk_words(precision))
            shared = 4 * cut.stages * stage + cut.positions * (8 + 8 * LANES)  # addresses, and the norms of the end
            expected[kernel_name(number, 0), architecture] = shared
    needs = backend.assemble_source(backend.sources(kernels, names), names)[1]
    assert {(need.kernel, need.architecture): need.shared for need in needs} == expected
    for need in needs:
        assert need.spilled == 0 and need.registers <= 128 and need.shared <= 48 * 1024, need


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_architecture_has_schedules_that_its_threads_share_evenly(precision: Any) -> None:
    able = [name for name in backend.ARCHITECTURES if name >= backend.OLDEST[precision]]
    assert list(shipped().cuts[precision]) == able
    for name in able:
        assert set(shipped().cuts[precision][name]) == set(CLASSES)
        for shape in CLASSES:
            cut = shipped().schedule(Tile(POSITIONS, 1, precision, shape), name)
            assert cut.positions in (32, 64) and cut.stages >= 2
            assert cut.down * cut.rows * 16 == cut.positions
            assert cut.columns * 4 // cut.down * 8 == cut.panels * LANES


@pytest.mark.parametrize(
    ("vectors", "positions", "expected"),
    [(1, 100, "narrow small"), (2, 16385, "narrow large"), (3, 16384, "wide small"), (64, 10**6, "wide large")],
)
def test_the_class_of_a_convolution(vectors: int, positions: int, expected: str) -> None:
    assert shape_class(vectors, positions) == expected
