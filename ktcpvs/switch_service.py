"""The composition root: builds one daemon from its options, starts it, and ends it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from ktcpvs.acme.access import NO_SECRET, IssuedAccess
from ktcpvs.acme.start import make_manager
from ktcpvs.acme.store import SUFFIX, CertificateFolder
from ktcpvs.control.control_listeners import ControlListeners
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.permissions import Permissions
from ktcpvs.control.server import ControlFactory
from ktcpvs.director.challenges import NodeChallenges
from ktcpvs.director.director import Director, edits_for
from ktcpvs.errors import CannotListen, Refusal
from ktcpvs.inspect.views import Views
from ktcpvs.model import edits
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.placement import KnownNodes
from ktcpvs.model.table import Table
from ktcpvs.model.tls_files import issued_files
from ktcpvs.reload import Reload, log_warnings
from ktcpvs.runtime.context import Context, new_key
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.service_manager import ServiceManager
from ktcpvs.services.listener_stages import ListenerStages
from ktcpvs.services.server_starter import ServerStarter
from ktcpvs.services.ticket_secrets import TicketSecrets
from ktcpvs.services.tls_file_store import TLSFileStore, not_read_before
from ktcpvs.services.tls_profiles import TLSProfiles
from ktcpvs.shutdown import Shutdown
from ktcpvs.signals import SignalHandlers
from ktcpvs.startup_report import log_serving, log_start
from ktcpvs.state import StateFile, read_configuration
from ktcpvs.status.address import StatusAddress
from ktcpvs.status.readiness import Readiness
from ktcpvs.status.status_listener import StatusListener
from ktcpvs.streams.transport import nothing
from ktcpvs.system.activation import handed_in
from ktcpvs.system.certificate_reader import CertificateReader
from ktcpvs.system.limits import calm_collector, raise_descriptor_limit
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.names import service_port
from ktcpvs.system.notify import Notifier
from ktcpvs.system.privileges import Identity, become, check_may_become
from ktcpvs.system.processes import is_proc_mounted
from ktcpvs.system.reactor_end import stop_reactor
from ktcpvs.system.shared import SharedTable
from ktcpvs.takeover.administered_switch import AdministeredSwitch, OwnSwitch
from ktcpvs.takeover.handover_source import HandoverConnection, HandoverSource
from ktcpvs.takeover.handover_target import HandoverTarget
from ktcpvs.takeover.inventory import CONTROL
from ktcpvs.takeover.pid_file import PidFile
from ktcpvs.takeover.predecessors import Predecessors
from ktcpvs.takeover.takeover import Takeover, TakeoverHandover, restore
from ktcpvs.takeover.upgrade_launcher import UpgradeLauncher
from ktcpvs.version import __version__
from ktcpvs.workers.merged_views import MergedViews
from ktcpvs.workers.shared_counters import SlotAllocator
from ktcpvs.workers.supervisor import Supervisor
from ktcpvs.workers.worker_processes import WorkerProcesses

if TYPE_CHECKING:
    from ktcpvs.cluster.administration import ClusterAdministration
    from ktcpvs.cluster.cluster import Cluster
    from ktcpvs.cluster.editing import ClusterEdits
    from ktcpvs.cluster.options import ClusterOptions
    from ktcpvs.cluster.sealed_store import SealedStore

NO_PROC = (
    "/proc is not mounted: sockets that a service manager hands in are not seen, the usage of processes is not known, "
    "and workers start slowly; mount it with 'mount -t proc proc /proc'"
)


@frozen
class DaemonOptions:
    """The options of the command line.

    control: the addresses of control connections, with at most one unix socket; none: the default one. config, state:
    absolute paths; None: none. workers: the number of worker processes; 0: this process serves. takeover: the control
    address of the daemon to take over from; None: start without one. pid_file: twistd's. status: the address of the
    status page; None: none. status_hosts: its host names, besides IP addresses and localhost. start_folder: of the
    programs that start servers; None: none is started. user: the user to become;
    None: stay the same. control_group: the group whose members may administer too; None: none. nameservers: (IP
    address, port) of the name servers to ask; none: those of the system. cluster: None: this daemon is in no cluster.
    node: the name and the labels of this switch.
    """

    control: tuple[ControlAddress, ...] = ()
    config: str | None = None
    state: str | None = None
    workers: int = 0
    takeover: ControlAddress | None = None
    pid_file: PidFile = PidFile(None)
    status: StatusAddress | None = None
    status_hosts: tuple[str, ...] = ()
    start_folder: Path | None = None
    user: Identity | None = None
    control_group: int | None = None
    nameservers: tuple[tuple[str, int], ...] = ()
    cluster: ClusterOptions | None = None
    node: NodeIdentity = NodeIdentity()


class NotStarted(SystemExit, Exception):
    """The start is refused: Python prints the reason and exits with status 1.

    It is an Exception too, since twistd in the background catches these to inform its parent and remove its pid file.
    """


class SwitchService(Service):
    """The switch as a Twisted service."""

    def __init__(self, options: DaemonOptions, reactor: Any) -> None:
        self._options = options
        self._reactor = reactor
        self._daemon: Daemon | None = None

    def startService(self) -> None:
        """Start the daemon. On a refusal: write one line to standard error, and exit with status 1."""
        try:
            self._daemon = start(self._options, self._reactor)
        except Refusal as refusal:
            raise NotStarted(f"ktcpvs: {refusal}") from None
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None] | None:
        """Stop accepting, let connections drain for at most the drain timeout, and close the rest."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._daemon.stop() if self._daemon is not None else None


