"""The twistd plugin's part: the options of `twistd ktcpvs`, and the service that they describe."""

from __future__ import annotations

import os
from pathlib import Path
from socket import gethostname
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from ktcpvs.cluster.etcd_address import parse_etcd_address
from ktcpvs.command_line import OPTIONS, SERVICE_OPTIONS
from ktcpvs.control.endpoints import ControlAddress, parse_control, parse_listen_address
from ktcpvs.errors import BadAddress, Refusal
from ktcpvs.model.expansion import parse_nameserver
from ktcpvs.model.nodes import NodeIdentity, check_name, parse_labels
from ktcpvs.status.address import parse_status
from ktcpvs.status.host_names import parse_host_name
from ktcpvs.system.limits import uncollected
from ktcpvs.system.privileges import group_number, identity
from ktcpvs.system.steady_clock import use_steady_clock
from ktcpvs.takeover.pid_file import PidFile

MAX_WORKERS = 64

_CLUSTER_FILES = ("cert", "key", "ca", "credentials", "secret")


class Options(usage.Options):
    """The command line of `twistd ktcpvs`."""

    synopsis = "[options]"
    longdesc = "A layer-7 switch for TCP services. Administer it with tcpvsadm."
    optParameters = [
        [option.name, option.short, option.default, option.help] for option in SERVICE_OPTIONS if not option.repeats
    ]

    def __init__(self) -> None:
        self.controls: list[str] = []
        self.nameservers: list[str] = []
        self.status_hosts: list[str] = []
        super().__init__()  # type: ignore[no-untyped-call]

    def opt_nameserver(self, text: str) -> None:
        self.nameservers.append(text)

    def opt_status_host(self, text: str) -> None:
        self.status_hosts.append(text)

    def opt_control(self, text: str) -> None:
        self.controls.append(text)

    opt_nameserver.__doc__ = OPTIONS["nameserver"].help
    opt_status_host.__doc__ = OPTIONS["status-host"].help
    opt_control.__doc__ = OPTIONS["control"].help

    def postOptions(self) -> None:
        """Check the options and convert them. Raises UsageError."""
        try:
            self["control"] = _control_addresses([text for text in self.controls if text])
            self["takeover"] = _takeover_address(self["takeover"]) if self["takeover"] else None
            self["nameservers"] = tuple(map(parse_nameserver, self.nameservers))
            self["status_hosts"] = tuple(map(parse_host_name, self.status_hosts))
            self["status"] = parse_status(self["status"]) if self["status"] is not None else None
            self._read_cluster()
        except Refusal as refusal:
            raise usage.UsageError(str(refusal)) from None
        if self.status_hosts and self["status"] is None:
            raise usage.UsageError(f"--status-host {self.status_hosts[0]} requires --status")
        for name in ("config", "state"):
            if self[name] == "":
                raise usage.UsageError(f"--{name}: missing file name")
            self[name] = os.path.abspath(self[name]) if self[name] else None
        self["workers"] = _workers(self["workers"])
        self._read_identity()
        if self["takeover"] is not None and any(
            where.path is not None and where != self["takeover"] for where in self["control"]
        ):
            raise usage.UsageError(
                "--takeover and --control name different unix sockets: leave --control out, which is taken over"
            )
        self["pid_file"] = PidFile(self.parent)
        if self["takeover"] is not None:
            self["pid_file"].leave_alone()

    def _read_cluster(self) -> None:
        """Raises UsageError and a Refusal."""
        # The name of a machine may be none that a table can name: then nothing is for this node alone.
        node = check_name("--node", self["node"]) if self["node"] is not None else gethostname()
        labels = parse_labels("--node-labels", self["node-labels"]) if self["node-labels"] is not None else frozenset()
        self["identity"] = NodeIdentity(node, labels)
        if self["cluster"] is None:
            for name in (f"cluster-{file}" for file in _CLUSTER_FILES):
                if self[name] is not None:
                    raise usage.UsageError(f"--{name} requires --cluster")
            return
        if self["cluster-key"] is not None and self["cluster-cert"] is None:
            raise usage.UsageError("--cluster-key requires --cluster-cert")
        address = parse_etcd_address(self["cluster"])
        for name in ("cluster-ca", "cluster-cert"):
            if self[name] is not None and not address.is_tls:
                raise usage.UsageError(f"--{name} requires members with https:// in --cluster")
        try:
            from ktcpvs.cluster.options import ClusterOptions
        except ImportError:
            raise usage.UsageError("--cluster requires the package treq: pip install 'ktcpvs[cluster]'") from None
        node = check_name("--node", self["identity"].name)
        files = [
            os.path.abspath(self[f"cluster-{name}"]) if self[f"cluster-{name}"] else None for name in _CLUSTER_FILES
        ]
        self["cluster"] = ClusterOptions(address, node, *files)

    def _read_identity(self) -> None:
        parent: Any = self.parent or {}
        if self["user"] is not None and (parent.get("uid") is not None or parent.get("gid") is not None):
            raise usage.UsageError(
                "--user excludes twistd's --uid and --gid: use --user alone, which keeps the needed capabilities"
            )
        if self["group"] is not None and self["user"] is None:
            raise usage.UsageError(f"--group {self['group']} requires --user")
        try:
            group = self["control-group"]
            self["control-group"] = group_number(group, "--control-group") if group is not None else None
            self["user"] = identity(self["user"], self["group"] or "") if self["user"] is not None else None
        except Refusal as refusal:
            raise usage.UsageError(str(refusal)) from None


