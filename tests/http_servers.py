"""Web servers for tests: nginx, Apache httpd and twisted.web, which respond alike, and a WebSocket echo.

Each of the three serves `/hello.txt` ("hello of NAME"), `/big.bin`, `/text.txt` (gzipped for clients that accept it),
`/stream.shtml` (the same text, chunked), `/empty` (204), and `/echo`, which sends a request's body back; all else is
404. Every response has `X-Server: NAME`, and in `X-Back` the value of the request's `X-Ask`. twisted.web serves
`/digest` too.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from servers import LOOPBACK, NGINX_START, Program, answers, free_port

BIG = random.Random("big").randbytes(4 << 20)
"""The content of `/big.bin`."""

TEXT = " ".join(random.Random("text").choices(("one", "two", "three", "four", "five"), k=50000)).encode()
"""The content of `/text.txt` and `/stream.shtml`."""


def sha256(data: bytes) -> str:
    """The SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def run_python(code: str, log_path: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a Python program with these arguments."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


class WebServer(Program, ABC):
    """One of the three. It has its own folder, since httpd reads it as `nobody` when root runs the tests."""

    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"ktcpvs-{self.name}-"))
        try:
            www = self.folder / "www"
            www.mkdir()
            (www / "hello.txt").write_text(self.hello)
            (www / "big.bin").write_bytes(BIG)
            (www / "text.txt").write_bytes(TEXT)
            (www / "stream.shtml").write_text('<!--#include virtual="/text.txt" -->')
            self.start()
            self.wait_until(lambda: answers(self.port))
        except BaseException:
            self.stop()
            raise

    @property
    def hello(self) -> str:
        return f"hello of {self.name}\n"

    @abstractmethod
    def start(self) -> None:
        """Start it, and do not wait."""

    def stop(self) -> None:
        if hasattr(self, "process"):
            super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


NGINX = (
    NGINX_START
    + """
    client_max_body_size 0;
    server {{
        listen {address};
        add_header X-Server nginx always;
        add_header X-Back $http_x_ask always;
        location / {{ }}
        location = /text.txt {{ gzip on; gzip_types text/plain; }}
        location = /stream.shtml {{ ssi on; ssi_types text/plain; }}
        location = /empty {{ return 204; }}
        # A body becomes a file, and the file is the response.
        location = /echo {{
            proxy_method PUT;
            proxy_pass http://unix:{folder}/keeper:/kept/$request_id;
        }}
        location /kept/ {{ internal; }}
    }}
    server {{
        listen unix:{folder}/keeper;
        location /kept/ {{
            dav_methods PUT;
            create_full_put_path on;
            add_header X-Accel-Redirect $uri;
        }}
    }}
}}
"""
)


class Nginx(WebServer):
    name = "nginx"

    def start(self) -> None:
        path = self.folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        path.write_text(NGINX.format(folder=self.folder, address=self.address, user=user))
        arguments = ["-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", str(path)]
        Program.__init__(self, "nginx", arguments, self.folder)


HTTPD_MODULES = "mpm_event authz_core alias deflate filter headers include mime reflector"

HTTPD = """
ServerRoot {folder}
ServerName localhost
DefaultRuntimeDir {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
{modules}
Listen {address}
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
DocumentRoot {folder}/www
TypesConfig /dev/null
AddType text/plain .txt .shtml
Header always set X-Server apache
Header always set X-Back "expr=%{{req:X-Ask}}" "expr=-n req('X-Ask')"
<Directory {folder}/www>
    Options +Includes
    Require all granted
</Directory>
<Files text.txt>
    SetOutputFilter DEFLATE
</Files>
<Files stream.shtml>
    SetOutputFilter INCLUDES
</Files>
Redirect 204 /empty
<Location /echo>
    SetHandler reflector
</Location>
"""


class Httpd(WebServer):
    """Apache httpd with mpm_event, in the foreground. Root runs it as the user `nobody`."""

    name = "apache"

    def start(self) -> None:
        places = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
        modules = next((place for place in places if Path(place).is_dir()), places[0])
        lines = (f"LoadModule {name}_module {modules}/mod_{name}.so" for name in HTTPD_MODULES.split())
        path = self.folder / "httpd.conf"
        path.write_text(HTTPD.format(folder=self.folder, address=self.address, modules="\n".join(lines)))
        options: dict[str, Any] = {}
        if os.getuid() == 0:
            options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for place in (self.folder, *self.folder.rglob("*")):
                shutil.chown(place, "nobody", "nogroup")
        Program.__init__(self, "apache2", ["-D", "FOREGROUND", "-f", str(path)], self.folder, **options)


TWISTED = """
import hashlib, sys
from twisted.internet import reactor
from twisted.web import http, resource, server, static

host, port, www = sys.argv[1:]

class Request(server.Request):
    def process(self):
        self.setHeader(b"X-Server", b"twisted")
        asked = self.getHeader(b"X-Ask")
        if asked is not None:
            self.setHeader(b"X-Back", asked)
        super().process()

class Body(resource.Resource):
    isLeaf = True

    def __init__(self, answer):
        super().__init__()
        self.render_POST = lambda request: answer(request.content.read())

class Empty(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setResponseCode(http.NO_CONTENT)
        return b""

class Stream(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        with open(www + "/text.txt", "rb") as file:
            while piece := file.read(10000):
                request.write(piece)
        request.finish()
        return server.NOT_DONE_YET

root = static.File(www)
gzipped = static.File(www + "/text.txt", defaultType="text/plain")
gzipped.isLeaf = True
root.putChild(b"text.txt", resource.EncodingResourceWrapper(gzipped, [server.GzipEncoderFactory()]))
root.putChild(b"stream.shtml", Stream())
root.putChild(b"empty", Empty())
root.putChild(b"echo", Body(bytes))
root.putChild(b"digest", Body(lambda body: hashlib.sha256(body).hexdigest().encode()))
reactor.listenTCP(int(port), server.Site(root, requestFactory=Request), interface=host)
reactor.run()
"""


class TwistedWeb(WebServer):
    name = "twisted"

    def start(self) -> None:
        self.log_path = self.folder / "twisted.log"
        self.process = run_python(TWISTED, self.log_path, LOOPBACK, self.port, self.folder / "www")


WEBSOCKET = """
import asyncio, signal, sys
from websockets.asyncio.server import serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with serve(echo, sys.argv[1], int(sys.argv[2]), max_size=None):
        await ended.wait()

asyncio.run(main())
"""


class WebSocketEcho(Program):
    """Sends every message back, text as text and bytes as bytes. Messages may have any length."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.log_path = folder / "websocket.log"
        self.process = run_python(WEBSOCKET, self.log_path, LOOPBACK, self.port)
        self.wait_until(lambda: answers(self.port))