@frozen
class Daemon:
    """A daemon that has been started. target: the daemon that it takes over from; None: there is none."""

    director: Director
    shutdown: Shutdown
    target: HandoverTarget | None
    cluster: Cluster | None = None

    def stop(self) -> Deferred[None]:
        """End it. Fires when it has ended."""
        has_not_taken_over = not self.director.context.is_accepting
        ended = self.shutdown.begin()
        if self.cluster is not None:
            left = Deferred.fromCoroutine(self.cluster.stop())
            ended = gatherResults([ended, left]).addCallback(lambda _: None)
        if self.target is not None and has_not_taken_over:
            self.director.context.steps.run("end: takeover", self.target.abandon)
        return ended


def start(options: DaemonOptions, reactor: Any) -> Daemon:
    """Build a daemon, run its table, and let administrators in; clients are served when the reactor runs.

    Raises a Refusal; then nothing is left open, and a daemon to take over from continues.
    """
    with ExitStack() as opened:
        daemon = _start(options, reactor, opened)
        opened.pop_all()  # the daemon closes it from now on
    return daemon


def _start(options: DaemonOptions, reactor: Any, opened: ExitStack) -> Daemon:
    """Build the daemon, as `start` does. opened: gets what must be closed again if the start is refused."""
    raise_descriptor_limit()
    log = EventLog()
    if not is_proc_mounted():
        log.warn(NO_PROC)
    notifier = Notifier.of_environment(os.environ)
    sockets = InheritedSockets()
    switch = AdministeredSwitch()
    control_factory = ControlFactory(switch, log, HandoverConnection, Permissions(options.control_group))
    control = _control_listeners(options, reactor, log, control_factory, sockets, switch)
    opened.callback(control.close)
    reader = _give_up_root(options, control, opened)
    _sort_in(handed_in(), control, sockets)

    target = None
    if options.takeover is not None:
        target = HandoverTarget(options.takeover, sockets)
        opened.callback(target.abandon)
        # Once more, so that it runs before `abandon`: the listener adopts a socket that `abandon` closes.
        opened.callback(control.close)
        reader = _take_reader(target, reader)
    state, saved = _read_state(options, reactor, target)
    cluster, shared_edits = _cluster(options, reactor, state, target)
    save = state.save if shared_edits is None else shared_edits.save
    nodes = _known_nodes(options, cluster)
    built = _build_switch(options, reactor, log, sockets, state, save, target, reader, nodes)
    director = built.director
    state.units_of = director.scheduler_units
    opened.callback(director.end)
    store = None
    if cluster is not None and shared_edits is not None:
        director.confirmation = shared_edits.trial
        store = _share_secrets(cluster, shared_edits, built, state)
    _share(cluster, director)
    challenges = _node_challenges(director, target)
    readiness = Readiness()
    readiness.require(lambda: "ending" if director.is_ending else "")
    status = StatusListener(options.status, options.status_hosts, switch, log, reactor, readiness)
    opened.callback(status.close)

    # All that may still be refused.
    if target is not None:
        control.adopt(target.control)
        result_of(restore(director, target, is_node=cluster is not None))
    else:
        control.open()
        status.open()
        load_table(director, saved, options, state)
        log_warnings(log, director.warnings(edits.StartService(), director.table, director.table))
    if options.state is not None and saved is None:
        result_of(Deferred.fromCoroutine(state.save(director.table)))

    watchdog = notifier.watchdog or (target.inventory.watchdog if target is not None else 0)
    service_manager = ServiceManager(notifier, director, watchdog)
    leave = partial(_leave, cluster) if cluster is not None else nothing
    handover = TakeoverHandover(reactor, director, switch, control, status, service_manager, options.pid_file, leave)
    source, predecessors = None, Predecessors()
    if control.unix_listener is not None and control.unix_listener.socket is not None:
        source = HandoverSource(
            director,
            sockets,
            control.unix_listener.socket,
            watchdog,
            handover.complete,
            built.tickets.record,
            reader,
            predecessors,
            cluster.instance if cluster is not None else "",
        )
    administration = _administration(cluster, built.views, reactor, log, readiness)
    _obtain_certificates(built, challenges, cluster, store, administration)
    own = OwnSwitch(director, built.views, readiness, predecessors, shared_edits, administration)
    switch.begin(own, built.workers, source)
    shutdown = Shutdown(director, service_manager, status, control, control_factory, handover)
    has_state, is_in_cluster = options.state is not None, cluster is not None
    reload = Reload(director, control, service_manager, options.config, has_state, is_in_cluster)
    upgrade = UpgradeLauncher(reactor, log, control.unix_address, notifier)
    takeover = None
    if target is not None:
        takeover = Takeover(target, director, sockets, control, status, options.pid_file, source, predecessors)

    async def begin_to_serve() -> None:
        if takeover is not None and not await _has_taken_over(takeover, options, reactor, log, shutdown):
            return
        if administration is not None:
            await administration.start(director)
        log_start(director, is_kept=_keeps_changes(options))
        log.event(ANNOUNCE, "ktcpvs {version}, control at {where}", version=__version__, where=control)
        director.issuer.start()
        await service_manager.started()
        readiness.begin()
        log_serving(log, options.workers)

    def begin() -> None:
        failed = partial(log.failure, "internal error: the service manager does not know that the daemon has started")
        Deferred.fromCoroutine(begin_to_serve()).addErrback(failed)

    reactor.callWhenRunning(director.start)
    reactor.callWhenRunning(director.context.watch_stalls)
    reactor.callWhenRunning(built.tickets.start)
    reactor.callWhenRunning(calm_collector)
    reactor.callWhenRunning(SignalHandlers(director, reload, upgrade, shutdown).install)
    reactor.callWhenRunning(begin)
    return Daemon(director, shutdown, target, cluster)


