"""phttp behind the clients that people use: each in a process of its own, over one session, to three real servers.

Every client does the same: ten rounds over the three servers, a JSON object to each of them, the big file down, three
MiB of chunks up, and twenty requests at once. It checks each answer, and the switch must count as many requests.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_servers import BIG, Httpd, Nginx, TwistedWeb, WebServer, WebSocketEcho, sha256
from servers import LOOPBACK, free_port, program

from .harness import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.programs]

REQUESTS = {"nginx": 10 + 7 + 1 + 1, "apache": 10 + 7 + 1, "twisted": 10 + 6 + 1 + 1}
"""The requests to each server: the rounds, its part of the twenty, the JSON; then the big file down, or the chunks
up."""

COMMON = """
import hashlib, json, sys

base, big = sys.argv[1:]
names = ["nginx", "apache", "twisted"]
pieces = [bytes([number]) * 65536 for number in range(48)]
uploaded = hashlib.sha256(b"".join(pieces)).hexdigest()

def url(path, name):
    return f"{base}/{path}?at={name}"

def check(status, headers, body, name, asked):
    assert status == 200, (status, body)
    assert (headers["X-Server"], headers["X-Back"]) == (name, asked), headers
    assert body == f"hello of {name}\\n", body
"""

REQUESTS_CODE = """
from concurrent.futures import ThreadPoolExecutor
import requests

def hello(name, asked):
    answer = session.get(url("hello.txt", name), headers={"X-Ask": asked}, timeout=30)
    check(answer.status_code, answer.headers, answer.text, name, asked)

with requests.Session() as session:
    session.trust_env = False
    for number in range(10):
        for name in names:
            hello(name, f"{name}{number}")
    for name in names:
        told = {"to": name, "numbers": list(range(1000)), "text": "é"}
        answer = session.post(url("echo", name), json=told, timeout=30)
        assert (answer.status_code, answer.json()) == (200, told), answer.text

    digest = hashlib.sha256()
    with session.get(url("big.bin", "nginx"), stream=True, timeout=30) as answer:
        for piece in answer.iter_content(50000):
            digest.update(piece)
    assert digest.hexdigest() == big
    answer = session.post(url("digest", "twisted"), data=iter(pieces), timeout=30)
    assert (answer.status_code, answer.text) == (200, uploaded), answer.text

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: hello(names[number % 3], f"once{number}"), range(20)))
"""

HTTPX_CODE = """
import asyncio, httpx

async def upload():
    for piece in pieces:
        yield piece

async def main():
    async with httpx.AsyncClient(trust_env=False, timeout=30) as session:

        async def hello(name, asked):
            answer = await session.get(url("hello.txt", name), headers={"X-Ask": asked})
            check(answer.status_code, answer.headers, answer.text, name, asked)

        for number in range(10):
            for name in names:
                await hello(name, f"{name}{number}")
        for name in names:
            told = {"to": name, "numbers": list(range(1000)), "text": "é"}
            answer = await session.post(url("echo", name), json=told)
            assert (answer.status_code, answer.json()) == (200, told), answer.text

        digest = hashlib.sha256()
        async with session.stream("GET", url("big.bin", "nginx")) as answer:
            async for piece in answer.aiter_bytes():
                digest.update(piece)
        assert digest.hexdigest() == big
        answer = await session.post(url("digest", "twisted"), content=upload())
        assert (answer.status_code, answer.text) == (200, uploaded), answer.text

        await asyncio.gather(*(hello(names[number % 3], f"once{number}") for number in range(20)))

asyncio.run(main())
"""

AIOHTTP_CODE = """
import asyncio, aiohttp

async def upload():
    for piece in pieces:
        yield piece

