"""The reasons why a control connection fails, as both kinds of clients report them."""

from __future__ import annotations

import os
from typing import Any

from ktcpvs.errors import Refusal, shorten

_PERMISSION_HINT = "run tcpvsadm as root or as the daemon's user, or as a member of the daemon's --control-group GROUP"


class NoAnswer(Exception):
    """No daemon answers at the control address, or it closed the connection; the text says where and why."""


class NotTrusted(NoAnswer):
    """Something answers at the control address, but one side does not trust the other, or does not speak TLS."""


class NotPermitted(NoAnswer):
    """The control connection exists, but this user may not use it."""


def no_daemon(address: Any, why: str) -> NoAnswer:
    """Return the failure to connect."""
    return NoAnswer(f"no daemon answers at {address} ({why})")


def permission_denied(address: Any) -> NotPermitted:
    """Return the failure to connect for lack of permission."""
    return NotPermitted(f"permission denied at {address}: {_PERMISSION_HINT}")


def connection_closed(address: Any, why: str, may_be_refused: bool) -> NoAnswer:
    """Return the failure of a command whose response did not come.

    may_be_refused: the daemon may have closed the connection because of this user (see control.permissions).
    """
    if may_be_refused:
        return NotPermitted(
            f"the daemon at {address} closed the connection without an answer; its log says whether user "
            f"{os.geteuid()} may not administer it: {_PERMISSION_HINT}"
        )
    return NoAnswer(f"the daemon at {address} closed the connection ({why})")


def wrong_protocol(address: Any, why: str) -> NoAnswer:
    """Return the failure of a command to which something else than its response came."""
    why = shorten(" ".join(why.split()))
    return NoAnswer(f"the program at {address} does not speak this version's protocol: {why}")


def value_too_long() -> Refusal:
    """Return the refusal of a command with a value that AMP cannot carry."""
    return Refusal("a value is longer than the 65,535 bytes that fit into a command")
