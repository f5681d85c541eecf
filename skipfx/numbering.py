"""Things that are called by their number, in the order in which they were first met."""

from typing import TypeVar

T = TypeVar("T")


def number(found: list[T], thing: T) -> int:
    """The number of a thing among those found so far, which it joins if it is new."""
    if thing not in found:
        found.append(thing)
    return found.index(thing)