async def main():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:

        async def hello(name, asked):
            async with session.get(url("hello.txt", name), headers={"X-Ask": asked}) as answer:
                check(answer.status, answer.headers, await answer.text(), name, asked)

        for number in range(10):
            for name in names:
                await hello(name, f"{name}{number}")
        for name in names:
            told = {"to": name, "numbers": list(range(1000)), "text": "é"}
            async with session.post(url("echo", name), json=told) as answer:
                assert (answer.status, json.loads(await answer.read())) == (200, told)

        digest = hashlib.sha256()
        async with session.get(url("big.bin", "nginx")) as answer:
            async for piece in answer.content.iter_chunked(50000):
                digest.update(piece)
        assert digest.hexdigest() == big
        async with session.post(url("digest", "twisted"), data=upload()) as answer:
            assert (answer.status, await answer.text()) == (200, uploaded)

        await asyncio.gather(*(hello(names[number % 3], f"once{number}") for number in range(20)))

asyncio.run(main())
"""

NODE_CODE = """
import assert from "node:assert/strict";
import { createHash } from "node:crypto";

const [base, big] = process.argv.slice(1);
const names = ["nginx", "apache", "twisted"];
const url = (path, name) => `${base}/${path}?at=${name}`;
const pieces = Array.from({ length: 48 }, (_, number) => Buffer.alloc(65536, number));
const uploaded = createHash("sha256").update(Buffer.concat(pieces)).digest("hex");

async function hello(name, asked) {
    const answer = await fetch(url("hello.txt", name), { headers: { "X-Ask": asked } });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get("x-server"), name);
    assert.equal(answer.headers.get("x-back"), asked);
    assert.equal(await answer.text(), `hello of ${name}\\n`);
}

for (let number = 0; number < 10; number++)
    for (const name of names) await hello(name, `${name}${number}`);

for (const name of names) {
    const told = { to: name, numbers: Array.from({ length: 1000 }, (_, number) => number), text: "é" };
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(url("echo", name), { method: "POST", headers, body: JSON.stringify(told) });
    assert.equal(answer.status, 200);
    assert.deepEqual(await answer.json(), told);
}

const digest = createHash("sha256");
for await (const piece of (await fetch(url("big.bin", "nginx"))).body) digest.update(piece);
assert.equal(digest.digest("hex"), big);
const body = ReadableStream.from(pieces);
const answer = await fetch(url("digest", "twisted"), { method: "POST", body, duplex: "half" });
assert.equal(answer.status, 200);
assert.equal(await answer.text(), uploaded);

await Promise.all(Array.from({ length: 20 }, (_, number) => hello(names[number % 3], `once${number}`)));
"""

CURL_CODE = r"""
set -eu
curl() { command curl -q -sS --fail-with-body -m 60 --noproxy '*' "$@"; }
check() { [ "$1" = "$2" ] || { echo "$3: $1 and not $2" >&2; exit 1; }; }
base=$1
big=$2

curl -w '%{num_connects} %header{x-server} %header{x-back}\n' -H 'X-Ask: round' \
    "$base/hello.txt?round=[1-10]&at={nginx,apache,twisted}" >rounds
new=1
for round in 1 2 3 4 5 6 7 8 9 10; do
    for name in nginx apache twisted; do
        printf 'hello of %s\n%s %s round\n' $name $new $name
        new=0
    done
done >wanted
diff wanted rounds >&2

for name in nginx apache twisted; do
    told="{\"to\": \"$name\", \"text\": \"é\"}"
    heard=$(curl -H 'Content-Type: application/json' --data-binary "$told" "$base/echo?at=$name")
    check "$heard" "$told" "JSON to $name"
done

check "$(curl "$base/big.bin?at=nginx" | sha256sum)" "$big  -" "the big file"
head -c 3145728 /dev/urandom >sent
sent=$(sha256sum <sent)
heard=$(curl -X POST -H 'Expect:' -H 'Transfer-Encoding: chunked' -T - "$base/digest?at=twisted" <sent)
check "$heard  -" "$sent" "the chunks"

number=0
set --
while [ $number -lt 20 ]; do
    case $((number % 3)) in 0) name=nginx ;; 1) name=apache ;; 2) name=twisted ;; esac
    [ $number = 0 ] || set -- "$@" --next
    set -- "$@" -sS --fail-with-body --noproxy '*' -H "X-Ask: once$number" -o once$number \
        -w "$number %header{x-server} %header{x-back}\n" "$base/hello.txt?at=$name"
    echo "hello of $name" >wanted$number
    echo "$number $name once$number" >>wanted_at_once
    number=$((number + 1))
