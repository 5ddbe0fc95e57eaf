"""The AMP commands that only a supervisor sends to its workers, besides those of control/commands.py.

Supervisor and workers are always of one version, so these may change with any version.
"""

from __future__ import annotations

from twisted.protocols import amp

LINK_DESCRIPTOR = 3
"""The descriptor of a worker's connection to its supervisor, in the worker."""


class Begin(amp.Command):
    """The first command after Ping: all that the worker needs to build its switch.

    key: the switch's own secret. processes: the number of processes that count in the shared table; index: this one's
    among them; descriptor: the table's. is_accepting: False: accept no clients before StartAccepting. node, labels: the
    name and the labels of this switch in its cluster.
    """

    arguments = [
        (b"key", amp.String()),
        (b"processes", amp.Integer()),
        (b"index", amp.Integer()),
        (b"descriptor", amp.Descriptor()),
        (b"is_accepting", amp.Boolean()),
        (b"node", amp.Unicode()),
        (b"labels", amp.ListOf(amp.Unicode())),
    ]


class Ping(amp.Command):
    """Answer, to show that the worker's reactor runs."""


class Adopt(amp.Command):
    """Replace some services as another node of the cluster has them; Upload has brought what."""


class ShareAmong(amp.Command):
    """The nodes that are alive and share limits with this one: one page of them. After the last page, limits are
    divided anew."""

    arguments = [
        (b"nodes", amp.AmpList([(b"name", amp.Unicode()), (b"labels", amp.ListOf(amp.Unicode()))])),
        (b"is_first", amp.Boolean()),
        (b"is_last", amp.Boolean()),
    ]


class Withdraw(amp.Command):
    """Stop services without a change of the table, or start them again; Upload has brought which."""


class StartAccepting(amp.Command):
    """Accept clients from now on."""


class HandOver(amp.Command):
    """Another daemon has taken over: accept no more clients, and let connections drain.

    left_over: the addresses whose socket it does not use; the worker closes these a little later.
    """

    arguments = [(b"left_over", amp.ListOf(amp.Unicode()))]


class AssignSlots(amp.Command):
    """The slots of the shared table in which servers and services are counted: one page of them."""

    arguments = [
        (
            b"slots",
            amp.AmpList([(b"ident", amp.Unicode()), (b"address", amp.Unicode()), (b"slot", amp.Integer())]),
        )
    ]


class StandIn(amp.Command):
    """The units of schedulers that the supervisor has loaded: one page of them. If this worker cannot load or bind one
    of them, the fallback of its services chooses."""

    arguments = [(b"schedulers", amp.AmpList([(b"name", amp.Unicode()), (b"unit", amp.Unicode())]))]


class UpdateHealth(amp.Command):
    """Servers that checks have found up or down, and the reason: one page of them. weight: as their checks ask for it;
    empty: they do not."""

    arguments = [
        (
            b"servers",
            amp.AmpList(
                [
                    (b"ident", amp.Unicode()),
                    (b"address", amp.Unicode()),
                    (b"is_up", amp.Boolean()),
                    (b"why", amp.Unicode()),
                    (b"weight", amp.Unicode()),
                ]
            ),
        )
    ]


class SetAddresses(amp.Command):
    """The addresses of a host name, or the targets of `srv:NAME`, for servers that are configured by it."""

    arguments = [(b"host", amp.Unicode()), (b"addresses", amp.ListOf(amp.Unicode()))]


class PassFile(amp.Command):
    """One page of the contents of a file of TLS, JSON in UTF-8 as in system/tls_files.py. After the last page, the
    worker uses them.

    use, path: of the file. is_first: drop the pages that came before.
    """

    arguments = [
        (b"use", amp.Unicode()),
        (b"path", amp.Unicode()),
        (b"page", amp.String()),
        (b"is_first", amp.Boolean()),
        (b"is_last", amp.Boolean()),
    ]


class DropFile(amp.Command):
    """No service needs this file of TLS any more."""

    arguments = [(b"use", amp.Unicode()), (b"path", amp.Unicode())]


class UseTickets(amp.Command):
    """The secrets from which the keys of session tickets are derived. previous: empty: there is none."""

    arguments = [(b"current", amp.String()), (b"previous", amp.String())]


class UseCookieSecret(amp.Command):
    """The secret that signs cookies from now on, unless the settings have one."""

    arguments = [(b"secret", amp.String())]


class UseChallenges(amp.Command):
    """The challenges of ACME that the worker answers: one page of them. After the last page, it answers these alone."""

    arguments = [
        (
            b"challenges",
            amp.AmpList(
                [
                    (b"kind", amp.Unicode()),
                    (b"name", amp.Unicode()),
                    (b"token", amp.Unicode()),
                    (b"key_authorization", amp.Unicode()),
                ]
            ),
        ),
        (b"is_first", amp.Boolean()),
        (b"is_last", amp.Boolean()),
    ]


class WantServer(amp.Command):
    """From a worker: start the server on demand at `address`, unless it runs. Answered when it runs, or cannot be
    started. why: the reason; empty: it runs."""

    arguments = [(b"address", amp.Unicode())]
    response = [(b"why", amp.Unicode())]


class ReopenLogs(amp.Command):
    """Reopen the files of access logs."""


class PassListener(amp.Command):
    """A listening socket for the next edit that makes a service listen on `address`."""

    arguments = [(b"address", amp.Unicode()), (b"descriptor", amp.Descriptor())]
