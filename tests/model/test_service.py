"""One virtual service: its valid values, and each change of it."""

from __future__ import annotations

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from ktcpvs.errors import (
    BadAddress,
    BadPattern,
    BadValue,
    Busy,
    NoSuchRule,
    NoSuchServer,
    RuleExists,
    ServerExists,
)
from ktcpvs.model.address import Inet, Unix
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.options import MAX_COUNT
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_list import find_rule, with_rule, without_rule
from ktcpvs.model.service import VirtualService

R1, R2, R3 = Inet("r1", 80), Inet("r2", 80), Unix("/run/r3")
WEB = VirtualService(
    "web",
    servers=(RealServer(R1), RealServer(R2, 5)),
    rules=(Rule("/a(b)", (R1, R2), 1), Rule(".*", (R1,))),
)


def refused(kind, why, change, *arguments, **options):
    with pytest.raises(kind) as refusal:
        change(*arguments, **options)
    assert type(refusal.value) is kind
    assert str(refusal.value) == why


def test_the_defaults_are_those_of_ktcpvs_but_for_maxclients():
    service = VirtualService("web")
    assert str(service.address) == "0.0.0.0:8080"
    assert service.listen == (ListenAddress(service.address),)
    assert service.scheduler == "http"
    assert service.maxclients == 0
    assert service.startservers is service.minspareservers is service.maxspareservers is service.redirect is None
    assert service.servers == service.rules == ()
    assert (RealServer(R1).weight, RealServer(R1).maxconn) == (1, 0)
    assert (service.fallback, service.cookie_secure) == ("wlc", "off")
    assert (service.access_log, service.access_log_format) == ("off", "combined")
    assert service.relay == "auto"


def test_it_is_frozen():
    for thing, name in ((WEB, "ident"), (WEB.servers[0], "weight"), (WEB.rules[0], "pattern")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, getattr(thing, name))


@pytest.mark.parametrize("ident", ["web", "WEB-1", "é", "a.b:80", "\\", "'", "x" * 128, "日本"])
def test_a_good_ident(ident):
    assert VirtualService(ident).ident == ident


@pytest.mark.parametrize(
    "ident",
    ["", "a b", "a\tb", "a\n", 'a"', "{", "}", "#", "=", "\x00", "\x7f", "\u200b", "\ud800", "\u2028", "x" * 129],
)
def test_a_bad_ident(ident):
    with pytest.raises(BadValue) as refusal:
        VirtualService(ident)
    assert str(refusal.value).endswith(
        ' is not a valid service name: expected 1 to 128 printable characters without white space and without " { } # ='
    )


@pytest.mark.parametrize("option", ["scheduler", "balance", "fallback"])
@pytest.mark.parametrize("name", ["", "é", "x" * 65, 'a"', "a\n"])
def test_a_bad_scheduler_name(option, name):
    with pytest.raises(BadValue, match=r"is not a valid scheduler name$"):
        VirtualService("web", **{option: name})


@pytest.mark.parametrize("name", ["startservers", "maxclients", "minspareservers", "maxspareservers"])
def test_the_numbers_have_a_range(name):
    for value in (0, MAX_COUNT):
        assert getattr(VirtualService("web", **{name: value}), name) == value
    for value in (-1, MAX_COUNT + 1):
        refused(BadValue, f"{name} = {value} is out of range: 0..10000000", VirtualService, "web", **{name: value})


@pytest.mark.parametrize("weight", [0, 1, 65535])
def test_a_weight_in_its_range(weight):
    assert RealServer(R1, weight).weight == weight


@pytest.mark.parametrize("weight", [-1, 65536])
def test_a_weight_out_of_its_range(weight):
    refused(BadValue, f"weight {weight} is out of range: 0..65535", RealServer, R1, weight)
    refused(BadValue, f"weight {weight} is out of range: 0..65535", WEB.with_weight, R1, weight)


@pytest.mark.parametrize("maxconn", [0, 1, MAX_COUNT])
def test_a_maxconn_in_its_range(maxconn):
    assert RealServer(R1, 1, maxconn).maxconn == maxconn


