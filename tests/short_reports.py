"""Lets the processes of pytest-xdist report little about tests that pass.

They send six messages about each test, written by Python code, which the main process reads: 4 ms of CPU time in all. A
test that passes needs two of them, and of its report only what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

PASSED = "passed"
"""The only field of a short report: test, file, line, name, seconds, beginning and end."""


def _is_short(config: pytest.Config) -> bool:
    """True in a process of pytest-xdist, unless somebody wants to see more of tests that pass."""
    option = config.option
    return hasattr(config, "workerinput") and not option.durations and not {"P", "A"} & set(option.reportchars)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Report neither a test's beginning and end, nor a setup or a teardown that passes."""
    if not _is_short(item.config):
        return None
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        if report.when == "call" or not report.passed:
            item.ihook.pytest_runtest_logreport(report=report)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_report_to_serializable(config: pytest.Config, report: Any) -> dict[str, Any] | None:
    if (
        not isinstance(report, pytest.TestReport)
        or not report.passed
        or report.user_properties
        or hasattr(report, "wasxfail")
        or not _is_short(config)
    ):
        return None
    return {PASSED: (report.nodeid, *report.location, report.duration, report.start, report.stop)}


@pytest.hookimpl(tryfirst=True)
def pytest_report_from_serializable(data: Mapping[str, Any]) -> pytest.TestReport | None:
    if PASSED not in data:
        return None
    nodeid, file, line, name, duration, start, stop = data[PASSED]
    return pytest.TestReport(
        nodeid, (file, line, name), {}, "passed", None, "call", duration=duration, start=start, stop=stop
    )
