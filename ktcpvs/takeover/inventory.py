"""What is handed over, as plain data: the table, what runs, the secret, and what each socket is for."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from attrs import Factory, evolve, frozen

from ktcpvs.errors import CannotTakeOver, Refusal
from ktcpvs.model.describe import configuration
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.table import Table

CONTROL, SERVICE, LASTING = "control", "service", "lasting"
"""What a socket is for: the control connection; a service; none yet, but somebody else holds it too."""

File = tuple[int, int]


@frozen
class Given:
    """One socket. kind: what it is for. ident: of the service. file: (device, inode) of its file, None where it has
    none or the file is somebody else's."""

    kind: str
    ident: str = ""
    file: File | None = None


@frozen
class Inventory:
    """key: the switch's own secret. sockets: in the order in which they are fetched. down: servers that checks have
    found down: ident, address, and why. resolution: what names mean. watchdog: within how many microseconds the service
    manager wants to hear of the daemon; 0: it does not."""

    table: Table
    key: bytes
    sockets: list[Given] = Factory(list)
    down: list[tuple[str, str, str]] = Factory(list)
    resolution: dict[str, tuple[str, ...]] = Factory(dict)
    watchdog: int = 0

    def text(self) -> bytes:
        """As one JSON document."""
        running = [ident for ident in self.table.services if ident in self.table.running]
        return json.dumps(
            {
                "configuration": write(*configuration(self.table)),
                "running": running,
                "key": self.key.hex(),
                "sockets": [[one.kind, one.ident, one.file] for one in self.sockets],
                "down": self.down,
                "resolution": self.resolution,
                "watchdog": self.watchdog,
            }
        ).encode("utf-8")


def read_inventory(text: bytes, source: str) -> Inventory:
    """What `text` says; source: whose it is. Raises CannotTakeOver."""
    try:
        said: dict[str, Any] = json.loads(text)
        table = parse(said["configuration"], "its table").apply(Table())
        sockets = [Given(kind, ident, tuple(file) if file else None) for kind, ident, file in said["sockets"]]
        return Inventory(
            table=evolve(table, running=frozenset(said["running"]).intersection(table.services)),
            key=bytes.fromhex(said["key"]),
            sockets=sockets,
            down=[(str(ident), str(address), str(why)) for ident, address, why in said["down"]],
            resolution={
                str(host): tuple(str(ipaddress.ip_address(one)) for one in found)
                for host, found in said.get("resolution", {}).items()
            },
            watchdog=int(said["watchdog"]),
        )
    except Refusal as refusal:
        raise CannotTakeOver(f"{source} has a table that this version cannot read: {refusal}; it goes on") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CannotTakeOver(f"{source} hands over what is not understood here: {error!r}; it goes on") from None
