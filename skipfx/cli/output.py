"""What a command prints: results on standard output, all else on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic_core import to_json
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

WIDTH = 120  # of what goes to a file or a pipe

Advance = Callable[..., None]


def complain(message: str, kind: str = "error") -> None:
    """Prints a message on standard error."""
    text = Text.assemble((f"{kind}:", "bold red" if kind == "error" else "yellow"), f" {message}")
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


@dataclass(frozen=True)
class Output:
    """How a command talks: options that every command takes."""

    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document on standard output.", show_default="off"),
    ] = False
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No progress and no notes on standard error.", show_default="off"),
    ] = False
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show warnings of all packages, and where an error arose.", show_default="off"),
    ] = False

    def show(self, text: RenderableType, document: Any) -> None:
        """Prints the result: `document` as JSON where that was asked for, else `text`."""
        if self.json:
            print(to_json(document, indent=1, inf_nan_mode="null").decode(), flush=True)
            return
        width = None if sys.stdout.isatty() else WIDTH
        Console(width=width, highlight=False).print(text, soft_wrap=isinstance(text, str), markup=False)

    def note(self, text: str) -> None:
        """Prints a line on standard error."""
        if not self.quiet:
            self._console().print(text, markup=False, soft_wrap=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Says what is being done while it lasts."""
        console = self._console()
        if self.quiet or not console.is_terminal:
            yield
        else:
            with console.status(Text(text)):
                yield

    @contextmanager
    def progress(self, text: str, total: int | None) -> Iterator[Advance]:
        """Shows a bar; the value is a function `advance(text, steps)`."""
        console = self._console()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        hidden = self.quiet or not console.is_terminal
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task(text, total=total)

            def advance(text: str, steps: int = 1) -> None:
                bar.update(task, description=text, advance=steps)

            yield advance

    @staticmethod
    def _console() -> Console:
        return Console(stderr=True, highlight=False)
