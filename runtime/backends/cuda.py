"""Compiles a kernel module for NVIDIA GPUs: TVM makes CUDA source, nvcc makes device code. No GPU is needed."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tvm
from tvm import s_tir, tirx

from skipfx.errors import CompileError
from skipfx.runtime.backends.cpu import cached
from skipfx.runtime.gpu.launches import pairs, steps
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.cuda.module import Kernels, cuda_module, schedules
from skipfx.runtime.kernels.cuda.schedule import Schedule
from skipfx.runtime.kernels.cuda.tuned import Table, shipped
from skipfx.runtime.kernels.table import POSITIONS, Precision, Tile

ARCHITECTURES: Final = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")  # the oldest first
# the oldest whose tensor cores have a precision
OLDEST: Final[dict[Precision, str]] = {"fp32": "sm_75", "tf32": "sm_80", "fp16": "sm_75", "bf16": "sm_80"}
# the one function that the kernels call and CUDA does not have under this name
PRELUDE: Final = """
static __device__ __forceinline__ int64_t atomic_add(int64_t* cell, int64_t value) {
  return (int64_t)atomicAdd((unsigned long long*)cell, (unsigned long long)value);
}
"""


@dataclass(frozen=True)
class Resources:
    """What a kernel needs on an architecture, as ptxas says.

    Attributes:
        registers: per thread.
        shared: bytes of shared memory per block.
        spilled: bytes per thread that did not fit into registers.
    """

    kernel: str
    architecture: str
    registers: int
    shared: int
    spilled: int


def tiles_cuda(target: str, precision: Precision) -> tuple[Tile, ...]:
    """Weights lie in panels of one vector: a block of threads takes several of them side by side."""
    return (Tile(POSITIONS, 1, precision),)


def compile_cuda(target: str, image: Image, table: Table | None = None) -> tuple[tuple[bytes, ...], str]:
    """The device code of a network's kernels as a fat binary, and the architectures it is for, "sm_80,sm_90".

    Args:
        target: "cuda" for all of ARCHITECTURES that have the precision, or some of them, as "cuda:sm_80,sm_90". The
            last one's code also runs on later GPUs: the driver translates it.
        image: of the network.
        table: of the convolutions' schedules; None: the one that ships.

    Raises:
        CompileError: an architecture is unknown or lacks the precision, or nvcc is missing.
    """
    names = architectures(target, image)
    return (device_code(kernels_of(image, table), names),), ",".join(names)


def architectures(target: str, image: Image) -> tuple[str, ...]:
    """The architectures that a target names, the oldest first.

    Raises:
        CompileError: one is unknown, or lacks a precision of the network.
    """
    oldest = max((OLDEST[tile.precision] for _, tile in image.cores if tile and tile.precision), default="")
    able = tuple(name for name in ARCHITECTURES if name >= oldest)
    asked = set(target.partition(":")[2].split(",")) - {""}
    if unknown := asked - set(ARCHITECTURES):
        raise CompileError(
            f"GPU architecture {', '.join(sorted(unknown))} is unknown; expected some of {', '.join(ARCHITECTURES)}"
        )
    if old := asked - set(able):
        raise CompileError(f"{', '.join(old)} has no tensor cores for this precision; it needs {able[0]} or later")
    return tuple(name for name in able if name in asked) or able


def kernels_of(image: Image, table: Table | None = None) -> Kernels:
    """The kernels that a network needs."""
    return Kernels(steps(image), pairs(image), image.cores, image.epilogues, image.dense, table or shipped())


def device_code(kernels: Kernels, names: tuple[str, ...]) -> bytes:
    """The fat binary of a network's kernels for some architectures; cached by content."""
    text = sources(kernels, names)
    key = hashlib.sha256("\n".join([text, nvcc(), *names]).encode()).hexdigest()[:32]
    return cached(f"{key}.fatbin", lambda: assemble_source(text, names)[0])


def sources(kernels: Kernels, names: tuple[str, ...]) -> str:
    """The CUDA source of a network's kernels for some architectures: one for those that are scheduled alike."""
    groups: dict[tuple[Schedule, ...], list[str]] = {}
    for name in names:
        groups.setdefault(schedules(kernels, name), []).append(name)
    *others, last = groups.values()
    text = source(cuda_module(kernels, last[0]))
    for group in others:
        alike = " || ".join(f"__CUDA_ARCH__ == {name[3:]}0" for name in group)
        text = f"#if {alike}\n{source(cuda_module(kernels, group[0]))}\n#else\n{text}\n#endif\n"
    return text


def source(module: Any) -> str:
    """The CUDA source of a module of kernels.

    No pass adds a barrier or lets arrays share memory: what runs is what the tests ran with loops for threads.
    `LowerOpaqueBlock` makes the thread axes of a kernel those of its launch.
    """
    target = tvm.target.Target({"kind": "cuda", "arch": ARCHITECTURES[0]})
    lower = [
        tirx.transform.BindTarget(target),
        s_tir.transform.UnifyThreadBinding(),
        s_tir.transform.LowerOpaqueBlock(),
        s_tir.transform.StmtSimplify(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        tirx.transform.LowerIntrin(),
    ]
    lowered = tvm.ir.transform.Sequential(lower)(module)
    text = str(tvm.get_global_func("target.build.cuda")(lowered, target).inspect_source())
    declarations = text.index('extern "C" __global__')
    return text[:declarations] + PRELUDE + text[declarations:]


def assemble_source(text: str, names: tuple[str, ...]) -> tuple[bytes, tuple[Resources, ...]]:
    """Device code from CUDA source, and what each kernel needs.

    Raises:
        CompileError: nvcc is missing or refuses the source.
    """
    targets = [f"-gencode=arch=compute_{name[3:]},code={name}" for name in names]
    targets.append(f"-gencode=arch=compute_{names[-1][3:]},code=compute_{names[-1][3:]}")
    with tempfile.TemporaryDirectory() as folder:
        written, made = Path(folder) / "kernels.cu", Path(folder) / "kernels.fatbin"
        written.write_text(text)
        options = ["--fatbin", "-std=c++17", "-O3", "--threads=0", "--disable-warnings", "--resource-usage", *targets]
        done = subprocess.run(
            [nvcc(), *options, "-o", str(made), str(written)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CompileError(f"nvcc failed:\n{done.stderr.strip() or done.stdout.strip()}")
        return made.read_bytes(), resources(done.stdout + done.stderr)


def resources(report: str) -> tuple[Resources, ...]:
    """What the report of ptxas says of every kernel."""
    found = []
    for part in report.split("Compiling entry function ")[1:]:
        kernel, architecture = re.findall(r"'(\w+)'", part)[:2]
        numbers = [re.search(pattern, part) for pattern in (r"(\d+) registers", r"(\d+) bytes smem")]
        registers, shared = (int(number[1]) if number else 0 for number in numbers)
        spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill", part))
        found.append(Resources(kernel, architecture, registers, shared, spilled))
    return tuple(found)


def nvcc() -> str:
    """The CUDA compiler.

    Raises:
        CompileError: it is missing.
    """
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [str(Path(home) / "bin") for home in homes if home] + [os.environ.get("PATH", "")]
    found = shutil.which("nvcc", path=os.pathsep.join(places))
    if found is None:
        raise CompileError(
            "compiling for a GPU needs nvcc, of NVIDIA's CUDA toolkit: put it on the PATH or set CUDA_HOME"
        )
    return found
