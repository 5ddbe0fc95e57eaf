"""The configuration parser: values, layouts, and the positions of errors."""

from __future__ import annotations

import pytest
from attrs import fields
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadConfiguration
from ktcpvs.model.address import Inet, Unix
from ktcpvs.model.describe import configuration
from ktcpvs.model.edits import Load
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.model.tls import ServerTLS
from tests.model.strategies import answer_or_refusal, assert_sound, config_texts, tables

EXAMPLE = """\
    # comment
    Virtual web {
        listen = 0.0.0.0:80
        scheduler = hhttp
        startservers = 8
        maxclients = 256
        minspareservers = 6
        maxspareservers = 18
        redirect = localhost:81
        server = 192.168.0.12:www 1
        server = 192.168.0.11:www 1
        rule = pattern "/users/([^/]+)/.*" match 1 use server 192.168.0.12:www
        rule = pattern ".*" use server 192.168.0.11:www
    }
"""

R1, R11, R12 = Inet("r1", 80), Inet("192.168.0.11", 80), Inet("192.168.0.12", 80)
WEB = VirtualService(
    ident="web",
    listen=Inet("0.0.0.0", 80),
    scheduler="hhttp",
    startservers=8,
    maxclients=256,
    minspareservers=6,
    maxspareservers=18,
    redirect=Inet("localhost", 81),
    servers=(RealServer(R12, 1), RealServer(R11, 1)),
    rules=(Rule("/users/([^/]+)/.*", (R12,), 1), Rule(".*", (R11,), None)),
)
ONE_LINE = " ".join(line.strip() for line in EXAMPLE.splitlines()[1:])


def www(name):
    return 80 if name == "www" else None


def in_web(*lines):
    """The service that a block of these lines gives."""
    return parse("\n".join(("Virtual web {", *lines, "}")), "f").services["web"]


def test_the_example_is_read_as_it_stands():
    assert parse(EXAMPLE, "web.conf", www) == Load({"web": WEB}, Settings())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ONE_LINE, id="one line"),
        pytest.param(EXAMPLE.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(EXAMPLE.replace("\n", "\r"), id="CR"),
        pytest.param("# a comment\r" + EXAMPLE.replace("\n", "\r"), id="CR, a comment first"),
        pytest.param(EXAMPLE.replace("    ", "\t"), id="tabs"),
        pytest.param("\n".join(ONE_LINE.split()), id="one token a line"),
        pytest.param(EXAMPLE.replace("\n", ' # a } comment { = "\n'), id="comments"),
        pytest.param(EXAMPLE.replace("\n", "\n\n \n"), id="blank lines"),
        pytest.param(EXAMPLE.rstrip(), id="no line end"),
        pytest.param(EXAMPLE.replace(" web ", ' "web" ').replace("hhttp", '"hhttp"'), id="quotes"),
        pytest.param("TCP Virtual Server version 1.0.0\n" + EXAMPLE, id="heading"),
        pytest.param("\n \r\n  TCP Virtual Server version 0.0.18  \r\n\n" + EXAMPLE, id="heading after blank lines"),
    ],
)
def test_the_layout_is_free(text):
    assert parse(text, "web.conf", www) == Load({"web": WEB})


@pytest.mark.parametrize("change", [str.upper, str.title, str.swapcase])
def test_keywords_are_known_in_any_case(change):
    words = ("Virtual", "listen", "scheduler", "startservers", "maxclients", "minspareservers", "maxspareservers")
    text = EXAMPLE
    for keyword in (*words, "redirect", "rule", "pattern", "match", "use", "server"):
        text = text.replace(f" {keyword} ", f" {change(keyword)} ")
    assert text != EXAMPLE
    assert parse(text, "web.conf", www) == Load({"web": WEB})
    assert parse(f"{change('global')} {{ {change('debug_level')} = 3 }}").settings == Settings(debug_level=3)


