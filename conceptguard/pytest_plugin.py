"""What pytest is told where this package is installed: the mark that slow checks of the contract kit carry."""

from __future__ import annotations

from typing import Any


def pytest_configure(config: Any) -> None:
    """A test of somebody's method needs no ``pytest.ini`` for it."""
    config.addinivalue_line("markers", "slow: takes minutes; leave out with -m 'not slow'")
