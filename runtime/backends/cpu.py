"""Compiles a kernel module for a CPU with TVM and LLVM, into a relocatable object; cached on disk by content."""

import hashlib
import os
import tempfile
from pathlib import Path

from skipfx.errors import CompileError
from skipfx.files import write_whole
from skipfx.runtime.backends.levels import ARM, cpu_levels, host_levels
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.table import Precision, Tile

TILES = {
    "x86-64-v2": (Tile(3, 1),),  # 16 registers of 4 numbers
    "x86-64-v3": (Tile(6, 1),),  # 16 of 8
    "x86-64-v4": (Tile(12, 1), Tile(6, 3), Tile(12, 2)),  # 32 of 16
    "armv8-a": (Tile(6, 1),),  # 32 of 4
}


def tiles_cpu(target: str, precision: Precision) -> tuple[Tile, ...]:
    """The register tiles for a target: what fits the vector registers, beside a vector of weights and an input.

    Raises:
        CompileError: the level is unknown, or the precision is not fp32.
    """
    if precision != "fp32":
        raise CompileError(f"a CPU computes in fp32; precision {precision!r} is for target='cuda'")
    return TILES[_level(target)]


def compile_cpu(target: str, image: Image) -> tuple[bytes, str]:
    """The object code of `step`, and the instruction-set level it needs.

    Args:
        target: "cpu" for this machine; "cpu:LEVEL", or "cpu:NAME" with a CPU that LLVM knows.
        image: of the network; it says what the module must hold.

    Raises:
        CompileError: the level is unknown.
    """
    level = _level(target)
    cached = cache_folder() / f"{_key(level, image)}.o"
    if cached.is_file():
        return cached.read_bytes(), level
    code = _compile(level, image)
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_whole(cached, code, overwrite=True)
    return code, level


def _level(target: str) -> str:
    name = target.partition(":")[2]
    levels = (name,) if name in TILES else cpu_levels(name) if name else host_levels()
    if not levels:
        raise CompileError(
            f"CPU {name!r} is unknown or too old; expected {', '.join(TILES)}, or a CPU that LLVM knows, as znver4"
        )
    return levels[-1]


def cache_folder() -> Path:
    """Where compiled modules are kept: $SKIPFX_CACHE, or the user's cache folder."""
    base = os.environ.get("SKIPFX_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skipfx"


def _key(level: str, image: Image) -> str:
    """Hash of everything that decides the code: the kernels' sources, the compiler, the target, the operators."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent.parent / "kernels").glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    digest.update(repr((_tvm_version(), level, image.cores, image.epilogues, image.fused)).encode())
    return digest.hexdigest()[:32]


def _tvm_version() -> str:
    from importlib.metadata import version

    return version("apache-tvm")


def _compile(level: str, image: Image) -> bytes:
    import tvm

    from skipfx.runtime.kernels.step import step_module

    if level in ARM:
        kind = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}
    else:
        kind = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": level}
    built = tvm.compile(step_module(image.cores, image.epilogues, image.fused), target=tvm.target.Target(kind))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.o"
        built.mod.write_to_file(str(path), "o")
        return path.read_bytes()
