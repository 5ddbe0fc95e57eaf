"""Hints for the words of other programs' configurations."""

from __future__ import annotations

import pytest

from ktcpvs.errors import BadConfiguration
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.keywords import KEYWORDS
from ktcpvs.model.language.parser import parse
from ktcpvs.model.settings import Settings

BLOCK = "a service is a block 'Virtual NAME { ... }' with lines 'listen = ADDR:PORT' and 'server = ADDR:PORT'"


def refused(text: str) -> str:
    with pytest.raises(BadConfiguration) as refusal:
        parse(text, "a.conf")
    return str(refusal.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("frontend web\n  bind *:80", f"a.conf:1:1: 'frontend': expected 'Virtual' or 'global'; {BLOCK}"),
        ("upstream x {\n  server 10.0.0.1:80;\n}", f"a.conf:1:1: 'upstream': expected 'Virtual' or 'global'; {BLOCK}"),
        ("server {\n  listen 80;\n}", f"a.conf:1:1: 'server': expected 'Virtual' or 'global'; {BLOCK}"),
        ("Virtul web {\n}", "a.conf:1:1: 'Virtul': expected 'Virtual' or 'global'; did you mean 'Virtual'?"),
        (
            "Virtual web {\n  listen 80;\n}",
            "a.conf:2:3: 'listen': expected a keyword followed by '=', or '}' (example: listen = 0.0.0.0:80); lines "
            "end without ';'",
        ),
        (
            "Virtual web {\n  server = 10.0.0.1:80;\n}",
            "a.conf:2:12: unknown port name '80;' in '10.0.0.1:80;': give its number; lines end without ';'",
        ),
        (
            "Virtual web {\n  bind *:80\n}",
            "a.conf:2:3: 'bind': expected a keyword followed by '=', or '}'; use 'listen = ADDR:PORT' (example: "
            "listen = 0.0.0.0:80)",
        ),
        (
            "Virtual web {\n  proxy_pass = http://x\n}",
            "a.conf:2:3: unknown keyword 'proxy_pass'; a server is a line 'server = ADDR:PORT [WEIGHT]' in the block "
            "of its service",
        ),
        (
            "Virtual web {\n  schedular wlc\n}",
            "a.conf:2:3: 'schedular': expected a keyword followed by '=', or '}'; did you mean 'scheduler'?",
        ),
        (
            "Virtual web {\n  listen = *:80\n}",
            "a.conf:2:12: '*' is neither an IP address nor a host name; 0.0.0.0 and [::] mean every address",
        ),
        (
            "Virtual web {\n  server = web1 10.0.0.1:80\n}",
            "a.conf:2:17: '10.0.0.1:80': the address comes first, in place of a name",
        ),
        (
            "Virtual web {\n  server = 10.0.0.1:80 weight=5\n}",
            "a.conf:2:24: unknown word 'weight=5'; the weight is a number behind the address (example: server = "
            "10.0.0.1:80 5); for tcpvsadm it is -w 5",
        ),
        (
            "Virtual web {\n  server = 10.0.0.1:80 1 tls send-proxy\n}",
            "a.conf:2:30: unknown word 'send-proxy'; use 'proxy v1'",
        ),
        (
            "Virtual web {\n  rule = uri /x use respond 403\n}",
            "a.conf:2:10: expected a condition: unknown word 'uri'; use 'path /x' for a path, 'path /x/' for all below "
            "it, or 'pattern REGEX'",
        ),
        (
            "Virtual web {\n  rule = header X-Canary: 1 use respond 403\n}",
            "a.conf:2:17: header 'X-Canary:': expected the name of a header (write: header X-Canary \"PATTERN\", "
            "without a colon)",
        ),
        (
            "Virtual web {\n  listen = :80\n}",
            "a.conf:2:12: ':80' has no host; a host stands before the port: 0.0.0.0:80 or [::]:80 for every address",
        ),
        (
            "Virtual web {\n  listen = 80\n}",
            "a.conf:2:12: '80' is neither an IP address nor a host name; a host stands before the port: 0.0.0.0:80 or "
            "[::]:80 for every address",
        ),
        (
            "Virtual web { listen = 127.0.0.1:8080; }",
            "a.conf:1:24: unknown port name '8080;' in '127.0.0.1:8080;': give its number; lines end without ';'",
        ),
        (
            "Virtual web {\n  listen = 10.0.0.1:80 ssl\n}",
            "a.conf:2:24: after the address: unknown word 'ssl'; use 'tls'",
        ),
        (
            "Virtual web {\n  listen = 10.0.0.1:80\n  rule = path /a use return 301 /new\n}",
            "a.conf:3:22: expected 'server', 'redirect' or 'respond', not 'return'; use 'redirect 301 URL' or "
            "'respond 403'",
        ),
        (
            "Virtual web {\n  listen = 10.0.0.1:80\n  rule = path /a use deny\n}",
            "a.conf:3:22: expected 'server', 'redirect' or 'respond', not 'deny'; use 'respond 403'",
        ),
        (
            "Virtual web {\n  listen = 10.0.0.1:80\n  rule = path /a use server 10.0.0.1:80\n}",
            "a.conf:3:29: service web has no server 10.0.0.1:80; add the line 'server = 10.0.0.1:80' to it",
        ),
        (
            "global {\n  read_timeout = 5m\n}",
            "a.conf:2:18: read_timeout = 5m: expected a whole number of seconds (example: read_timeout = 300)",
        ),
        (
            "global {\n  choose_budget = 5ms\n}",
            "a.conf:2:19: choose_budget = 5ms: expected a whole number of ms",
        ),
        ("global {\n  nbthread = 4\n}", "a.conf:2:3: no setting 'nbthread'; use 'ktcpvs --workers N'"),
    ],
)
def test_a_hint_says_what_this_language_has_instead(text: str, why: str) -> None:
    assert refused(text) == why