def _cluster(
    options: DaemonOptions, reactor: Any, state: StateFile | _NoStateFile, target: HandoverTarget | None
) -> tuple[Cluster, ClusterEdits] | tuple[None, None]:
    """The node of a cluster that this daemon is, and the edits of its administrators; None: it is none. Raises NoTLS
    and NoConfiguration."""
    if options.cluster is None:
        return None, None
    from ktcpvs.cluster.cluster import Cluster  # needs treq, which the core does not install
    from ktcpvs.cluster.editing import ClusterEdits
    from ktcpvs.cluster.options import make_etcd
    from ktcpvs.cluster.secret_file import read_secret_file

    given = options.cluster
    sealer = read_secret_file(given.secret) if given.secret is not None else None
    instance = target.inventory.instance if target is not None else ""
    cluster = Cluster(make_etcd(reactor, given), given.address.prefix, given.node, instance, sealer)
    if isinstance(state, StateFile):
        state.text_of = cluster.store.text_of
    return cluster, ClusterEdits(cluster, state.save)


def _share_secrets(
    cluster: Cluster, shared_edits: ClusterEdits, built: _BuiltSwitch, state: StateFile | _NoStateFile
) -> SealedStore:
    """Let the nodes of a cluster use the same secrets. Returns the store of these."""
    from ktcpvs.cluster.shared_secrets import share_secrets

    async def save_key(key: bytes) -> None:
        state.key = key
        if not shared_edits.trial.holds_the_save:  # or else it is saved with the table, when the trial has ended
            await state.save(built.director.table)

    return share_secrets(cluster, built.director, built.tickets, save_key).store


