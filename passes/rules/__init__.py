"""What skipfx knows of operators: one file per family, listed here."""

from skipfx.passes.rules import arithmetic, conv, move, pool, reduce, resize, shape, unary, whole
from skipfx.passes.rules.common import POINT, RULES, Local, Refuse, Window, local

__all__ = [
    "POINT", "RULES", "Local", "Refuse", "Window", "arithmetic", "conv", "local", "move", "pool", "reduce",
    "resize", "shape", "unary", "whole",
]  # fmt: skip
