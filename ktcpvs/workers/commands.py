"""What a supervisor says to its workers besides what every administrator can say."""

from __future__ import annotations

from twisted.protocols import amp


class Begin(amp.Command):
    """The first word. key: the secret behind cookies. columns: of the shared table of counts; column: this worker's.
    descriptor: the table's. holds: accept nobody before Serve."""

    arguments = [
        (b"key", amp.String()),
        (b"columns", amp.Integer()),
        (b"column", amp.Integer()),
        (b"descriptor", amp.Descriptor()),
        (b"holds", amp.Boolean()),
    ]


class Ping(amp.Command):
    """Is anybody there?"""


class Serve(amp.Command):
    """Accept clients from now on."""


class HandOver(amp.Command):
    """Another daemon has taken over: accept nobody, let drain what lives. late: services whose socket it has not taken,
    which is closed a little later."""

    arguments = [(b"late", amp.ListOf(amp.Unicode()))]


class Rows(amp.Command):
    """Which rows of the shared table count what: one page of them."""

    arguments = [
        (
            b"rows",
            amp.AmpList([(b"ident", amp.Unicode()), (b"address", amp.Unicode()), (b"row", amp.Integer())]),
        )
    ]


class Marks(amp.Command):
    """What checks have found: servers that are up, or down, and why. One page of them."""

    arguments = [
        (
            b"marks",
            amp.AmpList(
                [
                    (b"ident", amp.Unicode()),
                    (b"address", amp.Unicode()),
                    (b"is_up", amp.Boolean()),
                    (b"why", amp.Unicode()),
                ]
            ),
        )
    ]


class Name(amp.Command):
    """What a host name means from now on: the addresses of servers that are configured by it."""

    arguments = [(b"host", amp.Unicode()), (b"addresses", amp.ListOf(amp.Unicode()))]


class Reopen(amp.Command):
    """Open the files of access logs anew."""


class Listen(amp.Command):
    """A listening socket for the next edit that wants to listen on `address`."""

    arguments = [(b"address", amp.Unicode()), (b"descriptor", amp.Descriptor())]
