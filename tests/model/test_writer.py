"""Any table that is written can be read back to the same table."""

from __future__ import annotations

from examples import examples
from hypothesis import example, given

from ktcpvs.model.address import Inet, Unix
from ktcpvs.model.describe import configuration, describe_service
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write, write_service, write_settings
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from tests.model.strategies import services, tables

R1, R2 = Inet("r1", 80), Unix('/run/a "b"')
ODD = VirtualService(
    "\\",
    listen=Inet("::", 80),
    scheduler="hhttp",
    fallback="none",
    cookie_secure="on",
    access_log='syslog:/run/a "b"',
    access_log_format="json",
    relay="splice",
    startservers=0,
    maxclients=256,
    redirect=Inet("localhost", 81),
    servers=(RealServer(R1, 0, 7), RealServer(R2)),
    rules=(Rule('/\\\\"([^/]+)\\\\', (R1, R2), 1), Rule(".*", (R2,))),
)


def test_a_block_is_written_in_the_language():
    assert write_service(describe_service(ODD)) == (
        'Virtual "\\\\" {\n'
        "    listen = [::]:80\n"
        "    scheduler = hhttp\n"
        "    fallback = none\n"
        "    cookie_secure = on\n"
        '    access_log = "syslog:/run/a \\"b\\""\n'
        "    access_log_format = json\n"
        "    relay = splice\n"
        "    startservers = 0\n"
        "    maxclients = 256\n"
        "    redirect = localhost:81\n"
        "    server = r1:80 0 maxconn 7\n"
        '    server = "unix:/run/a \\"b\\"" 1\n'
        '    rule = pattern "/\\\\\\\\\\"([^/]+)\\\\\\\\" match 1 use server r1:80\n'
        '    rule = pattern "/\\\\\\\\\\"([^/]+)\\\\\\\\" match 1 use server "unix:/run/a \\"b\\""\n'
        '    rule = pattern ".*" use server "unix:/run/a \\"b\\""\n'
        "}\n"
    )


def test_a_block_without_anything_says_where_and_how():
    assert write_service(describe_service(VirtualService("web"))) == (
        "Virtual web {\n    listen = 0.0.0.0:8080\n    scheduler = http\n}\n"
    )


def test_addresses_are_shown_as_asked():
    text = write_service(describe_service(ODD), show=lambda address: f"<{address[:2]}>")
    assert "listen = <[:>" in text
    assert "redirect = <lo>" in text
    assert text.count("server <r1>") == 1
    assert text.count("server = <r1> 0") == 1
    assert "r1:80" not in text


def test_settings_are_written_where_they_differ():
    assert write_settings(Settings().described()) == ""
    assert write_settings(Settings(read_timeout=7, debug_level=1).described()) == (
        "global {\n    debug_level = 1\n    read_timeout = 7\n}\n"
    )
    assert write_settings(Settings(cookie_key="a\\b-12345").described()) == "global {\n    cookie_key = a\\b-12345\n}\n"


def test_a_whole_configuration():
    table = Table.of([VirtualService("a"), VirtualService("b")], settings=Settings(debug_level=1))
    text = write(*configuration(table))
    assert text.split("\n\n")[0] == "global {\n    debug_level = 1\n}"
    assert [block.splitlines()[0] for block in text.split("\n\n")[1:]] == ["Virtual a {", "Virtual b {"]
    assert write(*configuration(Table())) == ""


@examples(120)
@given(tables())
@example(Table.of([ODD], running=frozenset(("\\",)), settings=Settings(drain_timeout=0)))
def test_what_is_written_is_read_back(table):
    load = parse(write(*configuration(table)))
    assert load.apply(Table()) == Table.of(table, settings=table.settings)
    assert load.apply(table) == table


@examples(40)
@given(tables())
def test_what_is_listed_with_its_heading_is_read_back_even_with_other_line_ends(table):
    text = "TCP Virtual Server version 1.0.0\n" + write(*configuration(table))
    for ends in ("\n", "\r\n"):
        assert parse(text.replace("\n", ends)).apply(table) == table


@examples(60)
@given(services())
def test_writing_is_stable(service):
    text = write_service(describe_service(service))
    (again,) = parse(text).services.values()
    assert write_service(describe_service(again)) == text
