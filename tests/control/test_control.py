"""The control connection in memory: a real client, a real server, a real director; every command, every refusal."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from edit_kinds import edit_kinds
from servers import free_address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, connect

from ktcpvs import errors
from ktcpvs.control import commands
from ktcpvs.control.client import NoAnswer, Switch
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.guarded_amp import MAX_BOX_KEYS
from ktcpvs.control.server import MAX_CONNECTIONS, MAX_WARNINGS, Administrator, ControlFactory
from ktcpvs.director.director import Director
from ktcpvs.errors import MAX_LISTED
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.views import Views
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.live_trace import TraceBatch, TraceQuery
from ktcpvs.model.local_edits import Local
from ktcpvs.model.service import OPTIONS
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.system.log import EventLog


class Daemon:
    """A switch whose services never start, administered in memory."""

    def __init__(self) -> None:
        log = EventLog()
        self.unloaded = 0
        self.director = Director(Context(MemoryReactorClock(), log, Descriptors(100)), unload=self._unload)
        self.submit = self.director.submit
        self.view = Views(self.director).view
        self.explain = Explainer(self.director).explain
        self.trace: Callable[[TraceQuery], Any]
        self.factory = ControlFactory(self, log)

    def _unload(self) -> None:
        self.unloaded += 1

    def connect(self) -> tuple[Switch, Any]:
        client, server = amp.AMP(), self.factory.buildProtocol(None)
        assert server is not None
        pump = connect(server, FakeTransport(server, True), client, FakeTransport(client, False))
        return Switch(client, ControlAddress(path="/memory")), pump


Ask = Callable[[Callable[[Switch], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def ask(daemon: Daemon) -> Ask:
    """Run calls of the client until they are answered; return the answer, or raise its exception."""
    switch, pump = daemon.connect()

    def run(work: Callable[[Switch], Coroutine[Any, Any, Any]]) -> Any:
        answers: list[Any] = []
        failures: list[Any] = []
        Deferred.fromCoroutine(work(switch)).addCallbacks(answers.append, failures.append)
        while not answers and not failures and pump.pump():
            pass
        if failures:
            failures[0].raiseException()
        return answers[0]

    return run


def test_every_edit_has_its_command_and_its_responder() -> None:
    for edit in edit_kinds():
        if edit in (Adopt, Local):  # no administrator asks for the one, and the command Scope makes the other
            continue
        command = commands.OF_EDIT[edit.__name__]
        assert issubclass(command, amp.Command)
        assert Administrator._commandDispatch[command.commandName]


def test_every_refusal_has_a_code_of_its_own() -> None:
    kinds = list(errors.Refusal.kinds())
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(commands.OF_EDIT["AddService"].reverseErrors[kind.code] is kind for kind in kinds)


NO_FAILURES = {"ejected": None, "last_error": None, "check_response": None}
PAGE = __file__
"""Any file that can be read."""


def test_every_edit_from_the_client(daemon: Daemon, ask: Ask) -> None:
    async def work(switch: Switch) -> None:
        await switch.add_service("web", scheduler="wlc", listen="127.0.0.1", port="8081", maxclients=5)
        await switch.edit_service("web", redirect="10.9.9.9:1", scheduler="http")
        await switch.edit_service("web", fallback="rr", via="append", access_log="/var/log/web.log")
        await switch.edit_service("web", certificate=["/a", "/b c"], proxy_from="10.0.0.0/8")
        await switch.edit_service("web", trusted_proxies="::1 10.0.0.0/8", trusted_header="forwarded")
        await switch.edit_service("web", request_header=["X-A  b", '+X-B "{host}"'], response_header=[])
        await switch.edit_service("web", error_page=[f"503  502 {PAGE}", f'404 "{PAGE}"'])
        await switch.add_listener("web", "[::1]:8443", tls=True)
        await switch.add_listener("web", "[::1]")
        await switch.delete_listener("web", "[::1]")
        await switch.add_server("web", "10.0.0.1", weight=7, maxconn=9)
        await switch.edit_server("web", "10.0.0.1", weight=7)
        await switch.add_server("web", "10.0.0.2:80")
        await switch.edit_server("web", "10.0.0.2:80", weight=0)
        await switch.add_server("web", "10.0.0.3:80", maxconn=5)
        await switch.edit_server("web", "10.0.0.3:80", maxconn=0, options="tls name app.internal")
        await switch.edit_server("web", "10.0.0.3:80", options="proxy v1 backup check 10.0.0.3:8008 max_pending 7")
        await switch.edit_server("web", "10.0.0.3:80", options="label zone=a label canary")
        await switch.drain("10.0.0.3:80")
        await switch.add_rule("web", "/a/([a-z]+)", "10.0.0.1", match=1)
        await switch.add_rule("web", "/b", "10.0.0.2:80")
        await switch.delete_rule("web", "/b", "10.0.0.2:80")
        await switch.add_rule("web", "^/old/(.*)", rule_name="old", action='redirect 301 "/new/{1}"')
        await switch.add_rule("web", "path /gone", action="respond 404")
        await switch.edit_rule("web", "path /gone", action="respond 410", modifiers='response_header X-A "b"')
        await switch.add_rule("web", "path /back", "10.0.0.1", modifiers="balance wrr", weight=95)
        await switch.edit_rule("web", "path /back", action="respond 503")
        await switch.edit_rule("web", "path /back", action="server 10.0.0.1 90 server 10.0.0.3:http 10")
        await switch.add_rule("web", "path /none", action="respond 204")
        await switch.delete_rule("web", "path /none")
        await switch.delete_server("web", "10.0.0.2:80")
        await switch.edit_service("web", redirect="", check='send "PING\\r\\n"   expect "+PONG"', eject=0)
        await switch.set({"read_timeout": 7})

    ask(work)
    answer = ask(lambda switch: switch.table())
    assert answer["settings"]["read_timeout"] == 7
    assert answer["services"] == [
        {
            "ident": "web",
            "local": [],
            "listen": "127.0.0.1:8081",
            "listeners": [
                {"listen": "127.0.0.1:8081", "tls": False, "on": None, "here": True},
                {"listen": "[::1]:8443", "tls": True, "on": None, "here": True},
            ],
            "on": None,
            "certificate": ["/a", "/b c"],
            "tls_min": "1.2",
            "tls_ciphers": None,
            "client_ca": None,
            "client_certificate": "off",
            "client_cert_header": "off",
            "tls_default": "refuse",
            "https_only": "off",
            "not_tls": "refuse",
            "starttls": "off",
            "proxy_from": ["10.0.0.0/8"],
            "trusted_proxies": ["::1", "10.0.0.0/8"],
            "trusted_header": "forwarded",
            "scheduler": "http",
            "balance": "wlc",
            "fallback": "rr",
            "cookie_secure": "off",
            "cookie_name": "KTCPVS_SID",
            "cookie_domain": None,
            "cookie_max_age": 0,
            "cookie_samesite": "lax",
            "sticky": "off",
            "access_log": "/var/log/web.log",
            "access_log_format": "combined",
            "why_for": [],
            "trace": "off",
            "otlp_endpoint": "http://127.0.0.1:4318",
            "relay": "auto",
            "request_header": ['X-A "b"', '+X-B "{host}"'],
            "response_header": [],
            "error_page": [f"503 502 {PAGE}", f"404 {PAGE}"],
            "upgrade": "any",
            "http2": "on",
            "read_timeout": None,
            "keepalive_timeout": None,
            "connect_timeout": None,
            "response_timeout": None,
            "request_timeout": None,
            "first_byte_timeout": None,
            "queue_timeout": None,
            "choose_budget": None,
            "drain_timeout": None,
            "drain_spread": None,
            "websocket_close_timeout": None,
            "start_timeout": None,
            "stop_after": None,
            "head_timeout": None,
            "head_size": None,
            "head_lines": None,
            "uri_size": None,
            "body_size": None,
            "tcp_keepalive": 0,
            "retry_on": "connect reset",
            "abort_on_close": "off",
            "allow": [],
            "deny": [],
            "client_connections": 0,
            "client_rate": "off",
            "client_burst": 0,
            "client_head": 0,
            "client_head_rate": 0,
            "client_ipv6": 64,
            "startservers": None,
            "maxclients": 5,
            "minspareservers": None,
            "maxspareservers": None,
            "redirect": None,
            "check": 'send "PING\\r\\n" expect "+PONG"',
            "check_interval": 5,
            "check_timeout": 2,
            "check_rise": 2,
            "check_fall": 3,
            "check_by": "node",
            "close_on_down": "off",
            "eject": 0,
            "eject_time": 10,
            "eject_share": 50,
            "eject_slow": 0,
            "slow_start": 0,
            "overflow": 0,
            "preconnect": 0,
            "preconnect_timeout": 10,
            "share": "node",
            "forwarded": "off",
            "x_forwarded_for": "off",
            "x_forwarded_proto": "off",
            "x_forwarded_host": "off",
            "via": "append",
            "servers": [
                {
                    "address": "10.0.0.1:8081",
                    "weight": 7,
                    "maxconn": 9,
                    "tls": None,
                    "h2": False,
                    "proxy": "off",
                    "priority": 0,
                    "mode": "ready",
                    "check": None,
                    "max_pending": 0,
                    "start": None,
                    "labels": {},
                },
                {
                    "address": "10.0.0.3:80",
                    "weight": 1,
                    "maxconn": 0,
                    "tls": {"ca": None, "verify": True, "name": "app.internal", "cert": None},
                    "h2": False,
                    "proxy": "v1",
                    "priority": 100,
                    "mode": "drain",
                    "check": "10.0.0.3:8008",
                    "max_pending": 7,
                    "start": None,
                    "labels": {"zone": "a", "canary": ""},
                },
            ],
            "rules": [
                {
                    "pattern": "/a/([a-z]+)",
                    "match": 1,
                    "name": None,
                    "servers": ["10.0.0.1:8081"],
                    "weights": [],
                    "action": None,
                    "modifiers": "",
                },
                {
                    "pattern": "^/old/(.*)",
                    "match": None,
                    "name": "old",
                    "servers": [],
                    "weights": [],
                    "action": 'redirect 301 "/new/{1}"',
                    "modifiers": "",
                },
                {
                    "pattern": "path /gone",
                    "match": None,
                    "name": None,
                    "servers": [],
                    "weights": [],
                    "action": "respond 410",
                    "modifiers": 'response_header X-A "b"',
                },
                {
                    "pattern": "path /back",
                    "match": None,
                    "name": None,
                    "servers": ["10.0.0.1:8081", "10.0.0.3:80"],
                    "weights": [90, 10],
                    "action": None,
                    "modifiers": "",
                },
            ],
            "tests": [],
            "running": False,
            "here": True,
            "unresolved": {},
        }
    ]
    ask(lambda switch: switch.delete_service("web"))
    ask(lambda switch: switch.flush())
    ask(lambda switch: switch.stop())
    assert ask(lambda switch: switch.table())["services"] == []


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda s: s.add_service("x", scheduler="wlc", via="append"), "via has no effect: scheduler wlc passes "),
        (lambda s: s.edit_service("web", startservers=5), "startservers has no effect: "),
        (lambda s: s.add_rule("web", "/b", "10.0.0.1:80"), "its rules have no effect: scheduler wlc "),
        (lambda s: s.load("Virtual x { }"), "it has no servers: "),
        (lambda s: s.start(), "its rules have no effect: scheduler wlc "),
        (lambda s: s.edit_service("web", maxclients=5), None),
        (lambda s: s.edit_server("web", "10.0.0.1:80", 5), None),
        (lambda s: s.set({"read_timeout": 7}), None),
        (lambda s: s.stop(), None),
    ],
)
def test_an_edit_returns_the_warnings_about_it(daemon: Daemon, ask: Ask, work: Any, words: str | None) -> None:
    rule = 'rule = pattern "/a" use server 10.0.0.1:80'
    ask(lambda s: s.load(f"Virtual web {{ listen = {free_address()} scheduler = wlc server = 10.0.0.1:80 {rule} }}"))
    warnings = ask(work)
    daemon.director.end()
    assert [words in line for line in warnings] == [True] * (words is not None)


def test_an_empty_configuration_is_refused_without_allow_empty(daemon: Daemon, ask: Ask) -> None:
    ask(lambda s: s.load("Virtual web { }"))
    for text in ("", "# nothing\n"):
        with pytest.raises(errors.BadConfiguration, match=r"^site\.conf: the configuration is empty, and would delete"):
            ask(lambda s, text=text: s.load(text, "site.conf"))
        assert list(daemon.director.table.services) == ["web"]
    ask(lambda s: s.load("", allow_empty=True))
    assert daemon.director.table.services == {}


def test_a_load_may_start_services(daemon: Daemon, ask: Ask) -> None:
    old, new = (f"Virtual {ident} {{ listen = {free_address()} }}\n" for ident in ("old", "new"))
    ask(lambda s: s.load(old))
    ask(lambda s: s.load(old + new, start="new"))
    assert daemon.director.table.running == {"new"}
    with pytest.raises(errors.BadValue):
        ask(lambda s: s.load(old + new, start="some"))
    ask(lambda s: s.load(old + new, start="all"))
    assert daemon.director.table.running == {"old", "new"}
    daemon.director.end()


def test_many_warnings_are_limited_to_one_response(ask: Ask) -> None:
    text = "".join(f"Virtual {number}{'é' * 120} {{ }}\n" for number in range(200))
    warnings = ask(lambda s: s.load(text))
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1] == "150 more warnings are left out; 'tcpvsadm --check FILE' prints all"


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (lambda s: s.start("nope"), errors.NoSuchService),
        (lambda s: s.stop("nope"), errors.NoSuchService),
        (lambda s: s.delete_service("nope"), errors.NoSuchService),
        (lambda s: s.table("nope"), errors.NoSuchService),
        (lambda s: s.stats("nope"), errors.NoSuchService),
        (lambda s: s.connections("nope"), errors.NoSuchService),
        (lambda s: s.add_service("web"), errors.ServiceExists),
        (lambda s: s.add_service("a b"), errors.BadValue),
        (lambda s: s.add_service("x", scheduler="nope"), errors.NoSuchScheduler),
        (lambda s: s.add_service("x", colour="red"), errors.BadValue),
        (lambda s: s.add_service("x", maxclients="many"), errors.BadValue),
        (lambda s: s.add_service("x", ident="y"), errors.BadValue),
        (lambda s: s.add_service("x", fallback="nope"), errors.NoSuchScheduler),
        (lambda s: s.edit_service("web", access_log="web.log"), errors.BadValue),
        (lambda s: s.add_server("web", "10.0.0.9:80", 1, -1), errors.BadValue),
        (lambda s: s.edit_server("web", "10.0.0.1:80", 1, 10_000_001), errors.BadValue),
        (lambda s: s.explain("nope", "GET", "/"), errors.NoSuchService),
        (lambda s: s.explain("web", "GET", "/", client="localhost"), errors.BadValue),
        (lambda s: s.explain("web", "GET", "/a b"), errors.BadValue),
        (lambda s: s.explain("web", "GET", "/", [("A", "b\r\nC: d")]), errors.BadValue),
        (lambda s: s.set({"cookie_key": "short"}), errors.BadValue),
        (lambda s: s.add_service("x", listen="1.2.3"), errors.BadAddress),
        (lambda s: s.add_server("web", "10.0.0.1:80"), errors.ServerExists),
        (lambda s: s.add_server("web", "10.0.0.9:80", 65536), errors.BadValue),
        (lambda s: s.edit_server("web", "10.0.0.9:80", 1), errors.NoSuchServer),
        (lambda s: s.delete_server("web", "10.0.0.1:80"), errors.Busy),
        (lambda s: s.add_rule("web", "(", "10.0.0.1:80"), errors.BadPattern),
        (lambda s: s.add_rule("web", "/a", "10.0.0.1:80"), errors.RuleExists),
        (lambda s: s.add_rule("web", "/b", "10.0.0.9:80"), errors.NoSuchServer),
        (lambda s: s.add_rule("web", "/b", "10.0.0.1:80", 11), errors.BadValue),
        (lambda s: s.delete_rule("web", "/b", "10.0.0.1:80"), errors.NoSuchRule),
        (lambda s: s.set({"nope": 1}), errors.NoSuchSetting),
        (lambda s: s.set({"debug_level": 13}), errors.BadValue),
        (lambda s: s.set({"unload": 1, "debug_level": 1}), errors.BadValue),
        (lambda s: s.load("Virtual {"), errors.BadConfiguration),
        (lambda s: s.load("Virtual x { listen = 10.0.0.1:nosuchport }"), errors.BadConfiguration),
    ],
)
def test_refusals_are_raised_as_their_class_and_change_nothing(daemon: Daemon, ask: Ask, work: Any, kind: type) -> None:
    ask(lambda s: s.load('Virtual web { server = 10.0.0.1:80\n rule = pattern "/a" use server 10.0.0.1:80 }'))
    before = daemon.director.table
    with pytest.raises(errors.Refusal) as refused:
        ask(work)
    assert type(refused.value) is kind
    assert str(refused.value)
    assert "\n" not in str(refused.value)
    assert daemon.director.table is before


def test_unload_is_set_by_its_name(daemon: Daemon, ask: Ask) -> None:
    ask(lambda s: s.set({"unload": 0}))
    assert daemon.unloaded == 0
    ask(lambda s: s.set({"unload": 1}))
    assert daemon.unloaded == 1
    ask(lambda s: s.unload())
    assert daemon.unloaded == 2


def test_long_configurations_and_lists_go_in_pages(daemon: Daemon, ask: Ask) -> None:
    blocks = []
    for number in range(300):
        rules = "\n".join(f'rule = pattern "/s{number}/r{r}/" use server 10.0.0.1:80' for r in range(10))
        blocks.append(f"Virtual s{number} {{\nserver = 10.0.0.1:80\n{rules}\n}}\n")
    text = "".join(blocks)
    assert len(text) > 2 * 65535
    ask(lambda s: s.load(text))
    answer = ask(lambda s: s.table())
    assert len(answer["services"]) == 300
    assert sum(len(service["rules"]) for service in answer["services"]) == 3000
    assert ask(lambda s: s.table("s7"))["services"][0]["rules"][3]["pattern"] == "/s7/r3/"


def test_the_pages_of_a_view_describe_one_moment(daemon: Daemon, ask: Ask) -> None:
    text = "".join(f"Virtual s{number} {{ }}\n" for number in range(3000))

    async def work(switch: Switch) -> list[bytes]:
        await switch.load(text)
        first = await switch.call(commands.Read, view="table")
        await switch.flush()
        rest = [(await switch.call(commands.ReadPage, number=n))["page"] for n in range(1, first["pages"])]
        return [first["page"], *rest]

    assert b"".join(ask(work)).count(b'"ident"') == 3000


def test_a_page_that_is_not_there(ask: Ask) -> None:
    with pytest.raises(errors.BadValue):
        ask(lambda s: s.call(commands.ReadPage, number=1))


def test_an_unknown_option_names_the_known_ones(ask: Ask) -> None:
    first, more, where = ", ".join([*OPTIONS][:MAX_LISTED]), len(OPTIONS) + 1 - MAX_LISTED, "'man ktcpvs.conf'"
    with pytest.raises(errors.BadValue) as refused:
        ask(lambda s: s.add_service("x", colour="red"))
    assert (
        str(refused.value)
        == f"a service has no option 'colour'; there are: {first} and {more} more, which {where} lists"
    )


def test_an_explanation(ask: Ask) -> None:
    ask(lambda s: s.load('Virtual web { server = 10.0.0.1:80 maxconn 3\n rule = pattern "/a" use server 10.0.0.1:80 }'))
    answer = ask(lambda s: s.explain("web", "GET", "/a", [("Accept", "x"), ("Accept", "y")], "::1"))
    assert answer["request"] == {
        "client": "::1",
        "method": "GET",
        "target": "/a",
        "path": "/a",
        "headers": [
            {"name": "Host", "value": "0.0.0.0:8080"},
            {"name": "Accept", "value": "x"},
            {"name": "Accept", "value": "y"},
        ],
    }
    assert answer["rules"] == [{"number": 1, "pattern": "/a", "why": "matches"}]
    (server,) = answer["servers"]
    facts = {"state": "up", "active": 0, "weight": 1, "maxconn": 3, **NO_FAILURES}
    assert server == {"address": "10.0.0.1:80", **facts}
    reason = "rule 1 '/a', the only server"
    why = "rule=1, balance"
    assert answer["answer"] == {"outcome": "server", "server": "10.0.0.1:80", "reason": reason, "why": why}


def test_a_long_explanation_goes_in_pages(ask: Ask) -> None:
    rules = "\n".join(f'rule = pattern "/r{number}/" use server 10.0.0.1:80' for number in range(10_000))
    ask(lambda s: s.load(f"Virtual web {{ server = 10.0.0.1:80\n{rules}\n}}"))
    assert len(ask(lambda s: s.explain("web", "GET", "/r9998/"))["rules"]) == 9999
    assert len(ask(lambda s: s.explain("web", "GET", "/r0/"))["rules"]) == 1
    first = ask(lambda s: s.call(commands.Explain, ident="web", method="GET", target="/", headers=[], client="::1"))
    assert first["pages"] > 1


def test_an_internal_error_in_an_explanation_is_answered_in_one_line(daemon: Daemon, ask: Ask) -> None:
    async def fault(*asked: Any) -> None:
        raise ZeroDivisionError

    daemon.explain = fault  # type: ignore[assignment]
    with pytest.raises(errors.Refusal, match="internal error; see the daemon's log"):
        ask(lambda s: s.explain("web"))


def test_load_without_upload(ask: Ask) -> None:
    with pytest.raises(errors.NoConfiguration):
        ask(lambda s: s.call(commands.OF_EDIT["Load"], source="x"))


def test_a_configuration_that_is_not_text(ask: Ask) -> None:
    async def work(switch: Switch) -> None:
        await switch.call(commands.Upload, page=b"\xff\xfe", first=True)
        await switch.call(commands.OF_EDIT["Load"], source="site.conf")

    with pytest.raises(errors.NoConfiguration, match=r"site\.conf: byte 0 is not UTF-8"):
        ask(work)


def test_an_unknown_view(ask: Ask) -> None:
    with pytest.raises(errors.BadValue, match="there are: table, configured, stats"):
        ask(lambda s: s.read("nope"))


def test_a_value_too_long_for_a_box(ask: Ask) -> None:
    with pytest.raises(errors.Refusal, match="65,535"):
        ask(lambda s: s.add_rule("web", "x" * 70000, "10.0.0.1:80"))


def test_the_daemon_closes_the_connection(daemon: Daemon) -> None:
    switch, pump = daemon.connect()
    daemon.factory.close_all()
    pump.flush()
    failures: list[Any] = []
    Deferred.fromCoroutine(switch.flush()).addErrback(failures.append)
    pump.flush()
    assert failures[0].check(NoAnswer)


class WaitingTrace:
    """A live trace that has seen nothing yet."""

    def __init__(self) -> None:
        self.batch: Deferred[TraceBatch] = Deferred()

    def read(self) -> Deferred[TraceBatch]:
        return self.batch

    def close(self) -> None:
        """Nothing holds it."""


def test_commands_without_an_answer_are_counted_but_for_waiting_traces(daemon: Daemon) -> None:
    switch, pump = daemon.connect()
    submitted: Deferred[Sequence[str]] = Deferred()
    trace = WaitingTrace()
    daemon.submit = lambda edit: submitted
    daemon.trace = lambda query: trace
    answers: list[Any] = []
    for work in (switch.flush(), switch.begin_trace(TraceQuery()), switch.read_trace(1)):
        Deferred.fromCoroutine(work).addBoth(answers.append)
        pump.flush()
    assert (answers, daemon.factory.unanswered_commands) == ([1], 1)
    submitted.callback([])
    pump.flush()
    assert (len(answers), daemon.factory.unanswered_commands) == (2, 0)
    trace.batch.callback(TraceBatch())
    pump.flush()
    assert (len(answers), daemon.factory.unanswered_commands) == (3, 0)


def test_a_box_without_end_closes_the_connection(daemon: Daemon) -> None:
    server = daemon.factory.buildProtocol(None)
    assert server is not None
    client = amp.AMP()
    transport = FakeTransport(server, True)
    connect(server, transport, client, FakeTransport(client, False))
    for number in range(MAX_BOX_KEYS + 1):
        server.dataReceived(b"\0\x02%02d\0\x01x" % number)
    assert transport.disconnecting or transport.disconnected


def test_no_more_control_connections_than_the_limit(daemon: Daemon) -> None:
    made = [daemon.factory.buildProtocol(None) for _ in range(MAX_CONNECTIONS)]
    assert None not in made
    assert daemon.factory.buildProtocol(None) is None


def test_schedulers_and_settings(ask: Ask) -> None:
    ask(lambda s: s.load("Virtual a { }\nVirtual b { scheduler = wlc }\nVirtual c { scheduler = wlc }"))
    found = {row["name"]: row for row in ask(lambda s: s.schedulers())["schedulers"]}
    assert (found["wlc"]["services"], found["http"]["services"]) == (2, 1)
    assert found["wlc"]["unit"] == "CONNECTION"
    assert found["http"]["summary"].startswith("Per connection")
    names = [row["name"] for row in ask(lambda s: s.settings())]
    assert names[0] == "debug_level"
    assert names[-1] == "unload"


def test_stats_of_a_table_that_never_ran(ask: Ask) -> None:
    ask(lambda s: s.load("Virtual a {\n server = 10.0.0.1:80\n redirect = 10.0.0.2:80 }"))
    service = ask(lambda s: s.stats())["services"][0]
    counters = {
        "active": 0,
        "total": 0,
        "refused": 0,
        "queued": 0,
        "rebalancing": 0,
        "paused_listeners": 0,
        "waiting_streams": 0,
        "requests": 0,
        "broken_responses": 0,
        "denied": 0,
        "limited": 0,
        "choose_overruns": 0,
        "scheduler_failures": 0,
        "scheduler_failing": 0,
        "handshake_pauses": 0,
        "http2_glitches": 0,
        "http2_floods": 0,
        "bytes_in": 0,
        "bytes_out": 0,
    }
    assert service["stats"] == {
        **counters,
        "refusals": {},
        "redirected": {},
        "responses": {},
        "handshakes": {},
        "preambles": {},
        "rules": {},
        "relay": None,
    }
    nothing = {"active": 0, "pending": 0, "total": 0, "failures": 0, "retries": 0, "kept": 0, "reused": 0}
    nothing |= {"bytes_in": 0, "bytes_out": 0, "seconds": 0.0, "buckets": [0] * 17}
    nothing["answers"] = dict.fromkeys(("1xx", "2xx", "3xx", "4xx", "5xx", "other"), 0)
    assert service["servers"][0]["stats"] == nothing
    assert service["redirect_stats"] == nothing
    assert ask(lambda s: s.connections()) == []
