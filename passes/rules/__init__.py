"""What skipfx knows of operators: one file per family, listed here."""

from skipfx.passes.rules import conv, elementwise, pool, resize, shape
from skipfx.passes.rules.common import POINT, RULES, Local, Refuse, Window, local

__all__ = ["POINT", "RULES", "Local", "Refuse", "Window", "conv", "elementwise", "local", "pool", "resize", "shape"]
