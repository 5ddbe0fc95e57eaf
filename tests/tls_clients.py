"""TLS clients that people use. Each verifies the certificate, asks for a path, and gives back the response's body.

All of them connect to a port on loopback and name another host, as if DNS said that it is here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from browser import Browser
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from servers import LOOPBACK, program, wait_for

TIMEOUT = 30.0


class ClientFailed(Exception):
    """A client did not get a response; str() is what it said."""


@frozen
class Target:
    """One question of a client. port: on loopback. name: the host that it names and verifies. ca: the file with the CAs
    that it trusts. certificate: the file with the certificate and key that it shows; None: none. path: of the
    request."""

    port: int
    name: str
    ca: Path
    certificate: Path | None = None
    path: str = "/"


Client = Callable[[Target], bytes]
"""Returns the body of the response. Raises ClientFailed."""


def run(command: list[str], input: bytes = b"") -> bytes:
    """Run a client; return what it wrote. Raises ClientFailed when it failed."""
    done = subprocess.run(command, input=input, capture_output=True, timeout=TIMEOUT)
    if done.returncode:
        raise ClientFailed(f"{command[0]} ended with {done.returncode}: {done.stdout + done.stderr!r}")
    return done.stdout


def _request(target: Target) -> bytes:
    return f"GET {target.path} HTTP/1.1\r\nHost: {target.name}\r\nConnection: close\r\n\r\n".encode()


def _body(response: bytes) -> bytes:
    """The body in what a client without HTTP has received."""
    head, found, body = response.partition(b"\r\n\r\n")
    if not found or b"HTTP/1.1 200 " not in head:
        raise ClientFailed(f"the response is {response!r}")
    return body


def curl(target: Target, *options: str) -> bytes:
    words = ["-q", "-sS", "--fail-with-body", "--noproxy", "*", "--cacert", str(target.ca)]
    words += ["--resolve", f"{target.name}:{target.port}:{LOOPBACK}", *options]
    if target.certificate is not None:
        words += ["--cert", str(target.certificate), "--key", str(target.certificate)]
    return run([program("curl"), *words, f"https://{target.name}:{target.port}{target.path}"])


def openssl(target: Target, *options: str) -> bytes:
    words = ["s_client", "-connect", f"{LOOPBACK}:{target.port}", "-servername", target.name, "-quiet", "-ign_eof"]
    words += ["-CAfile", str(target.ca), "-no-CApath", "-verify_return_error", "-verify_hostname", target.name]
    if target.certificate is not None:
        words += ["-cert", str(target.certificate), "-key", str(target.certificate)]
    return _body(run([program("openssl"), *words, *options], _request(target)))


def openssl_tls12(target: Target) -> bytes:
    return openssl(target, "-tls1_2")


def gnutls(target: Target) -> bytes:
    words = ["--port", str(target.port), "--sni-hostname", target.name, "--verify-hostname", target.name]
    words += ["--x509cafile", str(target.ca), "--logfile", "/dev/null"]
    if target.certificate is not None:
        words += ["--x509certfile", str(target.certificate), "--x509keyfile", str(target.certificate)]
    return _body(run([program("gnutls-cli"), *words, LOOPBACK], _request(target)))


_REQUESTS = """
import json, socket, sys, requests
target = json.loads(sys.argv[1])
found = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **named: found("127.0.0.1", *more, **named)
with requests.Session() as session:
    session.trust_env = False
    session.verify, session.cert = target["ca"], target["certificate"]
    response = session.get(f"https://{target['name']}:{target['port']}{target['path']}", timeout=30)
    response.raise_for_status()
    sys.stdout.buffer.write(response.content)
"""

_NODE = """
const fs = require("fs"), target = JSON.parse(process.argv[1]);
const own = target.certificate && fs.readFileSync(target.certificate);
const lookup = (host, options, found) =>
    options.all ? found(null, [{ address: "127.0.0.1", family: 4 }]) : found(null, "127.0.0.1", 4);
const options = { ca: fs.readFileSync(target.ca), lookup, ...(own && { cert: own, key: own }) };
require("https").get(`https://${target.name}:${target.port}${target.path}`, options, response => {
    if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
    response.pipe(process.stdout);
});
"""


def _as_json(target: Target) -> str:
    own = str(target.certificate) if target.certificate is not None else None
    told = {"port": target.port, "name": target.name, "ca": str(target.ca), "certificate": own, "path": target.path}
    return json.dumps(told)


def requests(target: Target) -> bytes:
    return run([sys.executable, "-c", _REQUESTS, _as_json(target)])


def node(target: Target) -> bytes:
    return run([program("node"), "-e", _NODE, _as_json(target)])


def key_hash(certificate: Path) -> str:
    """The hash of a certificate's public key, as Chromium wants it for a certificate of its user's choice."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def chromium(target: Target, certificate: Path) -> bytes:
    """Chromium, without a window. certificate: of the server; it accepts this one only. It shows no certificate."""
    options = (
        "--host-resolver-rules=MAP * 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={key_hash(certificate)}",
    )
    with (
        tempfile.TemporaryDirectory(prefix="ktcpvs-chromium-", ignore_cleanup_errors=True) as folder,
        Browser(Path(folder), *options) as browser,
    ):
        browser.open(f"https://{target.name}:{target.port}{target.path}")
        script = "location.protocol === 'https:' && document.readyState === 'complete' && document.body.innerText"
        text = wait_for(lambda: browser.ask(script), lambda: f"a page: {browser.complaints}", timeout=TIMEOUT)
        return (str(text).strip() + "\n").encode()


CLIENTS: dict[str, Client] = {
    "curl": curl,
    "openssl": openssl,
    "openssl TLS 1.2": openssl_tls12,
    "gnutls": gnutls,
    "requests": requests,
    "node": node,
}
"""Name -> client; chromium is not among them, since it trusts another thing."""
