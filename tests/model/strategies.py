"""Hypothesis strategies for the values of the model: each yields only valid values, and prefers unusual ones.

Use: `from tests.model.strategies import tables`.

- idents, hosts, ports, addresses, complete_addresses, unix_paths, patterns, lines, secrets: parts
- networks, network_lists, real_servers, rules, services, settings_values, tables: wholes
- edits: any edit over the few names of POOL_*, refused ones among them
- config_texts: texts that look like a configuration and mostly are none
- assert_sound: what holds for every table
- answer_or_refusal: what a call gives
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from attrs import evolve, fields
from hypothesis import strategies as st

from ktcpvs.errors import BadPattern, Refusal
from ktcpvs.model.actions import REDIRECTS, Action, Redirect, Respond
from ktcpvs.model.address import MAX_UNIX_PATH_BYTES, Address, Inet, SRVName, Unix, parse_address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.conditions import Condition, is_pattern, text_of
from ktcpvs.model.edits import (
    STARTS,
    AddListener,
    AddRule,
    AddServer,
    AddService,
    Allow,
    Confirm,
    DeleteListener,
    DeleteNetwork,
    DeleteRule,
    DeleteServer,
    DeleteService,
    Deny,
    Drain,
    DrainNode,
    Edit,
    EditRule,
    EditServer,
    EditService,
    EndLocal,
    Flush,
    ForgetNode,
    Load,
    Maintenance,
    MoveRule,
    Ready,
    ReloadCertificates,
    ReloadSchedulers,
    RenewCertificate,
    Set,
    StartService,
    StopService,
    UndrainNode,
    Unload,
)
from ktcpvs.model.header_edits import HeaderEdit, header_edit_of
from ktcpvs.model.language.lexer import word
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.local_edits import Local
from ktcpvs.model.modifiers import Modifiers, Rate, Rewrite
from ktcpvs.model.network import Network, Networks, parse_networks
from ktcpvs.model.nodes import Nodes
from ktcpvs.model.options import MAX_COUNT, MAX_WEIGHT
from ktcpvs.model.pattern import check_pattern
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import MAX_MATCH, Rule
from ktcpvs.model.scheduler_words import NamedScheduler
from ktcpvs.model.server_words import BACKUP, MODES
from ktcpvs.model.service import NO_FALLBACK, RELAYS, VirtualService
from ktcpvs.model.settings import TEXTS, Settings
from ktcpvs.model.table import Table
from ktcpvs.model.tls import ServerTLS

ODD = "\\\"'#={}[]%:;,$` aAzZ09_-./*+?()|^é日🙂ß\u017f\u212a"
"""Characters that mean something somewhere, and some that look as if they did."""

_printable = st.characters(exclude_categories=("C", "Z"))

MAX_ODD = 10
"""Characters of a path that is none of the chosen ones. hypothesis draws twice for each."""


@st.composite
def some_of(draw: st.DrawFn, values: dict[str, st.SearchStrategy[Any]], most: int, least: int = 0) -> dict[str, Any]:
    """A dictionary with some of these keys, `least` to `most`, and a value of its strategy for each.

    hypothesis draws nothing for the other keys, as it does for each optional one of fixed_dictionaries: most of the
    time of a test goes into drawing.
    """
    names = draw(st.lists(st.sampled_from(tuple(values)), min_size=least, max_size=most, unique=True))
    return {name: draw(values[name]) for name in names}


def lines(max_size: int = 30) -> st.SearchStrategy[str]:
    """Any text without a line feed."""
    character = st.one_of(st.sampled_from(ODD + "\t\r\x0b\x00\x85\u2028"), st.characters(exclude_characters="\n"))
    return st.text(character, max_size=max_size)


@cache
def idents() -> st.SearchStrategy[str]:
    odd = st.text(st.one_of(st.sampled_from("\\'$é-."), _printable), min_size=1, max_size=12)
    return st.one_of(
        st.sampled_from(("web", "Web", "virtual", "global", "server", "rule", "\\", "a\\\\", "127")),
        odd.map(lambda text: re.sub(r'["{}#=]', "", text)).filter(bool),
    )


@cache
def ports() -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from((1, 80, 8080, 65535)), st.integers(1, 65535))


@cache
def hosts() -> st.SearchStrategy[str]:
    """Names and IP addresses, in the form in which an address keeps them."""
    label = st.text(st.sampled_from("az09_-"), min_size=1, max_size=4).map(lambda text: text.strip("-") or "x")
    names = st.lists(label, min_size=1, max_size=3).map(".".join)
    return st.one_of(
        st.sampled_from(
            ("server", "use", "match", "rule", "virtual", "unix.example", "r1", "1.example", "a--b", "a.b.")
        ),
        names.filter(lambda name: not name.rpartition(".")[2].isdigit() and name != "unix"),
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(str),
        st.sampled_from(("::", "::1", "fe80::1%eth0", "fe80::1%2")).map(lambda host: str(ipaddress.ip_address(host))),
    )


@cache
def unix_paths() -> st.SearchStrategy[str]:
    odd = st.text(st.one_of(st.sampled_from(ODD), _printable), max_size=MAX_ODD)
    return st.one_of(
        st.sampled_from(("/run/web.sock", "/a b", '/"', "/\\", '/\\"', "/#", "/x\\\\", "/=", "/ ", "/unix:/a:80")),
        odd.map(lambda text: "/" + text),
    ).filter(lambda path: path.isprintable() and len(path.encode()) <= MAX_UNIX_PATH_BYTES)


@cache
def complete_addresses() -> st.SearchStrategy[Address]:
    """Addresses of which nothing was left out."""
    return st.one_of(st.builds(Inet, hosts(), ports()), st.builds(Unix, unix_paths()))


@cache
def server_addresses() -> st.SearchStrategy[Address]:
    """Addresses that a server may have."""
    names = hosts().filter(lambda host: "." in host and Inet(host, None).is_name)
    return st.one_of(complete_addresses(), st.builds(SRVName, names))


@cache
def addresses() -> st.SearchStrategy[Address]:
    return st.one_of(server_addresses(), st.builds(Inet, hosts(), st.none()))


@cache
def node_lists() -> st.SearchStrategy[Nodes | None]:
    """The nodes that a service or a listener names; None: all."""
    name = st.sampled_from(("a", "node-b", "tls", "on", "server", "9.x_y"))
    entry = st.one_of(name, name.map(lambda text: f"label:{text}"))
    some = st.lists(entry, min_size=1, max_size=3, unique=True).map(lambda entries: Nodes(tuple(entries)))
    return st.one_of(st.none(), some)


@cache
def listen_addresses() -> st.SearchStrategy[tuple[ListenAddress, ...]]:
    """The listeners of a service."""
    one = st.builds(ListenAddress, complete_addresses(), st.booleans(), node_lists())
    return st.lists(one, min_size=1, max_size=3, unique_by=lambda listener: listener.address).map(tuple)


def _compiles(pattern: str) -> bool:
    try:
        check_pattern(pattern)
    except BadPattern:
        return False
    return True


@cache
def patterns() -> st.SearchStrategy[str]:
    """Patterns that compile; many need care when they are written between quotes."""
    piece = st.sampled_from(
        (
            *("a", "/", ".", "^", "$", " ", "#", "=", "'", '"', '\\\\"', '\\"', "\\\\", "\\.", "\\#", "é", "日本"),
            *("(x|y)", "([^/]+)", '[\\\\"]', "/users/", ".*", "^/.*", "{", "}", "match 1 use server a", "[[:alpha:]]"),
        )
    )
    return st.one_of(
        st.sampled_from((".*", "^/.*", '"', '""', '\\\\"', '\\\\\\"', "\\\\", "\\\\\\\\", "#", "=", " ", "}", "# {")),
        st.lists(piece, min_size=1, max_size=5).map("".join),
        st.text(st.one_of(st.sampled_from(ODD), _printable), min_size=1, max_size=12),
        st.text(st.sampled_from('\\"'), min_size=1, max_size=12),
    ).filter(_compiles)


@cache
def real_servers() -> st.SearchStrategy[RealServer]:
    weight = st.one_of(st.sampled_from((0, 1)), st.integers(0, MAX_WEIGHT))
    maxconn = st.one_of(st.sampled_from((0, 0, 1, MAX_COUNT)), st.integers(0, MAX_COUNT))
    priority = st.one_of(st.sampled_from((0, 0, 1, BACKUP)), st.integers(0, BACKUP))
    options = some_of(
        {
            "weight": weight,
            "maxconn": maxconn,
            "tls": _server_tls(),
            "h2": st.just(True),
            "proxy": _proxies,
            "priority": priority,
            "mode": st.sampled_from(MODES),
            "check": complete_addresses(),
            "max_pending": maxconn,
            "start": st.sampled_from(("reports", "_a.b-C1")),
            "labels": _labels,
        },
        5,
    )
    return st.builds(lambda address, more: RealServer(address, **more), server_addresses(), options)


@st.composite
def _server_tls(draw: st.DrawFn) -> ServerTLS | None:
    if draw(st.booleans()):
        return None
    name = draw(st.sampled_from((None, "app.internal", "tls", "ca", "h2")))
    ca, cert = draw(st.one_of(st.none(), files())), draw(st.one_of(st.none(), files()))
    return ServerTLS(ca, ca is not None or draw(st.booleans()), name, cert)


@cache
def files() -> st.SearchStrategy[str]:
    """Absolute paths, odd ones preferred."""
    odd = st.text(st.one_of(st.sampled_from(ODD), _printable), max_size=MAX_ODD).map(lambda text: f"/{text}")
    return st.one_of(st.sampled_from(("/", "/etc/ssl/a.pem", '/a "b"', "/#", "/x\\", "/=", '/a\\"')), odd).filter(
        str.isprintable
    )


_proxies = st.sampled_from(("off", "v1", "v2"))
_labels = st.dictionaries(
    st.sampled_from(("zone", "canary", "a/b.c_d-e", "0")), st.sampled_from(("", "a", "A/b:1@+-._")), max_size=2
).map(lambda labels: tuple(sorted(labels.items())))
_certificates = st.lists(
    st.one_of(files(), st.sampled_from(("acme a.example", "acme a.example b.example 10.0.0.1", "acme ::1"))),
    max_size=2,
    unique=True,
).map(tuple)
_server_options = st.sampled_from(
    (
        {},
        {"tls": None},
        {"tls": ServerTLS()},
        {"tls": ServerTLS("/a b", True, "h"), "proxy": "v2"},
        {"proxy": "v1"},
        {"h2": True},
        {"tls": ServerTLS(name="h2"), "h2": True},
        {"h2": False},
        {"priority": 3, "mode": "drain"},
        {"priority": 0, "mode": "ready", "check": Inet("10.0.0.1", 1)},
        {"priority": BACKUP, "check": None, "max_pending": 0, "start": None},
        {"labels": (("canary", ""), ("zone", "a/b:1"))},
        {"labels": ()},
    )
)


@cache
def actions() -> st.SearchStrategy[Action]:
    """Any action that needs no group of a pattern."""
    urls = st.sampled_from(
        ("https", "/", "{target}", "https://{host}/{{x}{query}", "/é#", 'x:"', "/\\", "/file", "/{{")
    )
    texts = st.one_of(
        st.none(), st.sampled_from(("", "ok", "file", "} {", "server", "#", '"', "\\", "rule = x", "a\tb"))
    )
    return st.one_of(
        st.builds(Redirect, st.sampled_from(REDIRECTS), urls),
        st.builds(Respond, st.sampled_from((200, 299, 400, 403, 503, 599)), texts),
        st.builds(Respond, st.sampled_from((200, 503)), st.none(), files()),
        st.just(Respond(204)),
    )


@cache
def modifiers() -> st.SearchStrategy[Modifiers]:
    """Any modifiers that need no group of a pattern."""
    names = st.sampled_from(("X-A", "x_b", "+Vary", "use", "Server", "'", "#"))
    values = st.sampled_from(("a", "{request_id}", "{host} {server}", '"', "\\", "} #", "é", "{{x}", "use"))
    removed = st.builds(HeaderEdit, st.sampled_from(("X-A", "server")), st.just(""))
    edits = st.lists(st.one_of(st.builds(HeaderEdit, names, values), removed), max_size=2).map(tuple)
    prefixes = st.sampled_from((None, None, "/a", "/a/b/", "/é", "/{", '/"'))
    rewrites = st.one_of(st.none(), st.builds(Rewrite, patterns(), st.sampled_from(("/", "/{query}", '"', "", "x y"))))
    rates = st.one_of(
        st.none(),
        st.builds(Rate, st.sampled_from(("1/s", "5/h")), st.sampled_from((0, 7))),
        st.builds(
            Rate, st.just("30/m"), st.just(0), st.sampled_from(("header", "cookie")), st.sampled_from(("X-A", "use"))
        ),
    )
    balances = st.sampled_from((None, None, "wrr", "p2c", "use", "wrr depth 3", 'host mode "use" key "{path}"'))
    return st.builds(Modifiers, edits, edits, prefixes, rewrites, rates, balances)


@st.composite
def rules(draw: st.DrawFn, known: list[Address]) -> Rule:
    """A rule for some of the servers `known`, of which there is one at least, or one with an action."""
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from((None, None, "old", "a.b-c_1")))
        changed = evolve(draw(modifiers()), strip_prefix=None, rewrite=None, balance=None)
        return Rule(draw(patterns().filter(is_pattern)), (), None, name, draw(actions()), changed)
    if draw(st.integers(0, 4)) == 0:
        names = st.sampled_from(("a.example", "*.a.example", "B.example.", '"use"', "match.example", "x--y"))
        hosts = " ".join(draw(st.lists(names, min_size=1, max_size=3)))
        servers = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True)))
        return Rule(f"host {hosts}", servers)
    servers = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True)))
    name = draw(st.sampled_from((None, None, None, "login", "a.b-c_1", "Z")))
    if draw(st.booleans()):
        found = draw(st.lists(conditions(), min_size=1, max_size=5))
        changed = draw(modifiers()) if draw(st.integers(0, 3)) == 0 else None
        return Rule(text_of(found), servers, None, name, None, changed, draw(_weights(servers)))
    pattern = draw(patterns().filter(is_pattern))
    return Rule(pattern, servers, draw(_matches(check_pattern(pattern))), name, weights=draw(_weights(servers)))


def _weights(servers: tuple[Address, ...]) -> st.SearchStrategy[tuple[int | None, ...]]:
    """Weights of the servers of a rule, or none."""
    some = st.lists(st.sampled_from((None, 0, 1, 95, 65535)), min_size=len(servers), max_size=len(servers))
    return st.one_of(st.just(()), some.map(tuple))


@cache
def conditions() -> st.SearchStrategy[Condition]:
    """Any condition, in the one form of its values."""
    names = st.sampled_from(("a.example", "*.a.example", "use", "match.example", "x--y", "localhost", "path"))
    header = st.sampled_from(("X-Beta", "x_y", "host", "Not", "use"))
    query = st.one_of(header, st.sampled_from(("a b", "é", '"', "#", "a=b")))
    paths = st.sampled_from(("/", "/admin/", "/a b", "/%", '/"', "/é/", "/use", "/{", "/\\"))
    networks_ = st.sampled_from(("10.0.0.0/8", "::/0", "192.0.2.1", "2001:db8::/32"))

    def of(kind: str, values: st.SearchStrategy[str], least: int = 1, most: int = 3) -> st.SearchStrategy[Condition]:
        some = st.lists(values, min_size=least, max_size=most, unique=True).map(tuple)
        return st.builds(Condition, st.just(kind), some, st.just(""), st.booleans())

    def named(kind: str, known: st.SearchStrategy[str]) -> st.SearchStrategy[Condition]:
        some = st.lists(patterns(), max_size=2, unique=True).map(tuple)
        return st.builds(Condition, st.just(kind), some, known, st.booleans())

    return st.one_of(
        of("host", names),
        of("sni", names),
        of("path", paths),
        of("pattern", patterns()),
        of("method", st.sampled_from(("GET", "POST", "PURGE", "use"))),
        of("from", networks_),
        of("port", ports().map(str)),
        of("share", st.sampled_from(("5%", "0.01%", "100%", "12.5%")), most=1),
        of("tls", st.nothing(), 0, 0),
        named("header", header),
        named("cookie", header),
        named("query", query),
    )


_matches = cache(lambda groups: st.one_of(st.none(), st.integers(0, min(MAX_MATCH, groups))))
_counts = st.one_of(st.none(), st.sampled_from((0, 1, MAX_COUNT)), st.integers(0, MAX_COUNT))
_rates = st.one_of(
    st.just("off"), st.builds("{}/{}".format, st.sampled_from((1, 100, MAX_COUNT)), st.sampled_from("smh"))
)
_redirects = st.one_of(st.none(), complete_addresses())
_schedulers = st.one_of(
    st.sampled_from(("http", "wlc", "server", "Virtual", "x-1.2_3")),
    st.builds(
        lambda name, options: str(NamedScheduler(name, tuple(options.items()))),
        st.sampled_from(("wlc", "host", "x-1.2_3")),
        st.dictionaries(
            st.sampled_from(("depth", "key", "path", "scheduler", "a_1")),
            st.sampled_from(("3", "{header.x-user}", "use", "match", "test", "=", "", 'a "b"', "#\\ c", "\u00e9")),
            min_size=1,
            max_size=2,
        ),
    ),
)
_paths = st.one_of(
    st.sampled_from(("/", "/var/log/web.log", '/a "b"', "/#", "/x\\", "/=", "/{", '/a\\"')),
    st.text(st.one_of(st.sampled_from(ODD), _printable), max_size=MAX_ODD).map(lambda text: f"/{text}"),
).filter(str.isprintable)
_access_logs = st.one_of(st.sampled_from(("off", "syslog")), _paths, _paths.map(lambda path: f"syslog:{path}"))
_server_lists = st.lists(real_servers(), max_size=4, unique_by=lambda server: server.address)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any network, those that hold each other preferred."""
    bits = draw(st.sampled_from((32, 128)))
    length = draw(st.one_of(st.sampled_from((0, 1, bits - 1, bits)), st.integers(0, bits)))
    address = draw(st.one_of(st.sampled_from((0, (1 << bits) - 1, 10 << (bits - 8))), st.integers(0, (1 << bits) - 1)))
    return Network(bits, address >> (bits - length) << (bits - length), length)


