"""Stores past the caches: what leaves them before it is read again need not be read to be written.

TVM has no such store, so it is given in LLVM's own language, linked to the kernel that calls it, and inlined there. On
x86 other threads may see such a store late; the barrier behind a row is a locked instruction, which waits for it.
"""

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from skipfx.runtime.kernels.table import LANES

NAME = "skipfx_store_nontemporal"
CODE = f"""
define void @{NAME}(ptr %to, ptr %from) alwaysinline {{
  %vector = load <{LANES} x float>, ptr %from, align 4
  store <{LANES} x float> %vector, ptr %to, align {4 * LANES}, !nontemporal !0
  ret void
}}
!0 = !{{i32 1}}
"""


@T.inline
def store_nontemporal(target: Any, at: Any, source: Any, start: Any) -> None:
    """Copies a vector, as `lanes.copy_vector` does, to where it has a cache line of its own."""
    T.evaluate(T.call_extern("void", NAME, T.address_of(target[at]), T.address_of(source[start])))


def storing_nontemporal(body: Callable[..., None]) -> Callable[..., None]:
    """The body of a kernel that may use `store_nontemporal`."""

    @T.inline
    def linked(mem: Any, task: Any, tasks: Any, row: Any, first: Any, count: Any, panel: Any) -> None:
        with T.attr(0, "pragma_import_llvm", CODE):
            body(mem, task, tasks, row, first, count, panel)

    return linked