def _control_addresses(texts: list[str]) -> tuple[ControlAddress, ...]:
    """Return the addresses of the control connection. Raises BadAddress."""
    addresses = tuple(map(parse_listen_address, texts))
    if sum(where.path is not None for where in addresses) > 1:
        raise BadAddress("--control names two unix sockets: at most one may be unix:/PATH, and the others tls: or tcp:")
    for where in addresses:
        if [(other.host, other.port) for other in addresses].count((where.host, where.port)) > 1:
            raise BadAddress(f"--control names {where} twice")
    return addresses


def _takeover_address(text: str) -> ControlAddress:
    """Return the unix socket of the daemon to take over from. Raises BadAddress."""
    if text.partition(":")[0] in ("tcp", "tcp6", "tls"):
        kind = text.partition(":")[0]
        raise BadAddress(
            f"--takeover {kind}:...: expected unix:/PATH, since sockets can be passed only over a unix socket"
        )
    return parse_control(text)


def _workers(text: str) -> int:
    """Return the number of workers: by default one for each core that this process may use, and 0 for a single core."""
    if text == "auto":
        cores = len(os.sched_getaffinity(0))
        return min(cores, MAX_WORKERS) if cores > 1 else 0
    if not (text.isascii() and text.isdigit()) or not 0 <= int(text[:9]) <= MAX_WORKERS:
        raise usage.UsageError(f"--workers {text}: expected auto, or a number from 0 to {MAX_WORKERS}")
    return int(text)


def makeService(options: Options) -> IService:
    """Make the service that `options` describe."""
    with uncollected():
        from twisted.internet import reactor

        from ktcpvs.switch_service import DaemonOptions, SwitchService

    use_steady_clock(reactor)
    return SwitchService(
        DaemonOptions(
            control=options["control"],
            config=options["config"],
            state=options["state"],
            workers=options["workers"],
            status=options["status"],
            status_hosts=options["status_hosts"],
            start_folder=Path(options["start-folder"]).absolute() if options["start-folder"] else None,
            user=options["user"],
            control_group=options["control-group"],
            nameservers=options["nameservers"],
            takeover=options["takeover"],
            pid_file=options["pid_file"],
            cluster=options["cluster"],
            node=options["identity"],
        ),
        reactor,
    )
