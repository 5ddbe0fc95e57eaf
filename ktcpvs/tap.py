"""What twistd asks of `twistd ktcpvs`: the options, and the service that they describe."""

from __future__ import annotations

import os

from twisted.python import usage

from ktcpvs.control.where import default_control, parse_control
from ktcpvs.errors import Refusal
from ktcpvs.service import DaemonOptions, SwitchService


class Options(usage.Options):
    """The command line of `twistd ktcpvs`."""

    synopsis = "[options]"
    longdesc = "A layer-7 switch for TCP services. Administer it with tcpvsadm."
    optParameters = [
        ["config", "c", None, "Load this configuration file and start all its services; SIGHUP loads it again."],
        [
            "control",
            None,
            None,
            "Endpoint of the control connection: unix:/PATH or tcp:PORT:interface=127.0.0.1. "
            f"[default: {default_control()}]",
        ],
        ["state", "s", None, "Keep the table in this file, after every change, and begin with it."],
    ]

    def postOptions(self) -> None:
        """Refuse what cannot be meant."""
        try:
            self["control"] = parse_control(self["control"]) if self["control"] else None
        except Refusal as refusal:
            raise usage.UsageError(str(refusal)) from None
        for name in ("config", "state"):
            if self[name] == "":
                raise usage.UsageError(f"--{name} names no file")
            self[name] = os.path.abspath(self[name]) if self[name] else None


def makeService(options: Options) -> SwitchService:
    """The switch that `options` describe."""
    from twisted.internet import reactor

    return SwitchService(DaemonOptions(options["control"], options["config"], options["state"]), reactor)