def test_names_keep_their_case():
    assert list(parse("Virtual Web { } Virtual web { }").services) == ["Web", "web"]


@pytest.mark.parametrize("text", ["", " \n\t", "# nothing", "TCP Virtual Server version 1.0.0", "global { }"])
def test_nothing_is_an_empty_table(text):
    assert parse(text) == Load({}, Settings())


def test_the_heading_moves_no_line():
    with pytest.raises(BadConfiguration) as refusal:
        parse("\nTCP Virtual Server version 1.0.0\n\n  nonsense", "f")
    assert str(refusal.value).startswith("f:4:3: 'nonsense': expected 'Virtual' or 'global'; a service is a block ")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("TCP Virtual Server version", "f:1:1"),
        ("TCP Virtual Server version x", "f:1:1"),
        ("TCP Virtual Server version 1.0.0 Virtual web { }", "f:1:1"),
        ("TCP Virtual Server version 1.0.0\nTCP Virtual Server version 1.0.0", "f:2:1"),
        ("Virtual web { }\nTCP Virtual Server version 1.0.0", "f:2:1"),
    ],
)
def test_a_heading_stands_first_and_alone(text, place):
    with pytest.raises(BadConfiguration) as refusal:
        parse(text, "f")
    assert str(refusal.value).startswith(f"{place}: 'TCP': expected 'Virtual' or 'global'; a service is a block ")


def test_what_is_left_out_has_its_default():
    assert in_web() == VirtualService("web")
    assert in_web("server = r1:80") == VirtualService("web", servers=(RealServer(Inet("r1", 80), 1),))
    assert parse("global { debug_level = 1 }").settings == Settings(debug_level=1)


def test_services_keep_the_order_of_the_text_and_global_stands_anywhere():
    load = parse("Virtual b { }\nglobal { read_timeout = 9 }\nVirtual a { }")
    assert list(load.services) == ["b", "a"]
    assert load.settings == Settings(read_timeout=9)


TEXTS = {
    "cookie_key": "a-secret",
    "acme_email": "admin@example.com",
    "acme_directory": "https://ca.example/dir",
    "acme_ca": "/etc/ca.pem",
    "acme_eab_kid": "kid-1",
    "acme_eab_key": "/etc/eab.key",
    "acme_profile": "shortlived",
    "acme_challenge": "tls-alpn-01",
}


@pytest.mark.parametrize("attribute", fields(Settings), ids=lambda attribute: attribute.name)
def test_every_setting_can_be_set(attribute):
    _, value = attribute.metadata["range"] or ("", TEXTS[attribute.name])
    assert parse(f"global {{ {attribute.name} = {value} }}").settings == Settings(**{attribute.name: value})


@pytest.mark.parametrize(("written", "key"), [("12345678", "12345678"), ('"a\\b-é.:1"', "a\\b-é.:1"), ('""', "")])
def test_a_secret_is_taken_as_it_stands(written, key):
    assert parse(f"global {{ cookie_key = {written} }}").settings == Settings(cookie_key=key)


@pytest.mark.parametrize("written", ["short", '"12345678 "', "1234567#=", '"{2345678"'])
def test_a_secret_that_is_not_taken_is_not_told(written):
    with pytest.raises(BadConfiguration) as refusal:
        parse(f"global {{ cookie_key = {written} }}", "f")
    assert str(refusal.value) == (
        "f:1:23: cookie_key: expected 8 to 128 printable characters without white space and "
        'without " { } # =, or nothing'
    )


@pytest.mark.parametrize(
    ("written", "server"),
    [
        ("server = r1:80", RealServer(R1)),
        ("server = r1:80 5", RealServer(R1, 5)),
        ("server = r1:80 maxconn 7", RealServer(R1, 1, 7)),
        ("server = r1:80 0 maxconn 7", RealServer(R1, 0, 7)),
        ("server = r1:80 2 MAXCONN 0", RealServer(R1, 2)),
        ("SERVER = r1:80\n2\nmaxconn\n10000000", RealServer(R1, 2, 10_000_000)),
        ("server = maxconn:80 maxconn 3", RealServer(Inet("maxconn", 80), 1, 3)),
    ],
)
def test_a_server_has_a_weight_and_a_maxconn_or_not(written, server):
    assert in_web(written, "server = r2:80 3").servers == (server, RealServer(Inet("r2", 80), 3))


