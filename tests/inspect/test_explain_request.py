"""Explanations: they agree with what the switch then does, and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import World, worlds
from servers import LOOPBACK, free_port
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ktcpvs import interfaces
from ktcpvs.errors import BadValue, NoSuchService, Refusal
from ktcpvs.inspect.explain import Explainer
from ktcpvs.model.address import parse_address
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.edits import AddServer, EditServer, StopService
from ktcpvs.model.scheduling import Choice, Considered, Request

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"
RULES = (
    f"server = {A}",
    f"server = {B} 2",
    f'rule = pattern "^/images/" use server {A}',
    f'rule = pattern ".*" use server {A} server {B}',
)
DEFAULT = "default rule, tried last"
NO_FAILURES = {"ejected": None, "last_error": None, "check_response": None}

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds of one service, and checks that nothing is left counted in any of them."""
    with worlds() as make:
        yield make


def asked(
    world: World,
    method: str | None = "GET",
    target: str | None = "/",
    *headers: tuple[str, str],
    client: str = "192.0.2.1",
    ident: str = "s",
) -> list[Any]:
    """Return the list that will contain the answer or its Failure."""
    outcome: list[Any] = []
    work = Explainer(world.director).explain(ident, AssumedRequest(method, target, headers, client))
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    return outcome


def explain(world: World, *request: Any, **more: Any) -> dict[str, Any]:
    (answer,) = asked(world, *request, **more)
    if not isinstance(answer, dict):
        answer.raiseException()
    return dict(answer)


def found(answer: dict[str, Any]) -> tuple[str, str | None, str]:
    return answer["answer"]["outcome"], answer["answer"]["server"], answer["answer"]["reason"]


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {server["address"]: server["state"] for server in answer["servers"]}


