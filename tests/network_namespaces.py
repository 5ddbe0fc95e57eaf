"""Networks of their own for processes of tests: network namespaces, joined by bridges that tests can divide."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from servers import program

NETWORK = "10.97.0"
"""The first bytes of all addresses. Nothing outside of the namespaces can reach them."""


def ip(*words: str, check: bool = True) -> str:
    """Run ip(8) with these words; return its output."""
    done = subprocess.run([program("ip"), *words], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Namespace:
    """A network namespace with an interface `eth0` and an address. port: its end in the namespace of the bridges."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.host = f"{NETWORK}.{number}"
        self.port = f"p{number}"
        ip("netns", "add", name)
        self.ip("link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """The words before a command that runs in it."""
        return [program("ip"), "netns", "exec", self.name]

    def ip(self, *words: str, check: bool = True) -> str:
        return ip("-n", self.name, *words, check=check)

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False, timeout=timeout)

    def give(self, host: str) -> None:
        """Replace its address by another one."""
        self.ip("address", "flush", "dev", "eth0")
        self.ip("address", "add", f"{host}/24", "dev", "eth0")
        self.host = host

    def mute(self, other: Namespace) -> None:
        """Send nothing to another one, and tell nobody; what comes from there arrives."""
        self.ip("route", "add", "blackhole", f"{other.host}/32")

    def unmute(self, other: Namespace) -> None:
        self.ip("route", "del", "blackhole", f"{other.host}/32", check=False)


class Switchboard:
    """Namespaces, all of which reach each other at first."""

    def __init__(self) -> None:
        self._hub = Namespace(f"kt{os.getpid()}-hub", 1)
        self._members: list[Namespace] = []
        for bridge in ("br0", "br1"):
            self._hub.ip("link", "add", bridge, "type", "bridge")
            self._hub.ip("link", "set", bridge, "up")

    def add(self, name: str) -> Namespace:
        """Make a namespace that is connected with all others."""
        number = len(self._members) + 2
        one = Namespace(f"kt{os.getpid()}-{name}", number)
        self._members.append(one)
        one.ip("link", "add", "eth0", "type", "veth", "peer", "name", one.port, "netns", self._hub.name)
        one.ip("link", "set", "eth0", "up")
        one.ip("address", "add", f"{one.host}/24", "dev", "eth0")
        self._hub.ip("link", "set", one.port, "master", "br0", "up")
        return one

    def unplug(self, *ones: Namespace) -> None:
        """Pull their cables."""
        for one in ones:
            self._hub.ip("link", "set", one.port, "down")

    def part(self, *ones: Namespace) -> None:
        """Divide the network: these reach each other, and the others each other."""
        for one in ones:
            self._hub.ip("link", "set", one.port, "master", "br1")

    def mend(self) -> None:
        for one in self._members:
            self._hub.ip("link", "set", one.port, "master", "br0", "up")
            for other in self._members:
                one.unmute(other)

    def close(self) -> None:
        """Remove everything. Processes in the namespaces must have ended."""
        for one in (*self._members, self._hub):
            ip("netns", "del", one.name, check=False)

    def links(self) -> Any:
        """The state of all ports, for messages of tests."""
        return json.loads(self._hub.ip("-j", "link", "show"))
