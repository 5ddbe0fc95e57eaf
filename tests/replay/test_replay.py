"""Replays of access logs: order, malformed lines, servers as the log knows them, rules, reports."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from access_logs import CONFIGURATION, A, B, C, lines, record

from ktcpvs.control.tcpvsadm.offline_commands import ReplayOptions
from ktcpvs.errors import BadValue, Refusal
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.protocols.access_log import Record
from ktcpvs.replay import log_file
from ktcpvs.replay import replay as replay_module
from ktcpvs.replay.command import replay
from ktcpvs.replay.log_file import LogFile
from ktcpvs.replay.logged_arrival import LoggedArrival
from ktcpvs.replay.logged_servers import LoggedServers
from ktcpvs.replay.replay import Replay, Replayed, choose_service
from ktcpvs.replay.report import as_json, format_text
from ktcpvs.simulation.behaviour import REFUSED


def replayed(
    folder: Path, data: bytes, text: str = CONFIGURATION, scheduler: str | None = None, **more: Any
) -> Replayed:
    (folder / "web.log").write_bytes(data)
    table = parse(text).apply(Table())
    service = choose_service(table, more.pop("ident", None), scheduler, more.pop("balance", None))
    return Replay(table, service, LogFile(str(folder / "web.log")), **more).run()


def test_shares_times_and_errors_as_they_happened_and_as_they_would(tmp_path: Path) -> None:
    log = lines(*[record(number, total=0.1 if number % 4 else 0.3) for number in range(40)])
    found = replayed(tmp_path, log)
    assert found.happened.counts == {A: 40}
    assert found.simulated.counts == {A: 20, B: 20}
    assert found.happened.durations.p50 == pytest.approx(0.1, rel=0.02)
    assert found.simulated.durations.longest == pytest.approx(0.3)
    assert (found.happened.moves.moves, found.simulated.moves.moves) == (0, 39)
    assert (found.began, found.ended) == (1_800_000_000, 1_800_000_039)


def test_another_server_is_as_slow_as_its_last_requests_were(tmp_path: Path) -> None:
    log = [record(number, server=A if number % 2 else B, total=0.1 if number % 2 else 1.0) for number in range(100)]
    found = replayed(tmp_path, lines(*log), text=CONFIGURATION.replace(f"server {A} server {B}", f"server {B}"))
    assert found.simulated.counts == {B: 100}
    assert found.simulated.durations.quantile(0.1) == pytest.approx(1.0, rel=0.05)


def test_a_server_that_failed_requests_fails_them_again_and_others_by_its_rate(tmp_path: Path) -> None:
    log = [
        record(number, server=A, error=f"{B}: refused", retries=1) if number % 2 else record(number, server=A)
        for number in range(200)
    ]
    found = replayed(tmp_path, lines(*log), text=CONFIGURATION.replace("balance = rr", "balance = rr\n    eject = 0"))
    assert found.simulated.counts == {A: 200}
    assert found.retries == found.simulated.failures[B] > 90
    assert found.happened.failures == {B: 100}


def arrival(server: str, status: int = 200, failed_server: str | None = None) -> LoggedArrival:
    """Return a request that took 0.1 s."""
    return LoggedArrival(0.0, "192.0.2.1", seconds=0.1, status=status, server=server, failed_server=failed_server)


def test_errors_stay_with_their_server() -> None:
    servers = LoggedServers(0.1)
    for number in range(64):
        servers.observe(arrival(A, 503 if number % 2 else 200))
        servers.observe(arrival(B))
    own = arrival(A, 503)
    assert servers.outcome(own, A).status == 503
    assert servers.outcome(own, B).status == 200
    foreign = arrival(B)
    statuses = [servers.outcome(foreign, A).status for _ in range(400)]
    assert 150 < statuses.count(503) < 250
    assert servers.outcome(arrival(B, failed_server=C), C).status == REFUSED
    assert servers.outcome(foreign, "10.9.9.9:80").seconds == pytest.approx(0.1)


def test_rules_that_no_request_hits_and_rules_that_a_log_cannot_show(tmp_path: Path) -> None:
    found = replayed(tmp_path, lines(record(0), record(1, "/x"), record(2, "/shop/2")))
    assert found.rules == {"1 'shop'": 2, "2 'beta'": 0, "3 'old'": 0, "4 'shopping'": 1}
    assert found.unseen == ("beta",)
    text = format_text(found, 80)
    assert "rule 3 'old': no request" in text
    assert "rule 'beta': it looks at what a log does not have" in text
    assert "rule 2 'beta': no request" not in text
    seen = replayed(tmp_path, lines(record(1, "/x")), headers=b"X-Beta: 1\r\n")
    assert seen.rules["2 'beta'"] == 1
    assert seen.unseen == ()


def test_requests_wait_for_maxconn(tmp_path: Path) -> None:
    text = CONFIGURATION.replace(f"server = {A}", f"server = {A} 1 maxconn 1").replace(
        f"server = {B}", f"server = {B} 1 maxconn 1"
    )
    found = replayed(tmp_path, lines(*[record(number / 100, total=1.0) for number in range(10)]), text=text)
    assert found.queued == 8
    assert found.peaks == {A: 1, B: 1}
    assert found.waits.longest == pytest.approx(4 - 0.09, abs=0.05)


def test_the_order_is_that_of_the_beginnings(tmp_path: Path) -> None:
    log = lines(record(5, total=0.1), record(0, total=6.0), record(6, total=0.1))
    (tmp_path / "l").write_bytes(log)
    assert [one.began - 1_800_000_000 for one in LogFile(str(tmp_path / "l")).requests()] == [0, 5, 6]


def test_only_so_many_lines_are_held_for_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "MAX_REORDERED", 2)
    (tmp_path / "l").write_bytes(lines(*[record(at) for at in (3, 4, 5, 1, 2)]))
    log = LogFile(str(tmp_path / "l"))
    assert [one.began - 1_800_000_000 for one in log.requests()] == [3, 1, 2, 4, 5]
    assert log.late == 2


def test_malformed_lines_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    long = b"{" + b"x" * (log_file.MAX_LINE_BYTES + 10) + b"\n"
    log = (
        lines(record(0)) + b"garbage\n\n" + long + b'{"time": 1}\n' + lines(record(1))[:-40] + b"\n" + lines(record(2))
    )
    found = replayed(tmp_path, log)
    assert (found.log.malformed, found.simulated.requests) == (4, 2)
    assert found.log.first_malformed == (2, "neither the combined format nor a JSON object")
    assert "malformed lines: 4, the first is line 2: neither" in format_text(found)


@pytest.mark.parametrize("form", ["json", "combined"])
def test_a_compressed_log_is_read_as_it_is(tmp_path: Path, form: str) -> None:
    data = lines(*[record(number) for number in range(20)], form=form)
    plain, packed = (replayed(tmp_path, one, scheduler="rr") for one in (data, gzip.compress(data)))
    assert plain.simulated.counts == packed.simulated.counts == {A: 10, B: 10}
    assert (form == "combined") == (not plain.happened.counts)
    assert ("the log has no times" in format_text(plain)) == (form == "combined")


def test_a_damaged_archive_names_the_line(tmp_path: Path) -> None:
    data = gzip.compress(lines(*[record(number) for number in range(500)]))
    with pytest.raises(Refusal, match=r"web\.log: damaged after line \d+: "):
        replayed(tmp_path, data[: len(data) // 2])


def test_a_log_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BufferedReader(io.BytesIO(lines(record(0), record(1))))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": data}))
    assert len(list(LogFile("-").requests())) == 2


def test_lines_of_other_services_and_without_requests_are_passed_over(tmp_path: Path) -> None:
    whole = Record("192.0.2.1", 1_800_000_001.0, server=A, reason="any", connect=0.1, total=5.0)
    bad = record(2, server=None, status=400, reason=None)
    log = lines(record(0)) + lines(record(1), service="other") + lines(whole, bad)
    found = replayed(tmp_path, log, ident="web", only="web")
    assert found.skipped == {
        "of other services": 1,
        "without a request": 1,
        "refused before a server was chosen": 1,
    }
    assert found.simulated.requests == 1
    by_connection = replayed(tmp_path, log, scheduler="wlc")
    assert by_connection.simulated.requests == 3


def test_a_log_without_anything_to_replay_is_refused(tmp_path: Path) -> None:
    whole = Record("192.0.2.1", 1_800_000_001.0, server=A, reason="any", connect=0.1, total=5.0)
    for data, why in (
        (b"", "there are no lines"),
        (b"x\ny\n", "no line is one of an access log; line 1: neither"),
        (lines(whole), "1 without a request.*use a scheduler such as wlc"),
    ):
        with pytest.raises(Refusal, match=why):
            replayed(tmp_path, data)
    with pytest.raises(Refusal, match="No such file"):
        list(LogFile(str(tmp_path / "none")).requests())


def test_the_service_is_the_only_one_or_that_of_the_name() -> None:
    table = parse(CONFIGURATION + CONFIGURATION.replace("web", "other").replace("8080", "8081")).apply(Table())
    assert choose_service(table, "other", "wlc", None).scheduler == "wlc"
    with pytest.raises(BadValue, match="give the service with -i; there are: web, other"):
        choose_service(table, None, None, None)
    with pytest.raises(BadValue, match="no service 'wbe'; did you mean 'web'"):
        choose_service(table, "wbe", None, None)


def test_a_session_cookie_is_kept_by_a_client(tmp_path: Path) -> None:
    log = lines(*[record(number, client=f"192.0.2.{number % 5}") for number in range(50)])
    assert replayed(tmp_path, log, scheduler="chttp").simulated.moves.moves == 0
    assert replayed(tmp_path, log).simulated.moves.moves > 20


def test_the_report_fits_a_terminal_and_json_has_all_of_it(tmp_path: Path) -> None:
    log = lines(*[record(number, server=A if number % 3 else C, total=0.02) for number in range(90)])
    found = replayed(tmp_path, log)
    text = format_text(found, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert any(line.startswith(C) and "33.3%" in line for line in text.splitlines())
    values = json.loads(json.dumps(as_json(found)))
    assert values["replayed"]["requests"] == values["happened"]["requests"] == 90
    assert [server["configured"] for server in values["servers"]] == [True, True, False]
    assert values["servers"][0]["happened"]["p50"] == pytest.approx(0.02, rel=0.02)
    assert values["rules"][1] == {"rule": "2 'beta'", "requests": 0, "seen": False}


def test_the_command_warns_of_names_and_refuses_headers_with_line_ends(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(lines(record(0)))
    warned: list[str] = []
    text = CONFIGURATION.replace("server = 10.0.0.1:80", "server = 10.0.0.1:80\n    server = app.example:80")
    options = ReplayOptions(str(tmp_path / "l"), text, "x.conf", is_json=True)
    assert json.loads(replay(options, warned.append))["replayed"]["requests"] == 1
    assert warned == ["server app.example:80 is one server here, at no address of the log: names are not looked up"]
    with pytest.raises(BadValue, match="contains a line end"):
        replay(
            ReplayOptions(str(tmp_path / "l"), CONFIGURATION, "x.conf", headers=(("A", "b\r\nC: d"),)), warned.append
        )


def test_a_file_that_is_no_log_is_named_as_such_even_with_empty_lines(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no line is one of an access log; line 1: neither the combined format"):
        replayed(tmp_path, b"\x7fELF\0\n\n \nmore\n")


def test_few_long_lines_are_held_for_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "/" + "x" * 1000
    log = lines(*[record(at, long) for at in (3, 4, 5, 1, 2)])
    monkeypatch.setattr(log_file, "MAX_REORDERED_BYTES", 2 * len(log) // 5)
    (tmp_path / "l").write_bytes(log)
    assert [one.began - 1_800_000_000 for one in LogFile(str(tmp_path / "l")).requests()] == [3, 1, 2, 4, 5]


def test_memory_does_not_grow_with_the_lengths_of_lines(tmp_path: Path) -> None:
    """As much is held of 600 lines of 200 KB as of 300."""
    with (tmp_path / "l").open("wb") as file:
        for number in range(600):
            head = f"Host: a\r\nReferer: {number:090000}\r\nUser-Agent: {number:090000}\r\n".encode()
            file.write(lines(record(number, f"/{number:020000}", lines=head)))
    tracemalloc.start()
    try:
        table = parse(CONFIGURATION).apply(Table())
        found = Replay(table, choose_service(table, None, None, None), LogFile(str(tmp_path / "l"))).run()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.simulated.requests == 600
    assert most < 2.5 * log_file.MAX_REORDERED_BYTES


def test_a_log_with_absurd_times_ends_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_BYTES_AT_ONCE", 10 * replay_module.REQUEST_BYTES)
    enough = lines(*[record(number, total=2.0) for number in range(200)])
    assert replayed(tmp_path, enough).simulated.requests == 200
    with pytest.raises(Refusal, match=r"web\.log: near line 20: requests of more than 0 MiB are in progress at once"):
        replayed(tmp_path, lines(*[record(number, total=1e6) for number in range(20)]))
