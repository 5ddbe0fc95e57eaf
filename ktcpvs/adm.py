"""The console script `tcpvsadm`: the control client, and beside it what judges a configuration without a daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ktcpvs.control.tcpvsadm import main


def run() -> NoReturn:
    """Run tcpvsadm with the arguments of this process."""
    main.run(check_configuration)


def check_configuration(text: str, source: str, allow_empty: bool) -> Sequence[str]:
    """As ktcpvs.offline does, which is imported only for that."""
    from ktcpvs.offline import check_configuration as check

    return check(text, source, allow_empty)
