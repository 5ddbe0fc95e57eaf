"""sni: the first rule that has the server name, default rules last."""

from __future__ import annotations

import pytest

from ktcpvs.errors import BadPattern, BadValue
from ktcpvs.model.address import Inet, parse_address
from ktcpvs.model.destination import Destination
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.sni import SNI
from ktcpvs.schedulers.wlc import WLC

RULES = ("host a.example", "host *.b.example x.b.example", "host deep.b.example", "host *.example", ".*")


def view(*conditions: str, **options: object) -> ServiceView:
    """One server for each condition, numbered from 1."""
    servers = [RealServer(Inet(f"10.0.0.{number}", 443)) for number in range(1, len(conditions) + 1)]
    rules = [Rule(condition, (server.address,)) for condition, server in zip(conditions, servers, strict=True)]
    config = VirtualService("s", servers=tuple(servers), rules=tuple(rules), **options)
    return ServiceView.of(config, {server.address: Destination(server.address) for server in servers}, WLC())


def chosen(name: str | None, *conditions: str) -> int | None:
    bound = view(*conditions)
    choice = SNI().bind(bound, None).choose(Request(server_name=name))
    return None if choice is None else bound.destinations.index(choice.destination) + 1


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a.example", 1),
        ("x.b.example", 2),
        ("y.x.b.example", 2),
        ("deep.b.example", 2),
        ("b.example", 4),
        ("other.example", 4),
        ("example", 5),
        ("elsewhere.org", 5),
        (None, 5),
    ],
)
def test_the_first_rule_that_has_the_name_wins(name: str | None, rule: int) -> None:
    assert chosen(name, *RULES) == rule
    assert chosen(name, ".*", *RULES[:-1]) == (1 if rule == 5 else rule + 1), "the default rule is tried last"


def test_without_a_default_rule_other_names_have_no_server() -> None:
    assert chosen("elsewhere.org", *RULES[:-1]) is None
    assert chosen(None, *RULES[:-1]) is None


def test_without_rules_all_servers_serve() -> None:
    assert SNI().bind(view(), None).choose(Request(server_name="a.example")) is None
    config = VirtualService("s", servers=(RealServer(Inet("10.0.0.1", 443)),))
    known = {server.address: Destination(server.address) for server in config.servers}
    choice = SNI().bind(ServiceView.of(config, known, WLC()), None).choose(Request())
    assert choice is not None
    assert choice.reason.startswith("no rules, ")


def test_it_explains_itself() -> None:
    considered = SNI().bind(view(*RULES), None).explain(Request(server_name="b.example"))
    assert considered.notes == ("the server name is b.example",)
    assert considered.rules[-1] == (4, "host *.example", "matches")
    assert [why for _, _, why in considered.rules[:-1]] == [f"does not match: {rule}" for rule in RULES[:3]]


def test_rules_that_it_cannot_use_are_refused() -> None:
    with pytest.raises(BadValue, match="rule '/a': scheduler sni does not see pattern: it chooses by the ClientHello"):
        SNI().bind(view("/a"), None)
    for kind in ("path /a", "method GET", "header X", "cookie x", "query x", "tls on"):
        with pytest.raises(BadValue, match=f"scheduler sni does not see {kind.split()[0]}: .* from, host, port, share"):
            SNI().bind(view(f"{kind} host a.example" if kind != "tls on" else kind), None)
    listen = ListenAddress(parse_address("0.0.0.0:443"), True)
    with pytest.raises(BadValue, match=r"listen = 0.0.0.0:443 tls: scheduler sni passes TLS through; leave out tls"):
        SNI().bind(view(".*", listen=listen, certificate=("/a",)), None)


def test_hosts_have_one_form() -> None:
    rule = Rule("host A.Example. *.B.example a.example", (Inet("h", 1),))
    assert rule.pattern == "host a.example *.b.example"
    assert [one.values for one in rule.conditions] == [("a.example", "*.b.example")]
    for text in ("host a..b", "host *", "host a.*.b", "host 10.0.0.1", "host -/", "host " + "a" * 64):
        with pytest.raises(BadPattern, match=r"host '.*': expected a name, or \*\. and a name"):
            Rule(text, (Inet("h", 1),))
