"""The command line of --trace, and the line that it prints of a request."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.control.tcpvsadm.argument_reader import read_arguments
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.control.tcpvsadm.trace import format_entry, query_of
from ktcpvs.control.tcpvsadm.usage import help_text
from ktcpvs.model.live_trace import DEFAULT_COUNT, DEFAULT_SECONDS, TraceQuery

ENTRY: dict[str, Any] = {
    "time": "2026-11-23T03:31:34.123Z", "service": "web", "scheduler": "phttp", "client": "192.0.2.7", "tls": None,
    "method": "GET", "target": "/shop?page=2", "protocol": "HTTP/1.1", "host": "www.example.org", "referer": None,
    "user_agent": None, "status": 200, "server": "10.0.0.2:80", "reason": "rule 1 'shop', next in turn of 2",
    "why": "rule=1, balance, retry", "connect": 0.0005, "first": 0.0125, "total": 0.02, "bytes_in": 120,
    "bytes_out": 1234, "body_out": 1000, "retries": 1, "reused": False, "ending": "answered",
    "error": "10.0.0.1:80: Connection refused", "queue": 0.25,
    "attempts": [
        {"server": "10.0.0.1:80", "failure": "Connection refused"}, {"server": "10.0.0.2:80", "failure": None},
    ],
}  # fmt: skip
LINE = (
    "03:31:34.123 web 192.0.2.7 GET www.example.org/shop?page=2 -> 10.0.0.2:80  200  rule 1 'shop', next in turn of 2  "
    "[rule=1, balance, retry]  queue 250.0, connect 0.5, first 12.5, total 20.0 ms  120 in, 1234 out  "
    "failed: 10.0.0.1:80: Connection refused\n"
)


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["--trace", ""], TraceQuery("", None, DEFAULT_COUNT, DEFAULT_SECONDS)),
        (["--trace=path /a"], TraceQuery("path /a")),
        (["--trace", "path /a", "-i", "web", "--count", "5", "--for", "30s"], TraceQuery("path /a", "web", 5, 30)),
        (["--count", "5", "--trace", "path /a"], TraceQuery("path /a", None, 5)),
        (["--trace", "path /5", "--count=7", "--for=2m", "--json"], TraceQuery("path /5", None, 7, 120)),
        (["--trace", "5", "--count", "7"], TraceQuery("5", None, 7)),
    ],
)
def test_the_command_line(words: list[str], query: TraceQuery) -> None:
    given = read_arguments(words)
    assert given.command.name == "trace"
    assert query_of(given) == query


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--trace"], "Option '--trace' needs a value: --trace 'path /shop/', or '' for all requests"),
        (["--trace", "", "--count"], "Option '--count' needs a value with the 'trace' command"),
        (["--trace", "", "--count=x"], "count 'x': not a whole number of at most 9 digits"),
        (["--trace", "", "--for", "5d"], "for '5d': not a time (examples: 60, 60s, 5m)"),
        (["--trace", "path /a", "path /b"], "Unexpected argument 'path /b' with the 'trace' command"),
        (["--trace", "", "--wide"], "Illegal 'wide' option with the 'trace' command"),
        (["--connections", "--count=5"], "Option '--count' takes no value with this command"),
        (["--list", "--for", "5s"], "Illegal 'for' option with the 'list' command"),
    ],
)
def test_what_makes_no_sense(words: list[str], why: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_arguments(words)
    assert str(refused.value) == why


def test_count_of_a_listing_has_no_value_still() -> None:
    assert read_arguments(["--connections", "--count"]).values["count"] == ""
    assert "--trace '[CONDITION...]' [-i ID] [--count N] [--for TIME] [--json]" in " ".join(help_text().split())


def test_the_line_of_a_request() -> None:
    assert format_entry(ENTRY) == LINE


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"method": None, "target": None, "host": None, "status": None}, "192.0.2.7 - -> 10.0.0.2:80  -  rule 1"),
        ({"client": None, "attempts": []}, "web - GET www.example.org/shop"),
        ({"target": "http://h/x"}, "GET http://h/x -> "),
        ({"target": "*", "method": "OPTIONS"}, "OPTIONS * -> "),
        ({"status": 503, "ending": "503: no server answered"}, "  503  no server answered  ["),
        ({"connect": None, "first": None}, "  queue 250.0, total 20.0 ms  "),
        ({"server": None, "reason": None, "why": None, "ending": "client gone"}, "-> -  200  client gone  [-]  "),
    ],
)
def test_lines_of_others(fields: dict[str, Any], part: str) -> None:
    assert part in format_entry(ENTRY | fields)


def test_no_request_reaches_the_terminal_as_it_is() -> None:
    line = format_entry(ENTRY | {"target": "/\x1b[2J\r\n\x00\u202e", "host": "\x9b31m"})
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
