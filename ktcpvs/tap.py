"""What twistd asks of `twistd ktcpvs`: the options, and the service that they describe."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from ktcpvs.control.endpoints import ControlAddress, default_control, parse_control, parse_listen_address
from ktcpvs.errors import BadAddress, Refusal
from ktcpvs.model.expansion import parse_nameserver
from ktcpvs.status.endpoint import parse_status
from ktcpvs.status.hosts import parse_host_name
from ktcpvs.system.limits import uncollected
from ktcpvs.system.privileges import group_number, identity
from ktcpvs.takeover.pid_file import PidFile

WORKERS_MAX = 64


class Options(usage.Options):
    """The command line of `twistd ktcpvs`."""

    synopsis = "[options]"
    longdesc = "A layer-7 switch for TCP services. Administer it with tcpvsadm."
    optParameters = [
        ["config", "c", None, "Load this configuration file at each start and at SIGHUP, and start its services."],
        ["status", None, None, "Serve a status page and metrics here, as tcp:9109, on loopback. [default: nowhere]"],
        ["state", "s", None, "Keep the table in this file; later starts begin with it, and not with --config."],
        [
            "workers",
            "w",
            "auto",
            "How many processes serve: a number, or auto, one for each core; 0: everything in one process.",
        ],
        [
            "takeover",
            None,
            None,
            "Take table, sockets and sessions over from the daemon whose control connection is there, unix:/PATH; it "
            "drains and ends.",
        ],
        ["user", "u", None, "Started as root: go on as this user, with nothing of root's but what a switch needs."],
        ["group", "g", None, "With --user: its group. [default: the user's own]"],
        ["control-group", None, None, "Members of this group may administer too, over a unix socket."],
    ]

    def __init__(self) -> None:
        self.places: list[str] = []
        self.nameservers: list[str] = []
        self.status_hosts: list[str] = []
        super().__init__()  # type: ignore[no-untyped-call]

    def opt_nameserver(self, text: str) -> None:
        """Ask this name server, HOST[:PORT], and not those of /etc/resolv.conf; may be given several times."""
        self.nameservers.append(text)

    def opt_status_host(self, text: str) -> None:
        """Serve the status under this host name too, besides IP addresses and localhost; may be given several times."""
        self.status_hosts.append(text)

    def opt_control(self, text: str) -> None:
        self.places.append(text)

    opt_control.__doc__ = (
        "Endpoint of the control connection: unix:/PATH, tcp:PORT on loopback, or over a network "
        "tls:PORT:interface=HOST:cert=FILE:key=FILE:ca=FILE, which lets in who has a certificate of that CA; may be "
        f"given several times, with one unix:/PATH at most. [default: {default_control()}]"
    )

    def postOptions(self) -> None:
        """Refuse what cannot be meant."""
        try:
            self["control"] = _places([text for text in self.places if text])
            self["takeover"] = _taken(self["takeover"]) if self["takeover"] else None
            self["nameservers"] = tuple(map(parse_nameserver, self.nameservers))
            self["status_hosts"] = tuple(map(parse_host_name, self.status_hosts))
            self["status"] = parse_status(self["status"]) if self["status"] is not None else None
        except Refusal as refusal:
            raise usage.UsageError(str(refusal)) from None
        if self.status_hosts and self["status"] is None:
            raise usage.UsageError(f"--status-host {self.status_hosts[0]} goes with --status")
        for name in ("config", "state"):
            if self[name] == "":
                raise usage.UsageError(f"--{name} names no file")
            self[name] = os.path.abspath(self[name]) if self[name] else None
        self["workers"] = _workers(self["workers"])
        self._read_identity()
        if self["takeover"] is not None and any(
            where.path is not None and where != self["takeover"] for where in self["control"]
        ):
            raise usage.UsageError("--takeover and --control name two places: the control connection is taken over")
        self["pid_file"] = PidFile(self.parent)
        if self["takeover"] is not None:
            self["pid_file"].leave_alone()

    def _read_identity(self) -> None:
        parent: Any = self.parent or {}
        if self["user"] is not None and (parent.get("uid") is not None or parent.get("gid") is not None):
            raise usage.UsageError(
                "--user and twistd's own --uid and --gid: give --user alone, which keeps what is needed"
            )
        if self["group"] is not None and self["user"] is None:
            raise usage.UsageError(f"--group {self['group']} goes with --user")
        try:
            group = self["control-group"]
            self["control-group"] = group_number(group, "--control-group") if group is not None else None
            self["user"] = identity(self["user"], self["group"] or "") if self["user"] is not None else None
        except Refusal as refusal:
            raise usage.UsageError(str(refusal)) from None


def _places(texts: list[str]) -> tuple[ControlAddress, ...]:
    """Where control connections are. Raises BadAddress."""
    places = tuple(map(parse_listen_address, texts))
    if sum(where.path is not None for where in places) > 1:
        raise BadAddress("--control names two unix sockets: one unix:/PATH is wanted, and the others tls: or tcp:")
    for where in places:
        if [(other.host, other.port) for other in places].count((where.host, where.port)) > 1:
            raise BadAddress(f"--control names {where} twice")
    return places


def _taken(text: str) -> ControlAddress:
    """The unix socket of the daemon that is taken over. Raises BadAddress."""
    if text.partition(":")[0] in ("tcp", "tcp6", "tls"):
        kind = text.partition(":")[0]
        raise BadAddress(f"--takeover {kind}:...: unix:/PATH is wanted, since sockets pass there and nowhere else")
    return parse_control(text)


def _workers(text: str) -> int:
    """The number of workers: by default one for each core that this process may use, and none where that is one."""
    if text == "auto":
        cores = len(os.sched_getaffinity(0))
        return min(cores, WORKERS_MAX) if cores > 1 else 0
    if not (text.isascii() and text.isdigit()) or not 0 <= int(text[:9]) <= WORKERS_MAX:
        raise usage.UsageError(f"--workers {text}: auto, or a number from 0 to {WORKERS_MAX} is wanted")
    return int(text)


def makeService(options: Options) -> IService:
    """The switch that `options` describe."""
    with uncollected():
        from twisted.internet import reactor

        from ktcpvs.service import DaemonOptions, SwitchService

    return SwitchService(
        DaemonOptions(
            control=options["control"],
            config=options["config"],
            state=options["state"],
            workers=options["workers"],
            status=options["status"],
            status_hosts=options["status_hosts"],
            user=options["user"],
            control_group=options["control-group"],
            nameservers=options["nameservers"],
            takeover=options["takeover"],
            pid_file=options["pid_file"],
        ),
        reactor,
    )
