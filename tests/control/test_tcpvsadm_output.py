"""The output of tcpvsadm: the daemon's answers as text, and that this text can be read back."""

from __future__ import annotations

import json
import socket
import time
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.control.tcpvsadm import addresses, output
from ktcpvs.model.address import parse_address
from ktcpvs.model.describe import configuration, describe_service
from ktcpvs.model.language.parser import parse
from ktcpvs.model.scheduling import CONNECTION, EACH_REQUEST
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.system.names import service_port


def text(block: str) -> str:
    return dedent(block).lstrip("\n")


CONFIGURATION = text(r"""
    Virtual web {
        listen = 127.0.0.1:8080
        maxclients = 5
        redirect = localhost:81
        server = 10.0.0.1:80 1 maxconn 99
        server = [2001:db8::1]:8080 0
        rule = pattern "/images/([^/]+)/.*" match 1 use server 10.0.0.1:80
        rule = pattern "\\\"quoted\" # {" use server 10.0.0.1:80 server [2001:db8::1]:8080
    }
    Virtual sön {
        listen = "unix:/run/a b.sock"
        scheduler = wlc
        startservers = 8
    }
    """)


def services() -> list[dict[str, Any]]:
    """The configuration's services as the daemon describes them; the first one runs."""
    described = [describe_service(service) for service in parse(CONFIGURATION).services.values()]
    return [{**service, "running": index == 0} for index, service in enumerate(described)]


def table() -> dict[str, Any]:
    return {"version": "1.2.3", "services": services(), "settings": Settings().described()}


def stats(n: int) -> dict[str, Any]:
    """`table` with counters, each of them different; the greater n, the greater they are."""

    def counters(first: int, *more: str) -> dict[str, int]:
        return {name: n * (first + i) for i, name in enumerate(("active", "total", "bytes_in", "bytes_out", *more))}

    answer, of_server = table(), ("failures", "kept", "reused")
    for index, service in enumerate(answer["services"]):
        joined = {"copy": 0, "splice": 0, "kernel": 0}
        relay = {"in_use": "kernel", "why": "", "joined": joined} if service["running"] else None
        away = {"denied": 0 if service["running"] else n + 1, "limited": 0}
        service["stats"] = {**counters(100 * index + 10, "refused", "queued"), **away, "relay": relay}
        for number, server in enumerate(service["servers"]):
            server["stats"] = counters(100 * index + 20 + 10 * number, *of_server)
        if service["redirect"] is not None:
            service["redirect_stats"] = counters(100 * index + 50, *of_server)
    return answer


# --list, --save


def test_list() -> None:
    assert output.format_table(table()) == text(r"""
        TCP Virtual Server version 1.2.3

        Virtual web {
            # running
            listen = 127.0.0.1:8080
            scheduler = http
            maxclients = 5
            redirect = localhost:81
            server = 10.0.0.1:80 1 maxconn 99
            server = [2001:db8::1]:8080 0
            rule = pattern "/images/([^/]+)/.*" match 1 use server 10.0.0.1:80
            rule = pattern "\\\"quoted\" # {" use server 10.0.0.1:80
            rule = pattern "\\\"quoted\" # {" use server [2001:db8::1]:8080
        }

        Virtual sön {
            # stopped
            listen = "unix:/run/a b.sock"
            scheduler = wlc
            startservers = 8
        }
        """)


def test_list_of_an_empty_table() -> None:
    assert output.format_table({**table(), "services": []}) == "TCP Virtual Server version 1.2.3\n"


def test_list_says_which_rule_is_tried_last() -> None:
    line = '    # rule pattern ".*" is a default rule: it is tried last, behind those below it\n'
    for rules, is_said in (
        ((".*", "path /a"), True), (("path /a", ".*"), False), ((".*", "^/.*"), False), (("path /a",), False)
    ):  # fmt: skip
        written = "".join(f"rule = {one if ' ' in one else f'pattern {one}'} use respond 403\n" for one in rules)
        services = configuration(parse(f"Virtual web {{\n{written}}}").apply(Table()))[0]
        shown = output.format_table({**table(), "services": [{**services[0], "running": True}]})
        assert (line in shown) is is_said, rules


