"""Warnings: which options and rules have no effect, and which edits report that."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.interfaces import ISchedulerFactory
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.language.parser import parse
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_warnings import hidden_rules
from ktcpvs.model.service import OPTIONS, VirtualService
from ktcpvs.model.service_plugins import ServicePlugins
from ktcpvs.model.table import Table
from ktcpvs.model.unmatched import is_catch_all
from ktcpvs.model.warnings import MANY_SERVERS, ServiceWarning, is_due, warnings_about, warnings_of
from ktcpvs.system.plugins import find_schedulers

KNOWN = find_schedulers().known
A, B = "server = 10.0.0.1:80", "server = 10.0.0.2:80"
WEIGHERS = "wlc, wrr, p2c, sh, sed and 6 more"
RULE = 'rule = pattern ".*" use server 10.0.0.1:80'


def found(*lines: str) -> list[ServiceWarning]:
    """The warnings about one service of these lines."""
    (service,) = parse("Virtual s {\n" + "\n".join(lines) + "\n}\n").services.values()
    names = {rule.modifiers.balance for rule in service.rules} - {None}
    of_rules = {name: KNOWN[name] for name in names}
    return warnings_of(
        service, ServicePlugins(KNOWN[service.scheduler], KNOWN[service.balance], None, of_rules), KNOWN.values
    )


def texts(*lines: str) -> list[str]:
    return [str(warning).removeprefix("service s: ") for warning in found(*lines)]


@pytest.mark.parametrize("scheduler", sorted(KNOWN))
def test_nothing_is_said_of_a_service_that_has_no_options(scheduler: str) -> None:
    limit = " 1 maxconn 9" if scheduler == "first" else ""
    assert texts(f"scheduler = {scheduler}", A + limit, B) == []


FIRST = "server 10.0.0.1:80 has no maxconn: {} uses the servers after it only while it cannot serve (example: {})"
EXAMPLE = "server = 10.0.0.1:80 1 maxconn 100"


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (("scheduler = first",), "scheduler first"),
        (("scheduler = phttp", "balance = first"), "balance first"),
        (
            ("scheduler = phttp", 'rule = pattern "^/" balance first use server 10.0.0.1:80 server 10.0.0.2:80'),
            "balance first",
        ),
    ],
)
def test_first_needs_maxconn(lines: tuple[str, ...], what: str) -> None:
    hit = texts(*lines, A, B)
    assert FIRST.format(what, EXAMPLE) in hit
    assert FIRST.format(what, EXAMPLE) not in texts(*lines, f"{A} 1 maxconn 9", B)


def test_several_servers_without_maxconn_are_counted() -> None:
    (text,) = texts("scheduler = first", A, B, "server = 10.0.0.3:80")
    assert text.startswith("server 10.0.0.1:80 and 1 more have no maxconn: ")


MANY = [f"server = 10.0.{number >> 8}.{number & 255}:80" for number in range(MANY_SERVERS + 1)]
USED = " ".join(line.replace(" =", "") for line in MANY)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (("scheduler = chash",), "scheduler chash"),
        (("scheduler = fo",), "scheduler fo"),
        (("scheduler = phttp", "balance = sh"), "balance sh"),
        (("scheduler = phttp", f'rule = pattern "^/" balance chash use {USED}'), "balance chash"),
    ],
)
def test_a_scheduler_that_looks_at_each_of_many_servers(lines: tuple[str, ...], what: str) -> None:
    (text,) = texts(*lines, *MANY)
    assert text == (
        f"{what} looks at all 1001 servers for each choice: with more than 1000 that takes as long as the rest of a "
        "request, or longer; maglev, wlc and p2c do not"
    )
    assert texts(*lines[:1], *MANY[:-1]) == []


def test_each_server_beyond_many_is_warned_of() -> None:
    (warning,) = found("scheduler = sh", *MANY)
    address = parse_address("10.0.0.1:80")
    assert is_due(warning, edits.AddServer("s", address))
    assert is_due(warning, edits.EditService("s", {"scheduler": "sh"}))
    assert not is_due(warning, edits.EditServer("s", address, weight=2))


def test_a_limit_that_is_taken_away_is_warned_of() -> None:
    (warning,) = found("scheduler = first", A, B)
    address = parse_address("10.0.0.1:80")
    assert is_due(warning, edits.EditServer("s", address, maxconn=0))
    assert is_due(warning, edits.AddServer("s", address))
    assert not is_due(warning, edits.EditServer("s", address, weight=2))


@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_nothing_is_said_of_what_is_used(scheduler: str) -> None:
    lines = (
        f"scheduler = {scheduler}", "balance = wrr", "via = append", "client_head = 9", "slow_start = 5",
        f"{A} 5", B, 'rule = pattern "^/(.*)" match 1 use server 10.0.0.1:80 server 10.0.0.2:80', RULE,
        "access_log = syslog", "access_log_format = json", "check = tcp", "check_rise = 3", "eject_time = 3",
        "client_rate = 5/s", "client_burst = 9", "client_ipv6 = 56", "relay = copy", "fallback = rr",
    )  # fmt: skip
    assert texts(*lines) == []


def test_an_engine_relays_what_has_no_tls() -> None:
    assert texts("scheduler = wlc", "relay = splice", f"{A} 1 tls", B) == []
    assert texts("scheduler = wlc", "relay = copy", f"{A} 1 tls") == []


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["scheduler = wlc", A, RULE],
         "its rules have no effect: scheduler wlc uses none; http, hhttp, phttp, chttp, sni and tcp do"),
        (["scheduler = http", A, 'rule = pattern "/(a)" match 1 use server 10.0.0.1:80', RULE],
         "match has no effect in rule '/(a)': scheduler http hashes nothing; hhttp, phttp and chttp do"),
        (["scheduler = wlc", "balance = rr", A],
         "balance = rr has no effect: scheduler wlc chooses by itself; with scheduler = rr it would choose"),
        (["scheduler = chttp", "cookie_samesite = none", A],
         "cookie_samesite = none: browsers drop such a cookie unless it is for TLS only (cookie_secure = on)"),
        (["scheduler = wlc", "sticky = header X", A],
         "sticky has no effect: scheduler wlc reads no requests, or uses no balance; http, hhttp, phttp and chttp do"),
        (["scheduler = wlc", "overflow = 5", A],
         "overflow has no effect: all servers have one priority (example: server = 10.0.0.20:80 1 priority 1)"),
        (["scheduler = phttp", "cookie_secure = on", A],
         "cookie_secure has no effect: scheduler phttp sets no cookie; chttp does"),
        (["scheduler = rr", f"{A} 5", B],
         f"weights have no effect, except 0: scheduler rr ignores them; {WEIGHERS} use them"),
        (["scheduler = phttp", "balance = lc", f"{A} 5", B],
         f"weights have no effect, except 0: balance lc ignores them; {WEIGHERS} use them"),
        (["scheduler = phttp", A, B, "rule = path /a balance rr use server 10.0.0.1:80 2 server 10.0.0.2:80", RULE],
         f"weights have no effect in rule 'path /a', except 0: balance rr ignores them; {WEIGHERS} use them"),
        (["scheduler = phttp", A, B,
          'rule = name x pattern "(a)" balance wrr match 1 use server 10.0.0.1:80 server 10.0.0.2:80', RULE],
         "balance has no effect in rule 'x': match hashes a group of the pattern"),
        (["scheduler = phttp", A, "rule = path /a/* use server 10.0.0.1:80", RULE],
         "rule 'path /a/*': the * in /a/* is no wildcard; for all below it: path /a/"),
        (["scheduler = phttp", A, "rule = name x host *.a.example path /b*.c use server 10.0.0.1:80", RULE],
         "rule 'x': the * in /b*.c is no wildcard; for a wildcard: pattern \"^/b.*\\.c(\\?|$)\""),
        (["scheduler = phttp", A, "rule = path /a/ strip_prefix /a/* use server 10.0.0.1:80", RULE],
         "rule 'path /a/': the * in /a/* is no wildcard; to cut off what is in front of it: strip_prefix /a/"),
        (["scheduler = phttp", A, 'rule = path /a use redirect "https://$host$request_uri"', RULE],
         "rule 'path /a': $host is no variable; write {host}"),
        (["scheduler = phttp", A, 'rule = path /a use redirect "https://%[hdr(host)]/"', RULE],
         "rule 'path /a': %[hdr(host)] is no variable; write a variable in braces, as {host}"),
        (["scheduler = phttp", A, "rule = name x path /a share 0.00% use server 10.0.0.1:80", RULE],
         "rule 'x' is switched off: share 0% is no client"),
        (["scheduler = lc", "slow_start = 5", A],
         f"slow_start has no effect: scheduler lc ignores weights; {WEIGHERS} use them"),
        (["scheduler = http", "via = append", "forwarded = replace", A],
         "forwarded, via have no effect: scheduler http passes requests on unchanged; phttp and chttp add header "
         "fields"),
        (["scheduler = http", "first_byte_timeout = 5", "upgrade = off", A],
         "first_byte_timeout, upgrade have no effect: scheduler http relays whole connections; phttp and chttp decide "
         "per request"),
        (["scheduler = wlc", "client_head_rate = 5", A],
         "client_head_rate has no effect: scheduler wlc reads no requests; http, hhttp, phttp and chttp do"),
        (["startservers = 5", "maxspareservers = 9", A],
         "startservers, maxspareservers have no effect: accepted for old files, but the switch has no thread pool"),
        (["access_log_format = json", A], "access_log_format has no effect without access_log"),
        (["check_rise = 5", A], "check_rise has no effect without check"),
        (["eject = 0", "eject_share = 5", A], "eject_share has no effect with eject = 0"),
        (["scheduler = phttp", "preconnect = 5", A],
         "preconnect has no effect: scheduler phttp keeps connections that it has used; wlc, lc, rr, wrr, p2c "
         "and 13 more relay whole connections"),
        (["scheduler = wlc", "preconnect_timeout = 5", A], "preconnect_timeout has no effect without preconnect"),
        (["scheduler = wlc", "preconnect = 5", f"{A} 1 proxy v1"],
         "preconnect has no effect: all servers are told the client for which a connection is made"),
        (["client_burst = 5", A], "client_burst has no effect without client_rate"),
        (["client_ipv6 = 56", A],
         "client_ipv6 has no effect without one of client_connections, client_rate, client_head, client_head_rate"),
        (["scheduler = wlc", "relay = splice", f"{A} 1 tls"],
         "relay = splice has no effect: all servers have tls, and only copying can encrypt"),
        (["scheduler = wlc"], "it has no servers: every client is refused"),
        (["redirect = 10.0.0.9:80"], "it has no servers: every client goes to the redirect address"),
        (["scheduler = phttp", A, B, RULE], "no rule uses 1 server: 10.0.0.2:80"),
        (["scheduler = phttp", A, 'rule = pattern "/" use server 10.0.0.1:80', RULE],
         "rule '.*' can never be reached: rule '/' is tried first and matches every request"),
        (["scheduler = phttp", A, RULE, 'rule = pattern "^/.*" use server 10.0.0.1:80'],
         "rule '^/.*' can never be reached: rule '.*' is tried first and matches every request"),
        (["scheduler = phttp", A, "rule = path /a use server 10.0.0.1:80",
          "rule = name x path /a from ::1 use server 10.0.0.1:80",
          "rule = method GET path /a header X use server 10.0.0.1:80", RULE],
         "rule 'x' and 1 more can never be reached: rule 'path /a' is tried first and asks for no more"),
        (["scheduler = phttp", A, "rule = not tls path /a use server 10.0.0.1:80",
          "rule = name x path /a not tls use server 10.0.0.1:80", RULE],
         "rule 'x' can never be reached: rule 'not tls path /a' is tried first and asks for no more"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_named_with_what_would_use_it(lines: list[str], text: str) -> None:
    assert texts(*lines) == [text]


CONDITIONS = ["path /a/", "path /", "host a.example", "method GET", "not tls", "share 100%", "from 10.0.0.0/8"]


@given(st.lists(st.sets(st.sampled_from(CONDITIONS), max_size=5), max_size=9))
def test_the_rules_that_are_never_reached_are_those_behind_one_that_asks_for_no_more(texts: list[set[str]]) -> None:
    servers = (parse_address("10.0.0.1:80"),)
    rules = [Rule(" ".join(sorted(some)) or ".*", servers, name=f"r{number}") for number, some in enumerate(texts)]
    in_order = sorted(rules, key=lambda rule: rule.is_default)
    expected = {
        rule.key
        for place, rule in enumerate(in_order)
        if any(is_catch_all(one) or set(one.conditions) <= set(rule.conditions) for one in in_order[:place])
    }
    assert {one.rule.key for one in hidden_rules(rules)} == expected


@pytest.mark.parametrize(
    "lines",
    [
        ["scheduler = rr", f"{A} 5", f"{B} 5"],
        ["scheduler = phttp", "balance = rr", A, B,
         "rule = path /a balance wrr use server 10.0.0.1:80 2 server 10.0.0.2:80 3", RULE],
        ["scheduler = phttp", "balance = rr", f"{A} 5", B, 'rule = pattern ".*" balance wrr use server 10.0.0.1:80 '
         "server 10.0.0.2:80"],
        ["scheduler = rr", f"{A} 0", f"{B} 5"],
        ["scheduler = phttp", A, RULE, 'rule = pattern "^/a" use server 10.0.0.1:80'],
        ["scheduler = hhttp", "balance = rr", f"{A} 5", B,
         'rule = pattern "/(a)" match 1 use server 10.0.0.1:80 server 10.0.0.2:80', RULE],
        ["scheduler = phttp", A, "rule = path /a use server 10.0.0.1:80",
         "rule = path /a/ use server 10.0.0.1:80", RULE],
        ["scheduler = phttp", A, "rule = path /a method GET use server 10.0.0.1:80",
         "rule = path /a use server 10.0.0.1:80", RULE],
    ],
)  # fmt: skip
def test_what_has_an_effect_is_not_warned_of(lines: list[str]) -> None:
    assert texts(*lines) == []


def test_a_scheduler_that_does_not_say_what_it_uses_is_warned_of_rules_alone() -> None:
    class Silent:
        unit = "CONNECTION"

    (service,) = parse(f"Virtual s {{ scheduler = silent\nbalance = rr\n{A} 5\n{B}\n{RULE}\n}}").services.values()
    (warning,) = warnings_of(service, ServicePlugins(Silent(), Silent()), list)
    assert warning.text.startswith("its rules may have no effect: scheduler silent does not say whether it uses any")


def test_a_warning_names_the_installed_schedulers_that_use_what_is_ignored() -> None:
    (service,) = parse(f"Virtual s {{ scheduler = wlc\n{A}\n{RULE}\n}}").services.values()
    wlc, http, phttp = KNOWN["wlc"], KNOWN["http"], KNOWN["phttp"]

    def ending(*installed: ISchedulerFactory) -> str:
        (warning,) = warnings_of(service, ServicePlugins(wlc, wlc), lambda: installed)
        return warning.text.split("; ")[1]

    assert ending(wlc, http, phttp) == "http and phttp do"
    assert ending(phttp) == "phttp does"
    assert ending(wlc) == "no installed scheduler does"


RR = (
    "scheduler = wlc",
    "balance = rr",
    "startservers = 5",
    f"{A} 5",
    B,
    'rule = pattern "(a)" match 1 use server 10.0.0.1:80',
)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edits.AddService("s"), ["its rules", "balance", "startservers"]),
        (edits.EditService("s", {"maxclients": 5}), []),
        (edits.EditService("s", {"startservers": 5}), ["startservers"]),
        (edits.EditService("s", {"balance": "rr"}), ["balance"]),
        (edits.EditService("s", {"scheduler": "wlc"}), ["its rules", "balance"]),
        (edits.AddRule("s", "(a)", parse_address("10.0.0.1:80"), 1), ["its rules"]),
        (edits.EditRule("s", "(a)", "(b)"), ["its rules"]),
        (edits.MoveRule("s", "(a)"), []),
        (edits.DeleteRule("s", "(a)", parse_address("10.0.0.1:80")), []),
        (edits.StartService("s"), ["its rules", "balance", "startservers"]),
        (edits.Load({}), ["its rules", "balance", "startservers"]),
        (edits.StopService("s"), []),
    ],
)  # fmt: skip
def test_an_edit_is_told_of_what_it_concerns(edit: edits.Edit, words: list[str]) -> None:
    assert [str(one).split()[2:] for one in found(*RR) if is_due(one, edit)] == [
        str(one).split()[2:] for one in found(*RR) if any(one.text.startswith(word) for word in words)
    ]


def test_weights_are_a_matter_of_edits_that_give_one() -> None:
    address = parse_address("10.0.0.1:80")
    (warning,) = found("scheduler = rr", f"{A} 5", B)
    assert is_due(warning, edits.EditServer("s", address, 5))
    assert is_due(warning, edits.AddServer("s", address, 5))
    assert not is_due(warning, edits.EditServer("s", address, 0))
    assert not is_due(warning, edits.EditServer("s", address, None, 7))


def test_what_a_whole_service_lacks_is_told_when_it_is_loaded_or_started() -> None:
    (warning,) = found("scheduler = wlc")
    assert not is_due(warning, edits.AddService("s"))
    assert is_due(warning, edits.StartService())


@pytest.mark.parametrize(
    ("scheduler", "rule", "has_warning"),
    [
        pytest.param("phttp", "path /a/ use respond 200", True, id="no rule leads to a server"),
        pytest.param("phttp", "path /a/ use server 10.0.0.2:80", False, id="a rule leads to another server"),
        pytest.param("phttp", None, False, id="no rules"),
        pytest.param("wlc", "path /a/ use respond 200", False, id="rules are ignored"),
    ],
)
def test_a_server_that_is_added_where_no_rule_leads_to_any(scheduler: str, rule: str | None, has_warning: bool) -> None:
    lines = [f"scheduler = {scheduler}", "server = 10.0.0.2:80", *([f"rule = {rule}"] if rule else [])]
    before = parse("\n".join(["Virtual s {", "listen = 127.0.0.1:80", *lines, "}"])).apply(Table())
    edit = edits.AddServer("s", parse_address("10.0.0.1"))

    def plugins(service: VirtualService) -> ServicePlugins:
        return ServicePlugins(KNOWN[service.scheduler], KNOWN[service.balance])

    found = warnings_about(edit, before.services, edit.apply(before).services, plugins, KNOWN.values)
    text = (
        "service s: server 10.0.0.1:80 gets no requests: no rule leads to a server; for a rule: "
        "'tcpvsadm --add-rule -i s path /PATH/ -r 10.0.0.1:80'"
    )
    assert (text in found) is has_warning


def test_every_option_in_a_warning_is_one() -> None:
    """An edit of that option then finds its warning."""
    every: Any = {"startservers": 1, "cookie_secure": "on", "via": "append", "client_head": 1, "client_burst": 1}
    (service,) = parse(f"Virtual s {{ scheduler = wlc\n{A} }}").services.values()
    warnings = warnings_of(evolve(service, **every), ServicePlugins(KNOWN["wlc"], KNOWN["wlc"]), KNOWN.values)
    about = {name for warning in warnings for name in warning.about}
    assert about <= set(OPTIONS)