@cache
def network_lists() -> st.SearchStrategy[tuple[Networks, Networks]]:
    """Networks that are allowed and others that are denied."""
    some = st.lists(st.tuples(networks(), st.booleans()), max_size=6, unique_by=lambda pair: pair[0])
    return some.map(lambda pairs: (_those(pairs, True), _those(pairs, False)))


def _those(pairs: list[tuple[Network, bool]], allowed: bool) -> Networks:
    return Networks.of(network for network, which in pairs if which is allowed)


_header_edits = st.lists(
    st.sampled_from(('X-A "b"', '+X-B "{host}"', 'Server ""', '"use" "a"', 'X-C "\\"" ')), max_size=3
).map(lambda texts: tuple(str(header_edit_of(text)) for text in texts))


@st.composite
def _error_pages(draw: st.DrawFn) -> tuple[str, ...]:
    statuses = draw(st.lists(st.integers(400, 599), max_size=4, unique=True))
    pages = [f"{status} {word(draw(files()))}" for status in statuses[:2]]
    return (*pages, *([f"{' '.join(map(str, statuses[2:]))} /page"] if statuses[2:] else []))


MIN_OPTIONS, MAX_OPTIONS = 5, 15
"""How many options of a service are set, besides those that depend on each other."""


@cache
def _service_options() -> st.SearchStrategy[dict[str, Any]]:
    """Some options of a service that have nothing to do with each other."""
    some_networks = network_lists().map(lambda lists: lists[0])
    some_counts = _counts.map(lambda count: count or 0)
    return some_of(
        {
            "on": node_lists(),
            "tls_min": st.sampled_from(("1.2", "1.3")),
            "tls_ciphers": st.sampled_from(("ECDHE+AESGCM:!aNULL", "@SECLEVEL=2")),
            "tls_default": files(),
            "https_only": st.just("on"),
            "not_tls": st.just("default"),
            "starttls": st.just("postgresql"),
            "proxy_from": some_networks,
            "trusted_proxies": some_networks,
            "trusted_header": st.sampled_from(("x_forwarded_for", "forwarded")),
            "scheduler": _schedulers,
            "balance": _schedulers,
            "fallback": st.one_of(st.just(NO_FALLBACK), _schedulers),
            "cookie_secure": st.sampled_from(("off", "on")),
            "cookie_name": st.sampled_from(("sid-1", "off")),
            "cookie_domain": st.sampled_from(("a.example", "off")),
            "cookie_max_age": st.sampled_from((1, 34560000)),
            "cookie_samesite": st.sampled_from(("lax", "strict", "none", "off")),
            "sticky": st.sampled_from(("header X-User", 'query "#"', "query use")),
            "access_log": _access_logs,
            "access_log_format": st.sampled_from(("combined", "json")),
            "trace": st.sampled_from(("off", "pass", "0%", "0.5%", "100%")),
            "otlp_endpoint": st.sampled_from(("https://h/a", "http://[::1]:4318")),
            "relay": st.sampled_from(RELAYS),
            "error_page": _error_pages(),
            "request_header": _header_edits,
            "response_header": _header_edits,
            "preconnect": st.sampled_from((1, 1024)),
            "preconnect_timeout": st.sampled_from((1, 86400)),
            "startservers": _counts,
            "maxclients": some_counts,
            "minspareservers": _counts,
            "maxspareservers": _counts,
            "redirect": _redirects,
            "via": st.sampled_from(("off", "append", "replace")),
            "overflow": st.sampled_from((50, 100)),
            "retry_on": st.sampled_from(("off", "connect reset", "connect reset 502 503 504", "504")),
            "tcp_keepalive": st.sampled_from((1, 32767)),
            "eject_slow": st.sampled_from((2, 1000)),
            "client_connections": some_counts,
            "client_rate": _rates,
            "client_ipv6": st.integers(1, 128),
        },
        MAX_OPTIONS,
        MIN_OPTIONS,
    )


