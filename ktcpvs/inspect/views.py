"""Views of a running switch: the table, counters, connections, schedulers and settings, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import fields

from ktcpvs.control.edit_commands import text_of_edit
from ktcpvs.director.director import Director
from ktcpvs.director.resolver import Unresolved
from ktcpvs.director.scheduler_reload import Outcome
from ktcpvs.dispatch.service_context import RelayChoice
from ktcpvs.errors import BadValue, shorten
from ktcpvs.inspect.certificates import describe_certificates
from ktcpvs.inspect.client_connections import close_connection, describe_connection, open_connections
from ktcpvs.inspect.rebalance import check_rebalance, rebalance
from ktcpvs.model.address import Address, SRVName
from ktcpvs.model.describe import describe_server, describe_service
from ktcpvs.model.destination import Destination
from ktcpvs.model.expansion import name_to_look_up
from ktcpvs.model.health import DRAINING, STANDBY, UNRESOLVED, Health
from ktcpvs.model.latency import described as latencies
from ktcpvs.model.placement import listens_on
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.scheduler_options import declared_options
from ktcpvs.model.server_words import MAINTENANCE
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table_parts import changed_parts
from ktcpvs.services.running import RunningService
from ktcpvs.system import tls_tickets
from ktcpvs.version import __version__

COUNTS_OF_SERVICE = (
    "active",
    "total",
    "requests",
    "refused",
    "broken_responses",
    "queued",
    "rebalancing",
    "paused_listeners",
    "waiting_streams",
    "denied",
    "limited",
    "choose_overruns",
    "scheduler_failures",
    "scheduler_failing",
    "handshake_pauses",
    "http2_glitches",
    "http2_floods",
    "bytes_in",
    "bytes_out",
)
COUNTS_OF_SERVER = ("active", "pending", "total", "failures", "retries", "kept", "reused", "bytes_in", "bytes_out")


ON_THIS_NODE = "on this node only"


class Views:
    """A method for each view, by name. ident: only this service; None: all."""

    def __init__(self, director: Director) -> None:
        self._director = director

    def view(self, name: str, ident: str | None) -> Any:
        """Return the named view. Raises BadValue for an unknown name, or NoSuchService."""
        views = {
            "table": self.table,
            "configured": self.configured,
            "stats": self.stats,
            "connections": self.connections,
            "schedulers": self.schedulers,
            "settings": self.settings,
            "certificates": self.certificates,
        }
        if name not in views:
            raise BadValue(f"no view '{shorten(name, 40)}'; there are: {', '.join(views)}")
        return views[name](ident)

    def _chosen(self, ident: str | None) -> list[VirtualService]:
        table = self._director.effective
        return list(table) if ident is None else [table.service(ident)]

    def table(self, ident: str | None) -> dict[str, Any]:
        table = self._director.effective
        local = self._local_parts()
        return {
            "version": __version__,
            "services": [
                {**self._service(service), "local": local.get(service.ident, [])} for service in self._chosen(ident)
            ],
            "settings": table.settings.described(),
            "trial": self._director.confirmation.seconds_left,
            "local": [{"edit": text_of_edit(one.edit), "forced": one.is_forced} for one in self._director.table.local],
        }

    def configured(self, ident: str | None) -> dict[str, Any]:
        """As `table`, without the edits that hold on this node of a cluster only."""
        table = self._director.table
        return {
            "version": __version__,
            "services": [
                {**describe_service(service), "running": service.ident in table.running}
                for service in (table if ident is None else [table.service(ident)])
            ],
            "settings": table.settings.described(),
        }

    def _service(self, service: VirtualService) -> dict[str, Any]:
        """Describe a service, and where it is: `here`, of it and of each listener, says whether it is for this node."""
        director = self._director
        described = describe_service(service)
        for listener, row in zip(service.listen, described["listeners"], strict=True):
            row["here"] = listens_on(service, listener, director.context.node)
        is_running = service.ident in director.effective.running
        unresolved = {
            str(server.address): found.reason
            for server in service.servers
            if (found := self._unresolved(server.address)) is not None
        }
        return {**described, "running": is_running, "here": director.is_here(service), "unresolved": unresolved}

    def _unresolved(self, address: Address) -> Unresolved | None:
        """Return why a server's name has no addresses; None: it has some, or the server has no name."""
        name = name_to_look_up(address)
        return self._director.names.unresolved.get(name) if name else None

    def _local_parts(self) -> dict[str, list[str]]:
        """Return the parts of services that differ on this node of a cluster, by ident."""
        director = self._director
        found: dict[str, list[str]] = {}
        if director.table.local:
            for kind, *names in sorted(changed_parts(director.table, director.effective)):
                if kind == "service":
                    found.setdefault(names[0], []).append(" ".join(names[1:]).strip() or "service")
        return found

    def stats(self, ident: str | None) -> dict[str, Any]:
        answer, starter = self.table(ident), self._director.context.starter
        answer["traces"] = self._director.context.tracer.describe()
        for described in answer["services"]:
            config = self._director.expanded.services[described["ident"]]
            described["servers"] = [{**describe_server(server), "name": server.name} for server in config.servers]
            live = self._director.services.get(config.ident)
            is_running = config.ident in self._director.expanded.running
            described["unit"] = live.traffic.unit if live is not None else None
            described["stats"] = {**_service_stats(live), "relay": _relay(live if is_running else None)}
            passed = _passed(live)
            for server, row in zip(config.servers, described["servers"], strict=True):
                destination = live.destinations.get(server.address) if live is not None else None
                row["stats"] = _destination_stats(live, destination, passed)
                is_resting = live is not None and destination in live.selector.resting
                started = starter.state(server.address) if server.start is not None else None
                row["health"] = _health(destination, server, is_resting, self._unresolved(server.address), started)
                row["last_error"] = _last_error(destination)
                row["check_response"] = destination.health.response or None if destination is not None else None
            if config.redirect is not None:
                described["redirect_stats"] = _destination_stats(live, live.selector.redirect if live else None, passed)
        return answer

    def connections(self, ident: str | None) -> list[dict[str, Any]]:
        director = self._director
        if ident is not None:
            director.effective.service(ident)
        now = director.context.wheel.now
        return [describe_connection(live, connection, now) for live, connection in open_connections(director, ident)]

    def close_connection(self, wanted: str) -> dict[str, Any]:
        """Close the connection with this ID. Returns its description. Raises NoSuchConnection."""
        return close_connection(self._director, wanted)

    def check_rebalance(self, ident: str, percent: int) -> None:
        """See `inspect.rebalance`."""
        check_rebalance(self._director, ident, percent)

    def rebalance(self, ident: str, percent: int, resets: bool) -> dict[str, Any]:
        """See `inspect.rebalance`."""
        return rebalance(self._director, ident, percent, resets)

    def schedulers(self, ident: str | None) -> dict[str, Any]:
        found = self._director.schedulers()
        used = [found.named(service.scheduler_name) for service in self._director.effective]
        return {
            "schedulers": [
                {
                    "name": name,
                    "unit": plugin.unit,
                    "module": type(plugin).__module__,
                    "source": found.origins[name].text,
                    "summary": (type(plugin).__doc__ or "").strip().split("\n")[0],
                    "services": used.count(plugin),
                    "options": [
                        {"name": option, **declared.described()}
                        for option, declared in declared_options(plugin).items()
                    ],
                }
                for name, plugin in sorted(found.known.items())
            ],
            "broken": [{"module": module, "error": error} for module, error in found.broken],
            "reloaded": _describe_reload(self._director.scheduler_reload.last),
        }

    def certificates(self, ident: str | None) -> list[dict[str, Any]]:
        return describe_certificates(self._director, ident)

    def settings(self, ident: str | None) -> list[dict[str, Any]]:
        settings, configured = self._director.effective.settings, self._director.table.settings
        return [
            {
                "name": attribute.name,
                "value": getattr(settings, attribute.name),
                "default": attribute.default,
                "lowest": (attribute.metadata["range"] or (None, None))[0],
                "highest": (attribute.metadata["range"] or (None, None))[1],
                "unit": attribute.metadata["unit"],
                "meaning": attribute.metadata["meaning"],
                "note": _note(attribute.name)
                or ("" if getattr(settings, attribute.name) == getattr(configured, attribute.name) else ON_THIS_NODE),
            }
            for attribute in fields(Settings)
        ] + [
            {
                "name": "unload",
                "value": 0,
                "default": 0,
                "lowest": 0,
                "highest": 1,
                "unit": "",
                "meaning": "writing 1 stops all services, drains and ends the daemon",
                "note": "",
            }
        ]


