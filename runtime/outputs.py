"""Output arrays with the meaning of values and the cost of views.

A stream updates only the positions of an output that changed, so it writes into an array it wrote before. Two such
arrays take turns: while the caller still holds one (a Python reference is the proof), the other is written. Where both
are held, a new array is made and filled. So a result never changes under its owner, and a caller that drops results
pays for no copies.
"""

import sys
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Made = TypeVar("Made")
SLOTS = 2
OWN_REFERENCES = 2  # the list's, and the argument of getrefcount


def on_host(size: int) -> NDArray[np.float32]:
    """Floats in the host's memory."""
    return np.zeros(size, np.float32)


class OutputSlots(Generic[Made]):
    """The output arrays of one native call.

    Args:
        size: floats of an array.
        make: makes an array of so many floats, all zero.
    """

    def __init__(self, size: int, make: Callable[[int], Made]) -> None:
        self.size, self._make = size, make
        self._arrays = [make(size) for _ in range(SLOTS)]
        self._full = [True] * SLOTS
        self._last = 0

    def take(self) -> tuple[Made, int, bool]:
        """An array that nobody else holds, its number, and whether it must be written in full."""
        order = [(self._last + i) % SLOTS for i in range(SLOTS)]  # the last one lacks least
        for slot in order:
            if sys.getrefcount(self._arrays[slot]) <= OWN_REFERENCES:
                break
        else:
            slot = order[1]
            self._arrays[slot] = self._make(self.size)
            self._full[slot] = True
        return self._arrays[slot], slot, self._full[slot]

    @property
    def last(self) -> Made:
        """The array that is up to date."""
        return self._arrays[self._last]

    def written(self, slot: int) -> None:
        """Says that the array of a slot is up to date."""
        self._full[slot] = False
        self._last = slot

    def forget(self) -> None:
        """Makes every array to be written in full, because the state was replaced."""
        self._full = [True] * SLOTS