def tried(answer: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [(rule["number"], rule["pattern"], rule["why"]) for rule in answer["rules"]]


# Rules.


def test_the_condition_that_fails(make: Make) -> None:
    world = make(
        "scheduler = phttp",
        f"server = {A}",
        f"server = {B}",
        f"rule = name office path /admin/ from 10.0.0.0/8 use server {A}",
        f'rule = not header X-Beta "^1$" path /x use server {A}',
        f"rule = path /admin/ not tls use server {B}",
    )
    answer = explain(world, "GET", "/%61dmin/x", ("Host", "h"))
    assert tried(answer) == [
        (1, "office", "does not match: from 10.0.0.0/8"),
        (2, 'not header X-Beta "^1$" path /x', "does not match: path /x"),
        (3, "path /admin/ not tls", "matches"),
    ]
    assert answer["notes"] == ["path conditions see /admin/x", "no header x-beta", "the client does not speak TLS"]
    assert found(answer) == ("server", B, "rule 3 'path /admin/ not tls', the only server")
    answer = explain(world, "GET", "/admin", client="10.1.1.1")
    assert found(answer)[:2] == ("server", A)


def test_a_port_on_which_the_service_does_not_listen(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}")
    outcome: list[Any] = []
    work = Explainer(world.director).explain("s", AssumedRequest("GET", "/", (), "192.0.2.1", 81))
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    with pytest.raises(BadValue, match=r"port 81: service s listens on \d+"):
        outcome[0].raiseException()


def test_the_host_that_is_assumed_has_the_port_of_the_client(make: Make) -> None:
    other = free_port()
    world = make("scheduler = phttp", f"server = {A}", f"listen = {LOOPBACK}:{other}")
    outcome: list[Any] = []
    work = Explainer(world.director).explain("s", AssumedRequest(None, None, (), "192.0.2.1", other))
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    assert outcome[0]["request"]["headers"] == [{"name": "Host", "value": f"{LOOPBACK}:{other}"}]


def test_the_first_rule_that_matches(make: Make) -> None:
    answer = explain(make("scheduler = http", *RULES), "GET", "/images/cat.png?x=1")
    assert (answer["service"], answer["running"]) == ("s", True)
    assert (answer["scheduler"], answer["unit"]) == ("http", "FIRST_REQUEST")
    assert tried(answer) == [(1, "^/images/", "matches")]
    facts = {"state": "up", "active": 0, "weight": 1, "maxconn": 0, **NO_FAILURES}
    assert answer["servers"] == [{"address": A, **facts}]
    assert found(answer) == ("server", A, "rule 1 '^/images/', the only server")


def test_the_default_rule(make: Make) -> None:
    answer = explain(make("scheduler = phttp", *RULES), "POST", "/")
    assert tried(answer) == [(1, "^/images/", "does not match"), (2, ".*", DEFAULT)]
    assert states(answer) == {A: "up", B: "up"}


def test_no_rule_matches(make: Make) -> None:
    lines = f"server = {A}", f'rule = pattern "^/a" use server {A}'
    answer = explain(make("scheduler = http", *lines), "GET", "/b")
    assert tried(answer) == [(1, "^/a", "does not match")]
    assert (answer["servers"], answer["notes"]) == ([], ["no rule matches"])
    assert found(answer) == ("nobody", None, "no server for this request: the client gets status 503")
    answer = explain(make("scheduler = http", *lines, f"redirect = {C}"), "GET", "/b")
    assert found(answer) == ("redirect", C, "redirect, since no server was found")


def test_a_service_without_rules_uses_all_its_servers(make: Make) -> None:
    answer = explain(make("scheduler = chttp", f"server = {A}", f"server = {B}"), "GET", "/b")
    assert (answer["rules"], states(answer)) == ([], {A: "up", B: "up"})
    assert answer["notes"][0] == "the service has no rules: it uses all its servers"
    assert found(answer)[:2] == ("server", A)


def test_a_quiesced_server_is_considered_and_not_chosen(make: Make) -> None:
    answer = explain(make("scheduler = http", f"server = {A} 0 maxconn 5", f'rule = pattern "/" use server {A}'))
    facts = {"state": "quiesced", "active": 0, "weight": 0, "maxconn": 5, **NO_FAILURES}
    assert answer["servers"] == [{"address": A, **facts}]
    assert found(answer)[0] == "nobody"


# The request.


def test_the_request_as_it_is_understood(make: Make) -> None:
    world = make("scheduler = http", *RULES)
    listen = str(world.director.table.service("s").address)
    answer = explain(world, "GET", "/é", ("X-One", " a "), ("x-one", "b"), client="0:0:0:0:0:0:0:1")
    assert answer["request"] == {
        "client": "::1",
        "method": "GET",
        "target": "/é",
        "path": "/é",
        "headers": [
            {"name": "Host", "value": listen},
            {"name": "X-One", "value": "a"},
            {"name": "x-one", "value": "b"},
        ],
    }


@pytest.mark.parametrize("scheduler", ["http", "phttp"])
def test_a_whole_url_counts_with_its_path(make: Make, scheduler: str) -> None:
    answer = explain(make(f"scheduler = {scheduler}", *RULES), "GET", "http://www.example.com:81/images/x")
    assert answer["request"]["path"] == "/images/x"
    assert answer["request"]["headers"] == [{"name": "Host", "value": "www.example.com:81"}]
    assert tried(answer) == [(1, "^/images/", "matches")]


def test_a_host_that_is_given_stays_alone(make: Make) -> None:
    answer = explain(make("scheduler = phttp", *RULES), "GET", "/", ("hOST", "h"))
    assert answer["request"]["headers"] == [{"name": "hOST", "value": "h"}]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (("GE T", "/"), "method 'GE T': expected printable characters without spaces"),
        (("", "/"), "method '': expected printable characters without spaces"),
        (("GET", ""), "target '': expected printable characters without spaces"),
        (
            ("GET", "/ HTTP/1.1\r\nX: y"),
            r"target '/ HTTP/1.1\r\nX: y': expected printable characters without spaces",
        ),
        (("GET", "/", ("A", "b\r\nC: d")), "header 'A': contains a line end or NUL"),
        (("GET", "/", ("A\n", "b")), r"header 'A\n': contains a line end or NUL"),
        (("GET", "/", ("A", "b\0")), "header 'A': contains a line end or NUL"),
        ((None, None, ("A", "b\r")), "header 'A': contains a line end or NUL"),
    ],
)
@pytest.mark.parametrize("scheduler", ["wlc", "http", "phttp"])
def test_what_is_more_than_one_request_is_refused(make: Make, scheduler: str, request_: Any, why: str) -> None:
    with pytest.raises(BadValue) as refused:
        explain(make(f"scheduler = {scheduler}", *RULES), *request_)
    assert str(refused.value) == why


@pytest.mark.parametrize("client", ["", "localhost", "10.0.0", "10.0.0.1:80", "[::1]", "::1\n"])
def test_a_client_is_an_ip_address(make: Make, client: str) -> None:
    with pytest.raises(BadValue, match=r"expected an IP address$"):
        explain(make("scheduler = wlc", *RULES), client=client)


