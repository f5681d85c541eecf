"""Compiles a network's kernels for a CPU with TVM and LLVM, into relocatable objects; cached on disk one by one."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from skipfx.errors import CompileError
from skipfx.files import write_whole
from skipfx.runtime.backends.levels import ARM, cpu_levels, host_levels
from skipfx.runtime.image import Image
from skipfx.runtime.kernels.table import Precision, Tile
from skipfx.runtime.native import usable_cores

if TYPE_CHECKING:
    from tvm import IRModule

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


def compile_cpu(target: str, image: Image) -> tuple[tuple[bytes, ...], str]:
    """The object code of `step`, and the instruction-set level it needs.

    Args:
        target: "cpu" for this machine; "cpu:LEVEL", or "cpu:NAME" with a CPU that LLVM knows.
        image: of the network; it says what the module must hold.

    Raises:
        CompileError: the level is unknown.
    """
    from skipfx.runtime.kernels.modules import modules

    level = _level(target)
    made = modules(image)
    with ThreadPoolExecutor(usable_cores()) as pool:  # LLVM works outside of Python's lock
        code = pool.map(lambda name: cached(f"{_key(level)}/{name}.o", lambda: _compile(level, made[name]())), made)
        return tuple(code), level


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


def cached(name: str, make: Callable[[], bytes]) -> bytes:
    """The code that is kept under a name, which says all that decides it; made where there is none yet."""
    path = cache_folder() / name
    if path.is_file():
        return path.read_bytes()
    code = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, code, overwrite=True)
    return code


@cache
def _key(level: str) -> str:
    """Hash of everything but its name that decides the code of a module: kernels' sources, the compiler, the target."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent.parent / "kernels").glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    digest.update(repr((version("apache-tvm"), level)).encode())
    return digest.hexdigest()[:32]


def _compile(level: str, module: "IRModule") -> bytes:
    import tvm

    if level in ARM:
        kind = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}
    else:
        kind = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": level}
    built = tvm.compile(module, target=tvm.target.Target(kind))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.o"
        built.mod.write_to_file(str(path), "o")
        return path.read_bytes()
