"""For every test: `CI=true` turns skips for want of a capability into failures, and the whole run leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest

from tests import leftovers


def _strict() -> bool:
    return os.environ.get("CI") == "true"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a kernel test that is skipped has not shown what it is there for."""
    report = yield
    if _strict() and report.skipped and item.get_closest_marker("kernel"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


def pytest_sessionstart() -> None:
    """Who runs the tests in the background of a shell ignores SIGINT, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_of_the_run() -> Iterator[None]:
    """The whole run leaves nothing of ours on the host."""
    before, alone = leftovers.take(), not leftovers.foreign()
    yield
    left = leftovers.settle(before) if alone and not leftovers.foreign() else []
    assert not left, "left behind by the test run:\n" + "\n".join(left)
