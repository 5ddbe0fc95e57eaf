"""The AMP commands of the control connection: the protocol between a switch and those that administer it.

The commands that edit the switch follow from `command_table`; the others are written here. Addresses, patterns and
names are text as in the configuration language. An AMP value ends at 65,535 bytes, so configurations are uploaded and
answers are fetched in pages (`pages`).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from twisted.protocols import amp

from ktcpvs.control.command_table import EDIT_COMMANDS, ArgumentType, EditCommand
from ktcpvs.errors import Refusal

ERRORS: dict[type[Exception], bytes] = {kind: kind.code for kind in reversed(list(Refusal.kinds()))}
"""Refusal -> its code. AMP takes the first class that fits, so Refusal itself stands last."""

NAMED_VALUES = amp.AmpList([(b"name", amp.Unicode()), (b"value", amp.Unicode())])
"""Names with their values as text: service options, settings, header fields."""


class _Command(amp.Command):
    errors = ERRORS


class _Edit(_Command):
    """The response to every edit: warnings about it, one per line; left out where there are none."""

    response = [(b"warnings", amp.ListOf(amp.Unicode(), optional=True))]

    @classmethod
    def parseResponse(cls, objects: Any, protocol: Any) -> dict[str, Any]:
        """Return the values that were sent; AMP itself would return None for each that was left out."""
        response = super().parseResponse(objects, protocol)  # type: ignore[no-untyped-call]
        return {name: value for name, value in response.items() if value is not None}


_AMP_TYPES: dict[ArgumentType, Callable[[bool], amp.Argument]] = {
    ArgumentType.TEXT: lambda optional: amp.Unicode(optional=optional),
    ArgumentType.INTEGER: lambda optional: amp.Integer(optional=optional),
    ArgumentType.BOOLEAN: lambda optional: amp.Boolean(optional=optional),
    ArgumentType.ADDRESS: lambda optional: amp.Unicode(optional=optional),
    ArgumentType.SERVICE_OPTIONS: lambda optional: NAMED_VALUES,
    ArgumentType.SERVER_OPTIONS: lambda optional: amp.Unicode(optional=optional),
    ArgumentType.USE: lambda optional: amp.Unicode(optional=optional),
    ArgumentType.SETTINGS: lambda optional: NAMED_VALUES,
}
"""The encoding of an argument. Types that are uploaded are not here: they go through Upload."""


def _amp_command(entry: EditCommand) -> type[amp.Command]:
    arguments = [
        (argument.name.encode(), _AMP_TYPES[argument.type](argument.is_optional)) for argument in entry.on_the_wire
    ]
    attributes = {"arguments": arguments, "__doc__": entry.help, "__module__": __name__}
    command: type[amp.Command] = types.new_class(entry.edit, (_Edit,), {}, lambda names: names.update(attributes))
    return command


OF_EDIT: dict[str, type[amp.Command]] = {entry.edit: _amp_command(entry) for entry in EDIT_COMMANDS}
"""The name of an edit's class -> its AMP command."""


class Upload(_Command):
    """One page for the command that follows: of a text in UTF-8, a configuration for Load, or networks for Allow, Deny
    and DeleteNetwork; or of a body for Explain. first: drop what was uploaded before."""

    arguments = [(b"page", amp.String()), (b"first", amp.Boolean())]


class Scope(_Command):
    """The scope of the next edit on this connection. scope: "local": on this node of the cluster only; "force-local":
    on this node, until etcd responds again. A daemon that does not know it carries out nothing."""

    arguments = [(b"scope", amp.Unicode())]


class Read(_Command):
    """Read a view and return its first page.

    view: table, configured, stats, connections, schedulers, settings, certificates or readiness; of a cluster nodes,
    cluster_stats or cluster_connections. ident: only this service; left out: all of them. The pages together are one
    JSON document in UTF-8, which describes one moment; `pages` is their number.
    """

    arguments = [(b"view", amp.Unicode()), (b"ident", amp.Unicode(optional=True))]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class Explain(_Command):
    """Explain which server would handle a request, and return the first page, as with Read. No server is contacted.

    method, target: of the request; without them, a client that has only connected. headers: its header fields. client:
    the IP address of the client. port: to which it connects; left out: the first of the service. has_body: what was
    uploaded before is the beginning of its body; left out: it has none.
    """

    arguments = [
        (b"ident", amp.Unicode()),
        (b"method", amp.Unicode(optional=True)),
        (b"target", amp.Unicode(optional=True)),
        (b"headers", NAMED_VALUES),
        (b"client", amp.Unicode()),
        (b"port", amp.Integer(optional=True)),
        (b"has_body", amp.Boolean(optional=True)),
    ]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class CloseConnection(_Command):
    """Close one client connection: both sides are reset. Returns its description before that, as with Read.
    connection: its `id` in the view connections."""

    arguments = [(b"connection", amp.Unicode())]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class Rebalance(_Command):
    """Let the oldest connections of a service move off servers that carry more than their share. Returns what moves, as
    with Read.

    percent: 1 to 100, the most of a server's connections. resets: also reset connections whose protocol has no way to
    tell the client. all_nodes: of the cluster; False: on this one.
    """

    arguments = [
        (b"ident", amp.Unicode()),
        (b"percent", amp.Integer()),
        (b"resets", amp.Boolean()),
        (b"all_nodes", amp.Boolean()),
    ]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class BeginTrace(_Command):
    """Begin a live trace of requests. It ends with this connection at the latest.

    conditions: of the requests, as those of a rule; empty: all. ident: only of this service; left out: of all. count,
    seconds: after which it ends. number: its number on this connection.
    """

    arguments = [
        (b"conditions", amp.Unicode()),
        (b"ident", amp.Unicode(optional=True)),
        (b"count", amp.Integer()),
        (b"seconds", amp.Integer()),
    ]
    response = [(b"number", amp.Integer())]


class ReadTrace(_Command):
    """Return the requests that a live trace has seen since the last time, as soon as there are any, or none after a
    second.

    entries: a line of JSON for each, in UTF-8. matched, dropped: how many requests have met the conditions since the
    beginning, and how many of them are in no response, since they were read too slowly. ended: count, time or stopped:
    why the trace has ended, and this is the last response; empty: it goes on.
    """

    arguments = [(b"number", amp.Integer())]
    response = [
        (b"entries", amp.String()),
        (b"matched", amp.Integer()),
        (b"dropped", amp.Integer()),
        (b"ended", amp.Unicode()),
    ]


class EndTrace(_Command):
    """End a live trace."""

    arguments = [(b"number", amp.Integer())]


class ReadPage(_Command):
    """Return a further page of the last Read or Explain on this connection. number: from 1."""

    arguments = [(b"number", amp.Integer())]
    response = [(b"page", amp.String())]


BY_NAME: dict[str, type[amp.Command]] = {
    **OF_EDIT,
    **{command.__name__: command for command in (Upload, Scope, Read, ReadPage, Explain, CloseConnection, Rebalance)},
    **{command.__name__: command for command in (BeginTrace, ReadTrace, EndTrace)},
}
"""The name of a command on the wire -> the command."""
