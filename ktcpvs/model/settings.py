"""The settings of the whole switch: each with its name, default, range and meaning, in this one place.

The command line, the configuration language and the documents all read them from here. The names that KTCPVS
had under /proc/sys/net/ktcpvs keep their names, and their defaults but for zerocopy_send.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import Attribute, evolve, field, fields, frozen

from ktcpvs.errors import BadValue, NoSuchSetting, shorten, unknown


def _in_range(instance: object, attribute: Attribute[int], value: int) -> None:
    lowest, highest = attribute.metadata["range"]
    if not lowest <= value <= highest:
        unit = attribute.metadata["unit"]
        raise BadValue(f"{attribute.name} = {value} is out of range: {lowest}..{highest}{unit and ' ' + unit}")


def _setting(default: int, lowest: int, highest: int, unit: str, meaning: str) -> Any:
    metadata = {"range": (lowest, highest), "unit": unit, "meaning": meaning}
    return field(default=default, validator=_in_range, metadata=metadata)


_SECRET = re.compile(r'(?:[^\s"{}#=\x00-\x1f\x7f-\x9f]{8,128})?')


def _secret_form(instance: object, attribute: Attribute[str], value: str) -> None:
    if not _SECRET.fullmatch(value) or not value.isprintable():
        raise BadValue(
            f'{attribute.name}: 8..128 printable characters, no white space and none of " {{ }} # =, or nothing'
        )


def _secret(meaning: str) -> Any:
    """A text that is not written to the log; "" is none."""
    metadata = {"range": None, "unit": "", "meaning": meaning}
    return field(default="", validator=_secret_form, metadata=metadata, repr=lambda value: "'...'" if value else "''")


DAY = 86400


@frozen
class Settings:
    """All settings: whole numbers, but for a secret. Times are seconds, by a clock that ticks once a second."""

    debug_level: int = _setting(
        0, 0, 12, "", "what is logged: 0 announcements and transmission errors, 1 non-fatal errors, 2 configuration, "
        "3 daemon and listening, 4 connections new and ended, 5 scheduling, 8 state changes, 12 data relayed"
    )  # fmt: skip
    max_backlog: int = _setting(2048, 1, 65535, "connections", "how many connections wait to be accepted")
    zerocopy_send: int = _setting(1, 0, 1, "", "0: services with relay = auto copy; 1: they take the best there is")
    keepalive_timeout: int = _setting(
        30, 1, DAY, "seconds", "idle time of a kept-alive connection; for schedulers that decide per request"
    )
    read_timeout: int = _setting(
        180, 0, DAY, "seconds", "a connection with no data either way for so long is closed; 0: never"
    )
    connect_timeout: int = _setting(5, 1, 3600, "seconds", "how long a real server may take to accept a connection")
    connect_tries: int = _setting(5, 1, 65535, "servers", "how many real servers are called for one client")
    response_timeout: int = _setting(
        60, 1, DAY, "seconds", "how long a server may take to begin its answer; for schedulers that decide per request"
    )
    first_byte_timeout: int = _setting(
        0, 0, DAY, "seconds", "an idempotent request that has waited so long for a server that answers nobody goes to "
        "another one; 0: never by time alone, but after response_timeout"
    )  # fmt: skip
    eject_most: int = _setting(
        300, 1, DAY, "seconds", "the longest ejection of a server; one that was well for so long begins anew"
    )
    retry_after: int = _setting(
        5, 0, DAY, "seconds", "what Retry-After says to a client when there is no server for it; 0: nothing"
    )
    retry_budget: int = _setting(
        20, 0, 100, "percent", "so many of a service's live requests may be retries of what a server did not answer"
    )
    retry_least: int = _setting(
        10, 0, 65535, "requests", "so many retries at once are within the budget, however few requests are live"
    )
    resolve_least: int = _setting(
        5, 1, DAY, "seconds", "a host name is not looked up more often, however soon what is known of it is out of date"
    )
    resolve_most: int = _setting(
        3600, 1, DAY, "seconds", "a host name is looked up at least so often, however long what is known of it holds"
    )
    resolve_addresses: int = _setting(64, 1, 1024, "addresses", "how many servers one host name may be at most")
    resolve_ipv6: int = _setting(
        0, 0, 2, "", "0: a host name is its IPv4 addresses, and its IPv6 addresses where it has none; 1: the other "
        "way round; 2: all of them"
    )  # fmt: skip
    pool_size: int = _setting(64, 0, 65535, "connections", "how many idle connections are kept for one real server")
    head_timeout: int = _setting(10, 1, 3600, "seconds", "how long a client may take to send a request's head")
    head_size: int = _setting(65536, 512, 1 << 20, "bytes", "the longest head of a request")
    uri_size: int = _setting(
        8192, 64, 1 << 20, "bytes", "the longest request target; rules may take long to match one that is longer"
    )
    head_lines: int = _setting(100, 1, 10000, "lines", "the most header lines of a request")
    drain_timeout: int = _setting(
        30, 0, DAY, "seconds", "how long the connections of a stopped service or deleted server may go on"
    )
    body_size: int = _setting(
        0, 0, 999_999_999, "KiB", "the longest body of a request, for schedulers that decide per request; 0: any length"
    )
    queue_timeout: int = _setting(
        10, 1, DAY, "seconds", "how long a client waits for a server that has as many connections as its maxconn"
    )
    choose_timeout: int = _setting(
        2, 1, 3600, "seconds", "how long a scheduler that waits for something may take; then the fallback chooses"
    )
    cookie_key: str = _secret(
        "the secret behind the cookies of chttp, the same on all switches that serve one site; nothing: one of its own"
    )
    linger_timeout: int = _setting(
        2, 0, 3600, "seconds", "a client that has its last response and sends on is read this long after its last "
        "byte, so that no reset takes the response from it"
    )  # fmt: skip
    linger_time: int = _setting(30, 0, 3600, "seconds", "how long such a client is read in all")
    linger_size: int = _setting(65536, 0, 999_999_999, "KiB", "how much such a client may send")
    worker_timeout: int = _setting(
        10, 0, 3600, "seconds", "a worker that has not responded for so long is killed and replaced; 0: only when it "
        "has not answered a command for 30 seconds"
    )  # fmt: skip
    relay_after: int = _setting(
        1,
        0,
        3600,
        "seconds",
        "with relay = auto: a joined connection that lives longer and is bulk is spliced; 0: all are, at once",
    )
    relay_rate: int = _setting(
        16384, 0, 1 << 20, "KiB/s", "with relay = auto: a connection that moves more is bulk; 0: every one is"
    )
    relay_window: int = _setting(
        16384, 64, 1 << 20, "KiB", "the most that the kernel may hold for one direction of a connection that it relays"
    )

    control_handshake_timeout: int = _setting(
        10, 1, 3600, "seconds", "how long who comes to a control connection over TLS may take to show a certificate"
    )
    control_handshakes: int = _setting(
        64,
        1,
        65535,
        "connections",
        "how many of those may be at it at once; one more, and the oldest of them is closed",
    )

    @classmethod
    def names(cls) -> list[str]:
        return [attribute.name for attribute in fields(cls)]

    def changed(self, changes: dict[str, str]) -> Settings:
        """These settings with `changes`, name -> text. Raises NoSuchSetting or BadValue."""
        known = self.names()
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in known:
                raise NoSuchSetting(f"no setting {unknown(name, known, 40)}")
            values[name] = text if name in SECRETS else whole_number(name, text)
        return evolve(self, **values)

    def described(self) -> dict[str, int | str]:
        """Name -> value of all settings."""
        return {name: getattr(self, name) for name in self.names()}


SECRETS = frozenset(attribute.name for attribute in fields(Settings) if attribute.metadata["range"] is None)
"""The settings that are secret texts."""


def whole_number(name: str, text: str) -> int:
    """`text` as a whole number of at most 9 digits. Raises BadValue, naming it `name`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise BadValue(f"{name} = {shorten(text, 40)}: a whole number is wanted")
    return int(text)