def test_a_service_names_its_fallback_and_its_access_log():
    service = in_web("fallback = none", "cookie_secure = on", 'access_log = "/var/log/a b"', "access_log_format = json")
    assert service == VirtualService(
        "web", fallback="none", cookie_secure="on", access_log="/var/log/a b", access_log_format="json"
    )


def test_a_service_says_what_relays_its_connections():
    assert in_web("relay = kernel") == VirtualService("web", relay="kernel")


def test_the_order_in_a_block_is_free():
    service = in_web('rule = pattern "a" use server r1', "server = r1 0", "listen = [::]:81")
    assert service.listen == (ListenAddress(Inet("::", 81)),)
    assert service.servers == (RealServer(Inet("r1", 81), 0),)
    assert service.rules == (Rule("a", (Inet("r1", 81),)),)


def test_a_rule_names_several_servers_at_once_or_one_after_another():
    servers = ("server = r1:80", "server = r2:80", "server = unix:/a 3")
    one = in_web(*servers, "rule = pattern a use server r1:80 server r2:80", "rule = pattern b use server unix:/a")
    two = in_web(
        *servers,
        "rule = pattern a use server r1:80",
        "rule = pattern b use server unix:/a",
        "rule = pattern a use server r2:80",
    )
    assert one == two
    assert [rule.servers for rule in one.rules] == [(Inet("r1", 80), Inet("r2", 80)), (Unix("/a"),)]


def test_words_of_the_language_are_names_where_a_name_is_wanted():
    text = """
    Virtual virtual {
        scheduler = server
        server = server:80 2
        rule = pattern match match 0 use server server:80
        rule = pattern "use" use server server:80
        server = rule:80
        redirect = use:80
    }
    """
    server = Inet("server", 80)
    assert parse(text).services["virtual"] == VirtualService(
        "virtual",
        scheduler="server",
        servers=(RealServer(server, 2), RealServer(Inet("rule", 80))),
        rules=(Rule("match", (server,), 0), Rule("use", (server,))),
        redirect=Inet("use", 80),
    )


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        (r'"\.html$"', r"\.html$"),
        (r'"a\"b"', 'a"b'),
        (r'"a\\\\"', "a\\\\"),
        (r'"[\\\"]"', '[\\"]'),
        (r"\.html$", r"\.html$"),
        ('"a b # c = {"', "a b # c = {"),
        ('"é"', "é"),
    ],
)
def test_a_pattern_is_written_as_it_is(written, pattern):
    assert in_web("server = r1:80", f"rule = pattern {written} use server r1:80").rules[0].pattern == pattern


