"""The errors that users can get, one class each.

A refusal is a result, not a failure of the program: its text says in one line what is wrong, and nothing has changed.
`code` identifies the class on the control connection (AMP), so that Python clients raise the same class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import ClassVar


def shorten(text: str, limit: int = 120) -> str:
    """Return `text` for use in a message: control characters escaped, and cut to about `limit` characters."""
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    return shown if len(text) <= limit else shown[:limit] + "..."


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the name of `known` that is most similar to `name`, in any case; None: none is. likeness: of 0 to 1."""
    lowered = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), lowered, 1, likeness)
    return lowered[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return "; did you mean 'NAME'?", with the name of `known` that is most similar; "": none is."""
    near = nearest(name, known, likeness)
    return f"; did you mean '{shorten(near)}'?" if near else ""


MAX_LISTED = 12
"""The most names that a message lists; of more, the first ones."""

_MIN_PART = 3
"""The least characters of a name that is looked for within others."""


def unknown(name: str, known: Iterable[str], limit: int = 120, listed_by: str = "", most: int = MAX_LISTED) -> str:
    """Return an unknown name in quotes, and a hint: the most similar name of `known`, those that contain it, or all of
    them. listed_by: what shows all names where there are more than `most`."""
    names = list(known)
    return f"'{shorten(name, limit)}'; {_hint(name, names, listed_by, most)}"


def _hint(name: str, names: list[str], listed_by: str, most: int) -> str:
    if near := nearest(name, names):
        return f"did you mean '{near}'?"
    within = [one for one in names if name.lower() in one.lower()] if len(name) >= _MIN_PART else []
    if 0 < len(within) <= MAX_LISTED:
        return f"did you mean {' or '.join(repr(one) for one in within)}?"
    if len(names) <= most:
        return f"there are: {', '.join(names) or 'none'}"
    more = f" and {len(names) - most} more" + (f", which {listed_by} lists" if listed_by else "")
    return f"there are: {', '.join(names[:most])}{more}"


class Refusal(Exception):
    """A request was refused and nothing changed; str() is the reason, in one line."""

    code: ClassVar[bytes] = b"REFUSED"

    @classmethod
    def kinds(cls) -> Iterator[type[Refusal]]:
        """Yield this class and all its subclasses."""
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


class NoSuchListener(Refusal):
    code = b"NO_SUCH_LISTENER"


class ListenerExists(Refusal):
    code = b"LISTENER_EXISTS"


class NoSuchRule(Refusal):
    code = b"NO_SUCH_RULE"


class RuleExists(Refusal):
    code = b"RULE_EXISTS"


class NoSuchConnection(Refusal):
    code = b"NO_SUCH_CONNECTION"


class NoSuchNetwork(Refusal):
    code = b"NO_SUCH_NETWORK"


class NoSuchScheduler(Refusal):
    """scheduler: its name; "": unknown, as in a client."""

    code = b"NO_SUCH_SCHEDULER"

    def __init__(self, reason: str, scheduler: str = "") -> None:
        super().__init__(reason)
        self.scheduler = scheduler


class NoSuchSetting(Refusal):
    code = b"NO_SUCH_SETTING"


class Busy(Refusal):
    """The object to be deleted is in use: a running service, or a server that a rule names."""

    code = b"BUSY"


class BadAddress(Refusal):
    code = b"BAD_ADDRESS"


class BadPattern(Refusal):
    code = b"BAD_PATTERN"


class BadValue(Refusal):
    """A malformed value, or one out of range. scheduler: the name of the one that cannot be used so; "": it is about
    something else, or in a client."""

    code = b"BAD_VALUE"

    def __init__(self, reason: str, scheduler: str = "") -> None:
        super().__init__(reason)
        self.scheduler = scheduler


class BadConfiguration(Refusal):
    """A malformed configuration text; the message begins with file:line:column."""

    code = b"BAD_CONFIGURATION"


class BrokenTest(Refusal):
    """A test of the configuration would fail."""

    code = b"BROKEN_TEST"


class CannotListen(Refusal):
    """The operating system refused to open a listening socket at that address."""

    code = b"CANNOT_LISTEN"


class NoTLS(Refusal):
    """TLS is not available: one of its files cannot be used, or its packages are not installed."""

    code = b"NO_TLS"


class CannotDrop(Refusal):
    """The daemon cannot drop its privileges."""

    code = b"CANNOT_DROP"


class CannotStart(Refusal):
    """The daemon cannot start as a process: its pid file or its log cannot be used, or its service was refused."""

    code = b"CANNOT_START"


class CannotSave(Refusal):
    """The state file could not be written."""

    code = b"CANNOT_SAVE"


class NoCluster(Refusal):
    """The cluster's etcd cannot be asked."""

    code = b"NO_CLUSTER"


class ChangedMeanwhile(Refusal):
    """Another administrator of the cluster has changed the same thing at the same time."""

    code = b"CHANGED_MEANWHILE"


class CannotTakeOver(Refusal):
    """The running daemon does not hand over and keeps running."""

    code = b"CANNOT_TAKE_OVER"


class NoConfiguration(Refusal):
    """No configuration text was sent before the command to load it, or the text is too long."""

    code = b"NO_CONFIGURATION"