def _describe_reload(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    files = [{"name": name, "file": file} for name, file in outcome.schedulers.items()]
    return {"schedulers": files, "services": list(outcome.services), "unchanged": outcome.is_same}


def _note(setting: str) -> str:
    """Return why a setting is without effect on this machine; "" for the others."""
    why = tls_tickets.unavailable() if setting == "tls_ticket_rotation" else ""
    return f"without effect: sessions are resumed within one process only, since {why}" if why else ""


def _passed(live: RunningService | None) -> dict[Destination, tuple[int, int]]:
    """Return the bytes in and out of the open connections by destination, which does not count them before their
    end."""
    passed: dict[Destination, tuple[int, int]] = {}
    for connection in live.connections if live is not None else ():
        if connection.dispatcher.lease is not None:
            destination = connection.dispatcher.lease.destination
            before, more = passed.get(destination, (0, 0)), connection.unsettled()
            passed[destination] = before[0] + more[0], before[1] + more[1]
    return passed


def _destination_stats(
    live: RunningService | None, destination: Destination | None, passed: dict[Destination, tuple[int, int]]
) -> dict[str, Any]:
    if live is None or destination is None:
        return dict.fromkeys(COUNTS_OF_SERVER, 0) | latencies(None)
    live_in, live_out = passed.get(destination, (0, 0))
    return {
        "active": destination.own,
        "pending": destination.pending,
        "total": destination.total,
        "failures": destination.failures,
        "retries": destination.retries,
        "kept": live.idle_connections(destination),
        "reused": destination.reused,
        "bytes_in": destination.bytes_in + live_in,
        "bytes_out": destination.bytes_out + live_out,
        **latencies(destination.latencies),
    }


def _health(
    destination: Destination | None,
    server: RealServer,
    is_resting: bool,
    unresolved: Unresolved | None,
    started: str | None,
) -> dict[str, Any]:
    """Describe a server's health: its state, since when (seconds since 1970; 0: since the server is known), the last
    reason. is_resting: its checks ask for no new clients. unresolved: its name has no addresses. started: of a server
    on demand that does not run."""
    known = destination.health if destination is not None else Health()
    if unresolved is not None and unresolved.reason:
        return {"state": UNRESOLVED, "since": unresolved.since, "reason": unresolved.reason}
    if isinstance(server.address, SRVName):
        state = UNRESOLVED
    elif server.mode == MAINTENANCE:
        state = MAINTENANCE
    elif not server.share:
        state = DRAINING
    elif started is not None:
        state = started
    elif destination is not None and destination.is_standby:
        state = DRAINING if is_resting else STANDBY
    else:
        state = known.state
    return {"state": state, "since": known.since, "reason": known.reason}


def _last_error(destination: Destination | None) -> dict[str, Any] | None:
    """Describe why a server last failed a connection or a request: at (seconds since 1970), reason, and in_a_row, the
    number of failures since it last served one. None: it never has failed one."""
    if destination is None or not destination.last_error:
        return None
    return {"at": destination.failed_at, "reason": destination.last_error, "in_a_row": destination.errors}


def _relay(live: RunningService | None) -> dict[str, Any] | None:
    """Describe the relay in use, why it is not the configured or the best one, and the number of connections that each
    relay has carried; None for a service that does not run."""
    return _relay_in_use(live.traffic.relay) if live is not None else None


def _relay_in_use(relay: RelayChoice) -> dict[str, Any]:
    return {"in_use": relay.engine, "why": relay.reason, "joined": dict(relay.joined)}


def _handshakes(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Name each kind of TLS handshake: `TLSv1.3 full`, `TLSv1.3 resumed`, `refused`."""
    return dict(sorted((f"{version} {outcome}".lstrip(), count) for (version, outcome), count in counts.items()))


def _responses(counts: Mapping[tuple[str, int], int]) -> dict[str, int]:
    """Name each kind of response of a rule: its status and the label of the rule, as in `301 old`."""
    return dict(sorted((f"{status} {rule}", count) for (rule, status), count in counts.items()))


def _by_status(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(status): count for status, count in sorted(counts.items())}


def _service_stats(live: RunningService | None) -> dict[str, Any]:
    if live is None:
        return dict.fromkeys(COUNTS_OF_SERVICE, 0) | {
            "refusals": {},
            "redirected": {},
            "rules": {},
            "responses": {},
            "handshakes": {},
            "preambles": {},
        }
    traffic, counters = live.traffic, live.traffic.counters
    return {
        "active": live.active,
        "total": counters.total,
        "requests": live.requests,
        "refused": counters.refused,
        "refusals": _by_status(counters.refusals),
        "redirected": _by_status(counters.redirected),
        "broken_responses": counters.broken_responses,
        "rules": dict(live.scheduler.rule_requests),
        "responses": _responses(traffic.own_responses.counts),
        "handshakes": _handshakes(live.preambles.handshakes),
        "preambles": dict(live.preambles.refusals),
        "choose_overruns": live.scheduler.budget.overruns,
        "scheduler_failures": live.selector.failures,
        "scheduler_failing": int(live.selector.is_failing),
        "handshake_pauses": live.preambles.pauses,
        "http2_glitches": live.http2_clients.glitches,
        "http2_floods": live.http2_clients.floods,
        "queued": len(traffic.queue),
        "rebalancing": live.rebalancing.left,
        "paused_listeners": sum(listener.lacks_descriptors for listener in live.listeners.values()),
        "waiting_streams": live.stream_connections.waiting,
        "denied": traffic.admission.denied,
        "limited": traffic.admission.limited,
        "bytes_in": counters.ended_in + sum(connection.moved()[0] for connection in live.connections),
        "bytes_out": counters.ended_out + sum(connection.moved()[1] for connection in live.connections),
    }
