"""The console script `ktcpvs`, a short form of `twistd --nodaemon --pidfile= --reactor=uvloop ktcpvs`."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the daemon in the foreground with the arguments of this process."""
    from twisted.scripts.twistd import run as twistd

    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "--reactor=uvloop", "ktcpvs", *sys.argv[1:]]
    twistd()
