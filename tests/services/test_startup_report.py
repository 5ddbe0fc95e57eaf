"""The lines of the log when a daemon begins to serve, and when it loads a configuration."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.model.difference import changes_between
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.startup_report import MAX_SERVICES, serving_line, start_lines
from ktcpvs.system.log import EventLog


def director_of(text: str) -> Director:
    director = Director(Context(MemoryReactorClock(), EventLog(), Descriptors(1000)))
    director.submit(parse(text)).addErrback(lambda failure: failure.raiseException())
    return director


def test_an_empty_table_and_services_that_do_not_run() -> None:
    assert list(start_lines(director_of("global { }"))) == [
        "the table has no services: 'tcpvsadm -f FILE --start' loads some",
    ]
    stopped = "".join(f"Virtual s{number} {{ }}\n" for number in range(MAX_SERVICES + 3))
    lines = list(start_lines(director_of(stopped)))
    assert lines[0].startswith("stopped: s0, s1, ")
    assert lines[0].endswith(" and 3 more; 'tcpvsadm --start -i ID' starts one")
    assert lines[1:] == []


def test_who_serves() -> None:
    assert serving_line(0) == "this process serves, without workers"
    assert serving_line(1) == "1 worker serves"
    assert serving_line(4) == "4 workers serve"


def test_a_table_that_nothing_keeps() -> None:
    director = director_of("global { }")
    line = "changes are not kept: no --state; 'ktcpvs --state FILE' has them at its next start"
    assert [*start_lines(director, is_kept=False)] == [*start_lines(director), line]


def test_changes_name_only_what_differs() -> None:
    before = parse("Virtual a { scheduler = wlc }\nVirtual b { server = 10.0.0.1:80 }").apply(Table())
    after = parse("Virtual a { scheduler = rr }\nVirtual b { server = 10.0.0.1:80 }").apply(Table())
    assert changes_between(before, after) == ["service a: scheduler: wlc -> rr"]
    assert changes_between(after, after) == []