@st.composite
def services(draw: st.DrawFn) -> VirtualService:
    servers = draw(_server_lists)
    allow, deny = draw(network_lists())
    known = [server.address for server in servers]
    listen, certificates, client_ca = draw(listen_addresses()), draw(_certificates), draw(st.one_of(st.none(), files()))
    if any(listener.is_tls for listener in listen):
        certificates = certificates or ("/etc/ssl/site.pem",)
    return VirtualService(
        ident=draw(idents()),
        listen=listen,
        certificate=certificates,
        client_ca=client_ca,
        client_certificate=draw(st.sampled_from(("off", "optional", "required"))) if client_ca else "off",
        allow=allow,
        deny=deny,
        servers=tuple(servers),
        rules=tuple(draw(st.lists(rules(known), max_size=4, unique_by=lambda rule: rule.key)) if known else ()),
        **draw(_service_options()),
    )


@cache
def secrets() -> st.SearchStrategy[str]:
    """Secret texts that a setting takes, nothing among them."""
    odd = st.text(st.one_of(st.sampled_from("\\'$é-.0"), _printable), min_size=8, max_size=20)
    return st.one_of(
        st.sampled_from(("", "12345678", "virtual8", "\\" * 8, "0" * 128)),
        odd.map(lambda text: re.sub(r'["{}#=]', "", text)).filter(lambda text: len(text) >= 8),
    )


