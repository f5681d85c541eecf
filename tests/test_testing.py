"""The helpers that other tests rely on can fail."""

from pathlib import Path

import pytest

from skipfx.testing import check_golden


def test_golden_files_are_written_on_demand_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "golden" / "graph.txt"
    with pytest.raises(AssertionError, match=r"missing; run pytest with --regen"):
        check_golden(path, "a\n")
    check_golden(path, "a\n", regenerate=True)
    check_golden(path, "a\n")
    with pytest.raises(AssertionError, match=r"differs; if that is meant, run pytest with --regen"):
        check_golden(path, "b\n")
    assert path.read_text() == "a\n"