def test_a_service_that_is_not_there(make: Make) -> None:
    with pytest.raises(NoSuchService):
        explain(make("scheduler = wlc", *RULES), ident="web")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("GET", "x"), 400),
        (("GET", "*"), 400),
        (("G\x80T", "/"), 400),
        (("GET", "/", ("A b", "c")), 400),
        (("GET", "/" + "x" * 600), 414),
        (("GET", "/" + "x" * 100), 414),
        (("GET", "/", ("A", "b" * 600)), 431),
        (("GET", "/", *[("A", "b")] * 9), 431),
    ],
)
def test_a_request_that_would_be_refused(make: Make, request_: Any, status: int) -> None:
    world = make("scheduler = http", *RULES, settings="head_size = 512 head_lines = 9 uri_size = 100")
    answer = explain(world, *request_)
    assert found(answer)[:2] == ("nobody", None)
    assert found(answer)[2].endswith(f": the client gets status {status}")
    assert (answer["rules"], answer["servers"]) == ([], [])
    assert answer["request"]["method"] == request_[0]
    client = world.client()
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "127.0.0.1:12345"), *request_[2:]))
    client.says(f"{request_[0]} {request_[1]} HTTP/1.1\r\n{lines}\r\n".encode())
    assert client.heard().startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (("GET", "/", ("Host", "a"), ("Host", "b")), "a request must have exactly one Host"),
        (("GET", "/", ("Content_Length", "5")), "a field has a name"),
        (("CONNECT", "h:443"), "CONNECT is not implemented"),
        (("GET", "/a#b"), "malformed request line"),
    ],
)
def test_requests_are_read_as_strictly_as_the_switch_reads_them(make: Make, request_: Any, why: str) -> None:
    answer = explain(make("scheduler = phttp", *RULES, f"redirect = {C}"), *request_)
    assert answer["answer"]["outcome"] == "nobody"
    assert answer["answer"]["reason"].startswith(why)


def test_what_is_no_http_goes_to_the_redirect_of_a_relay(make: Make) -> None:
    answer = explain(make("scheduler = http", *RULES, f"redirect = {C}"), "GET", "x")
    assert found(answer)[:2] == ("redirect", C)


def test_a_scheduler_per_connection_ignores_the_request(make: Make) -> None:
    world = make("scheduler = wlc", *RULES)
    note = "scheduler wlc decides per connection: the request is ignored"
    for request in (("GET", "/"), (None, None, ("A", "b"))):
        answer = explain(world, *request)
        assert (answer["notes"], answer["rules"]) == ([note], [])
        assert found(answer) == ("server", A, "fewest connections for its weight among 2 servers")
    answer = explain(world, None, None)
    assert answer["notes"] == []
    assert answer["request"]["method"] is None


def test_without_a_request_there_is_still_one_to_look_at(make: Make) -> None:
    answer = explain(make("scheduler = http", *RULES), None, None)
    assert (answer["request"]["method"], answer["request"]["target"]) == ("GET", "/")
    assert answer["notes"] == ["no request given: GET / is assumed"]


def test_the_client_counts(make: Make) -> None:
    world = make("scheduler = sh", *(f"server = 10.0.0.{n}:80" for n in range(1, 9)))
    answers = {found(explain(world, client=f"192.0.2.{n}"))[1] for n in range(1, 40)}
    assert len(answers) > 3


# Explanations agree with traffic.


