"""The inventory of a takeover, as plain data: the table, the services that run, the secret, the use of each socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import Factory, asdict, evolve, frozen

from ktcpvs.control.edit_commands import decode_local, encode_local
from ktcpvs.errors import CannotTakeOver, Refusal
from ktcpvs.model.challenges import Challenge
from ktcpvs.model.describe import configuration
from ktcpvs.model.expansion import Resolution, check_resolution
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.table import Table
from ktcpvs.services.ticket_secrets import SecretsRecord

CONTROL, SERVICE, ACTIVATED = "control", "service", "lasting"
"""The uses of a socket: the control connection; a service; none yet, but a service manager keeps it open."""

FileIdentity = tuple[int, int]
"""(device, inode)."""


@frozen
class SocketRecord:
    """One socket. use: one of those above. ident: of the service. file: the file of a unix socket that the switch has
    made; None: it has none, or another program has made it. address: of the service's listener; "": the first one."""

    use: str
    ident: str = ""
    file: FileIdentity | None = None
    address: str = ""

    def described(self) -> list[Any]:
        """As plain data. Versions that know one listener for each service read three values."""
        first = [self.use, self.ident, self.file]
        return [*first, self.address] if self.address else first


@frozen
class Inventory:
    """The inventory of a daemon that is taken over. key: the switch's own secret, or the one that it shares with a
    cluster. sockets: in the order in which they are fetched. down: servers that checks have found down: ident, address,
    reason. resolution: what the names of servers stand for. watchdog: the microseconds within which the service manager
    expects a sign of life; 0: it expects none. tickets: the secrets of session tickets; None: an older version has
    none. has_reader: a process reads certificates for the daemon, and TakeReader hands it over. instance: as which the
    daemon is a node of its cluster, so that the new one takes its place; "": it is in none. is_drained: it is a node
    that accepts no clients. challenges: of ACME, which a CA may look for just now. draining: process ids of the daemons
    before it that still drain. missing_schedulers: name -> unit of those in whose place its fallback chooses."""

    table: Table
    key: bytes
    sockets: list[SocketRecord] = Factory(list)
    down: list[tuple[str, str, str]] = Factory(list)
    resolution: Resolution = Factory(dict)
    watchdog: int = 0
    tickets: SecretsRecord | None = None
    has_reader: bool = False
    instance: str = ""
    is_drained: bool = False
    challenges: tuple[Challenge, ...] = ()
    draining: tuple[int, ...] = ()
    missing_schedulers: Mapping[str, str] = Factory(dict)

    def text(self) -> bytes:
        """The inventory as one JSON document. Two versions exchange it, so its names stay."""
        running = [ident for ident in self.table.services if ident in self.table.running]
        return json.dumps(
            {
                "configuration": write(*configuration(self.table)),
                "running": running,
                "key": self.key.hex(),
                "sockets": [record.described() for record in self.sockets],
                "down": self.down,
                "resolution": dict(self.resolution),
                "watchdog": self.watchdog,
                "tickets": None if self.tickets is None else self.tickets.described(),
                "has_reader": self.has_reader,
                "instance": self.instance,
                "is_drained": self.is_drained,
                "local": encode_local(self.table.local),
                "challenges": [asdict(challenge) for challenge in self.challenges],
                "draining": self.draining,
                "missing_schedulers": dict(self.missing_schedulers),
            }
        ).encode("utf-8")


def _read_record(use: str, ident: str, file: list[int] | None, address: str = "") -> SocketRecord:
    return SocketRecord(use, ident, (file[0], file[1]) if file else None, address)


def _read_challenge(kind: str, name: str, token: str, key_authorization: str, **more: object) -> Challenge:
    """Read one challenge of ACME. more: what later versions may add."""
    return Challenge(str(kind), str(name), str(token), str(key_authorization))


def read_inventory(text: bytes, source: str) -> Inventory:
    """The inventory that `text` holds. source: the daemon that sent it, for messages. Raises CannotTakeOver."""
    try:
        data: dict[str, Any] = json.loads(text)
        table = parse(data["configuration"], "its table").apply(Table())
        sockets = [_read_record(*values) for values in data["sockets"]]
        return Inventory(
            table=evolve(
                table,
                running=frozenset(data["running"]).intersection(table.services),
                local=decode_local(data.get("local", [])),
            ),
            key=bytes.fromhex(data["key"]),
            sockets=sockets,
            down=[(str(ident), str(address), str(why)) for ident, address, why in data["down"]],
            resolution=check_resolution(data.get("resolution", {})),
            watchdog=int(data["watchdog"]),
            tickets=SecretsRecord.read(data["tickets"]) if data.get("tickets") is not None else None,
            has_reader=bool(data.get("has_reader")),
            instance=str(data.get("instance", "")),
            is_drained=bool(data.get("is_drained")),
            challenges=tuple(_read_challenge(**found) for found in data.get("challenges", [])),
            draining=tuple(map(int, data.get("draining", []))),
            missing_schedulers={str(name): str(unit) for name, unit in data.get("missing_schedulers", {}).items()},
        )
    except Refusal as refusal:
        raise CannotTakeOver(f"{source} has a table that this version cannot read: {refusal}; it continues") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotTakeOver(
            f"{source} sent an inventory that this version cannot read: {error!r}; it continues"
        ) from None
