"""What a new daemon says to the one that it takes over from, on the control connection of the latter.

    >> TakeOver        the old one takes no more edits, and makes the inventory
    >> TakePage ...    what there is, a page at a time
    >> TakeSocket ...  the listening sockets, one at a time
                       meanwhile the new one gets ready; where it ends, the old one goes on
    >> Commit          from now on the new one serves

Descriptors go with an answer, so the connection must be a unix socket's.
"""

from __future__ import annotations

from twisted.protocols import amp

from ktcpvs.control.commands import ERRORS

PROTOCOL = 1
"""Changes when a daemon that speaks as before could not take part any more."""


class _Command(amp.Command):
    errors = ERRORS


class TakeOver(_Command):
    """protocol, version: of the new one. pages: of the inventory; sockets: how many there are."""

    arguments = [(b"protocol", amp.Integer()), (b"version", amp.Unicode())]
    response = [(b"version", amp.Unicode()), (b"pages", amp.Integer()), (b"sockets", amp.Integer())]


class TakePage(_Command):
    """One page of the inventory: JSON in UTF-8, as `inventory` describes it; number: from 0."""

    arguments = [(b"number", amp.Integer())]
    response = [(b"page", amp.String())]


class TakeSocket(_Command):
    """One listening socket; number: its place in the inventory."""

    arguments = [(b"number", amp.Integer())]
    response = [(b"descriptor", amp.Descriptor())]


class Commit(_Command):
    """The new one is ready. processes: how many of it serve, and so how many sockets of each service it uses. pid_file:
    the file that names its process, "" for none."""

    arguments = [(b"processes", amp.Integer()), (b"pid_file", amp.Unicode())]