def _administration(
    cluster: Cluster | None, own: Views | MergedViews, reactor: Any, log: EventLog, readiness: Readiness
) -> ClusterAdministration | None:
    """Return what answers the commands about nodes; None: this switch is in no cluster. own: the views of this node.
    readiness: gets the condition that the node is not drained."""
    if cluster is None:
        return None
    from ktcpvs.cluster.administration import ClusterAdministration

    administration = ClusterAdministration(cluster, own.view, own.rebalance, reactor, log)
    readiness.require(administration.why_not_ready)
    return administration


def _obtain_certificates(
    built: _BuiltSwitch,
    challenges: NodeChallenges,
    cluster: Cluster | None,
    store: SealedStore | None,
    administration: ClusterAdministration | None,
) -> None:
    """Let the director have certificates obtained. challenges: of this node. store: of the cluster's secrets."""
    director, folder = built.director, built.folder  # without a folder, services with `certificate = acme` are refused
    if cluster is None or store is None or administration is None:
        if folder is not None:
            director.issuer = make_manager(director, folder, challenges)
        return
    from ktcpvs.cluster.acme_sharing import share_acme

    can_order = folder is not None and find_spec("acme") is not None

    looked: list[tuple[Table, bool]] = []  # at most one: it is asked for every two seconds, and a table may be large

    def is_wanted() -> bool:
        table = director.effective
        if not looked or looked[0][0] is not table:
            looked[:] = [(table, can_order and any(True for _ in issued_files(table)))]
        return looked[0][1]

    # A node that cannot order answers the challenges of the others nevertheless: a CA may look at its port 80.
    shared = share_acme(cluster, director, store, administration.requests, challenges, is_wanted)
    if folder is not None:
        director.issuer = make_manager(director, folder, shared.publisher, shared.leadership, shared.values)


def _certificate_folder(options: DaemonOptions) -> CertificateFolder | None:
    return CertificateFolder(options.state + SUFFIX) if options.state is not None else None


def _file_access(
    options: DaemonOptions, context: Context, reader: CertificateReader | None, folder: CertificateFolder | None
) -> IssuedAccess:
    """Reads the files of TLS. The arguments are those of `_build_switch`."""
    is_alone = options.cluster is not None and options.cluster.secret is None
    return IssuedAccess(reader, folder, context.wall, NO_SECRET if is_alone else "")


def _known_nodes(options: DaemonOptions, cluster: Cluster | None) -> Callable[[], KnownNodes]:
    if cluster is None:
        return lambda: KnownNodes(options.node)
    from ktcpvs.cluster.known_nodes import known_nodes

    return lambda: known_nodes(cluster, options.node)


def _share(cluster: Cluster | None, director: Director) -> None:
    """Have a node share what all nodes decide about together. cluster: None: this switch is in none."""
    if cluster is None:
        return
    from ktcpvs.cluster.live_nodes import follow_live_nodes
    from ktcpvs.cluster.shared_health import share_health

    share_health(cluster, director)
    follow_live_nodes(cluster, director)


def _leave(cluster: Cluster) -> None:
    Deferred.fromCoroutine(cluster.hand_over())


def _node_challenges(director: Director, target: HandoverTarget | None) -> NodeChallenges:
    """The challenges of ACME that this daemon publishes. target: CAs may look for its challenges just now."""
    challenges = NodeChallenges(director)
    if target is not None:
        challenges.restore(target.inventory.challenges)
    return challenges


