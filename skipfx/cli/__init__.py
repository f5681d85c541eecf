"""The command line. A command's module is imported when the command is chosen, so that `skipfx --help` is quick."""

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from skipfx.cli.command import paragraphs
from skipfx.cli.output import complain
from skipfx.errors import SkipfxError

COMMANDS = {
    "inspect": "Say what of a model can be skipped, what not and why.",
    "transform": "Make a model stateful: from frame to frame it computes what changed.",
    "train": "Train the gates of a transformed model that learn, and the model with them.",
    "compile": "Compile a transformed model to native code, one file that needs no PyTorch.",
    "tune": "Measure on a GPU how a model's convolutions are best cut up, for compile.",
    "export": "Write a transformed model as ONNX that skips in stock runtimes.",
    "run": "Run a model on a video, a folder of images or raw frames.",
    "bench": "Measure a model on a clip beside engines that compute every frame as a whole.",
    "verify": "Check on a clip that a transformed or compiled model keeps its promises.",
    "demo": "Try it all on a built-in network and scene.",
}
COMPONENTS = ("skipfx", "torch", "apache-tvm", "onnx", "onnxruntime", "numpy", "opencv-python-headless", "openvino")


class _Commands(TyperGroup):
    """Knows the commands by their summaries, and loads the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name in COMMANDS else None, rest


def _load(name: str) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name)(import_module(f"skipfx.cli.{name}").command)
    return typer.main.get_command(app)


HELP = """
Make a trained per-frame network cost what changed in the picture.

inspect, transform, compile and run are the steps of the way; a step that you skip is done for you. Exit codes: 0 done,
1 failed, 2 wrong usage, 3 verification failed, 4 nothing to transform.
"""

app = typer.Typer(cls=_Commands, help=paragraphs(HELP), no_args_is_help=True, pretty_exceptions_enable=False)


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    for name in COMPONENTS:
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} not installed")
    typer.echo(f"python {platform.python_version()}")
    raise typer.Exit


@app.callback()
def _root(
    versions: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of skipfx and of what it stands on.",
            show_default="off",
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    Args:
        arguments: what stands behind `skipfx`; None: those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with warnings.catch_warnings():
        if not debug:
            _only_own_warnings()
        try:
            app(words, prog_name="skipfx")
        except SkipfxError as error:
            if debug:
                raise
            complain(str(error))
            sys.exit(error.exit_code)
        except Exception as error:
            if debug:
                raise
            complain(f"{type(error).__name__}: {error}\nThis is unexpected: run again with --debug, and report it.")
            sys.exit(1)


def _only_own_warnings() -> None:
    """Warnings of skipfx in one line each; those of other packages, which a user cannot act on, not at all."""
    package = os.path.dirname(os.path.dirname(__file__)) + os.sep

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if filename.startswith(package) and issubclass(category, UserWarning):
            complain(str(message), kind="warning")

    warnings.showwarning = show
