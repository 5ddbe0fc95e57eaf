"""A real server as configured: its address, its weight, and how and when it is used."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadValue
from ktcpvs.model.address import Address, SRVName
from ktcpvs.model.listen import check_complete
from ktcpvs.model.options import MAX_COUNT, OFF, check_weight, one_of
from ktcpvs.model.server_words import BACKUP, MODES, READY, Labels, check_program
from ktcpvs.model.tls import PROXY_VERSIONS, ServerTLS


def _has_port(instance: object, attribute: Attribute[Any], value: Address | None) -> None:
    check_complete(value)


def _has_port_or_targets(instance: object, attribute: Attribute[Any], value: Address) -> None:
    if not isinstance(value, SRVName):
        check_complete(value)


def _weight(instance: object, attribute: Attribute[int], value: int) -> None:
    check_weight(value)


def _maxconn(instance: object, attribute: Attribute[int], value: int) -> None:
    if not 0 <= value <= MAX_COUNT:
        raise BadValue(f"{attribute.name} {value} is out of range: 0..{MAX_COUNT}")


def _program(instance: object, attribute: Attribute[str | None], value: str | None) -> None:
    if value is not None:
        check_program(value)


def _priority(instance: object, attribute: Attribute[int], value: int) -> None:
    if not 0 <= value <= BACKUP:
        raise BadValue(f"priority {value} is out of range: 0..{BACKUP}")


@frozen
class RealServer:
    """A server with its weight; weight 0 = quiesced. maxconn: the most connections at once; 0: no limit. name: the
    configured host name, or name of SRV records, that this address belongs to; None: the address itself is configured.
    tls: of connections to it; None: they have none. h2: they speak HTTP/2; with TLS only if the server chooses it by
    ALPN. proxy: the version of the PROXY protocol that tells it who the client is, or OFF.
    priority: 0 is the first; servers of a later one stand by until those before them do not suffice; BACKUP is the
    last. mode: READY, DRAIN or MAINTENANCE. check: the address at which it is checked; None: as the option `check`
    says. max_pending: the most requests that wait for it while it is full; 0: no limit. start: the program that starts
    it with its first request; None: it runs by itself. labels: words about it for schedulers and for people: (name,
    value) of each, by name, "" for a name alone."""

    address: Address = field(validator=_has_port_or_targets)
    weight: int = field(default=1, validator=_weight)
    maxconn: int = field(default=0, validator=_maxconn)
    name: str | None = None
    tls: ServerTLS | None = None
    h2: bool = False
    proxy: str = field(default=OFF, validator=one_of(OFF, *PROXY_VERSIONS))
    priority: int = field(default=0, validator=_priority)
    mode: str = field(default=READY, validator=one_of(*MODES))
    check: Address | None = field(default=None, validator=_has_port)
    max_pending: int = field(default=0, validator=_maxconn)
    start: str | None = field(default=None, validator=_program)
    labels: Labels = ()

    @property
    def share(self) -> int:
        """The weight with which it gets new connections: 0 unless it is ready."""
        return self.weight if self.mode == READY else 0
