"""Clients and servers that are killed, reset or leave, for a minute; they must leave nothing behind."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from borrowed import borrowed, descriptors
from e2e.harness import Daemon
from servers import free_port, wait_for

from ktcpvs.system import bpf

FLAT = 1.05
"""The largest allowed ratio of the final memory to that after the first third of the time."""


def kills(daemon: Daemon, relays: Sequence[str], seconds: int, seed: int) -> list[str]:
    """Run it; return the violations."""
    chance = random.Random(seed)
    ports, serve_at = [free_port() for _ in relays], free_port()
    daemon.set(relay_after=0)
    for relay, port in zip(relays, ports, strict=True):
        daemon.service(relay, port, f"127.0.0.1:{serve_at}", relay=relay)
    before = daemon.descriptors()
    turn = killed = 0
    memory: list[int] = []
    server, client = _rough("serve", serve_at, seed), _rough("call", seed, *ports)
    began = time.monotonic()
    try:
        while (past := time.monotonic() - began) < seconds:
            time.sleep(0.5 + chance.random())
            turn += 1
            which = chance.choice("scn")
            if which == "s":
                _kill(server)
                server = _rough("serve", serve_at, seed + turn)
            elif which == "c":
                _kill(client)
                client = _rough("call", seed + turn, *ports)
            killed += which != "n"
            if past > seconds / 3:
                memory.append(daemon.memory())
            print(f"\rkills: {past:.0f} s, {killed} killed, {daemon.memory() >> 20} MiB ", end="", flush=True)
    finally:
        _kill(server)
        _kill(client)
    wrong: list[str] = []
    daemon.wait_until_empty()
    try:
        wait_for(lambda: daemon.descriptors() <= before + len(ports))
    except AssertionError:
        wrong.append(f"kills: {daemon.descriptors() - before} descriptors are left over")
    entries = kernel_entries(daemon.pid)
    if entries:
        wrong.append(f"kills: {entries} entries are left in the kernel's tables")
    first, last = max(memory[: len(memory) // 4 + 1]), min(memory[-len(memory) // 4 - 1 :])
    if last > first * FLAT:
        wrong.append(f"kills: memory has grown from {first >> 20} to {last >> 20} MiB")
    served = {relay: daemon.stats(relay)["stats"]["relay"]["joined"] for relay in relays}
    left = daemon.descriptors() - before
    print(
        f"\rkills: {seconds} s, {killed} killed; {left} descriptors and {entries} table entries are left; "
        f"memory {first >> 20} MiB, then {last >> 20} MiB; connections {served}"
    )
    for relay in relays:
        if sum(served[relay].values()) < seconds:
            wrong.append(f"kills: {relay} had {served[relay]} connections only")
    return wrong


def _rough(*words: object) -> subprocess.Popen[bytes]:
    folder = Path(__file__).parent
    path = ":".join([str(folder.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(folder / "rough.py"), *map(str, words)], env={**os.environ, "PYTHONPATH": path}
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class _Borrowed(bpf.Map):
    """A map of another process."""

    def __init__(self, fd: int, key_size: int, value_size: int) -> None:
        self._fd = fd
        self._missing = ()
        self._key = ctypes.create_string_buffer(key_size)
        self._value = ctypes.create_string_buffer(value_size)
        places = ctypes.addressof(self._key), ctypes.addressof(self._value)
        self._element = ctypes.create_string_buffer(struct.pack("I4xQQ", fd, *places))


def kernel_entries(pid: int) -> int:
    """Return the number of sockets in the maps of that process.

    Only sockmaps are counted: a closed socket leaves them by itself, and a cookie without a socket is never looked up.
    """
    found = 0
    for number, _, facts in descriptors(pid):
        if facts.get("map_type") == str(bpf.SOCKMAP):
            with borrowed(pid, number) as fd:
                sockets = _Borrowed(fd, 4, int(facts["value_size"]))
                slots = range(int(facts["max_entries"]))
                found += sum(sockets.lookup(struct.pack("I", slot)) is not None for slot in slots)
    return found