done
command curl -q --no-progress-meter --parallel --parallel-immediate --parallel-max 20 "$@" | sort -n >at_once
diff wanted_at_once at_once >&2
for file in wanted[0-9]*; do
    diff "$file" "once${file#wanted}" >&2
done
"""

WEBSOCKET_CODE = """
import asyncio, random, sys
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

async def talk(number):
    async with connect(sys.argv[1], proxy=None, max_size=None) as connection:
        for message in (f"text é {number}", b"binary \\0\\xff", "", b"", "é" * (1 << 19), chance.randbytes(1 << 20)):
            await connection.send(message)
            assert await connection.recv() == message
        await (await connection.ping(b"are you there"))
        messages = [f"{number} {count}" for count in range(200)]
        for message in messages:
            await connection.send(message)
        assert [await connection.recv() for _ in messages] == messages
        await connection.close(4000 + number, "enough")
        try:
            await connection.recv()
        except ConnectionClosedOK as closed:
            raise AssertionError("closed as nobody asked for") from closed
        except Exception as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4000 + number, "enough"), closed

async def main():
    await talk(0)
    await asyncio.gather(*(talk(number) for number in range(1, 6)))

chance = random.Random(1)
asyncio.run(main())
"""


def python(code: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-W", "error", "-c", COMMON + code]


CLIENTS: dict[str, Callable[[], list[str]]] = {
    "curl": lambda: ["sh", "-c", CURL_CODE, "curl"],
    "requests": python(REQUESTS_CODE),
    "httpx": python(HTTPX_CODE),
    "aiohttp": python(AIOHTTP_CODE),
    "node": lambda: [program("node"), "--input-type=module", "-e", NODE_CODE, "--"],
}
"""The command line of each kind of client."""


@pytest.fixture(scope="module")
def three() -> Iterator[list[WebServer]]:
    """nginx, Apache httpd and twisted.web."""
    with contextlib.ExitStack() as stack:
        servers: list[WebServer] = []
        for kind in (Nginx, Httpd, TwistedWeb):
            servers.append(kind())
            stack.callback(servers[-1].stop)
        yield servers


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client(daemon: Daemon, three: list[WebServer], tmp_path: Path, kind: str) -> None:
    """The client is told the base of the URLs and the SHA-256 of the big file."""
    port = free_port()
    addresses = [server.address for server in three]
    rules = (("[?&]at=nginx$", addresses[0]), ("[?&]at=apache$", addresses[1]), ("[?&]at=twisted$", addresses[2]))
    daemon.service("web", port, *addresses, scheduler="phttp", rules=rules)
    done = subprocess.run(
        [*CLIENTS[kind](), f"http://{LOOPBACK}:{port}", sha256(BIG)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    daemon.wait_until_empty()
    counted = [server["stats"]["total"] for server in daemon.stats("web")["servers"]]
    assert counted == [REQUESTS[server.name] for server in three]


def test_a_websocket(daemon: Daemon, stack: contextlib.ExitStack, tmp_path: Path, three: list[WebServer]) -> None:
    echo = WebSocketEcho(tmp_path)
    stack.callback(echo.stop)
    port = free_port()
    rules = (("^/chat$", echo.address), (".*", three[0].address))
    daemon.service("web", port, echo.address, three[0].address, scheduler="phttp", rules=rules)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WEBSOCKET_CODE, f"ws://{LOOPBACK}:{port}/chat"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    daemon.wait_until_empty()
    stats = daemon.stats("web")
    assert [server["stats"]["total"] for server in stats["servers"]] == [6, 0]
    assert stats["stats"]["bytes_in"] > 6 << 20  # the text is compressed, the random bytes cannot be
    assert stats["stats"]["bytes_out"] > 6 << 20