def test_list_formats_addresses_with_the_given_function() -> None:
    shown = output.format_table(table(), lambda address: address.replace(":80", ":web").replace(":81", ":sorry"))
    assert (
        "    redirect = localhost:sorry\n    server = 10.0.0.1:web 1 maxconn 99\n    server = [2001:db8::1]:web80 0\n"
        in shown
    )
    assert 'match 1 use server 10.0.0.1:web\n    rule = pattern "\\\\\\"quoted' in shown


@pytest.mark.parametrize("address", [str, addresses.with_port_name], ids=["as configured", "named"])
def test_list_reads_back_to_the_same_services(address: Any) -> None:
    assert parse(output.format_table(table(), address), port_named=service_port) == parse(CONFIGURATION)


def test_save_reads_back_to_the_same_services_and_settings() -> None:
    settings = Settings(debug_level=3, read_timeout=0)
    saved = output.format_configuration({**table(), "settings": settings.described()})
    assert saved.startswith("global {\n    debug_level = 3\n    read_timeout = 0\n}\n\nVirtual web {\n    listen = ")
    assert parse(saved).services == parse(CONFIGURATION).services
    assert parse(saved).settings == settings


def test_save_of_an_empty_table() -> None:
    assert output.format_configuration({**table(), "services": []}) == ""


# Counters.


def test_stats() -> None:
    assert output.format_stats(stats(1000)) == text("""
        TCP Virtual Server version 1.2.3
        Service                  State     Scheduler  Active   Total  Refused  Queued    Reqs  InBytes  OutBytes
          -> Server              Weight    MaxConn    Active   Total   Failed    Kept  Reused  InBytes  OutBytes
        web                      running   http        10000   11000    14000   15000       -    12000     13000
          relay kernel
          -> 10.0.0.1:80         1         99          20000   21000    24000   25000   26000    22000     23000
          -> [2001:db8::1]:8080  0         -           30000   31000    34000   35000   36000    32000     33000
          -> localhost:81        redirect              50000   51000    54000   55000   56000    52000     53000
        sön                      stopped   wlc        110000  111000   114000  115000       -   112000    113000
          rejected: denied 1001
        """)


def test_stats_say_why_a_service_has_another_relay() -> None:
    answer = stats(1)
    relay = answer["services"][0]["stats"]["relay"]
    relay.update(in_use="copy", why="kernel: needs CAP_BPF and CAP_NET_ADMIN")
    line = "  relay copy (kernel: needs CAP_BPF and CAP_NET_ADMIN)\n"
    assert output.format_stats(answer) == output.format_stats(stats(1)).replace("  relay kernel\n", line)


def test_stats_count_the_connections_of_each_relay() -> None:
    answer = stats(1)
    answer["services"][0]["stats"]["relay"]["joined"] = {"copy": 3, "splice": 0, "kernel": 20}
    line = "  relay kernel; connections: copy 3, kernel 20\n"
    assert output.format_stats(answer) == output.format_stats(stats(1)).replace("  relay kernel\n", line)


def test_rate() -> None:
    """Two reads, half a second apart."""
    assert output.format_rates(output.compute_rates(stats(1), stats(3), 0.5)) == text("""
        TCP Virtual Server version 1.2.3
        Service                  State     Scheduler  Conns/s  Reqs/s  InBytes/s  OutBytes/s
          -> Server              Weight    MaxConn    Conns/s          InBytes/s  OutBytes/s
        web                      running   http            44       -         48          52
          -> 10.0.0.1:80         1         99              84                 88          92
          -> [2001:db8::1]:8080  0         -              124                128         132
          -> localhost:81        redirect                 204                208         212
        sön                      stopped   wlc            444       -        448         452
        """)


def test_the_counters_of_a_small_service_fit_into_100_columns() -> None:
    answer = stats(1)
    answer["services"][0]["servers"][1]["address"] = "127.0.0.1:8001"
    assert max(map(len, output.format_stats(answer).splitlines())) <= 100


def test_rates_of_an_idle_second_say_so() -> None:
    idle = output.compute_rates(stats(1), stats(1), 1.0)
    assert output.format_rates(idle).endswith("\n" + output.NOTHING_PASSED)
    assert output.NOTHING_PASSED not in output.format_rates({**idle, "services": []})
    assert output.NOTHING_PASSED not in output.format_rates(output.compute_rates(stats(1), stats(2), 1.0))


