"""The command --wait-ready: it returns when the daemon answers and serves."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import frozen

from ktcpvs.control.client_errors import NoAnswer, NotPermitted, NotTrusted
from ktcpvs.control.tcpvsadm.exit_status import NoDaemon
from ktcpvs.control.tcpvsadm.session_io import SessionIO, TimeIsUp
from ktcpvs.errors import Refusal
from ktcpvs.system.processes import is_running

POLL_INTERVAL = 0.1
"""Seconds between two questions."""

DEFAULT_SECONDS = 30
"""The seconds for which it waits where the command says none."""

MIN_ANSWER_SECONDS = 2.0
"""The least time that a daemon has for its answer, also where the command waits for less."""


@frozen
class Expected:
    """The daemon that is expected. pid: its process; not_pid: the process of another one, which it replaces; None: any.
    is_local: the daemon's processes are those of this machine."""

    pid: int | None = None
    not_pid: int | None = None
    is_local: bool = True

    def why_not(self, pid: int | None) -> str:
        """Return why the daemon of process `pid` is not the expected one; "": it is. pid: None: its version does not
        tell."""
        serves = (
            "one serves whose version does not tell its process" if pid is None else f"that of process {pid} serves"
        )
        if self.pid not in (None, pid):
            return f"{serves}, and not that of process {self.pid}"
        if self.not_pid is not None and pid in (self.not_pid, None):
            return f"{serves}, and no other one"
        return ""

    def why_never(self) -> str:
        """Return why it will not serve any more; "": it may."""
        if self.pid is None or not self.is_local or is_running(self.pid):
            return ""
        return f"process {self.pid} has ended, and does not serve; its messages or its log say why"


async def wait_until_ready(
    io: SessionIO, address: object, seconds: int, advice: Callable[[], str], expected: Expected
) -> None:
    """Return when the daemon is ready.

    address: of the daemon, for messages. seconds: the most that it waits; 0: it asks once. advice: returns what to do
    where no daemon answers. expected: which daemon it must be. Raises NoDaemon if none answers or this user may not
    ask, and a Refusal if the daemon is not ready in time, or another one serves instead.
    """
    until = time.monotonic() + seconds
    waited = f" after {seconds} s" if seconds else ""
    silent = NoDaemon(f"the daemon at {address} does not answer{waited}")
    failure: Refusal | NoDaemon = silent

    async def ask() -> bool:
        nonlocal failure
        try:
            switch = await io.connect()
            try:
                failure = silent
                answer = await switch.readiness()
            finally:
                switch.close()
        except (NotPermitted, NotTrusted) as refused:
            raise NoDaemon(str(refused)) from None
        except NoAnswer as lost:
            failure = NoDaemon(f"{lost}{waited}: {advice()}")
            return False
        if other := expected.why_not(answer.get("pid")):
            failure = Refusal(f"the expected daemon does not serve{waited}: {other}")
            return False
        failure = Refusal(f"the daemon is not ready{waited}: {answer['reason']}")
        return not answer["reason"]

    async def ask_until_ready() -> None:
        while not await ask():
            if never := expected.why_never():
                raise Refusal(never)
            if time.monotonic() + POLL_INTERVAL > until:
                raise failure
            await io.sleep(POLL_INTERVAL)

    try:
        await io.within(max(seconds, MIN_ANSWER_SECONDS), ask_until_ready())
    except TimeIsUp:
        raise failure from None
