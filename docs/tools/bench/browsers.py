"""Requests as browsers send them: another path, referer, cookie and user agent in each, from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

SEED = 20261126
CLIENTS = 10_000
"""Clients, each with a user agent and a cookie of its own."""

REQUESTS = 20_000
"""Different requests of a file; after the last one the first comes again."""

HOST = "www.example.com"

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS {}_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 "
    "Mobile/15E148 Safari/604.1"
)

WORDS = ("index", "account", "orders", "invoice", "settings", "search", "basket", "product", "review", "profile")


@frozen
class Browser:
    """A client. kind: decides which fields it sends, and in which order. cookie: what it sends in Cookie."""

    kind: str
    user_agent: str
    language: str
    cookie: str


def make_browser(chance: random.Random) -> Browser:
    kind = chance.choices(("chrome", "firefox", "safari"), (6, 2, 2))[0]
    form, versions = {"chrome": (CHROME, (100, 131)), "firefox": (FIREFOX, (102, 133)), "safari": (SAFARI, (14, 18))}[
        kind
    ]
    cookie = f"sid={chance.getrandbits(128):032x}; _ga=GA1.1.{chance.randrange(10**9)}.{chance.randrange(10**10)}"
    if chance.random() < 0.5:
        cookie += f"; csrftoken={chance.getrandbits(192):048x}"
    if chance.random() < 0.5:
        cookie += "; consent=necessary%2Cstatistics; theme=dark"
    language = chance.choice(("en-US,en;q=0.9", "de-DE,de;q=0.9,en;q=0.7", "fr-FR,fr;q=0.8,en;q=0.5"))
    return Browser(kind, form.format(chance.randrange(*versions)), language, cookie)


def make_path(chance: random.Random) -> str:
    return f"/customers/{chance.randrange(100_000)}/{chance.choice(WORDS)}.html?page={chance.randrange(50)}"


def fields_of(browser: Browser, referer: str, cookie: str) -> Iterator[str]:
    """The header lines of one request."""
    yield f"Host: {HOST}"
    if browser.kind == "chrome":
        yield "Connection: keep-alive"
        yield 'sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"'
        yield "sec-ch-ua-mobile: ?0"
        yield 'sec-ch-ua-platform: "Windows"'
        yield f"User-Agent: {browser.user_agent}"
        yield "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
        yield f"Referer: {referer}"
        yield "Accept-Encoding: gzip, deflate, br, zstd"
        yield f"Accept-Language: {browser.language}"
        yield f"Cookie: {cookie}"
        return
    yield f"User-Agent: {browser.user_agent}"
    yield "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    yield f"Accept-Language: {browser.language}"
    yield "Accept-Encoding: gzip, deflate, br"
    yield f"Referer: {referer}"
    yield "Connection: keep-alive"
    yield f"Cookie: {cookie}"
    if browser.kind == "firefox":
        yield "Upgrade-Insecure-Requests: 1"
    yield "Sec-Fetch-Dest: document"
    yield "Sec-Fetch-Mode: navigate"
    yield "Sec-Fetch-Site: same-origin"


def make_requests(
    count: int = REQUESTS, *, close: bool = False, sessions: Sequence[str] = (), path: str = ""
) -> list[bytes]:
    """`count` requests, the same ones in every run.

    close: each asks for the end of its connection. sessions: values for Cookie in turn, before each client's own
    cookies. path: of all requests, with a `@` that becomes other letters in each; an empty text for paths of a site.
    """
    chance = random.Random(SEED)
    browsers = [make_browser(chance) for _ in range(CLIENTS)]
    made = []
    for number in range(count):
        browser = chance.choice(browsers)
        target, referer = make_path(chance), f"http://{HOST}{make_path(chance)}"
        if path:
            target = path.replace("@", "".join(chr(97 + int(digit)) for digit in str(number)))
        cookie = browser.cookie
        if sessions:
            cookie = f"{sessions[number % len(sessions)]}; {cookie}"
        lines = [f"GET {target} HTTP/1.1", *fields_of(browser, referer, cookie), "", ""]
        text = "\r\n".join(lines)
        if close:
            text = text.replace("Connection: keep-alive", "Connection: close")
        made.append(text.encode())
    return made


SCRIPT = """\
local requests, place = {{}}, 0
function init()
    local file = io.open("{data}", "rb")
    local all = file:read("*a")
    file:close()
    for one in string.gmatch(all, "([^%z]+)%z") do requests[#requests + 1] = one end
end
function request()
    place = place % #requests + 1
    return requests[place]
end
"""
"""A script for wrk. It reads all requests first, so that the load costs the same whatever they are."""


def write_script(folder: Path, name: str, requests: Sequence[bytes]) -> str:
    """Write a script for wrk that sends these requests in turn; its path."""
    data = folder / f"{name}.requests"
    data.write_bytes(b"".join(request + b"\0" for request in requests))
    script = folder / f"{name}.lua"
    script.write_text(SCRIPT.format(data=data))
    return str(script)
