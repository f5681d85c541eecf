"""The table of schedules: the one that ships, and those that `skipfx tune` writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

from skipfx.errors import ArtifactError
from skipfx.runtime.kernels.cuda.schedule import Schedule, is_modern
from skipfx.runtime.kernels.table import NARROW, Precision, Tile

Cut = tuple[int, int, int, int]  # positions, panels, chunks, stages of a Schedule
CHOICES: Final = {"positions": (32, 64), "panels": (NARROW, 2 * NARROW), "chunks": (1, 2), "stages": (2, 3)}
ROOM: Final = 48 * 1024  # bytes of shared memory that a block may have on every architecture


@dataclass(frozen=True, eq=False)
class Table:
    """How convolutions are cut up.

    Attributes:
        cuts: precision -> architecture, "sm_80" -> class of shapes (`shape_class`).
    """

    cuts: Mapping[str, Mapping[str, Mapping[str, Cut]]]

    def schedule(self, tile: Tile, architecture: str) -> Schedule:
        """The schedule of the convolutions of a class on an architecture."""
        assert tile.precision is not None
        return scheduled(tile.precision, architecture, self.cuts[tile.precision][architecture][tile.shape])

    def replaced(self, precision: Precision, architecture: str, cuts: Mapping[str, Cut]) -> "Table":
        """The table with other cuts for some classes of a precision on an architecture."""
        of_precision = self.cuts[precision]
        changed = {**of_precision, architecture: {**of_precision[architecture], **cuts}}
        return Table({**self.cuts, precision: changed})

    def text(self) -> str:
        """As a file, with a line for each architecture."""
        parts = []
        for precision, architectures in self.cuts.items():
            lines = ",\n".join(f'    "{name}": {json.dumps(cuts)}' for name, cuts in architectures.items())
            parts.append(f'  "{precision}": {{\n{lines}\n  }}')
        return "{\n" + ",\n".join(parts) + "\n}\n"


def scheduled(precision: Precision, architecture: str, cut: Cut) -> Schedule:
    """What a cut means on an architecture."""
    return Schedule(precision, *cut, modern=is_modern(architecture))


def candidates(precision: Precision, architecture: str, shape: str) -> tuple[Cut, ...]:
    """The cuts that are worth measuring for a class of shapes.

    The panels are those of the class, and without asynchronous copies there is nothing to gain from a third stage.
    """
    panels = CHOICES["panels"][not shape.startswith("narrow")]
    stages = CHOICES["stages"] if is_modern(architecture) else (2,)
    found = product(CHOICES["positions"], (panels,), CHOICES["chunks"], stages)
    return tuple(cut for cut in found if scheduled(precision, architecture, cut).shared <= ROOM)


@cache
def shipped() -> Table:
    """The table that ships."""
    return _table(json.loads((Path(__file__).parent / "schedules.json").read_text()))


def read_table(path: Path) -> Table:
    """A table that `skipfx tune` wrote.

    Raises:
        ArtifactError: the file is missing or no table; the message names the entry and what is expected there.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: expected a table of schedules, JSON as skipfx tune writes it: {error}") from error
    _check_keys(path, found, shipped().cuts, ())
    for precision, architectures in found.items():
        for architecture, classes in architectures.items():
            for shape, cut in classes.items():
                _check_cut(f"{path}: {precision}, {architecture}, {shape}", precision, architecture, cut)
    return _table(found)


def _check_keys(path: Path, found: Any, expected: Any, place: tuple[str, ...]) -> None:
    """Refuses what has not the entries of the shipped table, on all three levels."""
    if not isinstance(found, dict) or set(found) != set(expected):
        got = ", ".join(found) or "none" if isinstance(found, dict) else repr(found)
        where = ", ".join(place) or "the table"
        raise ArtifactError(f"{path}: {where}: expected the entries {', '.join(expected)}; got {got}")
    for name in expected if len(place) < 2 else ():
        _check_keys(path, found[name], expected[name], (*place, name))


def _check_cut(where: str, precision: Precision, architecture: str, cut: Any) -> None:
    """Refuses a cut that the kernels are not made for, or whose block does not fit into shared memory."""
    whole = isinstance(cut, list) and len(cut) == len(CHOICES) and all(type(number) is int for number in cut)
    if not whole or not all(number in allowed for number, allowed in zip(cut, CHOICES.values(), strict=True)):
        expected = ", ".join(f"{name} {' or '.join(map(str, allowed))}" for name, allowed in CHOICES.items())
        raise ArtifactError(f"{where}: expected [{expected}]; got {cut}")
    shared = scheduled(precision, architecture, tuple(cut)).shared
    if shared > ROOM:
        raise ArtifactError(f"{where}: {cut} takes {shared:,} bytes of shared memory; expected at most {ROOM:,}")


def _table(found: dict[str, Any]) -> Table:
    return Table(
        {
            precision: {name: {shape: tuple(cut) for shape, cut in cuts.items()} for name, cuts in names.items()}
            for precision, names in found.items()
        }
    )
