"""Run the tests of a configuration: select a server for each test's request, and compare it with the expected one.

A test checks the configuration, not the current state: every configured server counts as up, with the weight 1, in
rules too, and without load. So a server can be quiesced or fail without breaking a test. The same request is selected
repeatedly, until one of the expected servers is chosen, because `balance` may choose others first.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from attrs import evolve

from ktcpvs.errors import BrokenTest
from ktcpvs.interfaces import IBindsInSteps
from ktcpvs.model.destination import Destination
from ktcpvs.model.expectation import NOBODY, RESPOND, Expectation
from ktcpvs.model.language.writer import write_test
from ktcpvs.model.scheduling import Request
from ktcpvs.model.server_words import READY
from ktcpvs.model.service import VirtualService
from ktcpvs.model.service_plugins import ServicePlugins
from ktcpvs.protocols.http1 import BadRequest
from ktcpvs.runtime.context import Context
from ktcpvs.services.dry_run import DryRun, bad_request_outcome, denial_reason, make_outcome, parse_client, read_request
from ktcpvs.services.prepared import Prepared

MAX_SELECTIONS = 2000
"""The most selections for one test."""

SELECTIONS_PER_SERVER = 20
"""Selections for each server of the service. A random choice misses one of n servers with a probability of e^-20."""


def bind_for_tests(config: VirtualService, plugins: ServicePlugins, key: bytes) -> Generator[None, None, Prepared]:
    """Bind the schedulers of `config` in steps, with all servers available and without load."""
    config = evolve(
        config,
        servers=tuple([evolve(server, weight=1, maxconn=0, max_pending=0, mode=READY) for server in config.servers]),
        rules=tuple([evolve(rule, weights=()) if rule.weights else rule for rule in config.rules]),
    )
    destinations = {server.address: Destination(server.address) for server in config.servers}
    for server in config.servers:
        destinations[server.address].labels = dict(server.labels)
    prepared = Prepared(config, destinations, *plugins, key, True)
    prepared.seen = yield from prepared.viewing()
    if IBindsInSteps.providedBy(prepared.factory):
        prepared.scheduler = yield from prepared.factory.binding(prepared.seen, None)
    else:
        prepared.scheduler = prepared.factory.bind(prepared.seen, None)
    return prepared


async def run(context: Context, prepared: Prepared) -> None:
    """Run the tests in their order. Raises BrokenTest for the first that fails."""
    config = prepared.config
    for test in config.tests:
        failure = await _failure(context, prepared, test)
        if failure is not None:
            raise BrokenTest(f"service {config.ident}: {write_test(test)} fails: {failure}")


async def _failure(context: Context, prepared: Prepared, test: Expectation) -> str | None:
    """Return None if the test passes, else the actual outcome, in words."""
    expected = {str(server) for server in test.servers}
    reasons: dict[str, str] = {}
    for _ in range(min(SELECTIONS_PER_SERVER * (len(prepared.destinations) + 1), MAX_SELECTIONS)):
        outcome = await _select(context, prepared, test)
        if outcome["outcome"] == "server":
            if outcome["server"] in expected:
                return None
            reasons.setdefault(outcome["server"], outcome["reason"])
            continue
        if _is_expected(outcome, test):
            return None
        return f"{outcome['outcome']}: {outcome['reason']}" + (f" to {to}" if (to := outcome.get("location")) else "")
    return "; ".join(f"{server} serves: {reason}" for server, reason in list(reasons.items())[:3])


def _is_expected(outcome: dict[str, Any], test: Expectation) -> bool:
    """Whether an outcome without a server is the expected one."""
    if test.location:
        return bool(outcome.get("location") == test.location)
    if test.outcome == RESPOND:
        return bool(outcome.get("status") == test.status)
    return bool(outcome["outcome"] == test.outcome)


async def _select(context: Context, prepared: Prepared, test: Expectation) -> dict[str, Any]:
    assumed = test.assumed
    request = Request(parse_client(assumed.client))
    denied = denial_reason(request.client, prepared.config)
    if denied:
        return make_outcome(NOBODY, None, denied)
    try:
        read_request(request, prepared, context, assumed, [])
    except BadRequest as bad:
        return bad_request_outcome(bad, prepared)
    return await DryRun(context, prepared, request, []).select()
