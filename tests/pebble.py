"""The real CA for tests, pebble, with name servers that tests can change, and a proxy in front of it that can fail."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from authority import Authority
from servers import LOOPBACK, Program, answers, free_port

EAB_KID, EAB_KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
"""An external account that pebble knows."""


class NameServer(Program):
    """All names have the address 127.0.0.1, unless `point` says otherwise. It answers challenges at http_port."""

    def __init__(self, folder: Path) -> None:
        self.port, self.http_port, self._management = free_port(), free_port(), free_port()
        arguments = ["-dns01", f"{LOOPBACK}:{self.port}", "-http01", f"{LOOPBACK}:{self.http_port}", "-https01", ""]
        arguments += ["-tlsalpn01", "", "-management", f"{LOOPBACK}:{self._management}", "-defaultIPv6", ""]
        super().__init__("pebble-challtestsrv", arguments, folder)
        self.wait_until(lambda: answers(self._management) and answers(self.http_port))

    def _do(self, what: str, **values: Any) -> None:
        url = f"http://{LOOPBACK}:{self._management}/{what}"
        urllib.request.urlopen(url, json.dumps(values).encode(), timeout=10).close()

    def point(self, name: str, address: str) -> None:
        """Let a name lead to an address."""
        self._do("add-a", host=f"{name}.", addresses=[address])

    def forget(self, name: str) -> None:
        """Let a name lead to 127.0.0.1 again."""
        self._do("clear-a", host=f"{name}.")

    def answer(self, token: str, key_authorization: str) -> None:
        """Answer a challenge over HTTP."""
        self._do("add-http01", token=token, content=key_authorization)

    def answer_no_more(self, token: str) -> None:
        self._do("del-http01", token=token)


class Pebble(Program):
    """directory: its URL. ca: the file that verifies its TLS. It looks for challenges at http_port and tls_port."""

    def __init__(self, folder: Path, http_port: int, tls_port: int, names: int, *, needs_account: bool = False) -> None:
        """names: the port of the name server. needs_account: it requires an external account."""
        self.authority = Authority(folder, "pebble-tls")
        self.ca = self.authority.pem
        self.port, self._management = free_port(), free_port()
        self.directory = f"https://{LOOPBACK}:{self.port}/dir"
        pem = str(self.authority.daemon("pebble"))
        config: dict[str, Any] = {
            "listenAddress": f"{LOOPBACK}:{self.port}",
            "managementListenAddress": f"{LOOPBACK}:{self._management}",
            "certificate": pem,
            "privateKey": pem,
            "httpPort": http_port,
            "tlsPort": tls_port,
            "externalAccountBindingRequired": needs_account,
        }
        if needs_account:
            config["externalAccountMACKeys"] = {EAB_KID: EAB_KEY}
        self._config = folder / "pebble.json"
        self._config.write_text(json.dumps({"pebble": config}))
        self._folder, self._names = folder, names
        self.start()

    def start(self) -> None:
        """Start it, or start it again after `stop()`; it has forgotten everything then."""
        arguments = ["-config", str(self._config), "-dnsserver", f"{LOOPBACK}:{self._names}"]
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_AUTHZREUSE": "0"}
        super().__init__("pebble", arguments, self._folder, env=environment)
        self.wait_until(lambda: answers(self.port) and answers(self._management))

    def roots(self) -> str:
        """The root of the certificates that it issues, in PEM."""
        context = ssl.create_default_context(cafile=self.ca)
        url = f"https://{LOOPBACK}:{self._management}/roots/0"
        with urllib.request.urlopen(url, timeout=10, context=context) as response:
            return str(response.read().decode())


Respond = Callable[[str, str, bytes], "tuple[int, dict[str, str], bytes] | None"]
"""Gets method, path and body of a request; returns status, fields and body, or None: pebble responds."""


class CAProxy:
    """A CA in front of pebble, which can do what this version of pebble cannot: refuse, suggest times of renewal.

    requests: method and path of each. respond: of a request, see Respond. windows: what it suggests for all
    certificates, (start, end) in RFC 3339; None: it suggests nothing.
    """

    def __init__(self, pebble: Pebble) -> None:
        self.requests: list[tuple[str, str]] = []
        self.respond: Respond = lambda method, path, body: None
        self.window: tuple[str, str] | None = None
        self.port = free_port()
        self.directory = f"https://{LOOPBACK}:{self.port}/dir"
        self._pebble = pebble
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, fields, content = proxy.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_POST = do_HEAD = do_GET

        self._server = ThreadingHTTPServer((LOOPBACK, self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pebble.authority.daemon("proxy"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, method: str, path: str, fields: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, fields and body."""
        self.requests.append((method, path))
        if (own := self.respond(method, path, body)) is not None:
            return own
        if path.startswith("/renewal-info/") and self.window is not None:
            window = {"start": self.window[0], "end": self.window[1]}
            return 200, {"Content-Type": "application/json"}, json.dumps({"suggestedWindow": window}).encode()
        context = ssl.create_default_context(cafile=self._pebble.ca)
        connection = http.client.HTTPSConnection(LOOPBACK, self._pebble.port, timeout=10, context=context)
        connection.request(method, path, body or None, {**fields, "Host": f"{LOOPBACK}:{self.port}"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if path == "/dir" and self.window is not None:
            base = f"https://{LOOPBACK}:{self.port}/renewal-info"
            content = json.dumps({**json.loads(content), "renewalInfo": base}).encode()
        hop_by_hop = ("content-length", "connection", "transfer-encoding")
        return response.status, {k: v for k, v in response.getheaders() if k.lower() not in hop_by_hop}, content

    def count(self, method: str, path: str) -> int:
        """Return the number of requests with this method and this beginning of the path."""
        return sum(one == method and found.startswith(path) for one, found in self.requests)


def refusal(kind: str, detail: str, status: int = 429, **fields: str) -> tuple[int, dict[str, str], bytes]:
    """A response with an error of ACME."""
    problem = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}
    more = {name.replace("_", "-"): value for name, value in fields.items()}
    return status, {"Content-Type": "application/problem+json", **more}, json.dumps(problem).encode()
