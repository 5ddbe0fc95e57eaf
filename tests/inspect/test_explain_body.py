"""Explanations of requests with a body, for a scheduler that reads bodies and for others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory import World, worlds
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ktcpvs.control.tcpvsadm import input_files
from ktcpvs.control.tcpvsadm.input_files import MAX_BODY_BYTES, read_body
from ktcpvs.errors import BadValue, Refusal
from ktcpvs.inspect.explain import Explainer
from ktcpvs.interfaces import (
    EACH_REQUEST,
    Choice,
    IScheduler,
    ISchedulerFactory,
    Request,
    ServiceView,
)
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.scheduling import MAX_BODY_PREFIX

SERVERS = ("server = 10.0.0.1:80", "server = 10.0.0.2:80")


@implementer(ISchedulerFactory)
class ByBody:
    """Chooses by the first byte of the body, of which it reads four."""

    name = "by-body"
    unit = EACH_REQUEST
    body_prefix = 4

    def bind(self, service: ServiceView, previous: Any) -> Any:
        @implementer(IScheduler)
        class Bound:
            def choose(self, request: Request) -> Choice:
                server = service.destinations[request.body_prefix[:1] == b"b"]
                return Choice(server, f"{request.body_prefix!r} of {request.headers.get('content-length')!r}")

        return Bound()


@pytest.fixture
def make() -> Iterator[Any]:
    with worlds() as make:
        yield make


def explain(world: World, method: str | None, target: str | None, headers: Any, body: bytes) -> dict[str, Any]:
    outcome: list[Any] = []
    work = Explainer(world.director).explain("s", AssumedRequest(method, target, headers, "192.0.2.1", None, body))
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    if not isinstance(outcome[0], dict):
        outcome[0].raiseException()
    return dict(outcome[0])


def test_a_scheduler_sees_as_much_of_the_body_as_in_traffic(make: Any) -> None:
    world = make("scheduler = by-body", *SERVERS, schedulers=(ByBody(),))
    found = explain(world, "PUT", "/", (), b"beginning")
    assert (found["answer"]["server"], found["answer"]["reason"]) == ("10.0.0.2:80", "b'begi' of b'9'")
    assert explain(world, "PUT", "/", (), b"")["answer"]["reason"] == "b'' of None"
    given = explain(world, "PUT", "/", [("content-length", "70")], b"a")
    assert (given["answer"]["server"], given["answer"]["reason"]) == ("10.0.0.1:80", "b'a' of b'70'")


def test_a_body_without_a_request_is_posted(make: Any) -> None:
    found = explain(make("scheduler = phttp", *SERVERS), None, None, (), b"x")
    assert found["request"]["method"] == "POST"
    assert "no request given: POST / is assumed" in found["notes"]
    assert "scheduler phttp reads no bodies: the body is ignored" in found["notes"]


def test_a_scheduler_of_connections_ignores_a_body(make: Any) -> None:
    found = explain(make("scheduler = wlc", *SERVERS), None, None, (), b"x")
    assert "scheduler wlc decides per connection: the request is ignored" in found["notes"]


def test_a_body_that_is_longer_than_a_scheduler_reads_is_refused(make: Any) -> None:
    world = make("scheduler = phttp", *SERVERS)
    explain(world, "POST", "/", (), b"x" * MAX_BODY_PREFIX)
    with pytest.raises(BadValue, match="body: expected at most 1048576 bytes"):
        explain(world, "POST", "/", (), b"x" * (MAX_BODY_PREFIX + 1))


def test_the_command_reads_the_beginning_of_a_file_or_of_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_BODY_BYTES == MAX_BODY_PREFIX
    data = b"\xff\0" * MAX_BODY_BYTES
    (tmp_path / "b").write_bytes(data)
    assert read_body(str(tmp_path / "b")) == data[:MAX_BODY_BYTES]
    stdin = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    monkeypatch.setattr(input_files.sys, "stdin", type("Stdin", (), {"buffer": stdin}))
    assert read_body("-") == data[:MAX_BODY_BYTES]
    with pytest.raises(Refusal, match="No such file or directory"):
        read_body(str(tmp_path / "none"))
