"""Where things live: who imports whom, and that nothing lies about unlisted."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skipfx
from skipfx.passes import gates, rules

ROOT = Path(__file__).parent.parent
PASSES = sorted((ROOT / "passes").rglob("*.py"))
RUNTIME = sorted((ROOT / "runtime").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports at run time, wherever in the file; imports for type checkers do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importing(paths: list[Path], *modules: str) -> list[str]:
    """The files that import one of the modules, or something in it."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in imports(path)
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    ]


def test_files_are_found() -> None:
    assert len(PASSES) > 20 and len(RUNTIME) > 5


def test_passes_and_runtime_do_not_import_each_other() -> None:
    assert importing(PASSES, "skipfx.runtime", "runtime") == []
    assert importing(RUNTIME, "skipfx.passes", "passes") == []


def test_the_runtime_does_not_import_torch() -> None:
    assert importing(RUNTIME, "torch") == []


def test_the_core_of_verification_does_not_import_torch() -> None:
    code = "import sys, skipfx, skipfx.verification, skipfx.runtime, skipfx.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_library_code_does_not_import_tests_or_benchmarks() -> None:
    library = [*PASSES, *RUNTIME, *(ROOT / "skipfx").glob("*.py")]
    assert importing(library, "tests", "benchmarks", "pytest", "hypothesis") == []


@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_the_short_names_are_no_packages(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and f"ImportError: import skipfx.{name}" in done.stderr


@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_the_links_are_relative(name: str) -> None:
    link = ROOT / "skipfx" / name
    assert link.is_symlink() and link.readlink() == Path("..") / name


@pytest.mark.parametrize("package", [rules, gates], ids=["rules", "gates"])
def test_every_file_is_listed_in_its_package(package: object) -> None:
    home = Path(str(package.__file__))  # type: ignore[attr-defined]
    listed = set(imports(home))
    files = [path.stem for path in home.parent.glob("*.py") if path.stem != "__init__"]
    prefix = f"skipfx.passes.{home.parent.name}"
    assert [name for name in files if f"{prefix}.{name}" not in listed] == []


def test_public_names_are_sorted_and_no_module_takes_their_place() -> None:
    assert skipfx.__all__ == sorted(skipfx.__all__)
    modules = {path.stem for path in (ROOT / "skipfx").iterdir() if path.suffix in ("", ".py")}
    # importing a submodule binds its name in the package, over a function that is called the same
    assert modules & set(skipfx.__all__) == {"errors"}
    assert all(callable(getattr(skipfx, name)) for name in skipfx.__all__ if name != "errors")
