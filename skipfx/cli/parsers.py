"""Reads the values of options."""

from fractions import Fraction

import typer


def number(text: str) -> float:
    """Reads a number such as "0.5" or "1/255"."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"expected a number such as 0.5 or 1/255, got {text!r}") from None


def numbers(text: str) -> tuple[float, ...]:
    """Reads numbers such as "0.5" or "0.485,0.456,0.406"."""
    return tuple(map(number, text.split(",")))


def size(text: str) -> tuple[int, int]:
    """Reads a size such as "480x640", height first."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"expected HEIGHTxWIDTH such as 480x640, got {text!r}")
    return int(height), int(width)