_words = st.sampled_from(("", "kid-1", "é:/$", "x" * 256))
_TEXTS: dict[str, Callable[[], st.SearchStrategy[str]]] = {
    "cookie_key": secrets,
    "acme_email": lambda: st.sampled_from(("", "admin@example.com", "a+b@é.example")),
    "acme_directory": lambda: st.sampled_from(
        ("letsencrypt", "letsencrypt-staging", "https://ca.example:14000/dir?a=b&c")
    ),
    "acme_ca": lambda: st.one_of(st.just(""), files()),
    "acme_eab_kid": lambda: _words,
    "acme_eab_key": lambda: st.one_of(st.just(""), files()),
    "acme_profile": lambda: _words,
    "acme_challenge": lambda: st.sampled_from(("auto", "http-01", "tls-alpn-01")),
}
"""Values of the settings that are texts."""


@cache
def settings_values() -> st.SearchStrategy[Settings]:
    """Settings of which some were changed."""
    values = {
        attribute.name: _TEXTS[attribute.name]()
        if attribute.name in TEXTS
        else st.integers(*attribute.metadata["range"])
        for attribute in fields(Settings)
    }
    return some_of(values, MAX_OPTIONS).map(lambda changed: Settings(**changed))


@st.composite
def tables(draw: st.DrawFn, max_services: int = 4) -> Table:
    found = draw(st.lists(services(), max_size=max_services, unique_by=lambda service: service.ident))
    running = draw(st.sets(st.sampled_from([service.ident for service in found]))) if found else ()
    return Table.of(found, running=frozenset(running), settings=draw(settings_values()))