TOP = "expected 'Virtual' or 'global'"
NO_BLOCK = "expected a keyword followed by '=', or '}'"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", f"1:1: 'nonsense': {TOP}"),
        ("Virtual web { } }", f"1:17: '}}': {TOP}"),
        ('"Virtual" web { }', f"1:1: 'Virtual': {TOP}"),
        ("Virtual", "1:1: unexpected end of the text; expected the service's name"),
        ("Virtual\n", "2:1: unexpected end of the text; expected the service's name"),
        ("Virtual {\n}", "1:9: '{' is not a valid service name: expected 1 to 128 printable characters"),
        ("Virtual web\n\n", "3:1: unexpected end of the text; expected '{'"),
        ("Virtual web listen", "1:13: expected '{', not 'listen'"),
        (
            "global\n log stdout",
            "2:2: expected '{', not 'log': is this a file of HAProxy? Here, settings",
        ),
        ('Virtual web "{" }', "1:13: expected '{', not '{'"),
        ("Virtual web {\n", "2:1: unexpected end of the text; expected '}'"),
        ("Virtual web { }\n\n Virtual web { }", "3:10: service web appears a second time"),
        ("global { }\nGlobal { }", "2:1: a second global block"),
        ("global {\n  no_such = 1\n}", "2:3: no setting 'no_such'; there are: debug_level, "),
        ("global {\n  read_timeout = x\n}", "2:18: read_timeout = x: expected a whole number"),
        ("global {\n  debug_level = 13\n}", "2:17: debug_level = 13 is out of range: 0..12"),
        ("global {\n  debug_level = 1\n  DEBUG_LEVEL = 2\n}", "3:3: debug_level appears a second time"),
        ("global { debug_level =", "1:1: unexpected end of the text; expected the value of debug_level"),
        ('Virtual web { "', "1:15: unterminated quote: it must end on the same line"),
    ],
)
def test_an_error_is_shown_where_it_stands(text, why):
    with pytest.raises(BadConfiguration) as refusal:
        parse(text, "web.conf")
    assert type(refusal.value) is BadConfiguration
    assert str(refusal.value).startswith(f"web.conf:{why}")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "nonsense = 1",
            "3: unknown keyword 'nonsense'; there are: listen, on, certificate, tls_min, tls_ciphers, client_ca, ",
        ),
        ("Scheduller = wlc", "3: unknown keyword 'Scheduller'; did you mean 'scheduler'?"),
        ("pattern = a", "3: unknown keyword 'pattern'; there are: listen, "),
        ("nonsense", f"3: 'nonsense': {NO_BLOCK}"),
        ("listen r1:80", f"3: 'listen': {NO_BLOCK}"),
        ('"listen" = r1:80', f"3: 'listen': {NO_BLOCK}"),
        ('listen "=" r1:80', f"3: 'listen': {NO_BLOCK}"),
        ("listen=r1:80", "3: 'listen=r1:80': put white space around '='"),
        ("= 1", f"3: '=': {NO_BLOCK}"),
        ("listen = r1", "12: r1: missing port (example: r1:80)"),
        ("listen = 1.2.3:80", "12: '1.2.3' is neither an IP address nor a host name"),
        ("listen = r1:www", "12: unknown port name 'www' in 'r1:www': give its number"),
        ("listen = r1:70000", "12: port 70000 in 'r1:70000' is out of range: ports are 1..65535"),
        ("listen = r1:80 listen = r1:80 tls", "27: listen = r1:80 appears a second time"),
        ("scheduler = a scheduler = b", "17: scheduler appears a second time"),
        ("listen = r1:80 tsl", "18: after the address: unknown word 'tsl'; did you mean 'tls'?"),
        ('listen = r1:80 "tls"', "18: after the address: unknown word 'tls'; write it without quotes"),
        ("listen = r1:80 tls tls", "22: 'tls' appears a second time"),
        ("listen = r1:80 on", "18: after the address: missing nodes behind 'on' (example: on node-a, label:edge)"),
        ("listen = r1:80 on a on b", "23: 'on' appears a second time"),
        ("listen = r1:80 on a, -b", "21: on a, -b: expected names of nodes and label:NAME, with commas between them"),
        ('listen = r1:80 on a, "b"', "24: on 'b': write nodes without quotes"),
        ("on = a b", "8: on a b: expected names of nodes and label:NAME, with commas between them"),
        ("on = a, label:b, a", "8: on a, label:b, a: a appears a second time"),
        ("on = a,", "8: on a,: expected names of nodes and label:NAME, with commas between them (example: "),
        ("listen = r1:80 tls TLS", "22: 'tls' appears a second time"),
        ("listen = tls", "12: tls: missing port (example: tls:80)"),
        (
            "listen = r1:80 tls",
            "12: listen = r1:80 tls: missing certificate (example: certificate = /etc/ssl/site.pem)",
        ),
        ("client_certificate = required", "24: client_certificate = required: missing client_ca, which verifies it"),
        ("certificate = a", "17: certificate = a: expected the absolute path of a file or folder"),
        ("certificate = /a certificate = /a", "34: certificate: a path appears a second time"),
        ("server = r9:80 tsl", "18: unknown word 'tsl'; did you mean 'tls'?"),
        ("server = r9:80 tls nme h", "22: unknown word 'nme'; did you mean 'name'?"),
        ("server = r9:80 tls cert", "22: missing value after 'cert'"),
        ("server = r9:80 tls ca /a ca /a", "28: 'ca' appears a second time"),
        ("server = r9:80 tls tls", "22: 'tls' appears a second time"),
        (
            "server = r9:80 tls ca /a verify off",
            "35: 'ca' and 'verify off' contradict each other: leave one of them out",
        ),
        ("server = r9:80 tls verify on", "29: verify 'on': expected off; without 'verify' it is on"),
        ("server = r9:80 tls name [::1]", "27: name [::1]: expected the host name in the server's certificate"),
        ("server = r9:80 tls cert c", "27: cert c: expected the absolute path of a file"),
        ("server = r9:80 1 proxy v3", "26: proxy 'v3': expected v1 or v2"),
        (
            "server = r9:80 backup priority 1",
            "25: 'backup' and 'priority' contradict each other: leave one of them out",
        ),
        ("server = r9:80 priority", "18: missing value after 'priority'"),
        ("server = r9:80 priority 101", "27: priority '101': expected a number from 0 to 100"),
        (
            "server = r9:80 drain maintenance",
            "24: 'drain' and 'maintenance' contradict each other: leave one of them out",
        ),
        ("server = r9:80 check r9", "24: check: r9: missing port (example: r9:80)"),
        ("server = r9:80 check", "18: missing value after 'check': behind a server it is the address to check instead"),
        (
            "server = r9:80 check inter 2000",
            "24: check: inter: missing port (example: inter:80); behind a server it is",
        ),
        ("persistent = 300", "3: unknown keyword 'persistent'; use 'scheduler = chttp'"),
        (
            "server = r9:80 start ../x",
            "24: start '../x': expected the name of a program in the folder of --start-folder",
        ),
        ("server = r9:80 label", "18: missing value after 'label'"),
        ("server = r9:80 label zone=a/b label -x", "39: label '-x': expected NAME or NAME=VALUE, each at most 63"),
        ("server = r9:80 label zone=a label zone", "37: label 'zone' appears a second time"),
        ("server = r9:80 label zone=a label off", "37: 'label off' contradicts the labels before it"),
        ("server = r9:80 " + " ".join(f"label l{n}" for n in range(17)), "174: a server may have at most 16 labels"),
        ("server = r9:80 max_pending x", "30: max_pending 'x': expected a number from 0 to 10000000"),
        ("server = r9:80 bakcup", "18: unknown word 'bakcup'; did you mean 'backup'?"),
        ("cookie_name = a.b", "17: cookie_name = a.b: expected 1 to 64 letters, digits, _ and -"),
        ("cookie_domain = a_b", "19: cookie_domain = a_b: expected a domain (example: shop.example)"),
        ("cookie_domain = .a", "19: cookie_domain = .a: expected a domain (example: shop.example)"),
        ("cookie_max_age = 34560001", "20: cookie_max_age = 34560001 is out of range: 0..34560000"),
        ("sticky = cookie a", "12: sticky = cookie a: expected off, header NAME or query NAME"),
        ("overflow = 101", "14: overflow = 101 is out of range: 0..100"),
        ("server = r9:80 1 h2 tls h2", "27: 'h2' appears a second time"),
        ("server = r9:80 1 h2c", "20: unknown word 'h2c'; did you mean 'h2'?"),
        ("redirect = r1", "14: r1: missing port (example: r1:80)"),
        ("redirect = a:b:c", "14: 'a:b:c': write an IPv6 address in brackets: [::1]:80"),
        ('scheduler = "a b"', "15: 'a b' is not a valid scheduler name"),
        ("maxclients = many", "16: maxclients = many: expected a whole number"),
        ("maxclients = -1", "16: maxclients = -1: expected a whole number"),
        ("maxclients = 10000001", "16: maxclients = 10000001 is out of range: 0..10000000"),
        ("startservers = 1 STARTSERVERS = 1", "20: startservers appears a second time"),
        ("server = r1:80", "12: server r1:80 appears a second time"),
        ("server = r1", "12: server r1:80 appears a second time"),
        ("server = r9:80 65536", "18: weight 65536 is out of range: 0..65535"),
        ("server = r9:80 -1", "18: weight = -1: expected a whole number"),
        ("server = r9:80 maxconn }", "26: maxconn = }: expected a whole number"),
        ("server = r9:80 maxconn many", "26: maxconn = many: expected a whole number"),
        ("server = r9:80 maxconn -1", "26: maxconn = -1: expected a whole number"),
        ("server = r9:80 maxconn 10000001", "26: maxconn 10000001 is out of range: 0..10000000"),
        ("server = r9:80 maxconn 1 5", f"28: '5': {NO_BLOCK}"),
        ('server = r9:80 "maxconn" 1', f"18: 'maxconn': {NO_BLOCK}"),
        ("server = r9:80 maxconn = 1", "18: unknown keyword 'maxconn'; use 'maxclients = N' for a service, "),
        ("fallback = a/b", "14: 'a/b' is not a valid scheduler name"),
        ("cookie_secure = yes", "19: cookie_secure = yes: expected one of off, on"),
        ("access_log_format = common", "23: access_log_format = common: expected one of combined, json"),
        ("relay = sendfile", "11: relay = sendfile: expected one of auto, kernel, splice, copy"),
        (
            "access_log = web.log",
            "16: access_log = web.log: expected off, syslog, syslog:/PATH, or the absolute path of a file",
        ),
        ("server = r9:80 ²", "18: weight = ²: expected a whole number"),
        ("server = r9:80 1 2", f"20: '2': {NO_BLOCK}"),
        ('server = r9:80 "1"', f"18: '1': {NO_BLOCK}"),
        ("server = r9:80 heavy", f"18: 'heavy': {NO_BLOCK}"),
        ("rule = hots a use server r1:80", "10: expected a condition: unknown word 'hots'; did you mean 'host'?"),
        ("rule = use server r1:80", "10: expected a condition before 'use'"),
        ("rule = host a..b use server r1:80", "15: host 'a..b': expected a name"),
        ("rule = host a us server r1:80", "17: expected 'use', or another condition, not 'us'; did you mean 'use'?"),
        ("rule = path /a method get use server r1:80", "25: method 'get': methods have upper and lower case"),
        ("rule = not pth /a use server r1:80", "14: expected a condition after 'not', not 'pth'"),
        ("rule = name 1 path /a use server r1:80", "15: '1' is not a valid name of a rule"),
        ("rule = name a path /a server r1:80", "25: expected 'use', not 'server'"),
        (
            "rule = name a path /a use server r1:80 rule = name a path /b use server r2:80",
            "56: the first rule with the name a has other conditions",
        ),
        ("rule = tls yes use server r1:80", "14: expected 'use', not 'yes'"),
        ("rule = tls match 1 use server r1:80", "10: match 1: rule 'tls on' has no pattern"),
        ("rule = path /a rule = path /b use server r1:80", "18: expected 'use', not 'rule'"),
        ("rule = from 10.0.0.1/8 use server r1:80", "15: '10.0.0.1/8': the address has bits beyond the prefix"),
        ("rule = a use server r1:80", "10: expected a condition: unknown word 'a'; there are: host, path, pattern"),
        ("rule = pattern a server r1:80", "20: expected 'use', not 'server'"),
        (
            "rule = pattern a deny",
            "20: expected a pattern in quotes, 'use', or another condition, not 'deny'; "
            "an action stands behind 'use'; use 'respond 403'",
        ),
        (
            "rule = path /a deny",
            "18: path 'deny': expected a path that begins with / (example: /admin/); "
            "an action stands behind 'use'; use 'respond 403'",
        ),
        (
            "rule = path /a redirect 301 /x",
            "18: path 'redirect': expected a path that begins with / (example: /admin/); "
            "write 'use redirect', behind the conditions",
        ),
        ("rule = pattern a use r1:80", "24: expected 'server', 'redirect' or 'respond', not 'r1:80'"),
        ("rule = pattern ( use server r1:80", "18: pattern '(': missing ) '(' at position 0"),
        ('rule = pattern "" use server r1:80', "18: empty pattern; use .* for a default rule"),
        (
            r"rule = pattern (a)\1 use server r1:80",
            r"18: pattern '(a)\1': \1 at position 3 is not supported: RE2 has no back-references",
        ),
        ("rule = pattern a use server r9:80", "31: service web has no server r9:80"),
        ("rule = pattern a use server r1:80 server r9:80", "44: service web has no server r9:80"),
        ("rule = pattern a use server r1:80 server r1", "44: rule 'a' already uses server r1:80"),
        ("rule = pattern a match x use server r1:80", "26: match = x: expected a whole number"),
        ("rule = pattern a match -1 use server r1:80", "26: match = -1: expected a whole number"),
        ("rule = pattern (a) match 11 use server r1:80", "18: match 11 is out of range: 0..10"),
        ("rule = pattern (a) match 2 use server r1:80", "18: match 2: pattern '(a)' has 1 groups"),
        (
            "rule = pattern (a) match 1 use server r1:80 rule = pattern (a) match 0 use server r2:80",
            "62: this pattern's first rule has match 1, not 0",
        ),
        ("Virtual other { }", f"3: 'Virtual': {NO_BLOCK}"),
    ],
)
def test_an_error_in_a_block_is_shown_where_it_stands(line, why):
    text = f"Virtual web {{\n  listen = r0:80 server = r1:80 server = r2:80\n  {line}\n}}"
    if line.split()[0] == "listen" or line.startswith("listen="):
        text = text.replace("listen = r0:80 ", "", 1)
    with pytest.raises(BadConfiguration) as refusal:
        parse(text, "web.conf")
    assert str(refusal.value).startswith(f"web.conf:3:{why}")


