"""The console script `tcpvsadm`: the control client, with the check of configurations that needs no daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ktcpvs.control.tcpvsadm import main


def run() -> NoReturn:
    """Run tcpvsadm with the arguments of this process."""
    main.run(check_configuration)


def check_configuration(text: str, source: str, allow_empty: bool) -> Sequence[str]:
    """Check a configuration by ktcpvs.offline, which is imported only here."""
    from ktcpvs.offline import check_configuration as check

    return check(text, source, allow_empty)
