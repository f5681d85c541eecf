"""Loads compiled code and calls it; the one place that touches TVM's runtime.

Object code is linked in memory (LLVM ORC), so that a machine that runs an artifact needs neither compiler nor linker.
"""

import ctypes
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipfx.errors import ArtifactError

CACHE_LINE = 64
_local = threading.local()


@cache
def _libraries() -> tuple[Any, Any]:
    # TVM would pin its threads, and with them the caller's, to fixed cores, and start one thread for two cores
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(usable_cores()))
    import tvm_ffi

    found = importlib.util.find_spec("tvm")
    if found is None or not found.submodule_search_locations:
        raise ArtifactError("apache-tvm is not installed: pip install apache-tvm")
    runtime = Path(next(iter(found.submodule_search_locations))) / "lib" / "libtvm_runtime.so"
    ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    import tvm_ffi_orcjit

    return tvm_ffi, tvm_ffi_orcjit


def load_code(code: Sequence[bytes]) -> Callable[..., None]:
    """The function `step` of some files of object code. They are native: they can do whatever the process can.

    Raises:
        ArtifactError: they cannot be linked.
    """
    _, jit = _libraries()
    try:
        module = jit.ExecutionSession().load_module(code)
        step: Callable[..., None] = module["step"]
    except Exception as error:
        raise ArtifactError(f"the compiled code cannot be linked: {error}") from error
    return step


def tensor(array: NDArray[Any]) -> Any:
    """A view of an array that a compiled function takes."""
    return _libraries()[0].from_dlpack(array)


def on_cache_line(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that starts with a cache line: a vector that lies across two takes two loads."""
    memory = np.zeros(array.nbytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    found: NDArray[Any] = memory[start : start + array.nbytes].view(array.dtype)
    found[:] = array
    return found


def use_threads(threads: int) -> None:
    """Gives the calling thread a pool of that many workers; it keeps one from call to call."""
    if threads > 1 and getattr(_local, "threads", 0) != threads:
        _libraries()[0].get_global_func("runtime.config_threadpool")(1, threads)
        _local.threads = threads


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
