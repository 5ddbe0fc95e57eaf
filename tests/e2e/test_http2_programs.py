"""HTTP/2 with the clients that people use: nghttp, h2load, httpx, Node and Chromium, by TLS and without it."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from authority import SERVER, Authority
from browser import Browser
from servers import LOOPBACK, Nginx, free_port, program, wait_for
from tls_clients import key_hash

from .harness import Daemon, SharedDaemons

pytestmark = [pytest.mark.e2e, pytest.mark.programs]

NAME = "localhost"
TIMEOUT = 30.0


class Site:
    """A service with a listener for each: without TLS (`port`) and with it (`tls_port`)."""

    def __init__(self, daemon: Daemon, folder: Path, server: str) -> None:
        self.authority = Authority(folder)
        self.certificate = self.authority.issue("site", NAME, purposes=(SERVER,))
        self.port, self.tls_port = free_port(), free_port()
        listen = f"listen = {LOOPBACK}:{self.port} listen = {LOOPBACK}:{self.tls_port} tls"
        rule = f'server = {server} rule = pattern ".*" use server {server}'
        daemon.call("load", f"Virtual http2 {{ {listen} certificate = {self.certificate} scheduler = phttp {rule} }}")
        daemon.call("start", "http2")

    def url(self, is_tls: bool, path: str = "/hello") -> str:
        return f"https://{NAME}:{self.tls_port}{path}" if is_tls else f"http://{NAME}:{self.port}{path}"


@pytest.fixture(scope="module")
def site(shared_daemons: SharedDaemons, tmp_path_factory: pytest.TempPathFactory, web: list[Nginx]) -> Iterator[Site]:
    with shared_daemons.borrow("uvloop", 0) as daemon:
        yield Site(daemon, tmp_path_factory.mktemp("site"), web[0].address)


with_and_without_tls = pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@with_and_without_tls
def test_nghttp(site: Site, is_tls: bool) -> None:
    """It sends priorities, has windows of its own, and asks for several resources at once."""
    urls = [site.url(is_tls, f"/{number}") for number in range(5)]
    said = run(program("nghttp"), "--no-verify-peer", "-v", "-w", "16", *urls)
    assert said.count(":status: 200") == 5
    assert {f"GET /{number}" for number in range(5)} <= set(re.findall(r"GET /\d", said))


@with_and_without_tls
def test_h2load(site: Site, is_tls: bool) -> None:
    said = run(program("h2load"), "-n", "400", "-c", "8", "-m", "20", site.url(is_tls))
    assert "400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout" in said
    assert "Application protocol: h2" in said or not is_tls


@with_and_without_tls
def test_httpx(site: Site, is_tls: bool) -> None:
    """Several requests at once, and some with bodies, on one connection.

    One upload at a time: where several wait for their windows, httpcore leaves one waiting for more data when another
    has read what opened its window, and here no more comes behind the early response.
    """

    async def ask() -> list[httpx.Response]:
        verify = ssl.create_default_context(cafile=site.authority.pem)
        async with httpx.AsyncClient(
            http1=False, http2=True, verify=verify, timeout=TIMEOUT, trust_env=False,
            limits=httpx.Limits(max_connections=1),
        ) as client:  # fmt: skip
            asked = [client.get(site.url(is_tls, f"/{number}")) for number in range(20)]
            uploads = [await client.post(site.url(is_tls, "/upload"), content=bytes(100_000)) for _ in range(5)]
            return [*await asyncio.gather(*asked), *uploads]

    responses = asyncio.run(ask())
    assert {(one.status_code, one.http_version) for one in responses} == {(200, "HTTP/2")}
    for number, response in enumerate(responses[:20]):
        assert response.text.endswith(f" GET /{number}\n")


NODE_CODE = """
const http2 = require("http2"), fs = require("fs"), [url, ca] = JSON.parse(process.argv[1]);
const client = http2.connect(url, {ca: fs.readFileSync(ca)});
const ask = (path, body) => new Promise((resolve, reject) => {
    const stream = client.request({":path": path, ":method": body ? "POST" : "GET"}, {endStream: !body});
    let status = 0, text = "";
    stream.on("response", (fields) => { status = fields[":status"]; });
    stream.setEncoding("latin1");
    stream.on("data", (piece) => { text += piece; });
    stream.on("end", () => resolve([status, text]));
    stream.on("error", reject);
    if (body) stream.end(body);
});
(async () => {
    const asked = [];
    for (let number = 0; number < 20; number++)
        asked.push(ask("/" + number, number % 4 ? "" : Buffer.alloc(70000)));
    const found = await Promise.all(asked);
    await new Promise((resolve) => client.ping(Buffer.alloc(8), resolve));
    client.close();
    console.log(JSON.stringify(found));
})();
"""


@with_and_without_tls
def test_node(site: Site, is_tls: bool) -> None:
    given = json.dumps([site.url(is_tls, ""), str(site.authority.pem)])
    found = json.loads(run(program("node"), "-e", NODE_CODE, given))
    assert len(found) == 20
    for number, (status, text) in enumerate(found):
        assert status == 200
        assert text.endswith(f" {'GET' if number % 4 else 'POST'} /{number}\n")


def test_chromium(site: Site) -> None:
    options = (
        "--host-resolver-rules=MAP * 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={key_hash(site.certificate)}",
    )
    with (
        tempfile.TemporaryDirectory(prefix="ktcpvs-chromium-", ignore_cleanup_errors=True) as folder,
        Browser(Path(folder), *options) as browser,
    ):
        browser.open(site.url(True))
        script = "document.readyState === 'complete' && performance.getEntriesByType('navigation')[0].nextHopProtocol"
        spoken = wait_for(lambda: browser.ask(script), lambda: f"a page: {browser.complaints}", timeout=TIMEOUT)
        assert spoken == "h2"
        assert str(browser.ask("document.body.innerText")).strip().endswith("GET /hello")
