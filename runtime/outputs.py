"""Output arrays with the meaning of values and the cost of views.

A stream updates only the positions of an output that changed, so it writes into an array it wrote before. Two such
arrays take turns: while the caller still holds one (a Python reference is the proof), the other is written. Where both
are held, a new array is made and filled. So a result never changes under its owner, and a caller that drops results
pays for no copies.
"""

import sys

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SLOTS = 2
OWN_REFERENCES = 2  # the list's, and the argument of getrefcount


class OutputSlots:
    """The output arrays of one native call.

    Args:
        size: floats of an array.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._arrays = [np.zeros(size, np.float32) for _ in range(SLOTS)]
        self._full = [True] * SLOTS
        self._last = 0

    def take(self) -> tuple[Floats, int, bool]:
        """An array that nobody else holds, its number, and whether it must be written in full."""
        order = [(self._last + 1 + i) % SLOTS for i in range(SLOTS)]
        for slot in order:
            if sys.getrefcount(self._arrays[slot]) <= OWN_REFERENCES:
                break
        else:
            slot = order[0]
            self._arrays[slot] = np.zeros(self.size, np.float32)
            self._full[slot] = True
        return self._arrays[slot], slot, self._full[slot]

    def written(self, slot: int) -> None:
        """Says that the array of a slot is up to date."""
        self._full[slot] = False
        self._last = slot

    def forget(self) -> None:
        """Makes every array to be written in full, because the state was replaced."""
        self._full = [True] * SLOTS
