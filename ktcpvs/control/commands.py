"""The AMP commands: what can be said to a switch over its control connection, with types and errors.

This is the protocol. Addresses, patterns and names are text as in the configuration language; an AMP value ends at
65,535 bytes, so configurations are sent and listings are fetched in pages.
"""

from __future__ import annotations

from typing import Any

from twisted.protocols import amp

from ktcpvs.errors import Refusal

PAGE = 60000
"""Bytes in one page, at most."""


def pages(text: str) -> list[bytes]:
    """A text as pages for Upload, one at least."""
    data = text.encode("utf-8")
    return [data[start : start + PAGE] for start in range(0, len(data), PAGE)] or [b""]


ERRORS: dict[type[Exception], bytes] = {kind: kind.code for kind in reversed(list(Refusal.kinds()))}
"""Refusal -> its code. AMP takes the first class that fits, so Refusal itself stands last."""

OPTIONS = amp.AmpList([(b"name", amp.Unicode()), (b"value", amp.Unicode())])
"""Names with their values, as text: options in the words of the configuration language, settings, header fields."""


class _Command(amp.Command):
    errors = ERRORS


class _Edit(_Command):
    """The response to every edit: warnings about it, a line each; left out where there are none."""

    response = [(b"warnings", amp.ListOf(amp.Unicode(), optional=True))]

    @classmethod
    def parseResponse(cls, objects: Any, protocol: Any) -> dict[str, Any]:
        """Return the arguments that were sent; AMP itself would give None for each that was left out."""
        answer = super().parseResponse(objects, protocol)  # type: ignore[no-untyped-call]
        return {name: value for name, value in answer.items() if value is not None}


class AddService(_Edit):
    """options: the keywords of the configuration language but server and rule, and port."""

    arguments = [(b"ident", amp.Unicode()), (b"options", OPTIONS)]


class EditService(_Edit):
    """Changes the options given and no others. An empty redirect takes the redirect away."""

    arguments = [(b"ident", amp.Unicode()), (b"options", OPTIONS)]


class DeleteService(_Edit):
    arguments = [(b"ident", amp.Unicode())]


class Flush(_Edit):
    arguments = []


class AddServer(_Edit):
    """maxconn: the most connections at once, 0: no such limit, left out: 0."""

    arguments = [
        (b"ident", amp.Unicode()),
        (b"address", amp.Unicode()),
        (b"weight", amp.Integer(optional=True)),
        (b"maxconn", amp.Integer(optional=True)),
    ]


class EditServer(_Edit):
    """Changes what is given and keeps the rest. maxconn: the most connections at once, 0: no such limit."""

    arguments = [
        (b"ident", amp.Unicode()),
        (b"address", amp.Unicode()),
        (b"weight", amp.Integer(optional=True)),
        (b"maxconn", amp.Integer(optional=True)),
    ]


class DeleteServer(_Edit):
    arguments = [(b"ident", amp.Unicode()), (b"address", amp.Unicode())]


class AddRule(_Edit):
    arguments = [
        (b"ident", amp.Unicode()),
        (b"pattern", amp.Unicode()),
        (b"address", amp.Unicode()),
        (b"match", amp.Integer(optional=True)),
    ]


class DeleteRule(_Edit):
    arguments = [(b"ident", amp.Unicode()), (b"pattern", amp.Unicode()), (b"address", amp.Unicode())]


class Allow(_Edit):
    """The networks that were uploaded are allowed too; `only`: no others are allowed any more."""

    arguments = [(b"ident", amp.Unicode()), (b"only", amp.Boolean())]


class Deny(_Edit):
    """The networks that were uploaded are denied too; `only`: no others are denied any more."""

    arguments = [(b"ident", amp.Unicode()), (b"only", amp.Boolean())]


class DeleteNetwork(_Edit):
    """The networks that were uploaded are neither allowed nor denied any more."""

    arguments = [(b"ident", amp.Unicode())]


class StartService(_Edit):
    """Without an ident: all services."""

    arguments = [(b"ident", amp.Unicode(optional=True))]


class StopService(_Edit):
    """Without an ident: all services. Answered when the listeners are closed; connections drain."""

    arguments = [(b"ident", amp.Unicode(optional=True))]


class Set(_Edit):
    """changes: settings by name. `unload` = 1 is the command Unload."""

    arguments = [(b"changes", OPTIONS)]


class Unload(_Edit):
    """Stops all services; when they have drained, the daemon ends."""

    arguments = []


class Upload(_Command):
    """One page of a text (UTF-8): a configuration for Load, or networks for Allow, Deny or DeleteNetwork, with white
    space between them. `first` throws away what was sent before."""

    arguments = [(b"page", amp.String()), (b"first", amp.Boolean())]


class Load(_Edit):
    """Put the uploaded text in the table's place, as one step. source: its name in errors. confirm: it is undone after
    so many seconds unless Confirm comes; left out, 0: it stays. start: which services it starts: "nothing", "new"
    (those that were not in the table before) or "all"; left out: nothing. allow_empty: load a text in which there is
    nothing but comments; left out: it is refused."""

    arguments = [
        (b"source", amp.Unicode()),
        (b"confirm", amp.Integer(optional=True)),
        (b"start", amp.Unicode(optional=True)),
        (b"allow_empty", amp.Boolean(optional=True)),
    ]


class Confirm(_Edit):
    """What was loaded on trial stays."""

    arguments = []


class Read(_Command):
    """Take a look and fetch its first page. view: table, stats, connections, schedulers or settings.

    ident: only of this service; without it, of all. The pages together are one JSON document (UTF-8), as things
    stood at this moment; `pages` is their number.
    """

    arguments = [(b"view", amp.Unicode()), (b"ident", amp.Unicode(optional=True))]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class Explain(_Command):
    """Ask who would serve a request, and fetch the first page of the answer, as with Read. Nothing is sent to a server.

    method, target: of the request; without them, a client that has only connected. headers: its header lines. client:
    the client's IP address.
    """

    arguments = [
        (b"ident", amp.Unicode()),
        (b"method", amp.Unicode(optional=True)),
        (b"target", amp.Unicode(optional=True)),
        (b"headers", OPTIONS),
        (b"client", amp.Unicode()),
    ]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class ReadPage(_Command):
    """A further page of this connection's last Read or Explain; number: from 1."""

    arguments = [(b"number", amp.Integer())]
    response = [(b"page", amp.String())]