def _give_up_root(options: DaemonOptions, control: ControlListeners, opened: ExitStack) -> CertificateReader | None:
    """Become the user of the options, if there is one, who then owns the folder of the control socket.

    Returns the process that still reads certificates with root's rights; None: there is none.
    """
    user, group = options.user, options.control_group
    if user is None:
        return None
    check_may_become(user)
    control.create_folder_for(user)
    reader = CertificateReader.start(user)
    if reader is not None:
        opened.callback(reader.close)
    become(user, *([] if group is None else [group]))
    control.warn_unreadable_files(user.name)
    return reader


def _take_reader(target: HandoverTarget, own: CertificateReader | None) -> CertificateReader | None:
    """Return the process that reads certificates with root's rights: that of the old daemon, if this one has not
    started its own."""
    if target.reader is None:
        return own
    if own is None:
        return CertificateReader(target.reader)
    target.reader.close()
    return own


def _keeps_changes(options: DaemonOptions) -> bool:
    """Whether something outlasts the daemon: a state file, a cluster, or a configuration, which is then the place for
    changes."""
    return options.state is not None or options.config is not None or options.cluster is not None


class _NoStateFile:
    """Saves nothing. key: a new secret, or that of the daemon before."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.units: Mapping[str, str] = {}
        self.units_of: Callable[[], Mapping[str, str]] = dict
        self.place_of = edits.nowhere

    async def save(self, table: Table) -> None:
        return None


def _read_state(
    options: DaemonOptions, reactor: Any, target: HandoverTarget | None
) -> tuple[StateFile | _NoStateFile, Table | None]:
    """The state file, and the table that was saved in it; None: there is none, or that of `target` counts.

    Raises NoConfiguration or BadConfiguration.
    """
    key = new_key() if target is None else target.inventory.key
    if options.state is None:
        return _NoStateFile(key), None
    state = StateFile(options.state, reactor, key)
    return state, state.load() if target is None else None


@frozen
class _BuiltSwitch:
    """A director with its views, and the secrets of session tickets. workers: None: one process serves. folder: of
    certificates of ACME; None: there is no state file beside which it could be."""

    director: Director
    views: Views | MergedViews
    tickets: TicketSecrets
    workers: WorkerProcesses | None = None
    folder: CertificateFolder | None = None


def _build_switch(
    options: DaemonOptions,
    reactor: Any,
    log: EventLog,
    sockets: InheritedSockets,
    state: StateFile | _NoStateFile,
    save: Callable[[Table], Awaitable[None]],
    target: HandoverTarget | None,
    reader: CertificateReader | None,
    nodes: Callable[[], KnownNodes],
) -> _BuiltSwitch:
    """Build the director of the switch, its workers and its views. save: saves each table that an edit makes. reader:
    reads the files of TLS; None: this process may read them. nodes: as for a Director."""
    make_context = partial(
        Context,
        reactor,
        log,
        key=state.key,
        sockets=sockets,
        nameservers=options.nameservers,
        node=options.node,
        is_accepting=target is None,
    )
    tickets = target.inventory.tickets if target is not None else None
    read_before = target.file if target is not None else not_read_before
    size, unload = options.workers, partial(stop_reactor, reactor)
    folder = _certificate_folder(options)
    if not size:
        context = make_context()
        files = TLSFileStore(context, _file_access(options, context, reader, folder), read_before=read_before)
        profiles = TLSProfiles(files)
        stages = ListenerStages(context, profiles)
        starter = _starter(options, context)
        director = Director(context, save, unload, stages_of=stages, files=files, nodes=nodes, starter=starter)
        secrets = TicketSecrets(context, profiles.use_tickets, tickets)
        return _BuiltSwitch(director, Views(director), secrets, folder=folder)
    slots = SlotAllocator(SharedTable(size + 1))  # the last of the processes is the supervisor, which counts nothing
    context = make_context(counters=slots.counters(size))
    files = TLSFileStore(context, _file_access(options, context, reader, folder), read_before=read_before)
    stages = ListenerStages(context, TLSProfiles(files))
    starter = _starter(options, context)
    supervisor = Supervisor(context, size, slots, save, unload, stages, files, nodes, starter)
    secrets = TicketSecrets(context, supervisor.use_tickets, tickets)
    return _BuiltSwitch(supervisor.director, supervisor.views, secrets, supervisor.workers, folder)


def _starter(options: DaemonOptions, context: Context) -> ServerStarter | None:
    return None if options.start_folder is None else ServerStarter(context, options.start_folder)


def _control_listeners(
    options: DaemonOptions,
    reactor: Any,
    log: EventLog,
    factory: ControlFactory,
    sockets: InheritedSockets,
    switch: AdministeredSwitch,
) -> ControlListeners:
    addresses = options.control
    if options.takeover is not None and options.takeover not in addresses:
        addresses = (options.takeover, *addresses)
    group = options.control_group
    return ControlListeners(reactor, factory, addresses, group, sockets.find_activated, switch.settings, log)


def _sort_in(handed: list[tuple[str, socket.socket]], control: ControlListeners, sockets: InheritedSockets) -> None:
    """Give the sockets that a service manager has handed in to the control connection, or keep them for services.

    handed: (name, socket) of each. Raises CannotListen.
    """
    for name, sock in handed:
        at = sock.getsockname()
        if control.unix_address is not None and at == control.unix_address.path:
            control.adopt(sock)
        elif name == CONTROL and not control.has_socket_at(at):
            raise CannotListen(f"the socket that was handed in as '{name}' listens at {at}; --control is {control}")
        else:
            sockets.add_activated(sock)


def load_table(
    director: Director, saved: Table | None, options: DaemonOptions, state: StateFile | _NoStateFile
) -> None:
    """Run the table that was saved; if there is none, the configuration file with all its services. Logs which.

    Raises a Refusal.
    """
    log, config = director.context.log, options.config
    if saved is not None:
        edits_of_saved = edits_for(saved, state.place_of)
        result_of(director.load_initial(edits_of_saved, is_strict=False, units=state.units))
    elif config is not None:
        edit = read_configuration(config, service_port, starts_all=True, may_wait=True)
        result_of(director.load_initial([evolve(edit, start=edits.START_ALL)], is_strict=True))
        if not director.table.services:
            log.warn("{config} configures no services", config=config)
    source = _source_of_table(is_saved=saved is not None, options=options)
    if source:
        log.event(ANNOUNCE, source, config=config, state=options.state)


def _source_of_table(is_saved: bool, options: DaemonOptions) -> str:
    """Says which of state file and configuration file has become the table, and how to choose the other; "": there is
    no choice."""
    if is_saved and options.config is not None:
        return (
            "the table comes from the state file {state}, and {config} was not loaded: to see the difference, run "
            "'tcpvsadm --diff {config}'; to load it, send SIGHUP"
        )
    if is_saved:
        return "the table comes from the state file {state}"
    if options.config is not None and options.state is not None:
        return (
            "the table comes from {config}, since there was no state file {state}: from now on the state file keeps "
            "all changes, and the next start takes it; to take {config} at each start, leave out --state "
            "(certificates of a CA need it)"
        )
    return "the table comes from {config}" if options.config is not None else ""


async def _has_taken_over(
    takeover: Takeover, options: DaemonOptions, reactor: Any, log: EventLog, shutdown: Shutdown
) -> bool:
    """Complete the takeover. If it fails, end this daemon with status 1, and return False."""
    try:
        await takeover.complete(reactor, options.workers or 1)
    except Exception as error:
        if not isinstance(error, Refusal):
            log.failure("internal error in a takeover")
        log.warn("nothing is taken over: {why}", why=error)
        if not shutdown.has_begun:
            reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)  # twistd has no exit status of its own
            stop_reactor(reactor)
        return False
    return True


def result_of(work: Deferred[Any]) -> None:
    """Raise what `work` has failed with. To be called while the reactor does not run, when `work` has fired."""
    failures: list[Failure] = []
    work.addErrback(failures.append)
    for failure in failures:
        failure.raiseException()