def test_a_service_on_a_unix_socket_completes_no_address():
    with pytest.raises(BadConfiguration) as refusal:
        parse("Virtual web { listen = unix:/run/web\n server = r1 }", "f")
    assert str(refusal.value) == "f:2:11: r1: missing port, since service web has none (example: r1:80)"


def check_any(text):
    answer = answer_or_refusal(parse, text, "f", kind=BadConfiguration)
    if isinstance(answer, BadConfiguration):
        source, line, column, _ = str(answer).split(":", 3)
        assert source == "f"
        assert 1 <= int(line) <= text.count("\n") + text.count("\r") + 1
        assert 1 <= int(column) <= len(text) + 1
    else:
        assert isinstance(answer, Load)
        assert_sound(answer.apply(Table()))


@examples(400)
@given(st.one_of(config_texts(), st.text(max_size=80)))
def test_any_text_is_a_load_or_a_bad_configuration(text):
    check_any(text)


@examples(150)
@given(tables(max_services=2), st.data())
def test_a_damaged_configuration_is_a_load_or_a_bad_configuration(table, data):
    text = write(*configuration(table))
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 20)))
    check_any(text[:begin] + data.draw(st.text(max_size=5)) + text[end:])


def test_a_byte_order_mark_is_passed_over() -> None:
    assert list(parse("\ufeffVirtual web { }").services) == ["web"]


