"""The fixture `ktcpvs_switch` for pytest.

Put `pytest_plugins = ["ktcpvs.testing.fixtures"]` into the conftest.py at the root of the tests. There is no entry
point `pytest11`, since each run of pytest beside an installed switch would import this then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ktcpvs.testing.running_switch import RunningSwitch


@pytest.fixture
def ktcpvs_switch() -> Iterator[Callable[..., RunningSwitch]]:
    """ktcpvs_switch(scheduler, servers, ...): start a real switch with the arguments of `RunningSwitch`. It ends with
    the test, which fails if the switch has logged an exception."""
    started: list[RunningSwitch] = []
    with ExitStack() as stack:

        def start(*arguments: Any, **named: Any) -> RunningSwitch:
            started.append(stack.enter_context(RunningSwitch(*arguments, **named)))
            return started[-1]

        yield start
        logs = [switch.log for switch in started]
    for log in logs:
        assert "Traceback" not in log, f"the switch has logged an exception:\n{log}"