# Edits over few names, so that they meet.

POOL_IDENTS = ("web", "mail", "no such", "é")
POOL_ADDRESSES = tuple(map(parse_address, ("r1", "r2:80", "[::1]", "unix:/run/a b", "10.0.0.1:1")))
POOL_NETWORKS = tuple(map(parse_networks, ("", "10.0.0.0/8", "10.0.0.0/8 ::/0 10.0.0.1", "192.0.2.0/24\n::1")))
POOL_PATTERNS = (".*", "^/.*", '/\\\\"', "/users/([^/]+)", "(", "(a)\\1", "", "a\tb", "host a.example path /x")


def _options() -> st.SearchStrategy[dict[str, Any]]:
    count = st.sampled_from((None, -1, 0, 5, MAX_COUNT, MAX_COUNT + 1))
    return some_of(
        {
            "port": st.sampled_from((-1, 0, 1, 80, 65535, 65536)),
            "on": node_lists(),
            "listen": st.one_of(
                st.sampled_from(POOL_ADDRESSES),
                st.lists(
                    st.builds(ListenAddress, st.sampled_from(POOL_ADDRESSES), st.booleans(), node_lists()), max_size=3
                ),
            ),
            "certificate": st.sampled_from(((), ("/a",), ("/a", "/a"), ("a",), ("/a b", "/c"))),
            "client_ca": st.sampled_from((None, "/ca", "ca", "/\n")),
            "client_certificate": st.sampled_from(("off", "optional", "yes")),
            "tls_ciphers": st.sampled_from((None, "a:b", "a b", "")),
            "tls_default": st.sampled_from(("refuse", "/a", "a")),
            "proxy_from": st.sampled_from(POOL_NETWORKS),
            "trusted_proxies": st.sampled_from(POOL_NETWORKS),
            "trusted_header": st.sampled_from(("forwarded", "via")),
            "redirect": st.sampled_from((None, *POOL_ADDRESSES)),
            "scheduler": st.sampled_from(("wlc", "", "no good")),
            "maxclients": st.sampled_from((-1, 0, 5)),
            "fallback": st.sampled_from(("rr", NO_FALLBACK, "", "no good")),
            "cookie_secure": st.sampled_from(("off", "on", "On", "")),
            "access_log": st.sampled_from(("off", "syslog", "syslog:/run/log", "/log", "log", "/a\n", "syslog:", "")),
            "access_log_format": st.sampled_from(("combined", "json", "common")),
            "trace": st.sampled_from(("off", "pass", "1%", "101%", "on")),
            "otlp_endpoint": st.sampled_from(("http://h:4318", "h:4318")),
            "relay": st.sampled_from((*RELAYS, "", "Auto")),
            "request_header": st.sampled_from(
                ((), ('X-A "b"',), ('X-A ""', '+X-B "{host}"'), ('Host "x"',), ('X "{y}"',))
            ),
            "error_page": st.sampled_from(
                ((), ("503 /a",), ("502 503 /a", "503 /b"), ("200 /a",), ("/a",), ("503 a",))
            ),
            "allow": st.sampled_from(POOL_NETWORKS),
            "deny": st.sampled_from(POOL_NETWORKS),
            "client_rate": st.sampled_from(("off", "5/m", "5", "0/s", "")),
            "client_head": st.sampled_from((-1, 0, 5)),
            "client_ipv6": st.sampled_from((0, 1, 128, 129)),
            "startservers": count,
            "minspareservers": count,
            "maxspareservers": count,
            "check": st.sampled_from(
                (
                    "off",
                    "tcp",
                    "http /a",
                    'send "a" expect "b"',
                    "udp",
                    "http",
                    "",
                    'http HEAD /a host h header "A: b" port 1',
                )
            ),
            "check_interval": st.sampled_from((0, 1, 86401)),
            "eject": st.sampled_from((-1, 0, 5, 65536)),
            "preconnect": st.sampled_from((-1, 0, 8, 1025)),
            "eject_share": st.sampled_from((0, 100, 101)),
            "overflow": st.sampled_from((-1, 0, 50, 101)),
        },
        MAX_OPTIONS,
    )