def test_a_service_that_responds_itself_shows_its_requests() -> None:
    """Its clients keep their connections, and no server gets anything."""
    before, after = stats(1), stats(1)
    for answer, requests in ((before, 7), (after, 67)):
        answer["services"] = answer["services"][:1]
        answer["services"][0]["unit"] = EACH_REQUEST
        answer["services"][0]["stats"]["requests"] = requests
    counted = output.format_stats(after).splitlines()[3].split()
    assert counted == ["web", "running", "http", "10", "11", "14", "15", "67", "12", "13"]
    shown = output.format_rates(output.compute_rates(before, after, 2.0))
    assert shown.splitlines()[3].split() == ["web", "running", "http", "0", "30", "0", "0"]
    assert output.NOTHING_PASSED not in shown


def test_rates_name_the_services_whose_servers_get_single_requests() -> None:
    before, after = stats(1), stats(2)
    for answer in (before, after):
        for service in answer["services"]:
            service["unit"] = EACH_REQUEST
    line = "\nConns/s of the servers of {} are requests\n"
    assert output.format_rates(output.compute_rates(before, after, 1.0)).endswith(line.format("web, sön"))
    after["services"][0]["unit"] = CONNECTION
    assert output.format_rates(output.compute_rates(before, after, 1.0)).endswith(line.format("sön"))
    one = output.compute_rates(before, after, 1.0)
    many = output.format_rates({**one, "services": one["services"][1:] * 7})
    assert many.endswith(line.format("sön, sön, sön, sön, sön and 2 more"))


@pytest.mark.parametrize(("state", "label"), [("up", "check"), ("ejected", "last check")])
def test_the_response_of_a_check_of_before_the_server_went_away_is_its_last(state: str, label: str) -> None:
    answer = stats(1)
    health = {"state": state, "since": 0, "reason": "3 failures", "until": None, "weight": 1}
    answer["services"][0]["servers"][0] |= {"health": health, "check_response": "HTTP/1.1 200 OK"}
    assert f"\n     {label}: HTTP/1.1 200 OK\n" in output.format_stats(answer)


def test_redirects_are_no_refusals() -> None:
    answer = stats(0)
    answer["services"][0]["stats"] |= {"redirected": {"308": 7}, "refusals": {"400": 1}, "responses": {}}
    assert "\n  redirected: 308 7\n  refused: 400 1\n" in output.format_stats(answer)
    assert "broken" not in output.format_stats(answer)


def test_broken_responses_have_a_line() -> None:
    answer = stats(0)
    answer["services"][0]["stats"]["broken_responses"] = 40
    assert "\n  broken responses: 40\n" in output.format_stats(answer)


def test_rates_in_json_have_no_counters() -> None:
    web, other = output.compute_rates(stats(1), stats(3), 2.0)["services"]
    assert web["rate"] == {"connections": 11, "bytes_in": 12, "bytes_out": 13}
    assert web["servers"][1] == {
        "address": "[2001:db8::1]:8080",
        "weight": 0,
        "maxconn": 0,
        "tls": None,
        "h2": False,
        "proxy": "off",
        "priority": 0,
        "mode": "ready",
        "check": None,
        "max_pending": 0,
        "start": None,
        "labels": {},
        "rate": {"connections": 31, "bytes_in": 32, "bytes_out": 33},
    }
    assert web["redirect_rate"] == {"connections": 51, "bytes_in": 52, "bytes_out": 53}
    assert not {"stats", "redirect_stats"} & (web.keys() | other.keys())
    assert "redirect_rate" not in other


def test_rate_of_new_counters() -> None:
    """Those of a new service, a new server and another redirect began at 0."""
    before, after = stats(1), stats(3)
    del before["services"][1], before["services"][0]["servers"][0]
    before["services"][0]["redirect"] = "localhost:82"
    web, other = output.compute_rates(before, after, 1.0)["services"]
    assert other["rate"]["connections"] == 3 * 111
    assert [server["rate"]["connections"] for server in web["servers"]] == [3 * 21, 2 * 31]
    assert web["redirect_rate"]["connections"] == 3 * 51


def test_rate_of_deleted_and_reset_counters() -> None:
    before, after = stats(3), stats(1)
    del after["services"][1]
    (web,) = output.compute_rates(before, after, 1.0)["services"]
    assert web["rate"] == {"connections": 0, "bytes_in": 0, "bytes_out": 0}