EMPTY = "f: the configuration is empty, and would delete all services; to do that, use 'tcpvsadm -f FILE --allow-empty'"


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "\ufeff#\r#\r\n", "TCP Virtual Server version 0.1.0\n\n"])
def test_a_text_with_nothing_but_comments_is_refused_unless_it_may_be_empty(text):
    with pytest.raises(BadConfiguration) as refused:
        parse(text, "f", allow_empty=False)
    assert str(refused.value) == EMPTY
    assert parse(text, "f").services == {}


def test_a_text_with_settings_alone_is_refused_unless_it_may_be_empty():
    text = "global { read_timeout = 5 }"
    with pytest.raises(BadConfiguration) as refused:
        parse(text, "f", allow_empty=False)
    assert str(refused.value) == EMPTY.replace("is empty", "has no service")
    assert parse(text, "f").settings.read_timeout == 5


def test_a_text_with_a_service_is_not_empty():
    assert parse("Virtual s { }", "f", allow_empty=False) == parse("Virtual s { }", "f")


def test_a_service_listens_on_several_addresses():
    text = """Virtual web {
        listen = [::]:80
        scheduler = wlc
        listen = [::]:443 tls listen = "unix:/run/a b" TLS
        certificate = /site.pem
    }"""
    service = parse(text).services["web"]
    assert [(str(one.address), one.is_tls) for one in service.listen] == [
        ("[::]:80", False),
        ("[::]:443", True),
        ("unix:/run/a b", True),
    ]
    assert '    listen = [::]:80\n    listen = [::]:443 tls\n    listen = "unix:/run/a b" tls\n' in write(
        *configuration(Table.of([service]))
    )


