"""docs/operators.md is what the tables of the compiler say, and every operator stands in it."""

from pathlib import Path

from skipfx import ops
from skipfx.passes.operator_page import page
from skipfx.passes.rules import RULES
from skipfx.passes.rules.whole import WHOLE, name_of

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m skipfx.passes.operator_page > docs/operators.md"


def test_every_operator_is_listed() -> None:
    names = {name_of(target) for target in RULES if target not in ops.OPS} | set(WHOLE)
    assert [name for name in sorted(names) if f"`{name}`" not in page()] == []