def test_rates_are_rounded_to_whole_numbers() -> None:
    (web, _) = output.compute_rates(stats(0), stats(1), 1.007)["services"]
    assert web["rate"] == {"connections": 11, "bytes_in": 12, "bytes_out": 13}


# Other views.


def test_connections() -> None:
    relayed = {
        "id": "2-5f3a9c01",
        "service": "web",
        "client": "192.0.2.7:50000",
        "server": "10.0.0.1:80",
        "state": "relaying",
    }
    waiting = {"service": "sön", "client": "unix\n", "server": None, "state": "reading head"}
    answer = [
        {**relayed, "age": 75.0, "idle": 3, "bytes_in": 1234567, "bytes_out": 8, "reason": "least loaded"},
        {**waiting, "age": 0, "idle": 0, "bytes_in": 0, "bytes_out": 0, "reason": None},
    ]
    assert output.format_connections(answer, lambda address: address.replace(":80", ":http")) == text(r"""
        ID          Service  Client           Server         State         Age  Idle  InBytes  OutBytes
        2-5f3a9c01  web      192.0.2.7:50000  10.0.0.1:http  relaying       75     3  1234567         8
        -           sön      unix\n           -              reading head    0     0        0         0
        """)


def test_no_connections() -> None:
    assert output.format_connections([]) == "ID  Service  Client  Server  State  Age  Idle  InBytes  OutBytes\n"


SCHEDULERS = [
    {"name": "http", "unit": "FIRST_REQUEST", "module": "a.http", "summary": "By rules.", "services": 12},
    {"name": "wlc", "unit": "CONNECTION", "module": "b", "summary": "", "services": 0},
]


CERTIFICATE = {
    "use": "certificate", "path": "/live/shop", "file": "/live/shop/fullchain.pem",
    "names": ["shop.example", "*.shop.example"],
    "subject": "shop.example", "issuer": "R11", "kind": "ECDSA", "not_before": 1790000000.0, "not_after": 1797776000.0,
    "left": 0.7168, "services": ["shop", "beta"], "error": "", "warning": "",
}  # fmt: skip


def test_certificates() -> None:
    ca = {
        "use": "ca",
        "path": "/ca.pem",
        "file": "/ca.pem",
        "names": [],
        "subject": "Staff",
        "issuer": "",
        "kind": "CA",
    }
    unread = {"names": [], "subject": "", "issuer": "", "kind": "", "not_after": None, "left": None, "file": "/b.pem"}
    assert output.format_certificates([CERTIFICATE, {**CERTIFICATE, **ca}, {**CERTIFICATE, **unread}]) == text("""
        Names                         Issuer  Expires           Left  Key    Used by     File
        shop.example, *.shop.example  R11     2026-12-20 14:13   72%  ECDSA  shop, beta  /live/shop/fullchain.pem
        Staff                         -       2026-12-20 14:13   72%  CA     shop, beta  /ca.pem
        -                             -       -                    -  -      shop, beta  /b.pem
        """)
    assert output.format_certificates([]) == "Names  Issuer  Expires  Left  Key  Used by  File\n"


def test_certificates_with_something_wrong() -> None:
    expires, broken = {"warning": "/a.pem: it expires"}, {"error": "/a.pem: no key"}
    unread = {"error": "/b.pem: No such file or directory", "not_after": None}
    shown = output.format_certificates([{**CERTIFICATE, **expires, **broken}, {**CERTIFICATE, **unread}])
    assert shown.split("\n\n")[1] == (
        "/a.pem: no key; what was read before stays in use\n/b.pem: No such file or directory\n/a.pem: it expires\n"
    )


def test_certificates_that_the_switch_obtains_say_what_is_due() -> None:
    orders = [
        {"names": [name], "state": state, "next": due, "error": "no"}
        for name, state, due in (
            ("a", "ordering", 1897000000.0),
            ("b", "waiting", None),
            ("c", "valid", 1897000000.0),
            ("d", "failed", 1897000000.0),
        )
    ]
    shown = output.format_certificates([{**CERTIFICATE, "acme": order} for order in orders])
    assert shown.split("\n\n")[1] == text("""
        acme a: an order is in progress
        acme b: to be ordered now
        acme c: to be renewed on 2030-02-11 00:26:40 UTC
        acme d: failed: no; next attempt on 2030-02-11 00:26:40 UTC
        """)


