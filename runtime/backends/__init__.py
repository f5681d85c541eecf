"""What compiles a kernel module for a target: one file each, listed here."""

from collections.abc import Callable

from skipfx.errors import CompileError

Compile = Callable[..., tuple[bytes, str]]


def compiler(target: str) -> Compile:
    """The function that compiles for the kind of target that `target` names, as "cpu" or "cpu:x86-64-v3".

    Raises:
        CompileError: there is no such kind.
    """
    kind = target.partition(":")[0]
    if kind == "cpu":
        from skipfx.runtime.backends.cpu import compile_cpu

        return compile_cpu
    raise CompileError(f"target {target!r} is unknown; expected cpu or cpu:LEVEL, with LEVEL such as x86-64-v3")
