"""Device code: every kernel compiles and fits, and engines for GPUs are made without one."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skipfx.build import compile_engine
from skipfx.errors import CompileError, DeviceError
from skipfx.options import Hold
from skipfx.passes.lower import lower
from skipfx.runtime import load
from skipfx.runtime.assemble import assemble
from skipfx.runtime.backends import cuda as backend
from skipfx.runtime.dense.flatten import flatten
from skipfx.runtime.gpu import driver
from skipfx.runtime.gpu.launches import NAMES, kernel_name, pairs
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.cuda.module import CORES, STEPS, TILED, Kernels, cuda_module
from skipfx.runtime.kernels.table import BLOCKS, THREADS, Core, Op
from skipfx.transformation import transform
from tests.networks import seeded
from tests.runtime.check import EXACT, changing
from tests.runtime.cuda.driver import LoopDriver, loops
from tests.runtime.cuda.network import Geometry, network
from tests.runtime.cuda.test_dense import OPERATORS
from tests.runtime.test_islands import CLIP

REGISTERS = 65536  # of a multiprocessor, on all architectures
SHARED = 48 * 1024  # bytes that a block may have without asking for more


@pytest.fixture(scope="module")
def image() -> Image:
    clip = Geometry().clip()
    skip = transform(network(Geometry()), clip[0], gate=Hold(threshold=0.1))
    return assemble(lower(skip.graph_module), tiles=backend.tiles_cuda("cuda", "fp32"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPFX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nvcc() -> None:
    try:
        backend.nvcc()
    except CompileError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_gpu() -> None:
    try:
        driver.open_driver()
    except DeviceError:
        return
    pytest.skip("there is a GPU here")


def bodies(image: Image) -> dict[str, str]:
    """The CUDA source of every kernel, by name."""
    text = backend.source(cuda_module(backend.kernels_of(image), "sm_80"))
    head = rf'extern "C" __global__ void __launch_bounds__\({THREADS}, {BLOCKS}\) (\w+)\('
    parts = re.split(head, text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))  # a declaration comes before its body, which stays


def every_kernel(image: Image) -> Kernels:
    """The kernels of the network, and those that it does not need, with the first end that it has behind a core."""
    end = [has_core for _, has_core, *_ in image.epilogues].index(True)
    other = tuple((core, None) for core in CORES if core not in dict(image.cores))
    behind = ((len(image.cores) + number, end) for number in range(len(other)))
    found = backend.kernels_of(image)
    steps = tuple(sorted(sum(NAMES.values(), ())))
    return found._replace(steps=steps, pairs=(*found.pairs, *behind), cores=(*found.cores, *other))


def test_every_kind_of_row_has_a_kernel() -> None:
    assert {*CORES, Core.CONV, Core.NONE, Core.DOT} == set(Core)  # a CPU alone has DOT
    assert {*NAMES, Op.COMPUTE, Op.DENSE} == set(Op)
    assert {"compare", *STEPS, *TILED} == {*sum(NAMES.values(), ())}


def test_every_kernel_compiles_and_fits(image: Image, nvcc: None) -> None:
    kernels = every_kernel(image)
    _, needs = backend.assemble_source(backend.source(cuda_module(kernels, "sm_80")), ("sm_80", "sm_90"))
    launched = {*kernels.steps, *(kernel_name(*found) for found in kernels.pairs)}
    assert {(need.kernel, need.architecture) for need in needs} == {
        (name, architecture) for name in launched for architecture in ("sm_80", "sm_90")
    }
    for need in needs:
        assert need.spilled == 0, need
        assert need.shared <= SHARED, need
        assert 0 < need.registers * THREADS * BLOCKS <= REGISTERS, need  # all blocks of a launch side by side


def test_kernels_of_islands_compile_and_fit(nvcc: None) -> None:
    """Of the operators of the tests, and a linear layer of many weights, which the threads of a block share."""
    nets = (
        (OPERATORS, CLIP[0]),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2048, 1000)), (torch.zeros(1, 2, 32, 32),)),
    )
    for net, frames in nets:
        plan = flatten(lower(transform(net, frames, gate=EXACT).graph_module))
        kernels = backend.kernels_of(assemble(plan, tiles=backend.tiles_cuda("cuda", "fp32")))
        kernels = kernels._replace(steps=(), pairs=())
        _, needs = backend.assemble_source(backend.source(cuda_module(kernels, "sm_80")), ("sm_80", "sm_90"))
        assert len(needs) == 2 * len(kernels.dense) > 0
        for need in needs:
            assert need.spilled == 0 and need.shared <= THREADS * 8, need
            assert 0 < need.registers * THREADS * BLOCKS <= REGISTERS, need
    (linear,) = (kernel for kernel in kernels.dense if kernel.nest.reduced)
    assert linear.parts == THREADS and linear.nest.out.size == 1000
    assert [place.strides for place in linear.places.values() if place.constant] == [(1, 2048)]


def test_blocks_and_threads_are_those_of_the_launch(image: Image) -> None:
    """A thread does its own share; it does not walk over the threads of its block."""
    for body in bodies(image).values():
        assert "threadIdx.x" in body and "blockIdx.x" in body
        assert "threadIdx_x" not in body and "blockIdx_x" not in body


def test_barriers_are_those_of_the_kernels(image: Image) -> None:
    """The CUDA source has the barriers and the shared arrays of the kernels, one for one (loops unrolled)."""
    found = bodies(image)
    assert found["dilate"].count("__syncthreads()") == 2 * (THREADS.bit_length() - 1) + 2
    assert found["compare"].count("__syncthreads()") == 1
    assert found["emit"].count("__syncthreads()") == 1
    assert found["clear"].count("__syncthreads()") == 0
    assert found["compute_0_0"].count("__shared__") == 5


def test_an_engine_is_made_and_stored_without_a_gpu(nvcc: None, no_gpu: None, tmp_path: Path) -> None:
    frame = changing((3, 9, 10))[0]
    skip = transform(seeded(nn.Conv2d(3, 4, 3, padding=1)), frame)
    engine = compile_engine(skip, target="cuda:sm_80")
    engine.save(tmp_path / "net.skipfx")
    loaded = load(tmp_path / "net.skipfx")
    assert loaded.program.code == engine.program.code and len(loaded.program.code[0]) > 1000
    assert loaded.program.level == "sm_80"
    with pytest.raises(DeviceError, match="GPU"):
        loaded.stream()


def test_device_code_is_compiled_once(image: Image, nvcc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    few = backend.kernels_of(image)._replace(pairs=pairs(image)[:1])
    code = backend.device_code(few, ("sm_80",))
    monkeypatch.setattr(backend, "assemble_source", None)
    assert backend.device_code(few, ("sm_80",)) == code


def test_a_stored_engine_runs_as_the_one_it_was_made_of(tmp_path: Path) -> None:
    clip = Geometry().clip()
    with loops(LoopDriver()):
        engine = compile_engine(transform(network(Geometry()), clip[0]), target="cuda")
        engine.save(tmp_path / "net.skipfx")
        loaded = load(tmp_path / "net.skipfx")
        one, other = engine.stream(), loaded.stream()
        for frames in clip[:3]:
            for mine, stored in zip(one(frames[0].numpy()), other(frames[0].numpy()), strict=True):
                assert np.array_equal(mine, stored)


@pytest.mark.parametrize("target", ["cuda:sm_61", "cuda:sm_80,turing", "cuda:90"])
def test_an_unknown_architecture_is_refused(image: Image, target: str) -> None:
    with pytest.raises(CompileError, match=r"unknown; expected some of sm_75, sm_80"):
        backend.compile_cuda(target, image)


def test_a_missing_compiler_is_named(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")
    with pytest.raises(CompileError, match="CUDA_HOME"):
        backend.compile_cuda("cuda", image)


@pytest.mark.parametrize(
    ("found", "level", "expected"),
    [
        ((8, 0), "sm_80", True), ((8, 6), "sm_80", True), ((7, 5), "sm_80", False), ((8, 0), "sm_86,sm_90", False),
        ((9, 0), "sm_80", True), ((8, 9), "sm_75,sm_90", False), ((12, 0), "sm_75,sm_90", True),
    ],
)  # fmt: skip
def test_which_code_a_gpu_runs(found: tuple[int, int], level: str, expected: bool) -> None:
    assert driver.fits(found, level) is expected
