"""Instruction-set levels of CPUs: what a compiled module needs, and what this machine has. No compiler is imported."""

import platform
from functools import cache
from pathlib import Path

# level -> CPU flags, as Linux names them; the last one that a machine satisfies is its own
X86 = {
    "x86-64-v2": {"sse4_2", "ssse3", "popcnt"},
    "x86-64-v3": {"avx2", "fma", "bmi2", "f16c"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
}
ARM = {"armv8-a": {"asimd"}}


@cache
def host_levels() -> tuple[str, ...]:
    """The levels that this machine can run, the most capable last."""
    machine = platform.machine().lower()
    table = ARM if machine in ("aarch64", "arm64") else X86
    flags = _flags()
    if flags is None:
        return tuple(table)[:1]
    levels = []
    for level, needed in table.items():
        if not needed <= flags:
            break
        levels.append(level)
    return tuple(levels)


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
