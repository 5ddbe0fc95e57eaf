"""Rules with conditions for tests: an evaluator that tries one after another, and strategies of rules and requests.

The evaluator shares no code with the table that it checks, except for the hash of `share`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from attrs import frozen
from hypothesis import strategies as st

from ktcpvs.model.conditions import Condition, text_of
from ktcpvs.model.scheduling import BoundRule, Request
from ktcpvs.schedulers.rule_keys import client_bucket


@frozen
class TLS:
    sni: str | None


@frozen
class Connection:
    local_address: Any
    tls: TLS | None = None


def request(
    path: str = "/",
    *headers: str,
    method: str = "GET",
    client: str = "192.0.2.1",
    port: int = 80,
    tls: TLS | None = None,
) -> Request:
    lines = "".join(f"{line}\r\n" for line in headers).encode()
    target = path.encode()
    connection = Connection(("127.0.0.1", port), tls)
    return Request(client, method.encode(), target, target, lines, connection=connection)


def _values(condition: Condition, seen: Request) -> list[bytes]:
    lines = [line.partition(b":") for line in seen.lines.split(b"\r\n") if line]
    headers = [(name.lower(), value.strip()) for name, _, value in lines]
    if condition.kind == "header":
        return [value for name, value in headers if name == condition.name.lower().encode()]
    if condition.kind == "cookie":
        pairs = [
            pair.strip().partition(b"=") for name, value in headers if name == b"cookie" for pair in value.split(b";")
        ]
        return [value for name, equals, value in pairs if equals and name == condition.name.encode()]
    query = (seen.path or b"").partition(b"?")[2].decode("latin-1")
    pairs_ = parse_qsl(query, keep_blank_values=True, encoding="latin-1")
    return [value.encode("latin-1") for name, value in pairs_ if name == condition.name]


def _host(condition: Condition, name: str | None) -> bool:
    return name is not None and any(
        name.endswith(value[1:]) and len(name) >= len(value) if value.startswith("*.") else name == value
        for value in condition.values
    )


def _path(condition: Condition, seen: Request) -> bool:
    decoded = unquote_to_bytes((seen.path or b"").partition(b"?")[0])
    kept: list[bytes] = []
    for part in decoded.split(b"/"):
        kept = kept[:-1] if part == b".." else [*kept, part] if part not in (b"", b".") else kept
    is_folder = decoded.endswith((b"/", b"/.", b"/.."))
    path = b"/" + b"/".join(kept) + (b"/" if is_folder and kept else b"")
    for text in condition.values:
        value = text.encode()
        if value.endswith(b"/") and (path + b"/").startswith(value):
            return True
        if path == value:
            return True
    return False


def holds(condition: Condition, seen: Request) -> bool:
    """Return whether the condition holds."""
    connection: Any = seen.connection
    hosts = [value.strip() for name, _, value in (line.partition(b":") for line in seen.lines.split(b"\r\n"))
             if name.lower() == b"host"]  # fmt: skip
    host = re.sub(r":\d*\Z", "", hosts[0].decode("latin-1")).lower().removesuffix(".") if len(hosts) == 1 else None
    sni = connection.tls.sni.lower() if connection.tls is not None and connection.tls.sni is not None else None
    found = {
        "host": lambda: _host(condition, host),
        "sni": lambda: _host(condition, sni),
        "path": lambda: _path(condition, seen),
        "pattern": lambda: any(re.search(value.encode(), seen.path or b"") for value in condition.values),
        "method": lambda: (seen.method or b"").decode() in condition.values,
        "from": lambda: any(
            ipaddress.ip_address(seen.client) in ipaddress.ip_network(value) for value in condition.values
        ),
        "port": lambda: str(connection.local_address[1]) in condition.values,
        "tls": lambda: connection.tls is not None,
        "share": lambda: client_bucket(seen.client, 64) < float(condition.values[0][:-1]) * 100,
    }
    if condition.kind in found:
        is_met = found[condition.kind]()
    else:
        values = _values(condition, seen)
        patterns = [value.encode() for value in condition.values]
        is_met = any(re.search(one, value) for one in patterns for value in values) if patterns else bool(values)
    return bool(is_met) is not condition.is_negated


def naive(rules: Sequence[BoundRule], seen: Request) -> int | None:
    """Return the place of the first rule that holds."""
    for place, rule in enumerate(rules):
        if rule.is_default or all(holds(condition, seen) for condition in rule.conditions):
            return place
    return None


PATTERNS = ("^/a", "b", "a$", "^$", "1", "x|y", "[0-9]")
HOSTS = ("a", "b.a", "*.a", "*.b.a", "c")


def of(kind: str, values: tuple[str, ...], least: int = 1) -> st.SearchStrategy[Condition]:
    some = st.lists(st.sampled_from(values), min_size=least, max_size=2, unique=True).map(tuple)
    return st.builds(Condition, st.just(kind), some, st.just(""), st.booleans())


def named(kind: str) -> st.SearchStrategy[Condition]:
    some = st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True).map(tuple)
    return st.builds(Condition, st.just(kind), some, st.sampled_from(("x", "y")), st.booleans())


some_conditions = st.one_of(
    of("host", HOSTS),
    of("sni", HOSTS),
    of("path", ("/a/", "/a", "/", "/a/b/", "/b")),
    of("pattern", PATTERNS),
    of("method", ("GET", "POST")),
    of("from", ("10.0.0.0/8", "10.1.0.0/16", "::/0", "0.0.0.0/0", "10.1.2.3")),
    of("port", ("80", "443")),
    st.builds(Condition, st.just("tls"), is_negated=st.booleans()),
    st.builds(
        Condition,
        st.just("share"),
        st.sampled_from(("5%", "50%", "99%")).map(lambda text: (text,)),
        is_negated=st.booleans(),
    ),
    named("header"),
    named("cookie"),
    named("query"),
)
rule_texts = st.one_of(
    st.lists(some_conditions, min_size=1, max_size=4).map(text_of), st.sampled_from((".*", "^/.*", "^/a", "b"))
)
requests = st.builds(
    request,
    st.lists(st.sampled_from(("/", "a", "b", "?", "x=1", "&", "y", "=", "..", "%61", ".")), max_size=7).map(
        lambda parts: "/" + "".join(parts)
    ),
    st.sampled_from(("Host: a", "Host: b.a:80", "Host: x.b.a.", "Host: C", "A: b")),
    st.sampled_from(("x: 1", "X: a", "y:", "Cookie: x=1; y=b", "cookie: y=", "z: 1")),
    st.sampled_from(("x: b", "Y: 1", "Cookie: x=a", "z: 2")),
    method=st.sampled_from(("GET", "POST", "get")),
    client=st.sampled_from(("10.1.2.3", "10.1.0.1", "10.2.0.1", "192.0.2.1", "::1", "2001:db8::1")),
    port=st.sampled_from((80, 443, 8080)),
    tls=st.sampled_from((None, TLS(None), TLS("a"), TLS("x.b.a"))),
)
