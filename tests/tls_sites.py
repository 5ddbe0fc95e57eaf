"""Real servers that speak TLS: nginx, redis and PostgreSQL, each with a certificate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from servers import LOOPBACK, NGINX_START, PostgreSQL, Program, answers, free_port

SITE = """
    server {{
        listen {listen} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{ return 200 "{name}\\n"; }}
        location /files/ {{ }}
    }}
"""


class TLSNginx(Program):
    """One nginx with several sites; each has an address of its own, responds with its name, and has the files of the
    folder `files` under /files/.

    addresses: name -> address.
    """

    def __init__(self, folder: Path, certificates: Mapping[str, Path]) -> None:
        """certificates: name -> the file with the certificate and the key of that site."""
        self.folder = folder / "tls-nginx"
        self.files = self.folder / "www" / "files"
        self.files.mkdir(parents=True)
        ports = {name: free_port() for name in certificates}
        self.addresses = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
        text = NGINX_START.format(folder=self.folder, user="user root;" if os.getuid() == 0 else "")
        for name, certificate in certificates.items():
            text += SITE.format(listen=self.addresses[name], certificate=certificate, name=name)
        path = self.folder / "nginx.conf"
        path.write_text(text + "}\n")
        error_log = str(self.folder / "error.log")
        super().__init__("nginx", ["-p", str(self.folder), "-e", error_log, "-c", str(path)], self.folder)
        self.wait_until(lambda: all(map(answers, ports.values())))


class TLSRedis(Program):
    """A redis-server that speaks TLS only, and saves nothing to disk."""

    def __init__(self, folder: Path, certificate: Path, ca: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        options = ["--port", "0", "--tls-port", str(self.port), "--bind", LOOPBACK, "--save", "", "--dir", str(folder)]
        options += ["--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)]
        options += ["--tls-ca-cert-file", str(ca), "--tls-auth-clients", "no"]
        super().__init__("redis-server", options, folder)
        self.wait_until(lambda: answers(self.port))


class TLSPostgreSQL(PostgreSQL):
    """A PostgreSQL that speaks TLS, to clients that ask for it. name: what `SHOW cluster_name` says."""

    def __init__(self, name: str, certificate: Path) -> None:
        self._name = name
        self._certificate = certificate
        super().__init__()

    def options(self) -> list[str]:
        """Its key must belong to the user that it runs as, and nobody else may read it."""
        own = self.folder / "server.pem"
        shutil.copy(self._certificate, own)
        own.chmod(0o600)
        if os.getuid() == 0:
            shutil.chown(own, "nobody", "nogroup")
        settings = {"ssl": "on", "ssl_cert_file": own, "ssl_key_file": own, "cluster_name": self._name}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