def _one_edit() -> dict[type[Edit], st.SearchStrategy[Edit]]:
    ident, server = st.sampled_from(POOL_IDENTS), st.sampled_from(POOL_ADDRESSES)
    some, pattern = st.one_of(st.none(), ident), st.sampled_from(POOL_PATTERNS)
    reference = st.one_of(pattern, st.sampled_from(("n1", "1", "2", "name n1")))
    before = st.one_of(st.none(), reference)
    modified = st.sampled_from(
        (
            None,
            "",
            'request_header X-A "b"',
            "rate 5/m",
            "balance rr",
            "balance",
            "strip_prefix /a",
            'rewrite "(" "/"',
            "match 1",
        )
    )
    actions_ = ("respond 403", "redirect 301 /{1}", "redirect https", "respond 99", "")
    used = st.lists(st.tuples(server, st.sampled_from(("", " 0", " 95", " 65536", " -1"))), max_size=3)
    servers = used.map(lambda pairs: " ".join(f"server {word(str(one))}{number}" for one, number in pairs) or "server")
    action = st.one_of(st.sampled_from((None, *actions_)), servers)
    weight, match = st.sampled_from((-1, 0, 1, MAX_WEIGHT, MAX_WEIGHT + 1)), st.sampled_from((None, None, -1, 0, 1, 11))
    maxconn = st.sampled_from((-1, 0, 1, MAX_COUNT, MAX_COUNT + 1))
    some_networks = st.sampled_from(POOL_NETWORKS)
    text = st.sampled_from(("", "0", "1", "600", "-1", "x", "9999999999", "a secret", "secret-8"))
    changes = st.dictionaries(st.sampled_from((*Settings.names(), "unknown")), text, max_size=2)
    return {
        AddService: st.builds(AddService, ident, st.one_of(st.just({}), _options())),
        EditService: st.builds(EditService, ident, _options()),
        DeleteService: st.builds(DeleteService, ident),
        Flush: st.just(Flush()),
        AddListener: st.builds(
            AddListener, ident, server, st.booleans(), st.sampled_from((None, "a, label:b", "a b", ""))
        ),
        DeleteListener: st.builds(DeleteListener, ident, server),
        AddServer: st.builds(AddServer, ident, server, weight, maxconn, _server_options),
        EditServer: st.builds(
            EditServer, ident, server, st.one_of(st.none(), weight), st.one_of(st.none(), maxconn), _server_options
        ),
        DeleteServer: st.builds(DeleteServer, ident, server),
        Drain: st.builds(Drain, server, some),
        Ready: st.builds(Ready, server, some),
        Maintenance: st.builds(Maintenance, server, some),
        AddRule: st.one_of(
            st.builds(AddRule, ident, pattern, server, match, st.sampled_from((None, None, "n1", "1")), before),
            st.builds(AddRule, ident, pattern, st.none(), match, st.none(), before, action, modified),
            st.builds(AddRule, ident, pattern, server, weight=weight, modifiers=modified),
        ),
        DeleteRule: st.builds(DeleteRule, ident, reference, st.one_of(server, st.none())),
        EditRule: st.builds(
            EditRule,
            ident,
            reference,
            st.one_of(st.none(), pattern),
            match,
            st.sampled_from((None, "", "n1", "use")),
            st.one_of(st.none(), action),
            modified,
        ),
        MoveRule: st.builds(MoveRule, ident, reference, st.one_of(st.none(), reference)),
        Allow: st.builds(Allow, ident, some_networks, st.booleans()),
        Deny: st.builds(Deny, ident, some_networks, st.booleans()),
        DeleteNetwork: st.builds(DeleteNetwork, ident, some_networks),
        StartService: st.builds(StartService, some),
        StopService: st.builds(StopService, some),
        Set: st.builds(Set, changes),
        Unload: st.just(Unload()),
        Confirm: st.just(Confirm()),
        Adopt: st.builds(
            lambda table: Adopt({**table.services, "gone": None}, table.running, table.settings), tables()
        ),
        ReloadCertificates: st.just(ReloadCertificates()),
        ReloadSchedulers: st.builds(ReloadSchedulers, st.one_of(st.none(), st.just("mine"))),
        RenewCertificate: st.builds(RenewCertificate, st.sampled_from(("a.example", "::1", ""))),
        EndLocal: st.builds(EndLocal, some),
        Local: st.builds(Local, st.one_of(st.builds(Drain, server, some), st.builds(StopService, some)), st.booleans()),
        DrainNode: st.builds(DrainNode, st.sampled_from(("a", "b.c")), st.integers(0, 9)),
        UndrainNode: st.builds(UndrainNode, st.sampled_from(("a", "b.c"))),
        ForgetNode: st.builds(ForgetNode, st.sampled_from(("a", "b.c"))),
        Load: st.builds(
            lambda table, start: Load(table.services, table.settings, start=start),
            tables(max_services=2),
            st.sampled_from(STARTS),
        ),
    }


