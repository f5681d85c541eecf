"""The markers of tests that take longer than twenty seconds (`-m "not slow"` leaves them out), and that need a GPU."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes longer than twenty seconds")
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and its driver")
