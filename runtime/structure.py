"""The model's own output structure, as data that needs no PyTorch.

A structure is "leaf", ["constant", value], ["list", parts], ["tuple", parts] or ["dict", {name: part}].
"""

from collections.abc import Iterator
from typing import Any

Structure = Any


def rebuild(structure: Structure, leaves: Iterator[Any]) -> Any:
    """The structure with its leaves filled in, in order."""
    if structure == "leaf":
        return next(leaves)
    kind, parts = structure
    if kind == "constant":
        return parts
    if kind == "dict":
        return {name: rebuild(part, leaves) for name, part in parts.items()}
    made = [rebuild(part, leaves) for part in parts]
    return made if kind == "list" else tuple(made)