def test_the_options_of_tls_may_come_in_any_order():
    text = """Virtual web {
        client_certificate = required
        listen = [::]:443 tls
        certificate = /a certificate = "/b c"
        client_ca = /ca.pem
        proxy_from = 10.0.0.0/8 proxy_from = ::1
        server = a:80 5 maxconn 3 proxy v2 tls name APP.internal ca /x cert "/y z"
        server = b:80 tls verify off
        server = c:80 tls off proxy off
        server = d:80 1 h2
        server = e:80 1 tls h2 name h2 proxy v1
        server = f:80 h2 off tls
    }"""
    service = parse(text).services["web"]
    assert service.certificate == ("/a", "/b c")
    assert service.proxy_from.texts == ("10.0.0.0/8", "::1")
    assert [(server.tls, server.h2, server.proxy) for server in service.servers] == [
        (ServerTLS("/x", True, "app.internal", "/y z"), False, "v2"),
        (ServerTLS(is_verified=False), False, "off"),
        (None, False, "off"),
        (None, True, "off"),
        (ServerTLS(name="h2"), True, "v1"),
        (ServerTLS(), False, "off"),
    ]
    assert parse(write(*configuration(Table.of([service])))).services["web"] == service


ONE_ADDRESS = """Virtual one {{
    listen = 127.0.0.1:81
    listen = 127.0.0.1:80 {one}
}}
Virtual two {{
    scheduler = wlc
    listen = 127.0.0.1:80 {two}
}}
"""


def test_services_with_one_address_are_refused_if_all_of_them_start() -> None:
    text = ONE_ADDRESS.format(one="", two="")
    with pytest.raises(BadConfiguration) as caught:
        parse(text, "x.conf", starts_all=True)
    assert str(caught.value) == (
        "x.conf:7:14: service two listens on 127.0.0.1:80, and so does service one (x.conf:3): give one of them "
        "another address"
    )
    with pytest.raises(BadConfiguration, match=r"x.conf:2:9: service b .* service a \(x.conf:1\)"):
        parse("Virtual a { }\nVirtual b { }", "x.conf", starts_all=True)
    assert len(parse(text).services) == 2  # one of them may stay stopped
    assert len(parse(ONE_ADDRESS.format(one="on a", two="on b"), starts_all=True).services) == 2
