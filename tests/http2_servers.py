"""Real servers that speak HTTP/2, without TLS by prior knowledge and over TLS: nghttpd, nginx, HAProxy and Node.

Each responds to `/hello.txt` with "hello of NAME". All but HAProxy have `/big.bin`, and Node sends what is posted to
`/echo` back, with the trailer `x-sum` behind it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from authority import SERVER
from http_servers import BIG
from servers import LOOPBACK, NGINX_START, Program, answers, free_port
from tls_peers import authority


class HTTP2Server(Program, ABC):
    """plain, tls: the addresses without TLS and with it. hello: the content of `/hello.txt`."""

    name: str
    has_files = True
    has_echo = False

    def __init__(self, folder: Path) -> None:
        self.plain, self.tls = (f"{LOOPBACK}:{free_port()}" for _ in range(2))
        self.folder = folder
        www = folder / "www"
        www.mkdir()
        (www / "hello.txt").write_text(self.hello)
        (www / "big.bin").write_bytes(BIG)
        self.certificate = authority().issue(f"h2-{self.name}", "localhost", LOOPBACK, purposes=(SERVER,))
        self.begin()
        self.wait_until(lambda: all(answers(port) for port in self.ports))

    @property
    def hello(self) -> str:
        return f"hello of {self.name}"

    @property
    def ports(self) -> list[int]:
        return [int(address.rpartition(":")[2]) for address in (self.plain, self.tls)]

    @abstractmethod
    def begin(self) -> None:
        """Start it, and do not wait."""


class Nghttpd(HTTP2Server):
    name = "nghttpd"

    def begin(self) -> None:
        plain, tls = self.ports
        www = str(self.folder / "www")
        Program.__init__(self, "nghttpd", ["-a", LOOPBACK, "--no-tls", "-d", www, str(plain)], self.folder)
        keys = str(self.certificate), str(self.certificate)
        self.second = Program("nghttpd", ["-a", LOOPBACK, "-d", www, str(tls), *keys], self.folder)

    def stop(self) -> None:
        super().stop()
        self.second.stop()


NGINX = """
    server {{
        listen {plain} http2;
        listen {tls} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{ }}
    }}
}}
"""


class HTTP2Nginx(HTTP2Server):
    name = "nginx"

    def begin(self) -> None:
        user = "user root;" if os.getuid() == 0 else ""
        places = {"plain": self.plain, "tls": self.tls, "certificate": self.certificate}
        path = self.folder / "nginx.conf"
        path.write_text((NGINX_START + NGINX).format(folder=self.folder, user=user, **places))
        arguments = ["-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", str(path)]
        Program.__init__(self, "nginx", arguments, self.folder)


HAPROXY = """
global
    maxconn 200
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend h2
    bind {plain} proto h2
    bind {tls} ssl crt {certificate} alpn h2,http/1.1
    http-request return status 200 content-type text/plain string "{hello}"
"""


class HTTP2HAProxy(HTTP2Server):
    name = "haproxy"
    has_files = False

    def begin(self) -> None:
        places = {"plain": self.plain, "tls": self.tls, "certificate": self.certificate, "hello": self.hello}
        path = self.folder / "haproxy.cfg"
        path.write_text(HAPROXY.format(**places))
        Program.__init__(self, "haproxy", ["-db", "-f", str(path)], self.folder)


NODE = """
const http2 = require('http2'), fs = require('fs'), path = require('path');
const [plain, tls, certificate, www] = process.argv.slice(2);
function serve(stream, headers) {
  stream.on('error', () => {});
  if (headers[':method'] === 'HEAD') {
    stream.respond({':status': 200}, {endStream: true});
  } else if (headers[':path'] === '/echo') {
    stream.respond({':status': 200}, {waitForTrailers: true});
    stream.on('wantTrailers', () => stream.sendTrailers({'x-sum': '17'}));
    stream.pipe(stream);
  } else if (headers[':path'] === '/wait') {
    stream.respond({':status': 200});
    stream.write('begun');
    stream.on('close', () => fs.appendFileSync(www + '/closed', `${stream.rstCode}\\n`));
  } else if (headers[':path'] === '/goaway') {
    stream.session.goaway(0, stream.id);
    stream.respond({':status': 200});
    stream.end('last');
  } else {
    stream.respondWithFile(path.join(www, path.basename(headers[':path'])), {}, {
      onError: () => { stream.respond({':status': 404}); stream.end(); }
    });
  }
}
const pem = fs.readFileSync(certificate);
const [a, b] = [http2.createServer(), http2.createSecureServer({key: pem, cert: pem, allowHTTP1: true})];
for (const [server, address] of [[a, plain], [b, tls]]) {
  server.on('stream', serve);
  const [host, port] = address.split(':');
  server.listen(Number(port), host);
}
"""


class HTTP2Node(HTTP2Server):
    name = "node"
    has_echo = True

    def begin(self) -> None:
        path = self.folder / "server.js"
        path.write_text(NODE)
        arguments = [str(path), self.plain, self.tls, str(self.certificate), str(self.folder / "www")]
        Program.__init__(self, "node", arguments, self.folder)
