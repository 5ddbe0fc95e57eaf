"""A director runs the part of the table that is for its node, and looks at no other machine's files and addresses."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import free_port
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.errors import CannotListen, NoTLS, Refusal
from ktcpvs.inspect.views import Views
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.language.parser import parse
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.placement import KnownNodes
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.listener import HANDSHAKE_POLL_INTERVAL
from ktcpvs.status.metrics import format_metrics
from ktcpvs.status.summary import summarize
from ktcpvs.system.log import EventLog

A = NodeIdentity("a", frozenset({"edge"}))
B = NodeIdentity("b", frozenset({"core"}))


class LookedUp:
    """A resolver that only notes which names it was asked for."""

    def __init__(self, context: Context, resolved: Callable[[Resolution], Any]) -> None:
        self.names: set[str] = set()

    def follow(self, hosts: set[str], known: Resolution) -> None:
        self.names = set(hosts)

    def stop(self) -> None:
        pass


class Switch:
    """The director of node a, with real listening sockets."""

    def __init__(self, nodes: KnownNodes | None = None) -> None:
        self.reactor = MemoryReactorClock()
        self.saved: list[Table] = []
        context = Context(self.reactor, EventLog(), Descriptors(100), node=A)
        self.resolver: Any = None
        self.director = Director(context, self.save, resolver=self.make_resolver, nodes=lambda: nodes or KnownNodes(A))

    def make_resolver(self, *arguments: Any) -> Any:
        self.resolver = LookedUp(*arguments)
        return self.resolver

    async def save(self, table: Table) -> None:
        self.saved.append(table)

    def do(self, edit: edits.Edit) -> list[str]:
        results: list[Any] = []
        done = self.director.submit(edit).addBoth(results.append)
        self.reactor.advance(HANDSHAKE_POLL_INTERVAL)
        assert done.called
        return self._result(results)

    def _result(self, results: list[Any]) -> list[str]:
        (result,) = results
        if not isinstance(result, list | tuple) and result is not None:
            result.raiseException()
        return list(result or ())

    def adopt(self, adopt: Adopt) -> None:
        results: list[Any] = []
        self.director.between_edits(lambda: self.director.adopt(adopt)).addBoth(results.append)
        self.reactor.advance(HANDSHAKE_POLL_INTERVAL)
        self._result(results)

    def load(self, text: str, start: str = "all") -> list[str]:
        load = parse(text)
        return self.do(edits.Load(load.services, load.settings, start=start))

    def listening(self) -> set[int]:
        return {reader.socket.getsockname()[1] for reader in self.reactor.getReaders()}


@pytest.fixture
def switch() -> Iterator[Switch]:
    one = Switch()
    yield one
    one.director.end()


@pytest.fixture
def node() -> Iterator[Switch]:
    """A node of a cluster with another node, b."""
    one = Switch(KnownNodes(A, {"b": B}, is_alone=False))
    yield one
    one.director.end()


def test_only_what_is_for_this_node_listens(node: Switch) -> None:
    here, there = free_port(), free_port()
    node.load(
        f"""
        Virtual web {{ listen = 127.0.0.1:{here} on a listen = 127.0.0.1:{there} on b }}
        Virtual other {{ listen = 127.0.0.1:{there + 1} on = b server = some.example:80 check = tcp }}
        """
    )
    assert node.listening() == {here}
    assert node.resolver.names == set()
    assert [str(one.address) for one in node.director.table.service("web").listen] == [
        f"127.0.0.1:{here}", f"127.0.0.1:{there}",
    ]  # fmt: skip
    assert node.saved == [node.director.table]
    assert node.director.table.running == {"web", "other"}
    assert list(node.director.services) == ["web"]


def test_a_service_that_moves_stops_here_and_one_that_comes_starts(node: Switch) -> None:
    port = free_port()
    node.load(f"Virtual web {{ listen = 127.0.0.1:{port} server = some.example:80 }}")
    assert (node.listening(), node.resolver.names) == ({port}, {"some.example"})
    node.do(edits.EditService("web", {"on": parse("Virtual w { on = label:core }").services["w"].on}))
    assert (node.listening(), node.resolver.names) == (set(), set())
    node.do(edits.EditService("web", {"on": None}))
    assert (node.listening(), node.resolver.names) == ({port}, {"some.example"})


def test_a_listener_that_stays_is_not_touched_when_another_one_moves(node: Switch) -> None:
    one, two = free_port(), free_port()
    node.load(f"Virtual web {{ listen = 127.0.0.1:{one} on a listen = 127.0.0.1:{two} on a }}")
    before = node.director.services["web"].listeners[parse_address(f"127.0.0.1:{one}")]
    node.load(f"Virtual web {{ listen = 127.0.0.1:{one} on a listen = 127.0.0.1:{two} on b }}")
    assert node.listening() == {one}
    assert node.director.services["web"].listeners == {parse_address(f"127.0.0.1:{one}"): before}
    node.do(edits.AddListener("web", parse_address(f"127.0.0.1:{free_port()}"), False, "b"))
    assert node.listening() == {one}


def test_what_another_machine_has_does_not_refuse_an_edit(node: Switch) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        node.load(
            f"""
            Virtual web {{
                listen = 127.0.0.1:{taken} tls
                on = b
                certificate = /none/site.pem
                access_log = /none/log
                error_page = 503 /none/sorry.html
                server = 127.0.0.1:81 tls ca /none/ca.pem
                rule = pattern ".*" use respond 503 file /none/sorry.html
            }}
            """
        )
        node.do(edits.EditService("web", {"access_log": "/none/other"}))
        assert node.listening() == set()
        with pytest.raises(Refusal, match="/none/other"):
            node.do(edits.EditService("web", {"on": None}))
        node.do(edits.EditService("web", {"access_log": "off", "error_page": ()}))
        node.do(edits.DeleteRule("web", ".*"))
        with pytest.raises(NoTLS, match="/none/"):
            node.do(edits.EditService("web", {"on": None}))


def test_tests_run_for_services_of_other_nodes_too(node: Switch) -> None:
    text = 'Virtual web { on = b server = 127.0.0.1:81 test "GET /" -> nobody }'
    with pytest.raises(Refusal, match="fails"):
        node.load(text)


def test_services_on_different_nodes_may_have_one_address(node: Switch) -> None:
    port = free_port()
    node.load(f"Virtual one {{ listen = 127.0.0.1:{port} on a }} Virtual two {{ listen = 127.0.0.1:{port} on b }}")
    assert node.listening() == {port}
    before = node.director.table
    with pytest.raises(CannotListen, match=f"service two: service one listens on 127.0.0.1:{port} too, on a: give one"):
        node.do(edits.EditService("two", {"listen": parse_address(f"127.0.0.1:{port}")}))
    assert node.director.table is before


def test_a_conflict_on_another_node_does_not_keep_this_one_from_following(node: Switch) -> None:
    port = free_port()
    table = parse(
        f"Virtual one {{ listen = 127.0.0.1:{port} on = b }} Virtual two {{ listen = 127.0.0.1:{port} on = b }}"
    )
    adopt = Adopt.between(node.director.table, Table(dict(table.services), frozenset(table.services)))
    assert adopt is not None
    node.adopt(adopt)
    assert node.director.table.running == {"one", "two"}


def test_an_unknown_node_is_a_warning_of_the_edit(node: Switch) -> None:
    port = free_port()
    node.load(f"Virtual web {{ listen = 127.0.0.1:{port} server = 127.0.0.1:81 }}", "nothing")
    listener = parse_address(f"127.0.0.1:{free_port()}")
    assert node.do(edits.AddListener("web", listener, False, "bb")) == [
        f"service web: listen = {listener} on bb: no member of the cluster has this name; did you mean 'b'?"
    ]
    assert node.do(edits.EditService("web", {"maxclients": 3})) == []
    assert node.do(edits.AddListener("web", parse_address("127.0.0.1:9"), False, "b")) == [
        f"service web: listen = {listener} on bb: no member of the cluster has this name; did you mean 'b'?"
    ]


def test_a_switch_in_no_cluster_does_not_run_what_is_for_another_node(switch: Switch) -> None:
    one, two = free_port(), free_port()
    text = f"Virtual web {{ listen = 127.0.0.1:{one} on = b server = 127.0.0.1:81 }}"
    assert switch.load(f"{text} Virtual own {{ listen = 127.0.0.1:{two} on = label:edge server = 127.0.0.1:81 }}") == [
        "service web: it does not run here: on = b, and this switch is in no cluster, and its name is a, its labels "
        "edge (--node, --node-labels)"
    ]
    assert switch.listening() == {two}


def test_views_and_metrics_say_what_is_here(node: Switch) -> None:
    port = free_port()
    node.load(
        f"""
        Virtual web {{ listen = 127.0.0.1:{port} listen = 127.0.0.1:9 on b server = 127.0.0.1:81 }}
        Virtual other {{ on = b server = 127.0.0.1:82 redirect = 127.0.0.1:83 }}
        """
    )
    stats = Views(node.director).stats(None)
    web, other = stats["services"]
    assert (web["running"], web["here"], web["on"]) == (True, True, None)
    assert [(one["on"], one["here"]) for one in web["listeners"]] == [(None, True), ("b", False)]
    assert (other["running"], other["here"], other["on"]) == (True, False, "b")
    assert other["stats"]["relay"] is None
    lines = b"".join(format_metrics(summarize(stats, [], 0.0, 0.0, {}))).decode().splitlines()
    assert 'ktcpvs_service_running{service="web",scheduler="http"} 1' in lines
    assert 'ktcpvs_service_running{service="other",scheduler="http"} 0' in lines
    listeners = [line for line in lines if line.startswith("ktcpvs_service_listener{")]
    assert listeners == [f'ktcpvs_service_listener{{service="web",address="127.0.0.1:{port}",tls="off"}} 1']
    assert {line for line in lines if "127.0.0.1:82" in line or "127.0.0.1:83" in line} == set()
    assert any("127.0.0.1:81" in line for line in lines)
