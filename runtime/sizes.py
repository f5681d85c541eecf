"""One model compiled for several sizes of frames: an engine for each, found by its size."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from skipfx.errors import ArtifactError, OptionError
from skipfx.runtime.artifact import load
from skipfx.runtime.engine import Engine

Size = tuple[int, int]


class Engines(Mapping[Size, Engine]):
    """The engines of one model by (height, width) of its frame.

    They share no memory: each has its weights, and a stream belongs to one of them.

    Args:
        engines: at least one, each of one frame and of a size of its own.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = {engine.program.frames[0][2:]: engine for engine in engines}

    def __getitem__(self, size: Size) -> Engine:
        """The engine for frames of that size.

        Raises:
            OptionError: there is none; says for which sizes there are, and what to do.
        """
        found = self._engines.get(tuple(size))
        if found is None:
            known = ", ".join(map(_word, self))
            raise OptionError(
                f"no engine for frames of {_word(size)}, only for {known}: compile with sizes=[..., {size}]"
            )
        return found

    def __contains__(self, size: object) -> bool:
        return size in self._engines

    def __iter__(self) -> Iterator[Size]:
        """The sizes, as given."""
        return iter(self._engines)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._engines)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes an artifact for each size, `folder/HEIGHTxWIDTH.skipfx`; each can be loaded by itself.

        Raises:
            ArtifactError: the folder exists and `overwrite` is not set, or it cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=overwrite)
        except OSError as error:
            raise ArtifactError(f"{folder}: cannot be made, or exists (--overwrite): {error.strerror}") from error
        for size, engine in self.items():
            engine.save(folder / f"{_word(size)}.skipfx", overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, threads: int | None = None) -> "Engines":
        """The engines that `save` wrote. Their kernels are native code: only open what you trust.

        Raises:
            ArtifactError: the folder holds no artifact, or one that cannot be loaded.
        """
        paths = sorted(Path(folder).glob("*x*.skipfx"))
        if not paths:
            raise ArtifactError(f"{folder}: holds no artifacts HEIGHTxWIDTH.skipfx")
        return cls([load(path, threads) for path in paths])

    def __repr__(self) -> str:
        return f"Engines({', '.join(map(_word, self))})"


def _word(size: Size) -> str:
    return "x".join(map(str, size))
