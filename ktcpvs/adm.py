"""The console script `tcpvsadm`: the control client, with the commands that need no daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ktcpvs.control.tcpvsadm import main
from ktcpvs.control.tcpvsadm.offline_commands import OfflineCommands, ReplayOptions, Warn


def run() -> NoReturn:
    """Run tcpvsadm with the arguments of this process."""
    main.run(OfflineCommands(check_configuration, replay, new_scheduler))


# Each imports its implementation only when it is called.


def check_configuration(text: str, source: str, allow_empty: bool) -> Sequence[str]:
    """Check a configuration by ktcpvs.offline."""
    from ktcpvs.offline import check_configuration as check

    return check(text, source, allow_empty)


def replay(options: ReplayOptions, warn: Warn) -> str:
    """Replay an access log by ktcpvs.replay."""
    from ktcpvs.replay.command import replay as replay_log

    return replay_log(options, warn)


def new_scheduler(name: str, folder: str) -> str:
    """Write the package of a scheduler by ktcpvs.new_scheduler."""
    from ktcpvs.new_scheduler import new_scheduler as write

    return write(name, folder)