SERVICE = """\
Virtual web {
    listen = 10.0.0.1:80
    server = 10.0.0.2:80
    @
}
"""
CHECKS = "use 'check = tcp' or 'check = http PATH'"
TIMES = "use 'check_interval = SECONDS', 'check_rise = N' and 'check_fall = N'"


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("httpchk = GET /", f"unknown keyword 'httpchk'; {CHECKS}"),
        ("http_check = x", f"unknown keyword 'http_check'; {CHECKS}"),
        ("rise = 2", f"unknown keyword 'rise'; {TIMES}"),
        ("fall = 2", f"unknown keyword 'fall'; {TIMES}"),
        ("header = X", "'header'; use 'request_header = NAME VALUE' or 'response_header = NAME VALUE'"),
        ("http_request = deny", "use a rule, or 'request_header = NAME VALUE' or 'response_header = NAME VALUE'"),
        ("tls = on", "'tls'; use 'certificate = FILE' and 'listen = ADDR:PORT tls'"),
        ("stats enable", "(example: ktcpvs --status tcp:9109)"),
        ("access_log = /x combined", "'combined': expected a keyword followed by '=', or '}'; use 'access_log_format = "
         "combined' or 'json'"),
        ("test GET / -> 10.0.0.2:80", "or '}' (example: test \"GET /\" -> 10.0.0.1:80)"),
        ("server s1 10.0.0.3:80", "or '}' (example: server = 10.0.0.1:80)"),
        ("scheduler: rr", "or '}' (example: scheduler = phttp)"),
        ("include conf.d/*.conf", "write '=' behind it (example: include = conf.d/*.conf)"),
        ("rule = path /a use server 10.0.0.2:80 weight 5", "unknown word 'weight' in a rule; the weight is a number "
         "behind the address (example: server = 10.0.0.1:80 5); for tcpvsadm it is -w 5"),
        ("rule = path /a use server 10.0.0.2:80\n    weight = 5", "unknown keyword 'weight'; the weight is a number "
         "behind the address of a server (example: server = 10.0.0.1:80 5)"),
        ("rule = !path /a use respond 403", "unknown word '!path'; use 'not CONDITION' (example: not path /api/)"),
        ("rule = host=a.example use respond 403", "'host=a.example'; a condition has no '=': write host a.example"),
        ("rule = PathPrefix(`/a`) use respond 403", "use 'path /x' for a path, 'path /x/' for all below it, or "
         "'pattern REGEX'"),
        ("rule = hdr(host) a.example use respond 403", "use 'host NAME' (example: host shop.example)"),
        ("rule = default use respond 403", "a rule for all requests that no other takes has 'pattern \".*\"'"),
        ("rule = path /a and host b use respond 403", "conditions side by side must all hold: leave it out"),
        ("rule = path ~ ^/a use respond 403", "for a regular expression use 'pattern REGEX'"),
        ("rule = method GET,POST use respond 403", "several values stand side by side, without commas"),
    ],
)  # fmt: skip
def test_a_word_of_another_program_leads_to_what_it_means(line: str, end: str) -> None:
    assert refused(SERVICE.replace("@", line)).endswith(end)


@pytest.mark.parametrize("first", ["shop.example {", "http:", "[[routers]]"])
def test_any_other_first_word_says_what_a_service_is(first: str) -> None:
    assert refused(first).endswith(BLOCK)


def test_hints_are_for_words_that_are_not_ours() -> None:
    assert not foreign_words.IN_BLOCK.keys() & {*KEYWORDS, *Settings.names()}
    assert foreign_words.EXAMPLES.keys() <= set(KEYWORDS)


def test_a_semicolon_in_quotes_is_not_mentioned() -> None:
    assert refused('Virtual web {\n  nonsense "a;"\n}').endswith("or '}'")
