"""A name server on loopback, over UDP and TCP, whose answers a test may change."""

from __future__ import annotations

import ipaddress
import socketserver
import struct
import threading
from typing import Any

from servers import LOOPBACK, free_port
from twisted.names import dns

MAX_UDP_BYTES = 512
"""Bytes of an answer over UDP. A longer one is truncated, and the client asks again over TCP (RFC 1035, 4.2.1)."""


class NameServer:
    """address: "127.0.0.1:PORT". asked: every question, as (name, type). is_silent: it answers no question."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.asked: list[tuple[str, int]] = []
        self.is_silent = False
        self._zone: dict[str, tuple[list[Any], int]] = {}
        self._aliases: dict[str, str] = {}
        self._services: dict[str, tuple[list[tuple[int, int, int, str]], int, bool]] = {}
        self._broken: dict[tuple[str, int | None], int] = {}
        where = LOOPBACK, self.port
        self._servers = [_UDPServer(where, _UDP), _TCPServer(where, _TCP)]
        for server in self._servers:
            server.names = self
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # Its data.

    def says(self, name: str, *addresses: str, ttl: int = 1) -> None:
        """Set the addresses of `name`. ttl: seconds."""
        self._broken = {(other, kind): code for (other, kind), code in self._broken.items() if other != name}
        self._zone[name] = [ipaddress.ip_address(one) for one in addresses], ttl

    def lists(self, name: str, *targets: tuple[int, int, int, str], ttl: int = 1, along: bool = True) -> None:
        """Set the SRV records of `name`: (priority, weight, port, host) of each target. along: send the addresses of
        targets in the same answer."""
        self._broken = {(other, kind): code for (other, kind), code in self._broken.items() if other != name}
        self._services[name] = list(targets), ttl, along

    def alias(self, name: str, other: str) -> None:
        self._aliases[name] = other

    def fails(self, name: str, code: int = dns.ESERVER, kind: int | None = None) -> None:
        """Answer questions for `name` with an error. kind: only those for such records, as dns.AAAA; None: all."""
        self._broken[name, kind] = code

    def count(self, name: str, kind: int = dns.A) -> int:
        """Count the questions for that name's IPv4 addresses, or for records of another kind."""
        return self.asked.count((name, kind))

    # Questions.

    def answer(self, data: bytes, most: int) -> bytes | None:
        """Return the answer to a question, or None for no answer. most: bytes of an answer."""
        question = dns.Message()
        question.fromStr(data)
        (query,) = question.queries
        name = query.name.name.decode().lower()
        self.asked.append((name, query.type))
        if self.is_silent:
            return None
        answer = dns.Message(question.id, answer=1, recAv=1, maxSize=0)
        answer.queries = question.queries
        answer.rCode = self._broken.get((name, query.type), self._broken.get((name, None), dns.OK))
        if answer.rCode == dns.OK:
            answer.answers = self._records(name, query.type)
            answer.additional = self._sent_along(answer.answers)
            known = {*self._zone, *self._aliases, *self._services}
            answer.rCode = dns.OK if name in known else dns.ENAME
        whole: bytes = answer.toStr()
        if len(whole) > most:
            answer.answers, answer.additional, answer.trunc = [], [], 1
            whole = answer.toStr()
        return whole

    def _records(self, name: str, kind: int) -> list[Any]:
        records = []
        while name in self._aliases:
            other = self._aliases[name]
            records.append(dns.RRHeader(name.encode(), dns.CNAME, ttl=60, payload=dns.Record_CNAME(other.encode())))
            name = other
        if kind == dns.SRV:
            targets, ttl, _ = self._services.get(name, ([], 0, False))
            payloads = [dns.Record_SRV(*target[:3], target[3].encode(), ttl) for target in targets]
            return [*records, *(dns.RRHeader(name.encode(), kind, ttl=ttl, payload=one) for one in payloads)]
        addresses, ttl = self._zone.get(name, ([], 0))
        for address in addresses:
            if kind == dns.A and address.version == 4:
                payload: Any = dns.Record_A(str(address), ttl)
            elif kind == dns.AAAA and address.version == 6:
                payload = dns.Record_AAAA(str(address), ttl)
            else:
                continue
            records.append(dns.RRHeader(name.encode(), kind, ttl=ttl, payload=payload))
        return records

    def _sent_along(self, answers: list[Any]) -> list[Any]:
        """Return the addresses of targets that are sent with their SRV records."""
        found = [one for one in answers if one.type == dns.SRV and self._services[one.name.name.decode()][2]]
        hosts = dict.fromkeys(one.payload.target.name.decode() for one in found)
        return [record for host in hosts for kind in (dns.A, dns.AAAA) for record in self._records(host, kind)]


class _UDPServer(socketserver.ThreadingUDPServer):
    daemon_threads = True
    names: NameServer


class _TCPServer(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
    names: NameServer


class _UDP(socketserver.BaseRequestHandler):
    server: _UDPServer

    def handle(self) -> None:
        data, sock = self.request
        answer = self.server.names.answer(data, MAX_UDP_BYTES)
        if answer is not None:
            sock.sendto(answer, self.client_address)


class _TCP(socketserver.StreamRequestHandler):
    server: _TCPServer

    def handle(self) -> None:
        while head := self.rfile.read(2):
            answer = self.server.names.answer(self.rfile.read(struct.unpack("!H", head)[0]), 65535)
            if answer is not None:
                self.wfile.write(struct.pack("!H", len(answer)) + answer)