@pytest.mark.parametrize("maxconn", [-1, MAX_COUNT + 1])
def test_a_maxconn_out_of_its_range(maxconn):
    refused(BadValue, f"maxconn {maxconn} is out of range: 0..{MAX_COUNT}", RealServer, R1, 1, maxconn)
    refused(BadValue, f"maxconn {maxconn} is out of range: 0..{MAX_COUNT}", WEB.with_weight, R1, 1, maxconn)


def test_a_maxconn_stays_until_another_is_given():
    limited = WEB.with_weight(R1, 2, 7)
    assert limited.servers == (RealServer(R1, 2, 7), WEB.servers[1])
    assert limited.with_weight(R1, 3).servers[0] == RealServer(R1, 3, 7)
    assert limited.with_weight(R1, 3, 0).servers[0] == RealServer(R1, 3, 0)


@pytest.mark.parametrize("place", ["off", "syslog", "syslog:/dev/log", "/", "/var/log/a b", "/" + "x" * 1023])
def test_a_good_place_for_the_access_log(place):
    assert VirtualService("web", access_log=place).access_log == place


@pytest.mark.parametrize("place", ["", "on", "web.log", "./web.log", "syslog:", "syslog:x", "/a\nb", "/" + "x" * 1024])
def test_a_bad_place_for_the_access_log(place):
    with pytest.raises(BadValue, match=r": expected off, syslog, syslog:/PATH, or the absolute path of a file$"):
        VirtualService("web", access_log=place)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("cookie_secure", ("off", "on")),
        ("cookie_samesite", ("lax", "strict", "none", "off")),
        ("access_log_format", ("combined", "json")),
        ("relay", ("auto", "kernel", "splice", "copy")),
    ],
)
def test_an_option_of_few_words(option, words):
    for word in words:
        assert getattr(VirtualService("web", **{option: word}), option) == word
    why = f"{option} = Off: expected one of {', '.join(words)}"
    refused(BadValue, why, VirtualService, "web", **{option: "Off"})


@pytest.mark.parametrize("match", [-1, 11])
def test_a_match_out_of_its_range(match):
    refused(BadValue, f"match {match} is out of range: 0..10", Rule, "(a)" * 12, (R1,), match)


def test_a_match_names_a_group_that_the_pattern_has():
    assert Rule("(a)" * 10, (R1,), 10).match == 10
    assert Rule("a", (R1,), 0).match == 0
    refused(BadValue, "match 2: pattern '(a)' has 1 groups", Rule, "(a)", (R1,), 2)
    refused(BadValue, "match 1: pattern '.*' has 0 groups", Rule, ".*", (R1,), 1)


def test_a_rule_wants_a_good_pattern_and_servers():
    refused(BadPattern, "pattern '(': missing ) '(' at position 0", Rule, "(", (R1,))
    refused(NoSuchServer, "rule 'a' names no server", Rule, "a", ())
    refused(RuleExists, "rule 'a' names a server twice", Rule, "a", (R1, R1))


@pytest.mark.parametrize(("pattern", "default"), [(".*", True), ("^/.*", True), ("/.*", False), (".*$", False)])
def test_which_rule_is_the_default(pattern, default):
    assert Rule(pattern, (R1,)).is_default is default


def test_an_address_that_is_kept_has_a_port():
    why = "r1: missing port (example: r1:80)"
    refused(BadAddress, why, RealServer, Inet("r1", None))
    refused(BadAddress, why, VirtualService, "web", listen=Inet("r1", None))
    refused(BadAddress, why, VirtualService, "web", redirect=Inet("r1", None))
    refused(BadAddress, "[::1]: missing port (example: [::1]:80)", RealServer, Inet("::1", None))


def test_a_service_whose_parts_contradict_each_other_cannot_be_made():
    refused(ServerExists, "service web names a server twice", evolve, WEB, servers=(RealServer(R1), RealServer(R1, 2)))
    refused(RuleExists, "service web has two rules with one pattern", evolve, WEB, rules=(WEB.rules[0], WEB.rules[0]))
    refused(NoSuchServer, "service web has no server r2:80 for rule '/a(b)'", evolve, WEB, servers=(RealServer(R1),))


