"""Results with types, made from the views of a switch."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import fields_dict
from memory import A, B, World, answer, get, worlds
from twisted.internet.defer import Deferred

from ktcpvs.control import results
from ktcpvs.control.edit_methods import EditMethods
from ktcpvs.control.typed_client import BlockingClient, Client
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.views import Views
from ktcpvs.model.assumed_request import AssumedRequest


def world_of(make: Any) -> World:
    rules = (f"rule = name a path /a balance wrr use server {A} 95 server {B} 5", "rule = path /b use respond 403")
    world: World = make("scheduler = phttp", f"server = {A} 2 maxconn 5", f"server = {B} backup", *rules)
    return world


def test_services_have_servers_rules_and_counts() -> None:
    with worlds() as make:
        world = world_of(make)
        client = world.client()
        client.says(get())
        world.accepts(A).says(answer())
        client.says(get("/b"))
        data = Views(world.director).view("stats", None)["services"][0]
        service = results.read_service(data)
        assert (service.ident, service.running, service.here, service.scheduler) == ("s", True, True, "phttp")
        assert [listener.listen for listener in service.listeners] == [data["listen"]]
        first, second = service.servers
        assert (first.address, first.weight, first.maxconn, first.health.state) == (A, 2, 5, "up")
        assert (second.priority, second.health.state, second.last_error) == (100, "standby", None)
        assert (first.counts.total, first.counts.answers["2xx"]) == (1, 1)
        assert service.server(B) is second
        with pytest.raises(KeyError, match=r"service s has no server 10\.9\.9\.9:80"):
            service.server("10.9.9.9:80")
        a, b = service.rules
        assert (a.name, a.servers, a.weights, a.action) == ("a", (A, B), (95, 5), None)
        assert (b.pattern, b.action) == ("path /b", "respond 403")
        assert (service.counts.total, service.counts.active) == (1, 1)
        assert service.data["balance"] == "wlc"


def test_a_server_that_has_failed_says_why() -> None:
    with worlds() as make:
        world = world_of(make)
        client = world.client()
        client.says(get())
        world.refuses(A)
        world.connects()
        (server, _) = results.read_service(Views(world.director).view("stats", None)["services"][0]).servers
        assert server.last_error is not None
        assert (server.last_error.reason, server.last_error.in_a_row) == ("Connection was refused by other side", 1)


def test_other_views() -> None:
    with worlds() as make:
        world = world_of(make)
        world.client()
        views = Views(world.director)
        (connection,) = map(results.read_connection, views.view("connections", None))
        assert (connection.service, connection.client, connection.state) == (
            "s", "192.0.2.1:4711", "waiting for a request",
        )  # fmt: skip
        assert (connection.server, connection.worker) == (None, None)
        settings = {one.name: one for one in map(results.read_setting, views.view("settings", None))}
        assert (settings["read_timeout"].value, settings["read_timeout"].highest) == (180, 86400)
        explained: list[Any] = []
        found = Explainer(world.director).explain("s", AssumedRequest("GET", "/b", [("Host", "h")], "192.0.2.1"))
        Deferred.fromCoroutine(found).addCallback(explained.append)  # type: ignore[arg-type]
        explanation = results.read_explanation(explained[0])
        assert (explanation.outcome, explanation.server) == ("respond", None)
        assert "respond 403" in explanation.reason
        assert explanation.data["rules"]


def test_fields_of_other_versions() -> None:
    """An older daemon sends less, a newer one more."""
    node = results.read_node({"node": "a", "state": "gone", "errors": ["why"], "new": 7})
    assert (node.node, node.state, node.revision, node.errors) == ("a", "gone", None, ("why",))
    assert node.data["new"] == 7
    counts = results.ServerCounts(total=1)
    assert counts == results.ServerCounts(total=1, data={"total": 1})


def test_both_clients_have_the_same_methods() -> None:
    """Beside edits, which follow from the table of commands for both."""
    edits = {name for name in vars(EditMethods) if not name.startswith("_")}
    own = [{name for name in dir(kind) if not name.startswith("_")} - edits for kind in (Client, BlockingClient)]
    assert own[0] - own[1] == set()
    assert own[1] - own[0] == set()
    assert "switch" not in fields_dict(results.Service)
