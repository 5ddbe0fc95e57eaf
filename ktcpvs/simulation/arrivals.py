"""Arrivals of simulated requests: when they come, from which client, and for what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from attrs import define


@define(eq=False)
class Arrival:
    """One request. at: virtual seconds. client: its IP address. method, target: of the request, raw bytes. lines: its
    header lines, each with CRLF. is_tls: the client speaks TLS with the switch. body: of the request, of which the
    scheduler sees the beginning if it asks for that."""

    at: float
    client: str
    method: bytes = b"GET"
    target: bytes = b"/"
    lines: bytes = b"Host: example.org\r\n"
    is_tls: bool = False
    body: bytes = b""


def client_address(number: int) -> str:
    """Return the IP address of a client, by its number from 0."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def poisson(rate: float, clients: int = 1000, paths: int = 100, seed: int = 1) -> Iterator[Arrival]:
    """Yield requests without end that come independently of each other, as those of many clients do.

    rate: requests in a second, on average. clients: each request is of one of so many, drawn at random. paths: the same
    for paths. seed: of the chance; the same one yields the same requests.
    """
    chance, at = Random(seed), 0.0
    while True:
        at += chance.expovariate(rate)
        yield Arrival(at, client_address(chance.randrange(clients)), target=b"/%d" % chance.randrange(paths))


def steady(rate: float, clients: int = 1000, paths: int = 100) -> Iterator[Arrival]:
    """Yield requests without end in equal intervals; clients and paths take turns. rate: requests in a second."""
    number = 0
    while True:
        number += 1
        yield Arrival(number / rate, client_address(number % clients), target=b"/%d" % (number % paths))


def until(arrivals: Iterable[Arrival], seconds: float) -> Iterator[Arrival]:
    """Yield those of the first `seconds`."""
    for arrival in arrivals:
        if arrival.at > seconds:
            return
        yield arrival