def test_the_port_of_the_service_completes_an_address():
    assert WEB.complete(Inet("r9", None)) == Inet("r9", 8080)
    assert WEB.complete(R1) is R1
    assert WEB.complete(R3) is R3
    deaf = evolve(WEB, listen=Unix("/run/web"))
    assert deaf.complete(R1) is R1
    refused(
        BadAddress, "r9: missing port, since service web has none (example: r9:80)", deaf.complete, Inet("r9", None)
    )


def test_servers_come_change_and_go():
    three = WEB.with_server(RealServer(R3, 0))
    assert three.servers == (*WEB.servers, RealServer(R3, 0))
    assert three.with_weight(R3, 9).servers[2] == RealServer(R3, 9)
    assert three.with_weight(R1, 9).servers == (RealServer(R1, 9), *three.servers[1:])
    assert three.without_server(R3) == WEB
    assert three.server(R3) == RealServer(R3, 0)


def test_what_is_refused_of_a_server():
    refused(ServerExists, "service web already has server r1:80", WEB.with_server, RealServer(R1, 7))
    refused(NoSuchServer, "service web has no server unix:/run/r3", WEB.server, R3)
    refused(NoSuchServer, "service web has no server unix:/run/r3", WEB.with_weight, R3, 1)
    refused(NoSuchServer, "service web has no server unix:/run/r3", WEB.without_server, R3)
    refused(Busy, "rule '/a(b)' uses server r2:80: delete it from the rule first", WEB.without_server, R2)


def test_a_rule_grows_and_shrinks_by_a_server():
    grown = with_rule(WEB, ".*", R2, None)
    assert grown.rules == (WEB.rules[0], Rule(".*", (R1, R2)))
    assert without_rule(grown, ".*", R2) == WEB
    assert find_rule(without_rule(grown, ".*", R1), ".*") == Rule(".*", (R2,))
    assert without_rule(WEB, ".*", R1).rules == WEB.rules[:1]


def test_a_new_rule_stands_last_even_after_a_default_rule():
    assert with_rule(WEB, "/new", R2, 0).rules == (*WEB.rules, Rule("/new", (R2,), 0))


def test_the_match_of_a_rule_may_be_left_out_or_repeated():
    shrunk = without_rule(WEB, "/a(b)", R2)
    assert with_rule(shrunk, "/a(b)", R2, None) == WEB
    assert with_rule(shrunk, "/a(b)", R2, 1) == WEB
    refused(BadValue, "rule '/a(b)' has match 1, not 0: delete it first", with_rule, shrunk, "/a(b)", R2, 0)


def test_what_is_refused_of_a_rule():
    refused(NoSuchServer, "service web has no server unix:/run/r3", with_rule, WEB, "/new", R3, None)
    refused(RuleExists, "rule '.*' already uses server r1:80", with_rule, WEB, ".*", R1, None)
    refused(NoSuchRule, "service web has no rule '/no'; there are: /a(b), .*", find_rule, WEB, "/no")
    refused(NoSuchRule, "service web has no rule '/no'; there are: /a(b), .*", without_rule, WEB, "/no", R1)
    refused(NoSuchServer, "rule '.*' does not use server r2:80", without_rule, WEB, ".*", R2)
    refused(NoSuchServer, "rule '.*' does not use server unix:/run/r3", without_rule, WEB, ".*", R3)


def test_an_absent_server_or_rule_is_named_with_the_one_that_may_be_meant():
    service = with_rule(
        VirtualService("web", servers=(RealServer(Inet("10.0.0.1", 80)),)), "^/images/", Inet("10.0.0.1", 80), None
    )
    refused(
        NoSuchServer, "service web has no server 10.0.0.1:8080; did you mean 10.0.0.1:80?",
        service.server, Inet("10.0.0.1", 8080),
    )  # fmt: skip
    refused(NoSuchServer, "service web has no server 10.0.0.2:80", service.server, Inet("10.0.0.2", 80))
    refused(NoSuchRule, "service web has no rule '/images/'; did you mean '^/images/'?", find_rule, service, "/images/")
    refused(NoSuchRule, "service web has no rule 'x'; there are: ^/images/", find_rule, service, "x")
