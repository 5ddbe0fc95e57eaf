"""The command --wait-ready: it returns when the daemon answers and serves."""

from __future__ import annotations

import time
from collections.abc import Callable

from ktcpvs.control.client_errors import NoAnswer, NotPermitted, NotTrusted
from ktcpvs.control.tcpvsadm.exit_status import NoDaemon
from ktcpvs.control.tcpvsadm.session_io import SessionIO, TimeIsUp
from ktcpvs.errors import Refusal

POLL_INTERVAL = 0.1
"""Seconds between two questions."""

DEFAULT_SECONDS = 30
"""The seconds for which it waits where the command says none."""

MIN_ANSWER_SECONDS = 2.0
"""The least time that a daemon has for its answer, also where the command waits for less."""


async def wait_until_ready(io: SessionIO, address: object, seconds: int, advice: Callable[[], str]) -> None:
    """Return when the daemon is ready.

    address: of the daemon, for messages. seconds: the most that it waits; 0: it asks once. advice: returns what to do
    where no daemon answers. Raises NoDaemon if none answers or this user may not ask, and a Refusal if the daemon is
    not ready in time.
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
                why = await switch.why_not_ready()
            finally:
                switch.close()
        except (NotPermitted, NotTrusted) as refused:
            raise NoDaemon(str(refused)) from None
        except NoAnswer as lost:
            failure = NoDaemon(f"{lost}{waited}: {advice()}")
            return False
        failure = Refusal(f"the daemon is not ready{waited}: {why}")
        return not why

    async def ask_until_ready() -> None:
        while not await ask():
            if time.monotonic() + POLL_INTERVAL > until:
                raise failure
            await io.sleep(POLL_INTERVAL)

    try:
        await io.within(max(seconds, MIN_ANSWER_SECONDS), ask_until_ready())
    except TimeIsUp:
        raise failure from None
