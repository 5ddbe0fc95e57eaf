"""The steps of a takeover, in which the new daemon starts to serve and the old one stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, succeed

from ktcpvs.control.control_listeners import ControlListeners
from ktcpvs.director.director import Director, edits_for
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.service_manager import ServiceManager
from ktcpvs.status.status_listener import StatusListener
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.reactor_end import stop_reactor
from ktcpvs.takeover.administered_switch import AdministeredSwitch
from ktcpvs.takeover.handover_source import HandoverSource
from ktcpvs.takeover.handover_target import HandoverTarget
from ktcpvs.takeover.new_daemon import NewDaemon
from ktcpvs.takeover.pid_file import PidFile
from ktcpvs.takeover.predecessors import Predecessors


def restore(director: Director, target: HandoverTarget, is_node: bool = False) -> Deferred[None]:
    """Run the old daemon's table here, without accepting clients. Fires when it runs; fails with a Refusal. is_node:
    this daemon is in a cluster too, which lets it accept again if the old one was drained."""
    inventory = target.inventory

    def set_health(_: None) -> None:
        for ident, address, why in inventory.down:
            director.checked_servers.set_health(ident, address, False, why)

    def load(_: object) -> Deferred[None]:
        return director.load_initial(
            edits_for(inventory.table, lambda ident, scheduler: "the table of the running daemon"),
            is_strict=False,
            resolution=inventory.resolution,
            units=inventory.missing_schedulers,
        )

    withdrawn = director.withdrawals.withdraw(True) if inventory.is_drained and is_node else succeed(())
    return withdrawn.addCallback(load).addCallback(set_health)


@frozen
class Takeover:
    """The new daemon's steps, from the start of the reactor until it serves."""

    target: HandoverTarget
    director: Director
    sockets: InheritedSockets
    control: ControlListeners
    status: StatusListener
    pid_file: PidFile
    source: HandoverSource | None
    predecessors: Predecessors

    async def complete(self, reactor: Any, processes: int) -> None:
        """Wait until everything is ready, commit, and serve. processes: how many serve.

        Raises a Refusal or another exception if a step before the commit fails; then the old daemon continues.
        """
        await self.director.processes.ready()
        await self.target.commit(reactor, processes, self.pid_file.path)
        # The old daemon has stopped serving: from here on this one serves, even if a step fails.
        run = self.director.context.steps.run
        run("serve", self.director.start_accepting)
        run("takeover: daemons that drain", self.predecessors.add, self.target.draining)
        if self.sockets.were_left_over and self.source is not None:
            run("takeover: wait before the next", self.source.delay_next)
        run("takeover: files of sockets", self.target.own_socket_files)
        run("takeover: control", self.control.open_after_takeover)
        run("takeover: status", self.status.open_when_free)
        log = self.director.context.log
        try:
            self.pid_file.take()
        except OSError as error:
            log.warn("cannot write the pid file: {why}", why=error)
        log.event(ANNOUNCE, "taken over from ktcpvs {version}", version=self.target.version)


class TakeoverHandover:
    """The old daemon's steps after the commit: it forwards requests of administrators, drains, and ends."""

    def __init__(
        self,
        reactor: Any,
        director: Director,
        switch: AdministeredSwitch,
        control: ControlListeners,
        status: StatusListener,
        service_manager: ServiceManager,
        pid_file: PidFile,
        leave: Callable[[], object],
    ) -> None:
        """leave: the new daemon takes this one's place in the cluster."""
        self._leave = leave
        self._reactor = reactor
        self._director = director
        self._switch = switch
        self._control = control
        self._status = status
        self._service_manager = service_manager
        self._pid_file = pid_file
        self._new_daemon: NewDaemon | None = None

    @property
    def is_complete(self) -> bool:
        """True when a new daemon serves."""
        return self._new_daemon is not None

    @property
    def pending_requests(self) -> int:
        """The number of forwarded requests that the new daemon has not answered yet."""
        return 0 if self._new_daemon is None else self._new_daemon.pending

    def complete(self, pid_file: str, pid: int) -> None:
        """The new daemon serves. pid_file: its own, "" for none. pid: its process; 0: it is not known."""
        assert self._control.unix_address is not None  # else nothing could be handed over
        self._reactor.callLater(0, stop_reactor, self._reactor)
        new_daemon = self._new_daemon = NewDaemon(self._reactor, self._control.unix_address)
        self._director.forward_to(new_daemon.carry_out)
        self._switch.forward_to(new_daemon)
        run = self._director.context.steps.run
        run("hand over: cluster", self._leave)
        run("hand over: control", self._control.release)
        run("hand over: status", self._status.close)
        run("hand over: service manager", self._service_manager.handed_over, pid)
        if pid_file == self._pid_file.path:
            self._pid_file.leave_alone()
        self._director.context.log.event(
            ANNOUNCE,
            "taken over: {n} {what} drain",
            n=self._director.count_draining(),
            what=self._director.processes.draining_unit,
        )
