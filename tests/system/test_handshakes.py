"""TCP handshakes in progress are listed, and no others."""

from __future__ import annotations

import contextlib
import socket

import pytest
from servers import let_only_syn_in, wait_for

from ktcpvs.system.handshakes import handshakes


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_under_way(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener, other = (stack.enter_context(socket.create_server((host, 0), family=family)) for _ in range(2))
        assert handshakes(listener) == frozenset()
        stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        assert handshakes(listener) == frozenset()  # this one is over
        let_only_syn_in(listener)
        callers = [stack.enter_context(socket.create_connection(listener.getsockname()[:2])) for _ in range(40)]
        wait_for(lambda: len(handshakes(listener) or ()) == 40)
        before = handshakes(listener)
        assert before == handshakes(listener)
        assert handshakes(other) == frozenset()
        callers.append(stack.enter_context(socket.create_connection(listener.getsockname()[:2])))
        wait_for(lambda: len(handshakes(listener) or ()) == 41)
        after = handshakes(listener)
        assert before is not None
        assert after is not None
        assert before < after


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr("ktcpvs.system.handshakes._SOCK_DIAG", 31)  # no such protocol of netlink
        assert handshakes(listener) is None
