"""The switch that a daemon's administrators see: its own, and from a takeover on the new daemon's."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail

from ktcpvs.control.server import Switch
from ktcpvs.control.trace_session import TraceSession
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, Busy
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.live_tracing import LiveTracing
from ktcpvs.inspect.views import Views
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.edits import NO_CLUSTER, DrainNode, Edit, ForgetNode, UndrainNode
from ktcpvs.model.live_trace import TraceQuery
from ktcpvs.model.local_edits import Local
from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings
from ktcpvs.runtime.context import Context
from ktcpvs.status.readiness import Readiness
from ktcpvs.takeover.handover_source import HandoverSource
from ktcpvs.takeover.predecessors import Predecessors
from ktcpvs.workers.merged_explanations import MergedExplanations
from ktcpvs.workers.merged_tracing import MergedTracing
from ktcpvs.workers.merged_views import MergedViews
from ktcpvs.workers.worker_processes import WorkerProcesses

if TYPE_CHECKING:
    from ktcpvs.cluster.administration import ClusterAdministration  # needs treq, which the core does not install
    from ktcpvs.cluster.editing import ClusterEdits

READINESS = "readiness"
"""The view that says whether the daemon serves."""

NODE_VIEWS = ("nodes", "cluster_stats", "cluster_connections")
"""The views that only a node of a cluster has."""


class OwnSwitch:
    """This daemon's switch. Provides control.server.Switch."""

    def __init__(
        self,
        director: Director,
        views: Views | MergedViews,
        readiness: Readiness,
        predecessors: Predecessors,
        shared_edits: ClusterEdits | None = None,
        administration: ClusterAdministration | None = None,
    ) -> None:
        """readiness: whether this daemon serves. predecessors: of this daemon. shared_edits: carries out edits in the
        whole cluster; None: edits are this daemon's own. administration: of the cluster's nodes; None: this daemon is
        in none."""
        self.context = director.context
        self._submit: Callable[[Edit], Deferred[Sequence[str]]] = partial(_submit_alone, director)
        if shared_edits is not None:
            self._submit = lambda edit: Deferred.fromCoroutine(shared_edits.submit(edit))
        self._views = views
        self._administration = administration
        self._readiness = readiness
        self._predecessors = predecessors
        self.close_connection = views.close_connection
        self._rebalance = views.rebalance
        self.explain: Callable[[str, AssumedRequest], Awaitable[Any]]
        self.trace: Callable[[TraceQuery], TraceSession | Deferred[TraceSession]]
        if isinstance(views, MergedViews):
            self.explain = MergedExplanations(director, views).explain
            self.trace = MergedTracing(director, views.workers).trace
        else:
            self.explain = Explainer(director).explain
            self.trace = LiveTracing(director).trace

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        """See control.server.Switch."""
        if self._administration is not None and isinstance(edit, DrainNode | UndrainNode | ForgetNode):
            return Deferred.fromCoroutine(self._administration.carry_out(edit))
        return self._submit(edit)

    def view(self, name: str, ident: str | None) -> Any:
        """See control.server.Switch."""
        if name == READINESS:
            draining = list(self._predecessors.draining())
            return {"reason": self._readiness.why_not(), "pid": os.getpid(), "draining": draining}
        if name not in NODE_VIEWS:
            return self._views.view(name, ident)
        if self._administration is None:
            raise BadValue(NO_CLUSTER)
        return self._administration.view(name, ident)

    def rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> Any:
        """See control.server.Switch."""
        if not all_nodes:
            return self._rebalance(ident, percent, resets)
        if self._administration is None:
            raise BadValue(NO_CLUSTER)
        return self._administration.rebalance(ident, percent, resets)


def _submit_alone(director: Director, edit: Edit) -> Deferred[Sequence[str]]:
    """Carry an edit out in a daemon that is in no cluster."""
    if isinstance(edit, Local):
        return fail(
            BadValue("this daemon is in no cluster, where all edits hold on this node only: leave the option out")
        )
    return director.submit(edit)


class AdministeredSwitch:
    """Passes requests of control connections and of the status page on to a switch.

    The listeners of these connections exist before the switch does: making them may take root's rights, which are
    given up before the state file is read. No connection is accepted before `begin`.

    handover_source: hands over to a new daemon; None: this daemon cannot.
    """

    def __init__(self) -> None:
        self.handover_source: HandoverSource | None = None
        self._switch: Switch | None = None
        self._context: Context | None = None
        self._workers: WorkerProcesses | None = None

    def begin(self, switch: OwnSwitch, workers: WorkerProcesses | None, handover_source: HandoverSource | None) -> None:
        """Pass requests on to `switch` from now on. workers: None: one process serves."""
        self.handover_source = handover_source
        self._switch = switch
        self._context = switch.context
        self._workers = workers

    def forward_to(self, switch: Switch) -> None:
        """Another daemon has taken over: pass requests on to it."""
        self._switch = switch

    def _target(self) -> Switch:
        if self._switch is None:
            raise Busy("the daemon is starting")
        return self._switch

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        return self._target().submit(edit)

    def view(self, name: str, ident: str | None) -> Any:
        return self._target().view(name, ident)

    def close_connection(self, wanted: str) -> Any:
        return self._target().close_connection(wanted)

    def rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> Any:
        return self._target().rebalance(ident, percent, resets, all_nodes)

    def explain(self, ident: str, request: AssumedRequest) -> Awaitable[Any]:
        return self._target().explain(ident, request)

    def trace(self, query: TraceQuery) -> TraceSession | Deferred[TraceSession]:
        return self._target().trace(query)

    def settings(self) -> Settings:
        """The settings in force in this daemon."""
        return DEFAULT_SETTINGS if self._context is None else self._context.settings

    def processes(self) -> Mapping[str, int]:
        """Name -> process id of each process of this daemon."""
        if self._workers is None:
            return {"switch": os.getpid()}
        workers = {
            f"worker {worker.number}": worker.pid for worker in self._workers.running() if worker.pid is not None
        }
        return {"supervisor": os.getpid(), **workers}

    def worker_counts(self) -> Mapping[str, float | None] | None:
        """Return how many workers there are, and how often one was replaced; None: one process serves.

        configured, ready: the number of workers, and of those that serve. restarts: since the daemon started.
        since_restart: seconds since the last of them; None: there was none.
        """
        workers = self._workers
        if workers is None:
            return None
        return {
            "configured": len(workers.all),
            "ready": len(workers.ready()),
            "restarts": workers.restarts,
            "since_restart": workers.seconds_since_restart,
        }
