"""Explains which server would handle a request, and why, without sending anything.

A scheduler is bound for the purpose, as an edit would bind it, and called as a connection would call it. The running
scheduler is not called, so nothing changes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from ktcpvs.director.director import Director
from ktcpvs.dispatch.selection import Decision
from ktcpvs.errors import BadValue
from ktcpvs.http.exchange import MISDIRECTED
from ktcpvs.inspect.message_notes import message_notes
from ktcpvs.inspect.views import Views
from ktcpvs.interfaces import EACH_REQUEST, IExplains
from ktcpvs.model import why as words
from ktcpvs.model.address import Address
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.destination import Destination
from ktcpvs.model.expansion import name_to_look_up
from ktcpvs.model.filter import filter_of
from ktcpvs.model.health import DRAINING, EJECTED, STANDBY, UNRESOLVED, UP
from ktcpvs.model.scheduling import MAX_BODY_PREFIX, Considered, ModifiedChoice, OwnResponse, Request
from ktcpvs.model.server_words import DRAIN, MAINTENANCE, READY
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.http1 import BadRequest
from ktcpvs.runtime.context import Context
from ktcpvs.services.dry_run import (
    DryRun,
    bad_request_outcome,
    challenge_outcome,
    denial_reason,
    handshake_refusal,
    https_outcome,
    make_outcome,
    names_host,
    parse_client,
    read_request,
    refusal,
)
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.running import RunningService
from ktcpvs.system.plugin_errors import describe, raise_interrupt


class Explainer:
    """Explains the choices of this process, for the table in force."""

    def __init__(self, director: Director) -> None:
        self._director = director

    async def explain(self, ident: str, assumed: AssumedRequest) -> dict[str, Any]:
        """Explain what service `ident` would do with this request, as plain data for JSON, described in
        docs/tcpvsadm.md. Raises NoSuchService, BadValue for what cannot be a request, or the Refusal of a scheduler."""
        if len(assumed.body) > MAX_BODY_PREFIX:
            raise BadValue(f"body: expected at most {MAX_BODY_PREFIX} bytes, which is the most that a scheduler reads")
        director = self._director
        table, context = director.expanded, director.context
        config = table.service(ident)
        running = ident in table.running
        live = director.services[ident] if running else RunningService(context, config)
        prepared = await director.bind(live, config, table.settings, is_dry_run=True)
        notes = [] if running else [self._why_not_running(config)]
        if not running and ident in director.services:
            _copy_loads(prepared, director.services[ident])
        modes = {server.address: server.mode for server in config.servers}
        down = {destination for destination in prepared.destinations.values() if destination.health.state != UP}
        request = Request(parse_client(assumed.client))
        answer = {
            "service": ident,
            "running": ident in director.effective.running,
            "here": director.is_here(director.effective.service(ident)),
            "scheduler": config.scheduler,
            "unit": prepared.factory.unit,
        }
        try:
            _check_admission(request.client, config, live, notes)
            _check_handshake(config, assumed, live, notes)
            peer = request.client
            read_request(request, prepared, context, assumed, notes)
            notes += _describe_client(request, peer, live)
        except _Refused as refused:
            considered, outcome = Considered(), make_outcome("nobody", None, str(refused), refused.why)
        except BadRequest as bad:
            considered, outcome = Considered(), bad_request_outcome(bad, prepared)
        else:
            notes += _describe_clients(config, live)
            early = (
                challenge_outcome(request, context.challenges.responses)
                or https_outcome(request, prepared)
                or _misdirected_outcome(request, prepared, live)
            )
            considered = Considered()
            if early is not None:
                outcome = early
            else:
                dry_run = DryRun(context, prepared, request, notes, down, live.selector.resting)
                considered = _consider(prepared, request, context, notes)
                outcome = await dry_run.select()
                notes += _describe_work(dry_run.decision, prepared, request, live, peer)
        explained = {
            **answer,
            "request": _describe_request(request, assumed),
            "rules": [{"number": number, "pattern": pattern, "why": why} for number, pattern, why in considered.rules],
            "servers": [_describe_server(destination, modes) for destination in considered.destinations],
            "notes": [*considered.notes, *notes],
            "answer": outcome,
        }
        return add_failures(explained, Views(director).stats(ident))

    def _why_not_running(self, config: VirtualService) -> str:
        why = "is stopped" if self._director.is_here(config) else "does not run on this node"
        return f"service {config.ident} {why}: this is what it would do"


# The request.


class _Refused(Exception):
    """The client is refused before it sends a request; str() says why."""

    def __init__(self, reason: str, why: str) -> None:
        """why: the reason in words of `model/why.py`; "": they have none for it."""
        super().__init__(reason)
        self.why = why


def _check_admission(client: str, config: VirtualService, live: RunningService, notes: list[str]) -> None:
    """Add notes about the client's admission. Raises _Refused."""
    if not config.has_tcp_listener:
        return
    packed, judge = ipaddress.ip_address(client).packed, filter_of(config.allow, config.deny)
    denied = denial_reason(client, config)
    if denied:
        raise _Refused(f"{denied}: the connection is reset", words.DENY)
    network = None if judge is None else judge.judge(packed)[1]
    if network is not None:
        notes.append(f"client allowed by {network}")
    if not live.traffic.proxies.trusts(client):
        notes += live.traffic.admission.describe(packed)


