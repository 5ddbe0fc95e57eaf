"""The AMP commands of a takeover: a new daemon sends them to the running one, on its control connection.

    >> TakeOver        the old daemon takes no more edits, and makes the inventory
    >> TakePage ...    the inventory, one page at a time
    >> TakeSocket ...  the listening sockets, one at a time
    >> TakeReader      the process that reads certificates, where the inventory says that there is one
    >> TakeFile ...    the contents of a file of TLS that the new daemon cannot use
                       the new daemon gets ready; if it ends, the old daemon continues
    >> Commit          the new daemon serves from now on

Answers carry descriptors, so the connection must be a unix socket. Daemons of two versions speak this protocol with
each other, so the names of commands and arguments stay.
"""

from __future__ import annotations

from twisted.protocols import amp

from ktcpvs.control.commands import ERRORS

PROTOCOL = 1
"""To be increased when daemons with the former protocol can no longer take part."""


class _Command(amp.Command):
    errors = ERRORS


class TakeOver(_Command):
    """Ask the running daemon for its table and its sockets. protocol, version: those of the new daemon. pages: the
    number of pages of the inventory; sockets: of sockets."""

    arguments = [(b"protocol", amp.Integer()), (b"version", amp.Unicode())]
    response = [(b"version", amp.Unicode()), (b"pages", amp.Integer()), (b"sockets", amp.Integer())]


class TakePage(_Command):
    """One page of the inventory, JSON in UTF-8 as in inventory.py. number: from 0."""

    arguments = [(b"number", amp.Integer())]
    response = [(b"page", amp.String())]


class TakeSocket(_Command):
    """One listening socket. number: its position in the inventory, from 0."""

    arguments = [(b"number", amp.Integer())]
    response = [(b"descriptor", amp.Descriptor())]


class TakeReader(_Command):
    """The link to the process that reads certificates with root's rights, which both daemons can use."""

    response = [(b"descriptor", amp.Descriptor())]


class TakeFile(_Command):
    """A file of TLS as the old daemon has read it: one page of its contents, in JSON. use, path: as in TLSFile. number:
    of the page, from 0. pages: their number; 0: it has no contents either."""

    arguments = [(b"use", amp.Unicode()), (b"path", amp.Unicode()), (b"number", amp.Integer())]
    response = [(b"page", amp.String()), (b"pages", amp.Integer())]


class Commit(_Command):
    """The new daemon is ready. processes: how many of its processes serve, which is the number of sockets that it uses
    for each service. pid_file: the file that names its process; "": none."""

    arguments = [(b"processes", amp.Integer()), (b"pid_file", amp.Unicode())]
