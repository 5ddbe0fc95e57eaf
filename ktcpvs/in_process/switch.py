"""A switch inside a program: the services of a configuration, as client endpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.python.failure import Failure

from ktcpvs.director.director import Director
from ktcpvs.errors import NoSuchService, Refusal, unknown
from ktcpvs.in_process.connection import NotConnected, ProtocolConnection
from ktcpvs.in_process.endpoint import PREFIX, ServiceEndpoint
from ktcpvs.in_process.no_listeners import NoListeners
from ktcpvs.in_process.services import services_for_endpoints
from ktcpvs.inspect.views import Views
from ktcpvs.model.address import SRV
from ktcpvs.model.edits import START_ALL, Load
from ktcpvs.model.language.parser import parse
from ktcpvs.runtime.context import Context
from ktcpvs.state import read_configuration
from ktcpvs.system.log import EventLog
from ktcpvs.system.names import service_port
from ktcpvs.system.plugins import find_schedulers

if TYPE_CHECKING:
    from ktcpvs.in_process.agent import ServiceHosts

STOPPED = "the switch has been stopped"

NAMES_POLL_INTERVAL = 0.02
"""Seconds between two checks whether SRV records have been found."""


class Switch:
    """The services of a configuration, as client endpoints of this process.

    It starts with the first connection, or with `start`, and ends with `stop`, or when the reactor stops. Health checks
    run only between.
    """

    def __init__(
        self,
        reactor: Any,
        config: str | os.PathLike[str] | None = None,
        *,
        text: str | None = None,
        nameservers: tuple[tuple[str, int], ...] = (),
    ) -> None:
        """config: the path of a configuration file. text: a configuration in place of a file. Exactly one of them must
        be given. nameservers: (IP address, port) of the name servers to ask; none: those of the system. Raises a
        Refusal, with file and line, for a configuration that cannot be used."""
        if (config is None) == (text is None):
            raise TypeError("Switch: expected either config (the path of a file) or text (a configuration)")
        self._reactor = reactor
        self._nameservers = nameservers
        self._path = None if config is None else os.path.abspath(config)
        self._refused: Mapping[str, Refusal] = {}
        self._load = self._read(text)
        self._director: Director | None = None
        self._waiting: list[Deferred[None]] = []  # for the start
        self._is_loaded = False
        self._is_running = False
        self.is_stopped = False
        self._trigger: Any = None  # of the reactor's end

    def __repr__(self) -> str:
        state = "stopped" if self.is_stopped else "running" if self._is_running else "not started"
        return f"<Switch of {self._path or 'a text'}, {state}: {', '.join(self._load.services) or 'no services'}>"

    def _read(self, text: str | None) -> Load:
        """Return the edit that puts the configuration in force. text: None: that of the file. Raises a Refusal."""
        if text is not None or self._path is None:
            edit = parse(text or "", "text", service_port)
        else:
            edit = read_configuration(self._path, service_port, may_wait=True)
        services, self._refused = services_for_endpoints(edit.services.values(), find_schedulers())
        return Load(services, edit.settings, start=START_ALL)

    # Start and stop.

    def start(self) -> Deferred[None]:
        """Start health checks and look-ups of names. Fires when connections can be made.

        Fails with a Refusal if something that the configuration names cannot be used, such as a file of TLS; a later
        call tries again.
        """
        if self.is_stopped:
            return fail(NotConnected(STOPPED))
        if self._is_running:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        if self._director is None:
            context = Context(self._reactor, EventLog(), nameservers=self._nameservers)
            self._director = director = Director(context, processes=NoListeners(context))
            director.submit(self._load).addCallbacks(self._loaded, self._not_loaded, (director,))
        return waiting

    def _loaded(self, warnings: Any, director: Director) -> None:
        if self.is_stopped:
            director.end()
            director.stop()
            return
        director.start()
        self._is_loaded = True
        self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._reactor_stops)
        self._await_names(director)

    def _await_names(self, director: Director) -> None:
        """Wait for the first look-up of SRV records: until then, their services have no server that could be called.
        Names of hosts are looked up by each connection as long as nothing is known of them."""
        if self.is_stopped:
            return
        if any(name.startswith(SRV) and not found.reason for name, found in director.names.unresolved.items()):
            self._reactor.callLater(NAMES_POLL_INTERVAL, self._await_names, director)
            return
        self._is_running = True
        self._answer(None)

    def _not_loaded(self, why: Failure) -> None:
        director, self._director = self._director, None
        if director is not None:
            director.stop()
        self._answer(why)

    def _answer(self, result: Failure | None) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(result)

    def stop(self) -> None:
        """Make no more connections, and end health checks. Attempts to connect fail; connections that are made stay
        with their protocols. A second call does nothing."""
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
        self._stop()

    def _reactor_stops(self) -> None:
        self._trigger = None
        self._stop()

    def _stop(self) -> None:
        self._trigger = None
        self.is_stopped = True
        was_loaded, self._is_loaded, self._is_running = self._is_loaded, False, False
        if was_loaded and self._director is not None:
            self._director.end()
            self._director.stop()
        self._answer(Failure(NotConnected(STOPPED)))

    def reload(self, text: str | None = None) -> Deferred[None]:
        """Read the file again, and put it in force as `tcpvsadm -f FILE` does: what has not changed keeps its counters,
        its health and its connections. text: a configuration in place of the file.

        Fails with a Refusal; then nothing has changed.
        """
        refused = self._refused
        try:
            if text is None and self._path is None:
                raise TypeError("reload: expected a text, since the switch was made of one")
            load = self._read(text)
        except Exception:
            return fail(Failure())

        def undo(why: Failure) -> Failure:
            self._refused = refused
            return why

        def done(_: object) -> None:
            self._load = load

        if self._director is None:
            self._load = load
            return succeed(None)
        return self._director.submit(load).addCallbacks(done, undo)

    # Services.

    def endpoint(self, name: str) -> ServiceEndpoint:
        """Return the endpoint of a service. name: of the service, perhaps with `vs:` in front. Raises NoSuchService, or
        BadValue for a service of which no server can be chosen before there is a request."""
        ident = self._ident(name)
        if ident in self._refused:
            raise self._refused[ident]
        if ident not in self._load.services:
            raise NoSuchService(f"no service {unknown(ident, self._load.services, 40)}")
        return ServiceEndpoint(ident, self._connect)

    def _ident(self, name: str) -> str:
        return name if name in self._load.services else name.removeprefix(PREFIX)

    def endpoint_factory(self) -> ServiceHosts:
        """Return an IAgentEndpointFactory for `Agent.usingEndpointFactory`: http://web/ is the service web."""
        from ktcpvs.in_process.agent import ServiceHosts  # programs without HTTP need none of it

        return ServiceHosts(lambda name: ServiceEndpoint(name, self._connect))

    def servers(self, name: str) -> list[dict[str, Any]]:
        """Return the servers of a service with their health and their counters, as `tcpvsadm --stats --json` does.
        Empty before the start. Raises NoSuchService."""
        ident = self.endpoint(name).ident
        if self._director is None or ident not in self._director.services:
            return []
        found: list[dict[str, Any]] = Views(self._director).stats(ident)["services"][0]["servers"]
        return found

    def _connect(self, ident: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._is_running:
            return self._connect_now(ident, factory)

        def not_started(why: Failure) -> Failure:
            return Failure(NotConnected(f"service {ident}: {why.value}")) if why.check(Refusal) else why

        return self.start().addCallbacks(lambda _: self._connect_now(ident, factory), not_started)

    def _connect_now(self, ident: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        assert self._director is not None  # it runs
        if ident not in self._director.expanded.running:
            refused = self._refused.get(ident)
            return fail(NotConnected(str(refused or f"no service {unknown(ident, self._load.services, 40)}")))
        service = self._director.services[ident]
        connection = ProtocolConnection(service.traffic, factory)
        service.count_in(connection)
        return connection.connect()
