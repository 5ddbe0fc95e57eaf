"""The settings of the whole switch, each with its name, default, range and meaning.

The command line, the configuration language and the documents read them from here. Settings that KTCPVS had under
/proc/sys/net/ktcpvs keep their names, and their defaults except for zerocopy_send.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import Attribute, evolve, field, fields, fields_dict, frozen

from ktcpvs.errors import BadValue, NoSuchSetting, shorten
from ktcpvs.model.acme import (
    AUTO,
    LETSENCRYPT,
    challenge_fault,
    directory_fault,
    email_fault,
    path_fault,
    word_fault,
)
from ktcpvs.model.language.foreign_words import unknown_option


def _in_range(instance: object, attribute: Attribute[int], value: int) -> None:
    lowest, highest = attribute.metadata["range"]
    if not lowest <= value <= highest:
        unit = attribute.metadata["unit"]
        raise BadValue(f"{attribute.name} = {value} is out of range: {lowest}..{highest}{unit and ' ' + unit}")


def _setting(default: int, lowest: int, highest: int, unit: str, meaning: str) -> Any:
    metadata = {"range": (lowest, highest), "unit": unit, "meaning": meaning, "is_secret": False}
    return field(default=default, validator=_in_range, metadata=metadata)


_SECRET = re.compile(r'(?:[^\s"{}#=\x00-\x1f\x7f-\x9f]{8,128})?')


def _secret_form(instance: object, attribute: Attribute[str], value: str) -> None:
    if not _SECRET.fullmatch(value) or not value.isprintable():
        raise BadValue(
            f"{attribute.name}: expected 8 to 128 printable characters without white space and "
            'without " { } # =, or nothing'
        )


def _secret(meaning: str) -> Any:
    """Declare a secret text, which never appears in the log; "" is none."""
    metadata = {"range": None, "unit": "", "meaning": meaning, "is_secret": True}
    return field(default="", validator=_secret_form, metadata=metadata, repr=lambda value: "'...'" if value else "''")


def _text(default: str, fault: Callable[[str], str], meaning: str) -> Any:
    """Declare a text that is no secret. fault: returns what is wrong with a value; "": nothing."""

    def check(instance: object, attribute: Attribute[str], value: str) -> None:
        if why := fault(value):
            raise BadValue(f"{attribute.name} = {shorten(value, 40)}: {why}")

    metadata = {"range": None, "unit": "", "meaning": meaning, "is_secret": False}
    return field(default=default, validator=check, metadata=metadata)


DAY = 86400


@frozen
class Settings:
    """All settings: whole numbers, texts, and one secret. Times are seconds, by a clock that ticks once a second."""

    debug_level: int = _setting(
        0, 0, 12, "", "the log level: 0 announcements and transmission errors, 1 non-fatal errors, 2 configuration, "
        "3 daemon and listening, 4 new and ended connections, 5 scheduling, 8 state changes, 12 relayed data"
    )  # fmt: skip
    max_backlog: int = _setting(
        2048, 1, 65535, "connections", "the most connections that wait to be accepted (listen(2))"
    )
    zerocopy_send: int = _setting(
        1, 0, 1, "", "0: services with relay = auto always copy; 1: they splice bulk connections"
    )
    keepalive_timeout: int = _setting(
        30,
        1,
        DAY,
        "seconds",
        "close a kept-alive connection after this idle time; for schedulers that decide per request",
    )
    read_timeout: int = _setting(
        180, 0, DAY, "seconds", "close a connection after this time without data in either direction; 0: never"
    )
    connect_timeout: int = _setting(
        5, 1, 3600, "seconds", "the most time for a server to accept a connection, and once more for its TLS handshake"
    )
    connect_tries: int = _setting(5, 1, 65535, "servers", "the most servers to try for one client")
    response_timeout: int = _setting(
        60,
        1,
        DAY,
        "seconds",
        "the most time until a server begins its response; for schedulers that decide per request",
    )
    request_timeout: int = _setting(
        0,
        0,
        DAY,
        "seconds",
        "the most time for a request, from its head to the end of its response, for schedulers that decide per "
        "request; 0: no limit",
    )
    first_byte_timeout: int = _setting(
        0, 0, DAY, "seconds", "send an idempotent request to another server after this time, if its server has "
        "responded to no request since; 0: only after response_timeout"
    )  # fmt: skip
    eject_most: int = _setting(
        300,
        1,
        DAY,
        "seconds",
        "the longest ejection of a server; a server that was healthy for this time starts with eject_time again",
    )
    eject_slow_interval: int = _setting(
        10, 1, 3600, "seconds", "compare the latencies of servers in this interval, for services with eject_slow"
    )
    eject_slow_requests: int = _setting(
        20, 1, 1_000_000, "requests", "compare only servers that have had so many responses in the interval"
    )
    eject_slow_least: int = _setting(
        100, 0, 60_000, "ms", "a server whose requests take less is not slow, however fast the others are"
    )
    retry_after: int = _setting(
        5, 0, DAY, "seconds", "the value of Retry-After when no server is available; 0: no such field"
    )
    retry_budget: int = _setting(
        20, 0, 100, "percent", "the most of a service's current requests that may be retries of unanswered ones"
    )
    retry_least: int = _setting(
        10, 0, 65535, "requests", "the number of concurrent retries that the budget always allows"
    )
    resolve_least: int = _setting(
        5, 1, DAY, "seconds", "the shortest time between two look-ups of a host name, whatever its TTL"
    )
    resolve_most: int = _setting(
        3600, 1, DAY, "seconds", "the longest time between two look-ups of a host name, whatever its TTL"
    )
    resolve_addresses: int = _setting(
        64, 1, 1024, "addresses", "the most addresses of one host name that become servers"
    )
    resolve_ipv6: int = _setting(
        0, 0, 2, "", "0: a host name becomes its IPv4 addresses, or its IPv6 addresses if it has none; 1: vice "
        "versa; 2: all of them"
    )  # fmt: skip
    pool_size: int = _setting(64, 0, 65535, "connections", "the most idle connections that are kept for one server")
    http2_streams: int = _setting(
        100, 1, 65535, "streams", "the most requests at once on one HTTP/2 connection of a client"
    )
    http2_stream_window: int = _setting(
        64, 1, 65536, "KiB", "the most bytes of one body that an HTTP/2 peer may send before they have been passed on"
    )
    http2_window: int = _setting(
        256, 64, 65536, "KiB", "the most bytes of all bodies that an HTTP/2 peer may send on one connection before "
        "they have been passed on"
    )  # fmt: skip
    http2_glitches: int = _setting(
        1000, 10, 1_000_000, "frames", "the most frames in 10 seconds that ask for nothing, such as resets, before an "
        "HTTP/2 connection ends with ENHANCE_YOUR_CALM"
    )  # fmt: skip
    http2_server_streams: int = _setting(
        100, 1, 65535, "streams", "the most requests at once on one HTTP/2 connection to a server, which may allow less"
    )
    http2_ping: int = _setting(
        20, 0, DAY, "seconds", "send a PING on an HTTP/2 connection to a server that has been idle for this time, and "
        "close it if nothing has come after as much time again; 0: never"
    )  # fmt: skip
    head_timeout: int = _setting(10, 1, 3600, "seconds", "the most time for a client to send a request's head")
    head_size: int = _setting(65536, 512, 1 << 20, "bytes", "the longest head of a request")
    uri_size: int = _setting(
        8192, 64, 1 << 20, "bytes", "the longest request target; longer ones could take rules long to match"
    )
    head_lines: int = _setting(100, 1, 10000, "lines", "the most header lines of a request")
    drain_timeout: int = _setting(
        30, 0, DAY, "seconds", "the most time that connections of a stopped service or a deleted server last"
    )
    drain_spread: int = _setting(
        0, 0, DAY, "seconds", "close connections that drain evenly over this time, so that not all clients come back "
        "at once"
    )  # fmt: skip
    websocket_close_timeout: int = _setting(
        0, 0, 3600, "seconds", "close WebSockets of a server or service that drains by a Close frame (1012), and give "
        "client and server this time to answer; 0: do not close them"
    )  # fmt: skip
    start_timeout: int = _setting(
        30, 1, 3600, "seconds", "the most time for a server that is started on demand to accept connections"
    )
    stop_after: int = _setting(
        300, 0, DAY, "seconds", "stop a server that was started on demand when it has had no connection for this time; "
        "0: never"
    )  # fmt: skip
    stop_timeout: int = _setting(
        10, 1, 3600, "seconds", "the most time for such a server to end after SIGTERM; then it gets SIGKILL"
    )
    body_size: int = _setting(
        0, 0, 999_999_999, "KiB", "the longest body of a request, for schedulers that decide per request; 0: no limit"
    )
    queue_timeout: int = _setting(
        10, 1, DAY, "seconds", "the most time that a client waits while all servers have reached their maxconn"
    )
    choose_timeout: int = _setting(
        2, 1, 3600, "seconds", "the most time for an asynchronous scheduler to choose; then the fallback chooses"
    )
    body_prefix_timeout: int = _setting(
        10, 1, 3600, "seconds", "the most time for the first bytes of a body to come that the scheduler wants to see"
    )
    body_prefix_memory: int = _setting(
        65_536, 64, 999_999_999, "KiB", "the most memory of one process for the bodies of requests that are held for "
        "schedulers; a request that exceeds it is refused"
    )  # fmt: skip
    choose_budget: int = _setting(
        0, 0, 60_000, "ms", "the most time for one call of a scheduler that is a plugin; longer ones are counted, and "
        "after choose_overruns of them in a row the fallback chooses for choose_rest; 0: it is not measured"
    )  # fmt: skip
    choose_overruns: int = _setting(
        10, 1, 1_000_000, "calls", "calls in a row that exceed choose_budget until the fallback chooses"
    )
    choose_rest: int = _setting(
        30, 1, DAY, "seconds", "how long the fallback chooses for a scheduler that has exceeded choose_budget"
    )
    cookie_key: str = _secret(
        "the secret for the cookies of chttp, the same on all switches of a site; empty: a secret of this switch"
    )
    linger_timeout: int = _setting(
        2, 0, 3600, "seconds", "after its last response, keep reading a client that still sends, for this long after "
        "its last byte, so that a reset does not destroy the response"
    )  # fmt: skip
    linger_time: int = _setting(30, 0, 3600, "seconds", "the most time to read such a client")
    linger_size: int = _setting(65536, 0, 999_999_999, "KiB", "the most data to read from such a client")
    worker_timeout: int = _setting(
        10, 0, 3600, "seconds", "kill and replace a worker that has not responded for this long; 0: only one that has "
        "not answered a command for 30 seconds"
    )  # fmt: skip
    relay_after: int = _setting(
        1,
        0,
        3600,
        "seconds",
        "with relay = auto: splice a bulk connection after this time; 0: splice all, at once",
    )
    relay_rate: int = _setting(
        16384, 0, 1 << 20, "KiB/s", "with relay = auto: a connection with a higher rate is bulk; 0: all are"
    )
    relay_window: int = _setting(
        16384,
        64,
        1 << 20,
        "KiB",
        "the most data that the kernel may hold for one direction of a connection that it relays",
    )

    tls_handshake_timeout: int = _setting(
        10, 1, 3600, "seconds", "the most time for a client of a service to complete its TLS handshake"
    )
    max_handshakes: int = _setting(
        4096,
        1,
        1 << 20,
        "connections",
        "the most clients of a listener, in each process, that have not completed their TLS handshake or header of the "
        "PROXY protocol; further ones wait in the backlog",
    )
    certificate_check_interval: int = _setting(
        10, 0, DAY, "seconds", "look for changed certificate files in this interval, and read them again; 0: only on "
        "request"
    )  # fmt: skip
    acme_email: str = _text(
        "", email_fault, "where the CA of certificate = acme may write to about an account; empty: nowhere"
    )
    acme_directory: str = _text(
        LETSENCRYPT, directory_fault, "the CA that issues the certificates of certificate = acme: letsencrypt, "
        "letsencrypt-staging, whose certificates are for tests, or the URL of a directory of ACME"
    )  # fmt: skip
    acme_ca: str = _text(
        "", path_fault, "the file with the CAs that verify the TLS of acme_directory; empty: those of the system"
    )
    acme_eab_kid: str = _text(
        "", word_fault, "the name of the external account to which the CA binds that of this switch; empty: none"
    )
    acme_eab_key: str = _text("", path_fault, "the file with the key of acme_eab_kid, as the CA has given it")
    acme_profile: str = _text("", word_fault, "the CA's profile for certificates; empty: its default")
    acme_challenge: str = _text(
        AUTO, challenge_fault, "how the CA sees that names lead here: http-01, tls-alpn-01, or auto: the former where "
        "a service listens on port 80 without TLS"
    )  # fmt: skip
    acme_retry: int = _setting(
        300, 1, DAY, "seconds", "order a certificate again after this time if its order has failed; twice the time "
        "after each further failure, up to 6 hours"
    )  # fmt: skip
    tls_ticket_rotation: int = _setting(
        12, 1, 168, "hours", "make a new secret for session tickets in this interval; tickets of the one before are "
        "still accepted"
    )  # fmt: skip
    proxy_timeout: int = _setting(
        5, 1, 3600, "seconds", "the most time for a client to send its header of the PROXY protocol"
    )
    trace_limit: int = _setting(
        500, 1, 1_000_000, "requests/s", "the most requests whose spans each process records; further ones are served "
        "without, and counted"
    )  # fmt: skip
    trace_queue: int = _setting(
        8192, 64, 1_000_000, "spans", "the most spans that wait in each process for a collector; further ones are "
        "dropped, and counted"
    )  # fmt: skip
    trace_memory: int = _setting(
        16_384, 64, 999_999_999, "KiB", "the most memory of one process for spans that wait for collectors; further "
        "ones are dropped, and counted"
    )  # fmt: skip
    trace_interval: int = _setting(
        2, 1, 3600, "seconds", "send spans to the collector in this interval, and earlier once 512 wait"
    )
    control_handshake_timeout: int = _setting(
        10, 1, 3600, "seconds", "the most time for a TLS client of the control connection to show its certificate"
    )
    control_handshakes: int = _setting(
        64,
        1,
        65535,
        "connections",
        "the most such TLS clients at once; a further one replaces the oldest",
    )

    @classmethod
    def names(cls) -> list[str]:
        return [attribute.name for attribute in fields(cls)]

    def changed(self, changes: dict[str, str]) -> Settings:
        """Return these settings with changes, name -> text. Raises NoSuchSetting or BadValue."""
        known = self.names()
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in known:
                raise NoSuchSetting(f"no setting {unknown_option(name, known, LISTED_BY)}")
            values[name] = text if name in TEXTS else whole_number(name, text)
        return evolve(self, **values)

    def described(self) -> dict[str, int | str]:
        """Return name -> value of all settings."""
        return {name: getattr(self, name) for name in self.names()}


LISTED_BY = "'tcpvsadm --get'"
"""The command that lists all settings, for errors."""

SECRETS = frozenset(attribute.name for attribute in fields(Settings) if attribute.metadata["is_secret"])
"""The names of the settings that are secret."""

TEXTS = frozenset(attribute.name for attribute in fields(Settings) if attribute.metadata["range"] is None)
"""The names of the settings that are no numbers."""


_WITH_UNIT = re.compile("([0-9]{1,5})([A-Za-z]{1,7})")
_SECONDS_OF = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": DAY}


DEFAULT_SETTINGS = Settings()
"""The settings of a switch that is given none."""


def _explain_unit(name: str, text: str, unit: str) -> str:
    """Return what a value counts, if `text` has a unit as in 5m; "": it has none. unit: of the value; "": that of the
    setting with this name, if there is one."""
    written = _WITH_UNIT.fullmatch(text)
    attribute = fields_dict(Settings).get(name)
    unit = unit or (attribute.metadata["unit"] if attribute is not None else "")
    if written is None or not unit:
        return ""
    number = int(written[1]) * _SECONDS_OF.get(written[2].lower(), 0)
    return f" of {unit}" + (f" (example: {name} = {number})" if unit == "seconds" and number else "")


def whole_number(name: str, text: str, unit: str = "") -> int:
    """Parse a whole number of at most 9 digits. name, unit: for the message of BadValue, which this raises; "": the
    unit of the setting with this name, if there is one."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise BadValue(f"{name} = {shorten(text, 40)}: expected a whole number{_explain_unit(name, text, unit)}")
    return int(text)
