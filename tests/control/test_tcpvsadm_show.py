"""What tcpvsadm prints: the daemon's answer in, the text out; and the text read back."""

from __future__ import annotations

import json
import socket
import time
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.control.tcpvsadm import names, show
from ktcpvs.model.address import parse_address
from ktcpvs.model.describe import describe_service
from ktcpvs.model.language.parser import parse
from ktcpvs.model.settings import Settings
from ktcpvs.system.names import service_port


def text(block: str) -> str:
    return dedent(block).lstrip("\n")


CONFIGURATION = text(r"""
    Virtual web {
        listen = 127.0.0.1:8080
        maxclients = 5
        redirect = localhost:81
        server = 10.0.0.1:80 1
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

    def counters(first: int, third: str) -> dict[str, int]:
        return {name: n * (first + i) for i, name in enumerate(("active", "total", third, "bytes_in", "bytes_out"))}

    answer = table()
    for index, service in enumerate(answer["services"]):
        service["stats"] = counters(100 * index + 10, "refused")
        for number, server in enumerate(service["servers"]):
            server["stats"] = counters(100 * index + 20 + 10 * number, "failures")
        if service["redirect"] is not None:
            service["redirect_stats"] = counters(100 * index + 50, "failures")
    return answer


# --list, --save


def test_list() -> None:
    assert show.table(table()) == text(r"""
        TCP Virtual Server version 1.2.3

        Virtual web {
            # running
            listen = 127.0.0.1:8080
            scheduler = http
            maxclients = 5
            redirect = localhost:81
            server = 10.0.0.1:80 1
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
    assert show.table({**table(), "services": []}) == "TCP Virtual Server version 1.2.3\n"


def test_list_shows_addresses_as_it_is_told() -> None:
    shown = show.table(table(), lambda address: address.replace(":80", ":web").replace(":81", ":sorry"))
    assert "    redirect = localhost:sorry\n    server = 10.0.0.1:web 1\n    server = [2001:db8::1]:web80 0\n" in shown
    assert 'match 1 use server 10.0.0.1:web\n    rule = pattern "\\\\\\"quoted' in shown


@pytest.mark.parametrize("address", [str, names.named], ids=["as configured", "named"])
def test_list_reads_back_to_the_same_services(address: Any) -> None:
    assert parse(show.table(table(), address), port_named=service_port) == parse(CONFIGURATION)


def test_save_reads_back_to_the_same_services_and_settings() -> None:
    settings = Settings(debug_level=3, read_timeout=0)
    saved = show.configuration({**table(), "settings": settings.described()})
    assert saved.startswith("global {\n    debug_level = 3\n    read_timeout = 0\n}\n\nVirtual web {\n    listen = ")
    assert parse(saved).services == parse(CONFIGURATION).services
    assert parse(saved).settings == settings


def test_save_of_an_empty_table() -> None:
    assert show.configuration({**table(), "services": []}) == ""


# Counters.


def test_stats() -> None:
    assert show.stats(stats(1000)) == text("""
        TCP Virtual Server version 1.2.3
        Service                  State     Scheduler  Listen              Active   Total  Refused  InBytes  OutBytes
          -> Server              Weight                                   Active   Total   Failed  InBytes  OutBytes
        web                      running   http       127.0.0.1:8080       10000   11000    12000    13000     14000
          -> 10.0.0.1:80         1                                         20000   21000    22000    23000     24000
          -> [2001:db8::1]:8080  0                                         30000   31000    32000    33000     34000
          -> localhost:81        redirect                                  50000   51000    52000    53000     54000
        sön                      stopped   wlc        unix:/run/a b.sock  110000  111000   112000   113000    114000
        """)


def test_rate() -> None:
    """Two looks, half a second apart."""
    assert show.rate(show.rates(stats(1), stats(3), 0.5)) == text("""
        TCP Virtual Server version 1.2.3
        Service                  State     Scheduler  Listen              Conns/s  InBytes/s  OutBytes/s
          -> Server              Weight                                   Conns/s  InBytes/s  OutBytes/s
        web                      running   http       127.0.0.1:8080           44         52          56
          -> 10.0.0.1:80         1                                             84         92          96
          -> [2001:db8::1]:8080  0                                            124        132         136
          -> localhost:81        redirect                                     204        212         216
        sön                      stopped   wlc        unix:/run/a b.sock      444        452         456
        """)


def test_rates_in_json_have_no_counters() -> None:
    web, other = show.rates(stats(1), stats(3), 2.0)["services"]
    assert web["rate"] == {"connections": 11, "bytes_in": 13, "bytes_out": 14}
    assert web["servers"][1] == {
        "address": "[2001:db8::1]:8080",
        "weight": 0,
        "rate": {"connections": 31, "bytes_in": 33, "bytes_out": 34},
    }
    assert web["redirect_rate"] == {"connections": 51, "bytes_in": 53, "bytes_out": 54}
    assert not {"stats", "redirect_stats"} & (web.keys() | other.keys())
    assert "redirect_rate" not in other


def test_rate_of_what_was_not_there_before() -> None:
    """A service, a server, another redirect: they began at nothing."""
    before, after = stats(1), stats(3)
    del before["services"][1], before["services"][0]["servers"][0]
    before["services"][0]["redirect"] = "localhost:82"
    web, other = show.rates(before, after, 1.0)["services"]
    assert other["rate"]["connections"] == 3 * 111
    assert [server["rate"]["connections"] for server in web["servers"]] == [3 * 21, 2 * 31]
    assert web["redirect_rate"]["connections"] == 3 * 51


def test_rate_of_what_is_gone_or_began_anew() -> None:
    before, after = stats(3), stats(1)
    del after["services"][1]
    (web,) = show.rates(before, after, 1.0)["services"]
    assert web["rate"] == {"connections": 0, "bytes_in": 0, "bytes_out": 0}


def test_rates_are_rounded_to_whole_numbers() -> None:
    (web, _) = show.rates(stats(0), stats(1), 1.007)["services"]
    assert web["rate"] == {"connections": 11, "bytes_in": 13, "bytes_out": 14}


# Other views.


def test_connections() -> None:
    relayed = {"service": "web", "client": "192.0.2.7:50000", "server": "10.0.0.1:80", "state": "relaying"}
    waiting = {"service": "sön", "client": "unix\n", "server": None, "state": "reading head"}
    answer = [
        {**relayed, "age": 75.0, "idle": 3, "bytes_in": 1234567, "bytes_out": 8, "reason": "least loaded"},
        {**waiting, "age": 0, "idle": 0, "bytes_in": 0, "bytes_out": 0, "reason": None},
    ]
    assert show.connections(answer, lambda address: address.replace(":80", ":http")) == text(r"""
        Service  Client           Server         State         Age  Idle  InBytes  OutBytes
        web      192.0.2.7:50000  10.0.0.1:http  relaying       75     3  1234567         8
        sön      unix\n           -              reading head    0     0        0         0
        """)


def test_no_connections() -> None:
    assert show.connections([]) == "Service  Client  Server  State  Age  Idle  InBytes  OutBytes\n"


SCHEDULERS = [
    {"name": "http", "unit": "FIRST_REQUEST", "module": "a.http", "summary": "By rules.", "services": 12},
    {"name": "wlc", "unit": "CONNECTION", "module": "b", "summary": "", "services": 0},
]


def test_schedulers() -> None:
    assert show.schedulers({"schedulers": SCHEDULERS, "broken": []}) == text("""
        Scheduler  Decides        Services  Module  Summary
        http       first request        12  a.http  By rules.
        wlc        connection            0  b
        """)


def test_schedulers_that_could_not_be_loaded() -> None:
    broken = [{"module": "/plugins/mine.py", "error": "invalid syntax\n(mine.py, line 1)"}]
    assert show.schedulers({"schedulers": SCHEDULERS[:1], "broken": broken}) == text(r"""
        Scheduler  Decides        Services  Module  Summary
        http       first request        12  a.http  By rules.

        Not loaded:
          /plugins/mine.py: invalid syntax\n(mine.py, line 1)
        """)


def test_settings() -> None:
    answer = [
        {"name": "debug_level", "value": 0, "unit": ""},
        {"name": "read_timeout", "value": 180, "unit": "seconds"},
    ]
    assert show.settings(answer) == "debug_level = 0\nread_timeout = 180\n"


def test_json_is_the_answer_as_it_came() -> None:
    printed = show.as_json(table())
    assert json.loads(printed) == table()
    assert printed.startswith('{\n  "version": "1.2.3",\n  "services": [\n    {\n      "ident": "web",\n')
    assert '"ident": "sön"' in printed


def test_ten_thousand_rules_are_printed_fast() -> None:
    rules = [{"pattern": f"/p{n}/.*", "match": None, "servers": [f"10.0.0.1:{n + 1}"]} for n in range(10000)]
    answer = table()
    answer["services"][0]["rules"] = rules
    began = time.process_time()
    printed = show.table(answer, names.named)
    assert time.process_time() - began < 3
    assert printed.count("rule = ") == 10000


# Addresses.


def test_a_port_with_a_name_is_shown_by_it() -> None:
    try:
        web = socket.getservbyport(80, "tcp")
    except OSError:
        web = "80"  # a machine without a services database
    assert names.named("10.0.0.1:80") == f"10.0.0.1:{web}"
    assert names.named("[::1]:80") == f"[::1]:{web}"
    assert names.named("www.example.com:80") == f"www.example.com:{web}"


@given(st.integers(1, 65535), st.sampled_from(["10.0.0.1", "[2001:db8::1]", "r1"]))
def test_a_name_reads_back_to_its_port(port: int, host: str) -> None:
    address = f"{host}:{port}"
    assert parse_address(names.named(address), service_port) == parse_address(address)


def test_every_port_that_has_a_name_reads_back() -> None:
    for port in range(1, 10000):
        shown = names.named(f"r1:{port}")
        assert parse_address(shown, service_port) == parse_address(f"r1:{port}"), shown


@pytest.mark.parametrize("address", ["unix:/run/web:80", "10.0.0.1", "[::1]"])
def test_without_a_port_there_is_no_name(address: str) -> None:
    assert names.named(address) == address


def test_numeric_looks_hosts_up() -> None:
    found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]
    expected = f"[{found}]:81" if ":" in str(found) else f"{found}:81"
    assert names.numeric("localhost:81") == expected


@pytest.mark.parametrize(
    "address", ["10.0.0.1:80", "[2001:db8::1]:80", "unix:/run/localhost", "no-such-host.invalid:80"]
)
def test_numeric_leaves_what_is_no_name_or_is_not_found(address: str) -> None:
    assert names.numeric(address) == address
