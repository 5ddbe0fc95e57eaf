"""The tests that stand in a configuration: each request is put to the service as it would be; who serves is compared.

A test is about the configuration and not about what happens to run: every configured server is available to it, up,
with the weight 1 and without load. So a server can be quiesced or die without breaking a test. One of the servers that
the test names must serve when the same is asked again and again, so that servers among which `balance` chooses have all
had their turn.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from attrs import evolve

from ktcpvs.errors import BrokenTest
from ktcpvs.interfaces import IBindsInSteps
from ktcpvs.model.destination import Destination
from ktcpvs.model.expectation import NOBODY, Expectation
from ktcpvs.model.language.tests import write_test
from ktcpvs.model.scheduling import Request
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.http1 import BadRequest
from ktcpvs.runtime.context import Context
from ktcpvs.services.dry_run import DryRun, client_address, denial, found, of_a_bad_request, read_request
from ktcpvs.services.prepared import Prepared

MAX_ASKS = 2000
"""How often one test is asked at most."""

ASKS_PER_SERVER = 20
"""How often it is asked for each server: where chance chooses, one of n servers is missed with a chance of e^-20."""


def bound_for_tests(
    config: VirtualService, plugins: tuple[Any, Any, Any], key: bytes
) -> Generator[None, None, Prepared]:
    """The service with all its servers available and without load, little by little. plugins: scheduler, balance and
    fallback."""
    config = evolve(config, servers=tuple([evolve(server, weight=1, maxconn=0) for server in config.servers]))
    destinations = {server.address: Destination(server.address) for server in config.servers}
    prepared = Prepared(config, destinations, *plugins, key, True)
    prepared.seen = prepared.view()
    if IBindsInSteps.providedBy(prepared.factory):
        prepared.scheduler = yield from prepared.factory.binding(prepared.seen, None)
    else:
        prepared.scheduler = prepared.factory.bind(prepared.seen, None)
    return prepared


async def run(context: Context, prepared: Prepared) -> None:
    """Raises BrokenTest for the first that does not come out as is wanted."""
    config = prepared.config
    for test in config.tests:
        came = await _came(context, prepared, test)
        if came is not None:
            raise BrokenTest(f"service {config.ident}: {write_test(test)} fails: {came}")


async def _came(context: Context, prepared: Prepared, test: Expectation) -> str | None:
    """None when it came as it should, else what came instead, in words."""
    wanted = {str(server) for server in test.servers}
    seen: dict[str, str] = {}
    for _ in range(min(ASKS_PER_SERVER * (len(prepared.destinations) + 1), MAX_ASKS)):
        answer = await _answer(context, prepared, test)
        if answer["outcome"] == "server":
            if answer["server"] in wanted:
                return None
            seen.setdefault(answer["server"], answer["reason"])
            continue
        if answer["outcome"] == test.outcome:
            return None
        return f"{answer['outcome']}: {answer['reason']}"
    return "; ".join(f"{server} serves: {reason}" for server, reason in list(seen.items())[:3])


async def _answer(context: Context, prepared: Prepared, test: Expectation) -> dict[str, Any]:
    request = Request(client_address(test.client))
    method, _, target = test.request.partition(" ")
    denied = denial(request.client, prepared.config)
    if denied:
        return found(NOBODY, None, denied)
    try:
        read_request(request, prepared, context, method, target, test.pairs, [])
    except BadRequest as bad:
        return of_a_bad_request(bad, prepared)
    return await DryRun(context, prepared, request, []).answer()
