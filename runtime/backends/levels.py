"""Instruction-set levels of CPUs: what a compiled module needs, and what this machine has."""

import platform
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.target import Target

# level -> CPU flags, as Linux names them; the last one that a machine satisfies is its own
X86 = {
    "x86-64-v2": {"sse4_2", "ssse3", "popcnt"},
    "x86-64-v3": {"avx2", "fma", "bmi2", "f16c"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
}
ARM = {"armv8-a": {"asimd"}}
TRIPLES = ("x86_64-linux-gnu", "aarch64-linux-gnu")
FLAGS = {"sse4.2": "sse4_2", "neon": "asimd"}  # which LLVM names otherwise


@cache
def host_levels() -> tuple[str, ...]:
    """The levels that this machine can run, the most capable last."""
    machine = platform.machine().lower()
    table = ARM if machine in ("aarch64", "arm64") else X86
    flags = _flags()
    return tuple(table)[:1] if flags is None else _levels(table, flags)


def cpu_levels(cpu: str) -> tuple[str, ...]:
    """The levels that a CPU can run which LLVM knows by that name, as znver4; none where it knows none.

    This alone imports the compiler.
    """
    from tvm.target import Target, codegen

    for triple in TRIPLES:
        if codegen.llvm_is_valid_cpu(cpu, triple):
            return target_levels(Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu}))
    return ()


def target_levels(target: "Target") -> tuple[str, ...]:
    """The levels that the features of a target of TVM's kind llvm allow, the most capable last."""
    from tvm.target import codegen

    features = {FLAGS.get(name, name) for name in codegen.llvm_get_cpu_features(target)}
    return _levels(ARM if "aarch64" in str(target.attrs.get("mtriple")) else X86, features)


def _levels(table: dict[str, set[str]], flags: set[str]) -> tuple[str, ...]:
    return tuple(takewhile(lambda level: table[level] <= flags, table))


def _flags() -> set[str] | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return None
