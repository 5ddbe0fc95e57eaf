"""Every refusal that a user can meet, one class each.

A refusal is an answer, not an accident: its text says what is wrong in one line fit to be shown, and after it
the table is as it was. `code` names the class on the control connection (AMP); Python clients get the same
class back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import ClassVar


def shorten(text: str, limit: int = 120) -> str:
    """`text` fit for one line of a message: control characters escaped, and cut to about `limit` characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: limit + 1])
    return shown if len(text) <= limit else shown[:limit] + "..."


def unknown(name: str, known: Iterable[str], limit: int = 120) -> str:
    """A name that is none of `known`, in quotes, and what may have been meant: the nearest one, or all there are."""
    names = list(known)
    near = get_close_matches(name.lower(), names, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names) or 'none'}"
    return f"'{shorten(name, limit)}'; {hint}"


class Refusal(Exception):
    """The request is refused and nothing was changed; `str()` of it is the reason, in one line."""

    code: ClassVar[bytes] = b"REFUSED"

    @classmethod
    def kinds(cls) -> Iterator[type[Refusal]]:
        """This class and all those below it."""
        yield cls
        for kind in cls.__subclasses__():
            yield from kind.kinds()


class NoSuchService(Refusal):
    code = b"NO_SUCH_SERVICE"


class ServiceExists(Refusal):
    code = b"SERVICE_EXISTS"


class NoSuchServer(Refusal):
    code = b"NO_SUCH_SERVER"


class ServerExists(Refusal):
    code = b"SERVER_EXISTS"


class NoSuchRule(Refusal):
    code = b"NO_SUCH_RULE"


class RuleExists(Refusal):
    code = b"RULE_EXISTS"


class NoSuchNetwork(Refusal):
    code = b"NO_SUCH_NETWORK"


class NoSuchScheduler(Refusal):
    code = b"NO_SUCH_SCHEDULER"


class NoSuchSetting(Refusal):
    code = b"NO_SUCH_SETTING"


class Busy(Refusal):
    """What should go is in use: a running service, a server that a rule names."""

    code = b"BUSY"


class BadAddress(Refusal):
    code = b"BAD_ADDRESS"


class BadPattern(Refusal):
    code = b"BAD_PATTERN"


class BadValue(Refusal):
    """A value of the wrong form or out of its range."""

    code = b"BAD_VALUE"


class BadConfiguration(Refusal):
    """A configuration text that cannot be read; the message begins with file:line:column."""

    code = b"BAD_CONFIGURATION"


class BrokenTest(Refusal):
    """A test that stands in the configuration would fail."""

    code = b"BROKEN_TEST"


class CannotListen(Refusal):
    """The operating system does not give us the address."""

    code = b"CANNOT_LISTEN"


class NoTLS(Refusal):
    """TLS was asked for and cannot be had: one of its files cannot be used, or its packages are not installed."""

    code = b"NO_TLS"


class CannotDrop(Refusal):
    """The rights of root cannot be given away."""

    code = b"CANNOT_DROP"


class CannotSave(Refusal):
    """The state file could not be written."""

    code = b"CANNOT_SAVE"


class CannotTakeOver(Refusal):
    """The running daemon does not hand over; it goes on."""

    code = b"CANNOT_TAKE_OVER"


class NoConfiguration(Refusal):
    """No configuration text was sent before it was to be loaded, or it is too long."""

    code = b"NO_CONFIGURATION"
