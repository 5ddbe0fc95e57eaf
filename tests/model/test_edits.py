"""Edits: each is a pure step from table to table, and each refusal leaves everything as it was."""

from __future__ import annotations

import copy

import pytest
from attrs import evolve, fields, has
from attrs.exceptions import FrozenInstanceError
from edit_kinds import edit_kinds
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import (
    BadAddress,
    BadPattern,
    BadValue,
    Busy,
    ListenerExists,
    NoSuchListener,
    NoSuchRule,
    NoSuchServer,
    NoSuchService,
    NoSuchSetting,
    Refusal,
    RuleExists,
    ServerExists,
    ServiceExists,
    shorten,
)
from ktcpvs.model.address import Inet, Unix, parse_address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.describe import configuration
from ktcpvs.model.edits import (
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
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.local_edits import Local, LocalEdit
from ktcpvs.model.network import parse_networks
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_list import find_rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.model.tls import ServerTLS
from tests.model.strategies import EDITS, answer_or_refusal, assert_sound, edits, tables

R1, R2, R3, NO = Inet("r1", 80), Inet("r2", 80), Inet("r3", 80), Inet("no", 80)
OFFICE, LOUD = parse_networks("192.0.2.0/24 ::1"), parse_networks("192.0.2.7")
WEB = VirtualService(
    "web",
    listen=Inet("0.0.0.0", 80),
    redirect=Inet("sorry", 81),
    servers=(RealServer(R1), RealServer(R2), RealServer(R3)),
    rules=(Rule("/(a)", (R1,), 1), Rule(".*", (R2, R1))),
    allow=OFFICE,
    deny=LOUD,
)
MAIL = VirtualService(
    "mail",
    listen=(Unix("/run/mail"), Unix("/run/mail2")),
    scheduler="wlc",
    servers=(RealServer(R3, 0), RealServer(Inet("r4", 25), mode="drain")),
)
IDLE = Table.of([WEB, MAIL], local=(LocalEdit(EditServer("web", R1, 9)),))
TABLE = evolve(IDLE, running=frozenset(("web",)), settings=Settings(debug_level=3))


# The contract of all edits.


KINDS = sorted(set(edit_kinds()), key=lambda kind: kind.__name__)
CHANGED = evolve(WEB, scheduler="hhttp")

SAMPLES = {
    AddService: [AddService("new"), AddService("new", {"listen": Inet("::", None), "port": 80, "maxclients": 5})],
    EditService: [EditService("web", {"scheduler": "hhttp"}), EditService("web", {"redirect": None})],
    DeleteService: [DeleteService("mail")],
    Flush: [Flush()],
    AddListener: [AddListener("web", Inet("::", None)), AddListener("mail", Inet("::", 25))],
    DeleteListener: [DeleteListener("mail", Unix("/run/mail2"))],
    AddServer: [
        AddServer("web", Inet("r5", None), 1, 0, {"proxy": "v2"}),
        AddServer("web", Inet("r4", None)),
        AddServer("mail", Unix("/run/b"), 65535, 3),
    ],
    EditServer: [
        EditServer("web", R1, None, None, {"tls": ServerTLS(name="h")}),
        EditServer("web", R1, 0),
        EditServer("web", R1, 1, 7),
    ],
    DeleteServer: [DeleteServer("web", R3), DeleteServer("mail", R3)],
    Drain: [Drain(R1), Drain(R3), Drain(Inet("r3", None), "mail")],
    Ready: [Ready(Inet("r4", 25)), Ready(Inet("r4", None), "mail")],
    Maintenance: [Maintenance(R2, "web"), Maintenance(Inet("r4", 25))],
    AddRule: [AddRule("web", "/new", R1), AddRule("web", ".*", R3), AddRule("web", "(b)", R1, 1)],
    DeleteRule: [DeleteRule("web", "/(a)", R1), DeleteRule("web", ".*", R1)],
    EditRule: [
        EditRule("web", "/(a)", "path /x"),
        EditRule("web", "2", new_name="rest"),
        EditRule("web", "1", match=0),
    ],
    MoveRule: [MoveRule("web", "2", "1"), MoveRule("web", "/(a)")],
    Allow: [Allow("web", LOUD), Allow("mail", OFFICE), Allow("web", LOUD, only=True)],
    Deny: [Deny("web", parse_networks("::1")), Deny("mail", LOUD), Deny("web", parse_networks(""), only=True)],
    DeleteNetwork: [DeleteNetwork("web", OFFICE), DeleteNetwork("web", LOUD)],
    StartService: [StartService("mail"), StartService()],
    StopService: [StopService("web"), StopService()],
    Set: [Set({"debug_level": "0"}), Set({"read_timeout": "0", "max_backlog": "1"})],
    Unload: [Unload()],
    Confirm: [Confirm()],
    Local: [Local(EditServer("web", R1, 0)), Local(Load({}), is_forced=True)],
    EndLocal: [EndLocal(), EndLocal("web")],
    Adopt: [Adopt({"mail": None, "web": CHANGED}, frozenset({"web"})), Adopt({}, settings=Settings(debug_level=1))],
    ReloadCertificates: [ReloadCertificates()],
    ReloadSchedulers: [ReloadSchedulers(), ReloadSchedulers("mine")],
    RenewCertificate: [RenewCertificate("a.example")],
    DrainNode: [DrainNode("a", 5)],
    UndrainNode: [UndrainNode("a")],
    ForgetNode: [ForgetNode("a")],
    Load: [Load({}), Load({"mail": MAIL, "web": CHANGED}, Settings(debug_level=1))],
}
"""Edits that change TABLE or IDLE."""


OF_NODES = (DrainNode, UndrainNode, ForgetNode)
"""Edits of a cluster's nodes, which only a node carries out."""

each_sample = pytest.mark.parametrize(
    "edit",
    [edit for some in SAMPLES.values() for edit in some if not isinstance(edit, OF_NODES)],
    ids=lambda edit: edit.name,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_edit_has_a_sample_and_a_strategy(kind):
    assert SAMPLES.get(kind), f"put a sample of {kind.__name__} into SAMPLES"
    assert all(type(edit) is kind for edit in SAMPLES[kind])
    assert kind in EDITS, f"put a strategy for {kind.__name__} into tests/model/strategies.py"


@pytest.mark.parametrize("kind", KINDS)
def test_every_edit_is_frozen_and_says_what_it_does(kind):
    assert has(kind)
    assert kind.apply is not Edit.apply
    edit = SAMPLES[kind][0]
    for name in (*(attribute.name for attribute in fields(kind)), "anything"):
        with pytest.raises(FrozenInstanceError):
            setattr(edit, name, None)


def test_every_edit_has_a_name_of_its_own():
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and name.replace("-", "").isalpha() for name in names)


@each_sample
def test_an_edit_makes_a_new_table_and_leaves_the_old_one(edit):
    for before in (TABLE, IDLE):
        untouched, edit_untouched = copy.deepcopy(before), copy.deepcopy(edit)
        try:
            after = edit.apply(before)
        except Busy:
            assert before is TABLE
        else:
            assert isinstance(after, Table)
            assert_sound(after)
            assert edit.apply(before) == after
        assert before == untouched
        assert edit == edit_untouched


@each_sample
def test_every_sample_changes_something(edit):
    def applied(table):
        try:
            return edit.apply(table)
        except Busy:
            return table

    changes = applied(TABLE) != TABLE or applied(IDLE) != IDLE
    assert changes == (not isinstance(edit, Confirm | ReloadCertificates | ReloadSchedulers | RenewCertificate)), (
        "these leave the table as it is"
    )


@pytest.mark.parametrize("kind", OF_NODES)
def test_edits_of_nodes_are_refused_outside_of_a_cluster(kind):
    with pytest.raises(BadValue, match="this daemon is in no cluster; --cluster and --node make it a node of one"):
        SAMPLES[kind][0].apply(TABLE)


def test_an_edit_without_apply_is_a_mistake():
    with pytest.raises(TypeError, match="Edit does not define apply"):
        Edit().apply(TABLE)


REFUSALS = [kind for kind in Refusal.kinds() if kind.__module__.startswith("ktcpvs.")]


def test_every_kind_of_refusal_has_a_code_of_its_own():
    codes = [kind.code for kind in REFUSALS]
    assert len(codes) > 10
    assert len(set(codes)) == len(codes)
    assert all(type(code) is bytes and code.isupper() and code.decode("ascii") for code in codes)
    assert all("code" in vars(kind) for kind in REFUSALS)


def test_a_text_is_shortened_to_one_line():
    assert shorten("a\nb\x00é") == "a\\nb\\x00é"
    assert shorten("x" * 120) == "x" * 120
    assert shorten("x" * 121) == "x" * 120 + "..."
    assert shorten("\n" * 500, 4) == "\\n\\n..."


# Refusals, command by command.

REFUSED = [
    # add-service
    (AddService("web"), ServiceExists, "service web exists already"),
    (
        AddService("a b"),
        BadValue,
        "'a b' is not a valid service name: expected 1 to 128 printable characters without white space",
    ),
    (AddService("new", {"port": 0}), BadAddress, "port 0 is out of range: ports are 1..65535"),
    (AddService("new", {"port": 65536}), BadAddress, "port 65536 is out of range: ports are 1..65535"),
    (AddService("new", {"listen": R1, "port": 81}), BadValue, "listen r1:80 and port 81 do not agree"),
    (AddService("new", {"listen": Unix("/a"), "port": 80}), BadAddress, "unix:/a has no port: leave out port 80"),
    (AddService("new", {"redirect": Inet("r1", None)}), BadAddress, "r1: missing port (example: r1:80)"),
    (AddService("new", {"scheduler": "a b"}), BadValue, "scheduler a: b: missing value (expected: b VALUE)"),
    (AddService("new", {"maxclients": -1}), BadValue, "maxclients = -1 is out of range: 0..10000000"),
    # edit-service
    (EditService("no", {}), NoSuchService, "no service no"),
    (EditService("web", {"maxclients": 10_000_001}), BadValue, "maxclients = 10000001 is out of range: 0..10000000"),
    (EditService("mail", {"listen": Inet("::", None)}), BadAddress, "[::]: missing port (example: [::]:80)"),
    # delete-service, flush
    (DeleteService("no"), NoSuchService, "no service no"),
    (DeleteService("web"), Busy, "service web is running: stop it first"),
    (Flush(), Busy, "web is running: stop it first"),
    (
        EditService("mail", {"port": 81}),
        BadValue,
        "port 81: service mail listens on unix:/run/mail, unix:/run/mail2; say with listen = which of them changes",
    ),
    (EditService("web", {"listen": ()}), BadAddress, "a service needs an address to listen on (example: 0.0.0.0:80)"),
    (EditService("web", {"listen": (R1, R1)}), ListenerExists, "listen = r1:80 appears a second time"),
    (
        EditService("web", {"listen": ListenAddress(Inet("::", 1), True)}),
        BadValue,
        "service web: listen = [::]:1 tls: missing certificate (example: certificate = /etc/ssl/site.pem)",
    ),
    (
        EditService("web", {"client_certificate": "required"}),
        BadValue,
        "service web: client_certificate = required: missing client_ca, which verifies it",
    ),
    (EditService("web", {"certificate": ("a",)}), BadValue, "certificate = a: expected the absolute path of a file or"),
    (EditService("web", {"certificate": ("/a", "/a")}), BadValue, "certificate: a path appears a second time"),
    (EditService("web", {"client_ca": "ca.pem"}), BadValue, "client_ca = ca.pem: expected the absolute path of a file"),
    (
        EditService("web", {"tls_default": "x"}),
        BadValue,
        "tls_default = x: expected refuse, the absolute path of a certificate, or acme",
    ),
    (EditService("web", {"tls_min": "1.1"}), BadValue, "tls_min = 1.1: expected one of 1.2, 1.3"),
    (EditService("web", {"tls_ciphers": "a b"}), BadValue, "tls_ciphers = a b: expected names of ciphers as OpenSSL"),
    (AddServer("web", NO, 1, 0, {"proxy": "v3"}), BadValue, "proxy = v3: expected one of off, v1, v2"),
    (AddServer("web", NO, 1, 0, {"priority": 101}), BadValue, "priority 101 is out of range: 0..100"),
    (AddServer("web", NO, 1, 0, {"mode": "off"}), BadValue, "mode = off: expected one of ready, drain, maintenance"),
    # drain, ready, maintenance
    (Drain(NO), NoSuchServer, "no service has a server no:80"),
    (Drain(Inet("r1", 81)), NoSuchServer, "no service has a server r1:81"),
    (Ready(R1, "mail"), NoSuchServer, "service mail has no server r1:80"),
    (Maintenance(R1, "no"), NoSuchService, "no service no"),
    # add-listener, del-listener
    (AddListener("no", R1), NoSuchService, "no service no"),
    (AddListener("web", Inet("0.0.0.0", None), True), ListenerExists, "service web already listens on 0.0.0.0:80"),
    (AddListener("mail", Inet("::", None)), BadAddress, "[::]: missing port (example: [::]:80)"),
    (DeleteListener("no", R1), NoSuchService, "no service no"),
    (DeleteListener("mail", R1), NoSuchListener, "service mail does not listen on r1:80, but on unix:/run/mail, "),
    (DeleteListener("web", Inet("0.0.0.0", 80)), Busy, "service web listens on 0.0.0.0:80 alone: add another listener"),
    # add-server
    (AddServer("no", R1), NoSuchService, "no service no"),
    (AddServer("web", R1, 9), ServerExists, "service web already has server r1:80"),
    (AddServer("web", Inet("r1", None)), ServerExists, "service web already has server r1:80"),
    (AddServer("web", NO, -1), BadValue, "weight -1 is out of range: 0..65535"),
    (AddServer("web", NO, 65536), BadValue, "weight 65536 is out of range: 0..65535"),
    (AddServer("mail", Inet("r4", None)), BadAddress, "r4: missing port, since service mail has none (example: r4:80)"),
    # edit-server
    (EditServer("no", R1), NoSuchService, "no service no"),
    (EditServer("web", NO), NoSuchServer, "service web has no server no:80"),
    (AddServer("web", NO, 1, -1), BadValue, "maxconn -1 is out of range: 0..10000000"),
    (EditServer("web", R1, 1, 10_000_001), BadValue, "maxconn 10000001 is out of range: 0..10000000"),
    (EditServer("web", R1, 65536), BadValue, "weight 65536 is out of range: 0..65535"),
    # delete-server
    (DeleteServer("no", R1), NoSuchService, "no service no"),
    (DeleteServer("web", NO), NoSuchServer, "service web has no server no:80"),
    (DeleteServer("web", R1), Busy, "rule '/(a)' uses server r1:80: delete it from the rule first"),
    # add-rule
    (AddRule("no", "a", R1), NoSuchService, "no service no"),
    (AddRule("web", "a", NO), NoSuchServer, "service web has no server no:80"),
    (AddRule("web", ".*", R1), RuleExists, "rule '.*' already uses server r1:80"),
    (AddRule("web", "(" * 2, R1), BadPattern, "pattern '((': missing ) '((' at position 1"),
    (AddRule("web", "", R1), BadPattern, "empty pattern; use .* for a default rule"),
    (
        AddRule("web", "(a)\\1", R1),
        BadPattern,
        "pattern '(a)\\1': \\1 at position 3 is not supported: RE2 has no back-references",
    ),
    (AddRule("web", "(a)" * 11, R1, 11), BadValue, "match 11 is out of range: 0..10"),
    (AddRule("web", "(a)", R1, -1), BadValue, "match -1 is out of range: 0..10"),
    (AddRule("web", "(a)", R1, 2), BadValue, "match 2: pattern '(a)' has 1 groups"),
    (AddRule("web", "/(a)", R2, 0), BadValue, "rule '/(a)' has match 1, not 0: delete it first"),
    # del-rule
    (AddRule("web", "a", R1, None, "1"), BadValue, "'1' is not a valid name of a rule"),
    (AddRule("web", "a", R1, None, "use"), BadValue, "'use' is not a valid name of a rule"),
    (AddRule("web", "a", R1, before="x"), NoSuchRule, "service web has no rule 'x'"),
    (AddRule("web", ".*", R3, before="1"), RuleExists, "rule '.*' exists already; to move it: move-rule"),
    (AddRule("web", "", R1, None, "n"), NoSuchRule, "service web has no rule 'name n'"),
    (EditRule("web", "x", "a"), NoSuchRule, "service web has no rule 'x'"),
    (EditRule("web", "1"), BadValue, "nothing to change; give conditions, "),
    (EditRule("web", "1", ".*"), BadValue, "match 1: pattern '.*' has 0 groups"),
    (EditRule("web", "2", "/(a)"), RuleExists, "service web already has a rule '/(a)'"),
    (MoveRule("web", "1", "3"), NoSuchRule, "service web has no rule '3'"),
    (DeleteRule("no", "a", R1), NoSuchService, "no service no"),
    (DeleteRule("web", "a", R1), NoSuchRule, "service web has no rule 'a'"),
    (DeleteRule("web", "/(a)", R2), NoSuchServer, "rule '/(a)' does not use server r2:80"),
    # start, stop, set
    (StartService("no"), NoSuchService, "no service no"),
    (StopService("no"), NoSuchService, "no service no"),
    (Set({"no": "1"}), NoSuchSetting, "no setting 'no'; there are: debug_level, "),
    (Set({"debug_level": "13"}), BadValue, "debug_level = 13 is out of range: 0..12"),
    (Set({"debug_level": "x"}), BadValue, "debug_level = x: expected a whole number"),
    (Set({"debug_level": "5", "read_timeout": "-1"}), BadValue, "read_timeout = -1: expected a whole number"),
]


@pytest.mark.parametrize(("edit", "kind", "why"), REFUSED, ids=lambda value: getattr(value, "name", None))
def test_what_cannot_be_done_is_refused_and_nothing_changes(edit, kind, why):
    untouched = copy.deepcopy(TABLE)
    with pytest.raises(Refusal) as refusal:
        edit.apply(TABLE)
    assert type(refusal.value) is kind
    assert str(refusal.value).startswith(why)
    assert str(refusal.value).isprintable()
    assert untouched == TABLE


def test_flush_names_what_runs():
    two = evolve(IDLE, running=frozenset(("mail", "web")))
    with pytest.raises(Busy) as refusal:
        Flush().apply(two)
    assert str(refusal.value) == "web, mail are running: stop them first"
    many = Table.of([VirtualService(f"s{number}") for number in range(13)])
    with pytest.raises(Busy) as refusal:
        Flush().apply(StartService().apply(many))
    assert str(refusal.value) == "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 3 more are running: stop them first"


def test_flush_keeps_the_settings():
    assert Flush().apply(evolve(IDLE, settings=Settings(debug_level=3))) == Table(
        settings=Settings(debug_level=3), local=IDLE.local
    )


def test_a_port_for_a_unix_socket_is_refused():
    alone = Table.of([evolve(MAIL, listen=Unix("/run/mail"))])
    refusal = answer_or_refusal(EditService("mail", {"port": 80}).apply, alone)
    assert (type(refusal), str(refusal)) == (BadAddress, "unix:/run/mail has no port: leave out port 80")


# What the edits give.


def test_listeners_are_added_and_removed_and_the_first_port_completes_addresses():
    with_certificate = after(EditService("web", {"certificate": ["/site.pem"]}), table=TABLE)
    table = after(
        AddListener("web", Inet("::", None)), AddListener("web", Inet("::", 443), True), table=with_certificate
    )
    service = table.service("web")
    assert [str(listener) for listener in service.listen] == ["0.0.0.0:80", "[::]:80", "[::]:443 tls"]
    assert service.complete(Inet("r9", None)) == Inet("r9", 80)
    assert after(DeleteListener("web", Inet("::", None)), table=table).service("web").addresses == (
        Inet("0.0.0.0", 80),
        Inet("::", 443),
    )
    both = after(AddListener("mail", Inet("::", 25)), table=TABLE).service("mail")
    assert (both.port, both.address) == (25, Unix("/run/mail")), "of the first listener that has one"
    listen = (Inet("::", None), ListenAddress(Inet("::", 443), True))
    edited = after(EditService("web", {"listen": listen}), table=with_certificate).service("web")
    assert [str(listener) for listener in edited.listen] == ["[::]:80", "[::]:443 tls"]


def after(*steps, table=None):
    table = Table() if table is None else table
    for step in steps:
        table = step.apply(table)
    return table


def test_a_service_without_options_has_the_defaults():
    assert after(AddService("web")) == Table.of([VirtualService("web")])


@pytest.mark.parametrize(
    ("options", "listen"),
    [
        ({}, "0.0.0.0:8080"),
        ({"port": 80}, "0.0.0.0:80"),
        ({"listen": Inet("::", None)}, "[::]:8080"),
        ({"listen": Inet("::", None), "port": 80}, "[::]:80"),
        ({"listen": Inet("::", 80)}, "[::]:80"),
        ({"listen": Inet("::", 80), "port": 80}, "[::]:80"),
        ({"listen": Unix("/run/web")}, "unix:/run/web"),
    ],
)
def test_where_a_new_service_listens(options, listen):
    assert str(after(AddService("web", options)).service("web").address) == listen


@pytest.mark.parametrize(
    ("options", "listen"),
    [
        ({}, "0.0.0.0:80"),
        ({"port": 81}, "0.0.0.0:81"),
        ({"listen": Inet("::", None)}, "[::]:80"),
        ({"listen": Inet("::", None), "port": 81}, "[::]:81"),
        ({"listen": Unix("/run/web")}, "unix:/run/web"),
    ],
)
def test_where_an_edited_service_listens(options, listen):
    assert EditService("web", options).apply(TABLE).service("web") == evolve(WEB, listen=parse_address(listen))


def test_an_edit_of_a_service_changes_the_options_given_and_no_others():
    changed = EditService("web", {"maxclients": 7}).apply(TABLE)
    assert changed.service("web") == evolve(WEB, maxclients=7)
    assert EditService("web", {"redirect": None}).apply(TABLE).service("web") == evolve(WEB, redirect=None)
    assert changed.running == TABLE.running
    assert list(changed.services) == ["web", "mail"]


def test_a_server_without_a_port_gets_the_port_of_its_service():
    service = after(AddService("web", {"port": 81}), AddServer("web", Inet("r1", None))).service("web")
    assert service.servers == (RealServer(Inet("r1", 81)),)


def test_a_server_may_stand_in_any_number_of_rules():
    table = after(AddRule("web", "/b", R1), AddRule("web", "/c", R1), table=TABLE)
    assert [rule.pattern for rule in table.service("web").rules if R1 in rule.servers] == ["/(a)", ".*", "/b", "/c"]


def test_a_server_can_go_when_its_rules_have_let_it_go():
    steps = (DeleteRule("web", "/(a)", R1), DeleteRule("web", ".*", R1), DeleteServer("web", R1))
    service = after(*steps, table=TABLE).service("web")
    assert service.servers == WEB.servers[1:]
    assert service.rules == (Rule(".*", (R2,)),)


def test_starting_and_stopping_one_and_all_and_twice():
    assert after(StartService("web"), StartService("web"), table=IDLE).running == {"web"}
    assert after(StartService(), table=IDLE).running == {"web", "mail"}
    assert after(StartService(), StopService("web"), StopService("web"), table=IDLE).running == {"mail"}
    assert after(StartService(), StopService(), table=IDLE) == IDLE
    assert after(StartService(), Unload(), table=IDLE) == IDLE
    assert after(StopService("web"), DeleteService("web"), table=TABLE).services == {"mail": MAIL}


def test_load_keeps_what_runs_and_is_still_there():
    loaded = Load({"new": VirtualService("new"), "web": CHANGED}, Settings(debug_level=1)).apply(TABLE)
    assert loaded == Table.of(
        [VirtualService("new"), CHANGED],
        running=frozenset(("web",)),
        settings=Settings(debug_level=1),
        local=TABLE.local,
    )
    assert Load({"mail": MAIL}).apply(TABLE) == Table.of([MAIL], local=TABLE.local)


def test_load_starts_nothing_what_is_new_or_all():
    services = {"new": VirtualService("new"), "mail": MAIL, "web": CHANGED}
    assert TABLE.running == {"web"}
    assert Load(services).apply(TABLE).running == {"web"}
    assert Load(services, start="new").apply(TABLE).running == {"web", "new"}
    assert Load(services, start="all").apply(TABLE).running == {"web", "new", "mail"}
    with pytest.raises(BadValue, match=r"^start = some: expected one of nothing, new, all$"):
        Load(services, start="some")


@pytest.mark.parametrize(
    ("edit", "server"),
    [
        (EditServer("web", R1), RealServer(R1, 5, 9)),
        (EditServer("web", R1, weight=0), RealServer(R1, 0, 9)),
        (EditServer("web", R1, maxconn=0), RealServer(R1, 5, 0)),
    ],
)
def test_an_edit_of_a_server_keeps_what_is_not_given(edit, server):
    assert after(EditServer("web", R1, 5, 9), edit, table=TABLE).service("web").server(R1) == server


def test_the_example_of_the_readme():
    def server(text):
        return parse_address(text)

    table = after(
        AddService("http", {"scheduler": "http"}),
        AddServer("http", server("r1:80")),
        AddServer("http", server("r2:80")),
        AddServer("http", server("r3:80")),
        AddRule("http", "/images/.*", server("r1:80")),
        AddRule("http", "/html/.*", server("r2:80")),
        AddRule("http", ".*", server("r3:80")),
    )
    assert table == Table.of(
        [
            VirtualService(
                "http",
                listen=Inet("0.0.0.0", 8080),
                scheduler="http",
                servers=(RealServer(R1, 1), RealServer(R2, 1), RealServer(R3, 1)),
                rules=(Rule("/images/.*", (R1,)), Rule("/html/.*", (R2,)), Rule(".*", (R3,))),
            )
        ]
    )
    assert after(Flush(), table=table) == Table()
    started = after(StartService("http"), table=table)
    assert started.running == {"http"}
    assert after(StopService("http"), table=started) == table


@examples(80)
@given(st.one_of(st.just(Table()), st.just(TABLE), tables(max_services=2)), st.lists(edits(), min_size=1, max_size=25))
def test_no_sequence_of_edits_makes_an_unsound_table_or_fails_otherwise_than_by_a_refusal(table, steps):
    for step in steps:
        untouched = configuration(table), table.running
        answer = answer_or_refusal(step.apply, table)
        following = table if isinstance(answer, Refusal) else answer
        assert (configuration(table), table.running) == untouched
        assert_sound(following)
        table = following
    assert parse(write(*configuration(table))).apply(table) == table


def rules(table: Table) -> list[tuple[str | None, str]]:
    return [(rule.name, rule.pattern) for rule in table.service("web").rules]


def test_rules_with_names_and_conditions() -> None:
    table = after(
        AddRule("web", "path /x from 10.0.0.0/8", R1, None, "office", "1"),
        AddRule("web", "", R2, None, "office"),
        AddRule("web", "path /x", R3, before="office"),
        table=TABLE,
    )
    assert rules(table) == [
        (None, "path /x"), ("office", "path /x from 10.0.0.0/8"), (None, "/(a)"), (None, ".*"),
    ]  # fmt: skip
    assert find_rule(table.service("web"), "office").servers == (R1, R2)
    moved = after(MoveRule("web", "office", "path /x"), MoveRule("web", "path  /x"), table=table)
    assert rules(moved) == [("office", "path /x from 10.0.0.0/8"), (None, "/(a)"), (None, ".*"), (None, "path /x")]
    edited = after(EditRule("web", "office", "path /y", new_name="y"), EditRule("web", "y", new_name=""), table=moved)
    assert rules(edited)[0] == (None, "path /y")
    assert edited.service("web").rules[0].servers == (R1, R2)
    gone = after(DeleteRule("web", "1", R1), DeleteRule("web", "path /y", R2), table=edited)
    assert rules(gone) == rules(moved)[1:]


def test_the_conditions_of_a_named_rule_must_stay_the_same() -> None:
    table = after(AddRule("web", "/x", R1, None, "n"), table=TABLE)
    with pytest.raises(RuleExists, match="rule 'n' has other conditions: /x; to change them: edit-rule"):
        AddRule("web", "/y", R2, None, "n").apply(table)
    assert rules(after(AddRule("web", "/x", R2), table=table))[-2:] == [("n", "/x"), (None, "/x")]
