"""Spellings with which a client may try to slip past `path /admin/`, and their table in the manual."""

from __future__ import annotations

import re
from pathlib import Path

SECURITY = Path(__file__).parent.parent / "docs" / "security.md"

SECRET_PATH = "/admin/secret.txt"

_TARGETS = (
    "/admin/secret.txt",
    "/admin//secret.txt",
    "//admin/secret.txt",
    "///admin///secret.txt",
    "/./admin/secret.txt",
    "/admin/./secret.txt",
    "/public/../admin/secret.txt",
    "/public/./../admin/secret.txt",
    "/public//../admin/secret.txt",
    "/none/../admin/secret.txt",
    "/a/b/../../admin/secret.txt",
    "/../admin/secret.txt",
    "/../../admin/secret.txt",
    "/admin/../admin/secret.txt",
    "/admin/x/../secret.txt",
    "/%61dmin/secret.txt",
    "/%61%64%6d%69%6e/secret.txt",
    "/%61%64%6D%69%6E/secret.txt",
    "/admi%6e/secret.txt",
    "/%2fadmin/secret.txt",
    "/%2Fadmin/secret.txt",
    "/admin%2fsecret.txt",
    "/admin%2Fsecret.txt",
    "/admin/%2e/secret.txt",
    "/%2e/admin/secret.txt",
    "/%2E/admin/secret.txt",
    "/public/%2e%2e/admin/secret.txt",
    "/public/.%2e/admin/secret.txt",
    "/public/%2E./admin/secret.txt",
    "/public%2f..%2fadmin/secret.txt",
    "/public%2f..%2fadmin%2fsecret.txt",
    "/public/..%2fadmin/secret.txt",
    "/public/%2e%2e%2fadmin%2fsecret.txt",
    "/%2e%2e/admin/secret.txt",
    "/%2e%2e%2fadmin/secret.txt",
    "/public/..//admin/secret.txt",
    "/public/%2f/../../admin/secret.txt",
    "/%252561dmin/secret.txt",
    "/%2561dmin/secret.txt",
    "/public/%252e%252e/admin/secret.txt",
    "/public%252f..%252fadmin/secret.txt",
    "/admin%252fsecret.txt",
    "/%c1%a1dmin/secret.txt",
    "/public/..%c0%afadmin/secret.txt",
    "/%u0061dmin/secret.txt",
    "/%6",
    "/%/../admin/secret.txt",
    "/%zz/../admin/secret.txt",
    "/Admin/secret.txt",
    "/ADMIN/secret.txt",
    "/admin./secret.txt",
    "/admin%20/secret.txt",
    "/%20admin/secret.txt",
    "/admin%00/secret.txt",
    "/admin/secret.txt%00",
    "/admin/secret.txt%00.html",
    "/admin%0d%0a/secret.txt",
    "/admin%09/secret.txt",
    "/admin;/secret.txt",
    "/admin;x=1/secret.txt",
    "/;/admin/secret.txt",
    "/public/..;/admin/secret.txt",
    "/.;/admin/secret.txt",
    "/public\\..\\admin\\secret.txt",
    "/public/..\\admin/secret.txt",
    "/public/..%5cadmin/secret.txt",
    "/\\admin/secret.txt",
    "/admin\\secret.txt",
    "/admin/secret.txt?",
    "/admin/secret.txt?x=/public/",
    "/?/../admin/secret.txt",
    "/public/?/../../admin/secret.txt",
    "/%3f/../admin/secret.txt",
    "/public%3f/../admin/secret.txt",
    "/admin/secret.txt#x",
    "/%23/../admin/secret.txt",
    "/admin/secret.txt/",
    "/admin/secret.txt/.",
    "/admin",
    "/admin?x",
    "admin/secret.txt",
    "./admin/secret.txt",
    "*/../admin/secret.txt",
    "http://site.example/admin/secret.txt",
    "http://site.example/public/../admin/secret.txt",
    "http://site.example/%61dmin/secret.txt",
    "http://site.example//admin/secret.txt",
    "HTTP://SITE.EXAMPLE/admin/secret.txt",
    "http://site.example:80/admin/secret.txt",
    "http://user@site.example/admin/secret.txt",
    "http://site.example?/../admin/secret.txt",
    "http:/admin/secret.txt",
    "//site.example/admin/secret.txt",
)

_OTHERS = (
    "POST /admin/secret.txt HTTP/1.1",
    "HEAD /%61dmin/secret.txt HTTP/1.1",
    "get /admin/secret.txt HTTP/1.1",
    "OPTIONS /admin/secret.txt HTTP/1.1",
    "GET  /admin/secret.txt HTTP/1.1",
    "GET\\t/admin/secret.txt HTTP/1.1",
    " GET /admin/secret.txt HTTP/1.1",
    "GET /admin/secret.txt  HTTP/1.1",
    "GET /admin/secret.txt HTTP/1.0",
    "GET /admin/secret.txt HTTP/1.9",
    "GET /admin/secret.txt HTTP/2.0",
    "GET /admin/secret.txt",
    "GET /x HTTP/1.1\\r\\nX-Original-URL: /admin/secret.txt",
    "GET /x HTTP/1.1\\r\\nX-Rewrite-URL: /admin/secret.txt",
    "GET /admin/secret.txt HTTP/1.1\\r\\nX-Forwarded-For: 10.0.0.1",
    "GET /admin/secret.txt HTTP/1.1\\r\\nForwarded: for=10.0.0.1",
    "GET /admin/secret.txt HTTP/1.1\\r\\nX-Real-IP: 10.0.0.1",
    "GET /admin/secret.txt HTTP/1.1\\r\\nX_Forwarded_For: 10.0.0.1",
    "PROXY TCP4 10.0.0.1 10.0.0.2 1 80\\r\\nGET /admin/secret.txt HTTP/1.1",
    "GET /x HTTP/1.1\\r\\nContent-Length: 0\\r\\nTransfer-Encoding: chunked",
)

TRICKS = tuple(dict.fromkeys((*(f"GET {target} HTTP/1.1" for target in _TARGETS), *_OTHERS)))
"""The beginnings of requests, as the manual shows them."""

PIPELINED = "GET /x HTTP/1.1"
"""A harmless request, behind which the real one follows on the same connection."""


def request_of(trick: str) -> bytes:
    """Return the request, which ends its connection."""
    begin = trick.replace("\\r\\n", "\r\n").replace("\\t", "\t").encode()
    return begin + b"\r\nHost: site.example\r\nConnection: close\r\n\r\n"


def row(trick: str, outcomes: list[str]) -> str:
    """Return the line of the manual's table."""
    plain = re.fullmatch(r"GET (/\S*) HTTP/1\.1", trick)
    return f"| `{plain[1] if plain is not None else trick}` | {' | '.join(outcomes)} |"


def essence(line: str) -> tuple[str, bool]:
    """Return what a line of the table says about the switch: the spelling, and whether the rule denies it. The rest
    depends on the versions of the servers."""
    cells = line.strip("| ").split(" | ")
    return cells[0], cells[-1] == "denied"


def rows_in_manual() -> list[str]:
    """Return the lines of the table in docs/security.md."""
    text = SECURITY.read_text(encoding="utf-8")
    section = text[text.index("## Rules that protect a path") :]
    section = section[: section.find("\n## ", 5)]
    return [line for line in section.split("\n") if re.match(r"\| `", line)]