EDITS = _one_edit()
"""A strategy for each kind of edit."""


@cache
def edits() -> st.SearchStrategy[Edit]:
    """Any edit; those that build a table up come more often."""
    return st.one_of(*EDITS.values(), *(EDITS[kind] for kind in (AddService, AddServer, AddRule, StartService)))


@cache
def config_texts() -> st.SearchStrategy[str]:
    """Texts made of what stands in configurations, in any order."""
    piece = st.sampled_from(
        (
            *("Virtual", "GLOBAL", "web", "{", "}", "=", "listen", "scheduler", "server", "rule", "redirect"),
            *(
                "maxclients",
                "pattern",
                "match",
                "use",
                "use server",
                "r1:80",
                "[::1]:80",
                "unix:/a",
                "r1",
                '".*"',
                '"',
                "\\",
            ),
            *(
                '"a\\"',
                "80",
                "-1",
                "70000",
                "99999999999",
                "²",
                "# x",
                "read_timeout",
                "read_timeout = 5",
                "no_such = 1",
                "maxconn",
                "maxconn 5",
                "cookie_key = 12345678",
                "fallback = none",
                "access_log = /log",
                "allow = 10.0.0.0/8",
                "deny = 10.0.0.0/8 ::1",
                "10.1.2.0/24",
                "client_rate = 030/m",
                "é",
            ),
            *(
                "Virtual web {",
                "server = r1:80 1",
                "server = r1 maxconn 1",
                'rule = pattern "(a)" match 1 use server r1:80',
                "listen = :80",
                "listen = :80 tls on a, label:b",
                "on = a",
            ),
            "TCP Virtual Server version 1.0.0",
        )
    )
    gap = st.sampled_from((" ", " ", "\n", "\r\n", "\t", "", "\x0b", "\u2028"))
    return st.lists(st.tuples(piece, gap), max_size=20).map(lambda pairs: "".join(map("".join, pairs)))


