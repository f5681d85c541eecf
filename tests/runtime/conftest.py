"""The marker of tests that take longer than twenty seconds; `-m "not slow"` leaves them out."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes longer than twenty seconds")
