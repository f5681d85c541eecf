"""Help, versions, completion, interrupts and what is imported."""

import os
import subprocess
import sys
from typing import Any

import pytest

import skipfx.runtime.artifact
from skipfx import __version__
from skipfx.cli import COMMANDS
from tests.cli.conftest import Cli, Files

NO_TORCH = """
import sys
sys.modules["torch"] = None
from skipfx.cli import main
main(sys.argv[1:])
"""


def test_help_lists_the_commands(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for name in COMMANDS:
        assert f" {name} " in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_option_lines_end_with_their_default(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TERMINAL_WIDTH", "250")
    lines = [line.strip(" │*") for line in cli(command, "--help").out.splitlines()]
    options = [line for line in lines if line.startswith("--") and not line.startswith("--help")]
    assert options
    assert [line for line in options if not line.endswith(")]") and not line.endswith("[required]")] == []


def test_version_names_the_components(cli: Cli) -> None:
    lines = cli("--version").out.splitlines()
    assert lines[0] == f"skipfx {__version__}"
    assert {"torch", "apache-tvm", "onnxruntime", "python"} <= {line.split()[0] for line in lines}


def test_mistyped_commands_get_a_suggestion(cli: Cli) -> None:
    done = cli("inspekt")
    assert done.code == 2
    assert "inspect" in done.err


def test_completion_knows_the_commands() -> None:
    asked = {"_SKIPFX_COMPLETE": "complete_bash", "COMP_WORDS": "skipfx trans", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "skipfx"], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["transform"]


def test_artifacts_run_without_pytorch(files: Files) -> None:
    for words in (["--help"], ["run", "--help"], ["run", str(files.engine), str(files.clip), "--json"]):
        done = subprocess.run([sys.executable, "-c", NO_TORCH, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_ends_quietly(cli: Cli, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipfx.cli.run.open_frames", interrupt)
    done = cli("run", files.engine, files.clip)
    assert (done.code, done.out, done.err) == (130, "", "")


def test_surprises_are_one_message_unless_debugged(cli: Cli, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a surprise")

    monkeypatch.setattr("skipfx.cli.inspect.read", fail)
    done = cli("inspect", files.engine)
    assert done.code == 1
    assert "RuntimeError: a surprise" in done.err
    assert "Traceback" not in done.err
    with pytest.raises(RuntimeError):
        skipfx.cli.main(["inspect", str(files.engine), "--debug"])