def test_schedulers() -> None:
    assert output.format_schedulers({"schedulers": SCHEDULERS, "broken": []}) == text("""
        Scheduler  Decides        Services  Module  Summary
        http       first request        12  a.http  By rules.
        wlc        connection            0  b
        """)


def test_schedulers_that_could_not_be_loaded() -> None:
    broken = [{"module": "/plugins/mine.py", "error": "invalid syntax\n(mine.py, line 1)"}]
    assert output.format_schedulers({"schedulers": SCHEDULERS[:1], "broken": broken}) == text(r"""
        Scheduler  Decides        Services  Module  Summary
        http       first request        12  a.http  By rules.

        Not loaded:
          /plugins/mine.py: invalid syntax\n(mine.py, line 1)
        """)


REQUEST = {
    "client": "192.0.2.7",
    "method": "GET",
    "target": "http://h/a?b",
    "path": "/a?b",
    "headers": [{"name": "Host", "value": "h"}, {"name": "X", "value": "a\x1b"}],
}
EXPLAINED: dict[str, Any] = {
    "service": "web",
    "running": True,
    "scheduler": "chttp",
    "unit": "EACH_REQUEST",
    "request": REQUEST,
    "rules": [
        {"number": 2, "pattern": "^/images/", "why": "does not match"},
        {"number": 10, "pattern": "/a", "why": "matches"},
    ],
    "servers": [
        {"address": "10.0.0.1:80", "state": "up", "active": 3, "weight": 1, "maxconn": 0},
        {"address": "[2001:db8::1]:80", "state": "quiesced", "active": 0, "weight": 0, "maxconn": 100},
    ],
    "notes": ["no cookie KTCPVS_SID"],
    "answer": {"outcome": "server", "server": "10.0.0.1:80", "reason": "rule 10 '/a', a new session"},
}


def test_explain() -> None:
    assert output.format_explanation(EXPLAINED) == text(r"""
        Service web, running: scheduler chttp (each request)
        Request: GET http://h/a?b, from 192.0.2.7
          Host: h
          X: a\x1b
          matched against rules as /a?b

        Rules tried:
           2  ^/images/  does not match
          10  /a         matches

        Servers considered:
          Server            State     Active  Weight  MaxConn
          10.0.0.1:80       up             3       1        -
          [2001:db8::1]:80  quiesced       0       0      100

        Notes:
          no cookie KTCPVS_SID

        Answer: 10.0.0.1:80
          rule 10 '/a', a new session
        """)


def test_explain_of_a_connection() -> None:
    request = {"client": "::1", "method": None, "target": None, "path": None, "headers": []}
    nobody = {"outcome": "nobody", "server": None, "reason": "no server for this request: the connection is closed"}
    answer = {**EXPLAINED, "running": False, "scheduler": "wlc", "unit": "CONNECTION", "request": request}
    assert output.format_explanation({**answer, "rules": [], "servers": [], "notes": [], "answer": nobody}) == text("""
        Service web, stopped: scheduler wlc (connection)
        Request: a connection, from ::1

        No server is considered.

        Answer: no server
          no server for this request: the connection is closed
        """)


def test_a_server_of_an_explanation_that_has_failed() -> None:
    servers = [{**EXPLAINED["servers"][0], "last_error": "TLS: certificate has expired\n"}, *EXPLAINED["servers"][1:]]
    said = output.format_explanation({**EXPLAINED, "servers": servers}).splitlines()
    assert said[said.index("Notes:") - 2] == "  10.0.0.1:80 has failed: TLS: certificate has expired\\n"


def test_an_ejected_server_of_an_explanation_says_once_why() -> None:
    first, *others = EXPLAINED["servers"]
    reason = "in 1 of 2 workers: 5 consecutive errors, the last: refused; ejected for 10 s"
    ejected = {**first, "state": "ejected", "ejected": reason, "last_error": "refused"}
    said = output.format_explanation({**EXPLAINED, "servers": [ejected, *others]})
    assert f"\n  10.0.0.1:80 is ejected: {reason}\n" in said
    assert "has failed" not in said


@pytest.mark.parametrize(("in_a_row", "is_shown"), [(0, False), (2, True)])
def test_the_last_error_of_a_server(in_a_row: int, is_shown: bool) -> None:
    answer = stats(1)
    before = output.format_stats(answer, str).splitlines()
    answer["services"][0]["servers"][0]["last_error"] = {"at": 0.0, "reason": "TLS: no\n", "in_a_row": in_a_row}
    added = [line for line in output.format_stats(answer, str).splitlines() if line not in before]
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(0))
    assert added == ([f"     failed at {at}: TLS: no\\n"] if is_shown else [])