def _check_handshake(config: VirtualService, assumed: AssumedRequest, live: RunningService, notes: list[str]) -> None:
    """Check that the client's TLS handshake succeeds with the certificates in use. A request that names no host may be
    for a name that has one: a note says so. Raises _Refused, or BadValue."""
    refused = handshake_refusal(config, assumed, live.tls)
    if refused and names_host(assumed):
        raise _Refused(refused, "")
    if refused:
        notes.append(f"{refused}; with -H 'Host: NAME' it asks for that name")


def _describe_client(request: Request, peer: str, live: RunningService) -> list[str]:
    """Describe the counts of a client that a trusted proxy tells. peer: the proxy."""
    if request.client in (peer, ""):
        return []
    return live.traffic.admission.describe(ipaddress.ip_address(request.client).packed)


def _describe_clients(config: VirtualService, live: RunningService) -> list[str]:
    """Describe how many clients the service has of those that it may have."""
    if not config.maxclients:
        return []
    now = live.clients.in_all
    full = ": the next one waits until one leaves" if now >= config.maxclients else ""
    return [f"service has {now} of {config.maxclients} clients{full}"]


def _misdirected_outcome(request: Request, prepared: Prepared, live: RunningService) -> dict[str, Any] | None:
    """Return the outcome of a request over TLS for a host that demands other things of TLS; None: it is for none."""
    foreign = live.foreign_hosts
    if prepared.factory.unit != EACH_REQUEST or foreign is None or not request.is_tls:
        return None
    return refusal(BadRequest(421, MISDIRECTED)) if (request.host or b"") in foreign else None


def _describe_work(
    decision: Decision | None, prepared: Prepared, request: Request, live: RunningService, peer: str
) -> list[str]:
    """Describe the rate of the rule, and what changes in the messages. peer: the address of the connection."""
    decided = None if decision is None else decision.response or decision.choice
    if decided is None:
        return []
    notes = []
    if isinstance(decided, ModifiedChoice | OwnResponse) and decided.modifiers.rate is not None:
        notes.append(live.traffic.rule_rates.describe(decided.modifiers.rate, decided.rule, request))
    return [*notes, *message_notes(prepared.config, prepared.factory.unit, request, decided, peer)]


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "backslashreplace")


def _describe_request(request: Request, assumed: AssumedRequest) -> dict[str, Any]:
    """Describe the request as it was parsed, or as it was given if it could not be parsed."""
    return {
        "client": request.client,
        "method": _text(request.method) or assumed.method,
        "target": _text(request.target) or assumed.target,
        "path": _text(request.path),
        "headers": [
            {"name": _text(name), "value": _text(value.strip(b" \t"))}
            for name, _, value in (line.partition(b":") for line in request.lines.split(b"\r\n") if line)
        ],
    }


# The servers that are considered.


def _copy_loads(prepared: Prepared, before: RunningService) -> None:
    """Copy the counts of connections that still drain at the servers of a stopped service."""
    for address, destination in prepared.destinations.items():
        known = before.destinations.get(address) or before.leaving.get(address)
        if known is not None:
            destination.active = known.active


def _consider(prepared: Prepared, request: Request, context: Context, notes: list[str]) -> Considered:
    all_servers = Considered(destinations=tuple(prepared.destinations.values()))
    if not IExplains.providedBy(prepared.scheduler):
        return all_servers
    try:
        considered = prepared.scheduler.explain(request)
        if not isinstance(considered, Considered):
            raise TypeError(f"{considered!r} is not Considered")
    except BaseException as error:
        raise_interrupt(error)
        context.log.failure("scheduler {name} cannot explain itself", name=prepared.config.scheduler_name)
        notes.append(f"scheduler {prepared.config.scheduler_name} cannot explain itself: {describe(error)}")
        return all_servers
    return considered


def _describe_server(destination: Destination, modes: Mapping[Address, str]) -> dict[str, Any]:
    """Describe a server that the scheduler has considered. modes: of the servers, by address."""
    state: str = destination.health.state
    if modes.get(destination.address, READY) != READY:
        state = DRAINING if modes[destination.address] == DRAIN else MAINTENANCE
    if name_to_look_up(destination.address):  # a name that is found has its addresses in place of it
        state = UNRESOLVED
    if state == UP:
        state = "quiesced" if not destination.weight else STANDBY if destination.is_standby else UP
    if state == UP and destination.is_full:
        state = "full"
    return {
        "address": str(destination.address),
        "state": state,
        "active": destination.active,
        "weight": destination.weight,
        "maxconn": destination.maxconn,
    }


def add_failures(explained: dict[str, Any], stats: dict[str, Any]) -> dict[str, Any]:
    """Return an explanation with what is known of its servers' failures and checks. stats: of its service."""
    rows = {server["address"]: server for server in stats["services"][0]["servers"]}
    servers = [{**server, **_failures(rows.get(server["address"]))} for server in explained["servers"]]
    return {**explained, "servers": servers}


def _failures(row: dict[str, Any] | None) -> dict[str, Any]:
    """Describe why a server is ejected, why it has failed last, and its response to checks; None where there is none of
    that. row: of the server in the stats; None: it is there no more."""
    if row is None:
        return {"ejected": None, "last_error": None, "check_response": None}
    error, is_ejected = row["last_error"], row["health"]["state"] == EJECTED
    return {
        "ejected": row["health"]["reason"] if is_ejected else None,
        "last_error": error["reason"] if error and (error["in_a_row"] or is_ejected) else None,
        "check_response": row["check_response"],
    }