@pytest.mark.parametrize("scheduler", ["wlc", "lc", "rr", "wrr", "sh"])
def test_the_next_client_gets_the_predicted_server(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", *(f"server = 10.0.0.{n}:80 {n}" for n in (1, 2, 3)))
    for _ in range(12):
        said = {found(explain(world))[1] for _ in range(3)}
        assert len(said) == 1
        world.client()
        assert world.called() == list(said)


def test_an_explanation_counts_nothing(make: Make) -> None:
    world = make("scheduler = chttp", *RULES)
    before = [(d.active, d.total, d.failures) for d in world.live.destinations.values()]
    scheduler = world.live.selector.scheduler
    explain(world, "GET", "/images/")
    assert [(d.active, d.total, d.failures) for d in world.live.destinations.values()] == before
    assert world.live.selector.scheduler is scheduler
    assert (world.live.traffic.counters.total, world.live.traffic.counters.refused, world.called()) == (0, 0, [])


def test_loads_are_those_of_now(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A}", f"server = {B}")
    world.client()
    world.accepts(A)
    answer = explain(world)
    assert [(server["address"], server["active"]) for server in answer["servers"]] == [(A, 1), (B, 0)]
    assert found(answer)[1] == B


def test_a_session(make: Make) -> None:
    world = make("scheduler = chttp", *RULES)
    first = explain(world, "GET", "/")
    assert "no cookie KTCPVS_SID" in first["notes"]
    (note,) = (note for note in first["notes"] if note.startswith("the response gets Set-Cookie: "))
    cookie = note.removeprefix("the response gets Set-Cookie: ").partition(";")[0]
    again = explain(world, "GET", "/", ("Cookie", cookie))
    assert f"cookie KTCPVS_SID names {found(first)[1]}" in again["notes"]
    assert found(again) == ("server", found(first)[1], "rule 2, by the client's cookie")
    client = world.client()
    client.says(f"GET / HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n".encode())
    world.accepts(str(found(first)[1]))


def test_what_every_switch_with_the_key_would_say(make: Make) -> None:
    one, two, other = (make("scheduler = chttp", *RULES, settings=f"cookie_key = {k * 8}") for k in "aab")
    notes = [explain(world, "GET", "/images/")["notes"] for world in (one, two, other)]
    assert notes[0] == notes[1] != notes[2]


# A stopped service.


def test_a_stopped_service_is_explained_as_it_would_run(make: Make) -> None:
    world = make("scheduler = http", *RULES)
    world.director.submit(StopService("s"))
    world.director.submit(AddServer("s", parse_address("10.0.0.3:80"), 0, 7))
    world.director.submit(EditServer("s", parse_address(A), 0))
    answer = explain(world, "GET", "/")
    assert not answer["running"]
    assert answer["notes"] == ["service s is stopped: this is what it would do"]
    assert states(answer) == {A: "quiesced", B: "up"}
    assert found(answer)[1] == B


def test_a_stopped_service_has_what_still_drains(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} maxconn 1", f"server = {B}")
    world.client()
    world.accepts(A)
    world.director.submit(StopService("s"))
    assert states(explain(world)) == {A: "full", B: "up"}


# Full servers.


def test_a_full_server_is_passed_over(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} 100 maxconn 1", f"server = {B}")
    for address in (A, B):
        world.client()
        world.accepts(address)
    answer = explain(world, None, None)
    assert states(answer) == {A: "full", B: "up"}
    assert answer["notes"] == [f"{A} was chosen first, but it is full"]
    assert found(answer)[:2] == ("server", B)
    world.client()
    world.accepts(B)


def test_when_all_are_full_the_client_waits(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} maxconn 1", f"redirect = {C}", settings="queue_timeout = 7")
    world.client()
    world.accepts(A)
    assert found(explain(world)) == (
        "queue",
        None,
        "the only server; it is full, and so are all other eligible servers: "
        "the client waits at most 7 seconds for room",
    )
    world.client()
    assert len(world.live.traffic.queue) == 1


def test_a_session_waits_for_its_server(make: Make) -> None:
    world = make(
        "scheduler = chttp",
        f"server = {A} maxconn 1",
        f"server = {B}",
        'rule = pattern ".*" use server 10.0.0.1:80 server 10.0.0.2:80',
    )
    note = explain(world)["notes"][-1]
    cookie = note.removeprefix("the response gets Set-Cookie: ").partition(";")[0]
    client = world.client()
    client.says(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    world.accepts(A)
    assert found(explain(world, "GET", "/", ("Cookie", cookie))) == (
        "queue",
        A,
        "rule 1, by the client's cookie; it is full: the client waits at most 10 seconds for room",
    )


# Schedulers of other packages.


class Plugin:
    """A scheduler that returns the result of `answers`."""

    name = "theirs"

    def __init__(self, answers: Callable[[Any, Request], Any], unit: str = interfaces.CONNECTION) -> None:
        self.unit = unit
        self._answers = answers

    def bind(self, service: Any, previous: Any) -> Any:
        return Bound(service, self._answers)


class Bound:
    def __init__(self, service: Any, answers: Callable[[Any, Request], Any]) -> None:
        self.service = service
        self._answers = answers

    def choose(self, request: Request) -> Any:
        return self._answers(self.service.destinations, request)


Theirs = Callable[..., World]


@pytest.fixture
def theirs(make: Make) -> Theirs:
    """Makes a service of A and B with such a scheduler."""

    def new(answers: Callable[[Any, Request], Any], *lines: str, settings: str = "", plugin: type = Plugin) -> World:
        world = make("scheduler = wlc", settings=settings)
        world.director.schedulers().known["theirs"] = plugin(answers)
        world.load("scheduler = theirs", f"server = {A}", f"server = {B}", *lines, settings=settings)
        return world

    return new


def test_a_choice_that_comes_later(theirs: Theirs) -> None:
    later: list[Deferred[Any]] = []

    def answers(servers: Any, request: Request) -> Any:
        later.append(Deferred())
        return later[-1].addCallback(lambda place: Choice(servers[place], "thought about it"))

    world = theirs(answers)
    outcome = asked(world)
    world.passes(1)
    assert outcome == []
    later[0].callback(1)
    assert found(outcome[0]) == ("server", B, "thought about it")


def test_a_choice_that_a_coroutine_makes(theirs: Theirs) -> None:
    async def answers(servers: Any, request: Request) -> Any:
        return Choice(servers[0], "awaited")

    assert found(explain(theirs(answers))) == ("server", A, "awaited")


@pytest.mark.parametrize("deaf", [False, True])
def test_a_choice_that_does_not_come(theirs: Theirs, deaf: bool) -> None:
    def answers(servers: Any, request: Request) -> Any:
        never: Deferred[Any] = Deferred(lambda it: it.callback(Deferred()) if deaf else None)
        return never

    world = theirs(answers, "fallback = rr", settings="choose_timeout = 3")
    outcome = asked(world)
    world.passes(2)
    assert outcome == []
    world.passes(1)
    reason = "fallback rr, since the scheduler took more than 3 seconds: next in turn of 2 servers"
    assert found(outcome[0]) == ("server", A, reason)


def test_a_choice_that_does_not_come_and_no_fallback(theirs: Theirs) -> None:
    world = theirs(lambda servers, request: Deferred(), "fallback = none", f"redirect = {C}")
    outcome = asked(world)
    world.passes(2)
    assert found(outcome[0]) == ("redirect", C, "redirect, since no server was found")
    world.load("scheduler = theirs", f"server = {A}", "fallback = none")
    outcome = asked(world)
    world.passes(2)
    why = "the scheduler took more than 2 seconds: the connection is closed"
    assert found(outcome[0]) == ("nobody", None, why)


def broken(servers: Any, request: Request) -> Any:
    raise ZeroDivisionError("x")


async def broken_later(servers: Any, request: Request) -> Any:
    raise ZeroDivisionError("x")


@pytest.mark.parametrize(
    ("answers", "note"),
    [
        (broken, "scheduler theirs failed: ZeroDivisionError('x')"),
        (broken_later, "scheduler theirs failed: ZeroDivisionError('x')"),
        (lambda servers, request: 7, "scheduler theirs chose 7, which is not a server of this service"),
        (
            lambda servers, request: Choice("nobody", "so"),
            "scheduler theirs chose 'nobody', which is not a server of this service",
        ),
    ],
)
def test_a_scheduler_that_fails(theirs: Theirs, answers: Any, note: str) -> None:
    answer = explain(theirs(answers), None, None)
    assert answer["notes"] == [note]
    reason = "fallback wlc, since the scheduler failed: fewest connections for its weight among 2 servers"
    assert found(answer) == ("server", A, reason)


@implementer(interfaces.IExplains)
class Explaining(Bound):
    def explain(self, request: Request) -> Any:
        if request.client == "192.0.2.66":
            raise ZeroDivisionError("x")
        if request.client == "192.0.2.67":
            return None
        return Considered(((3, "odd", "it is odd"),), ("a note",), self.service.destinations[:1])


class ExplainingPlugin(Plugin):
    def bind(self, service: Any, previous: Any) -> Any:
        return Explaining(service, self._answers)


def test_a_scheduler_of_other_people_explains_itself(theirs: Theirs) -> None:
    world = theirs(lambda servers, request: Choice(servers[0], "always"), plugin=ExplainingPlugin)
    answer = explain(world, None, None)
    assert (tried(answer), answer["notes"], states(answer)) == ([(3, "odd", "it is odd")], ["a note"], {A: "up"})
    assert found(answer) == ("server", A, "always")


@pytest.mark.parametrize(
    ("client", "why"), [("192.0.2.66", "ZeroDivisionError('x')"), ("192.0.2.67", "TypeError('None is not Considered')")]
)
def test_one_that_cannot_explain_itself_is_asked_all_the_same(theirs: Theirs, client: str, why: str) -> None:
    world = theirs(lambda servers, request: Choice(servers[0], "always"), plugin=ExplainingPlugin)
    answer = explain(world, None, None, client=client)
    assert answer["notes"] == [f"scheduler theirs cannot explain itself: {why}"]
    assert states(answer) == {A: "up", B: "up"}
    assert found(answer) == ("server", A, "always")


def test_one_that_cannot_be_bound_any_more_is_a_refusal(theirs: Theirs) -> None:
    world = theirs(lambda servers, request: None)
    world.director.schedulers()  # its plugin is gone
    with pytest.raises(Refusal, match="no scheduler 'theirs'"):
        explain(world)