def assert_sound(table: Table) -> None:
    """Check the invariants of every table."""
    assert table.running <= table.services.keys()
    for ident, service in table.services.items():
        assert ident == service.ident
        known = [server.address for server in service.servers]
        assert len(known) == len(set(known))
        assert all(0 <= server.weight <= MAX_WEIGHT for server in service.servers)
        assert all(0 <= server.maxconn <= MAX_COUNT for server in service.servers)
        assert service.allow.known.isdisjoint(service.deny.known)
        used = [rule.key for rule in service.rules]
        assert len(used) == len(set(used))
        for rule in service.rules:
            assert bool(rule.servers) is (rule.action is None)
            assert len(rule.servers) == len(set(rule.servers))
            assert set(rule.servers) <= set(known)
            assert len(rule.weights) in (0, len(rule.servers))
            assert all(weight is None or 0 <= weight <= MAX_WEIGHT for weight in rule.weights)
        assert service.addresses
        assert len(service.addresses) == len(set(service.addresses))
        for address in (*service.addresses, service.redirect, *known):
            assert not isinstance(address, Inet) or 1 <= (address.port or 0) <= 65535


def answer_or_refusal(call: Callable[..., Any], *arguments: Any, kind: type[Refusal] = Refusal) -> Any:
    """Return the result of the call, or the refusal of that kind that it raises, whose text must be one printable
    line."""
    try:
        return call(*arguments)
    except kind as refusal:
        if not str(refusal).isprintable():
            raise
        return refusal