@pytest.mark.parametrize(
    ("outcome", "server", "said"),
    [
        ("server", "10.0.0.1:80", "10.0.0.1:80"),
        ("redirect", "10.0.0.2:80", "redirect to 10.0.0.2:80"),
        ("queue", "10.0.0.1:80", "queued for 10.0.0.1:80"),
        ("queue", None, "queued for a server"),
        ("nobody", None, "no server"),
    ],
)
def test_the_outcomes_of_an_explanation(outcome: str, server: str | None, said: str) -> None:
    answer = {**EXPLAINED, "answer": {"outcome": outcome, "server": server, "reason": "since\nso"}}
    assert output.format_explanation(answer).endswith(f"\n\nAnswer: {said}\n  since\\nso\n")


def test_ten_thousand_rules_are_explained_fast() -> None:
    rules = [{"number": n, "pattern": f"/p{n}/.*", "why": "does not match"} for n in range(10000)]
    began = time.process_time()
    printed = output.format_explanation({**EXPLAINED, "rules": rules})
    assert time.process_time() - began < 3
    assert printed.count("does not match") == 10000


def test_settings() -> None:
    answer = [
        {"name": "debug_level", "value": 0, "unit": ""},
        {"name": "read_timeout", "value": 180, "unit": "seconds", "note": ""},
        {"name": "tls_ticket_rotation", "value": 12, "unit": "hours", "note": "without effect: no libssl"},
    ]
    assert output.format_settings(answer) == (
        "debug_level = 0\nread_timeout = 180\ntls_ticket_rotation = 12  # without effect: no libssl\n"
    )


def test_json_is_the_answer_unchanged() -> None:
    printed = output.format_json(table())
    assert json.loads(printed) == table()
    assert printed.startswith('{\n  "version": "1.2.3",\n  "services": [\n    {\n      "ident": "web",\n')
    assert '"ident": "sön"' in printed


def test_ten_thousand_rules_are_printed_fast() -> None:
    rules = [{"pattern": f"/p{n}/.*", "match": None, "servers": [f"10.0.0.1:{n + 1}"]} for n in range(10000)]
    answer = table()
    answer["services"][0]["rules"] = rules
    began = time.process_time()
    printed = output.format_table(answer, addresses.with_port_name)
    assert time.process_time() - began < 3
    assert printed.count("rule = ") == 10000


# Addresses.


def test_a_port_with_a_name_is_shown_by_it() -> None:
    try:
        web = socket.getservbyport(80, "tcp")
    except OSError:
        web = "80"  # a machine without a services database
    assert addresses.with_port_name("10.0.0.1:80") == f"10.0.0.1:{web}"
    assert addresses.with_port_name("[::1]:80") == f"[::1]:{web}"
    assert addresses.with_port_name("www.example.com:80") == f"www.example.com:{web}"


@given(st.integers(1, 65535), st.sampled_from(["10.0.0.1", "[2001:db8::1]", "r1"]))
def test_a_name_reads_back_to_its_port(port: int, host: str) -> None:
    address = f"{host}:{port}"
    assert parse_address(addresses.with_port_name(address), service_port) == parse_address(address)


def test_every_port_that_has_a_name_reads_back() -> None:
    for port in range(1, 10000):
        shown = addresses.with_port_name(f"r1:{port}")
        assert parse_address(shown, service_port) == parse_address(f"r1:{port}"), shown


@pytest.mark.parametrize("address", ["unix:/run/web:80", "10.0.0.1", "[::1]"])
def test_without_a_port_there_is_no_name(address: str) -> None:
    assert addresses.with_port_name(address) == address


def test_numeric_resolves_host_names() -> None:
    found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]
    expected = f"[{found}]:81" if ":" in str(found) else f"{found}:81"
    assert addresses.with_numeric_host("localhost:81") == expected


@pytest.mark.parametrize(
    "address", ["10.0.0.1:80", "[2001:db8::1]:80", "unix:/run/localhost", "no-such-host.invalid:80"]
)
def test_numeric_leaves_addresses_and_unknown_names(address: str) -> None:
    assert addresses.with_numeric_host(address) == address
