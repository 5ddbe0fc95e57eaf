"""The recipes of docs/cookbook.md with addresses, ports and files of this machine, and the commands that it shows.

An address 10.A.B.C of a recipe becomes 127.A.B.C, and each port becomes a free one, so that all servers of a recipe may
have the same port, as in the recipe. Output of commands is translated back before it is compared.
"""

from __future__ import annotations

import email.parser
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from authority import CLIENT, SERVER, Authority
from servers import LOOPBACK, free_port, wait_for

from .harness import ROOT, TIMEOUT, Daemon, write_tcpvsadm

EXAMPLES = ROOT / "docs/examples/cookbook"
DOCUMENT = ROOT / "docs/cookbook.md"

_ADDRESS = re.compile(r"\b10\.(\d+\.\d+\.\d+)\b")
_PORT = re.compile(r"([\w\s]:|\bport[ =]|\blisten |-p )(\d{2,5})\b(?!\.)")
_SECTION = re.compile(r"^## (?:.*)\n((?:(?!^## ).*\n)*)", re.MULTILINE)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Places:
    """Translates the texts of one recipe: addresses, ports and paths of the document -> those of this machine.

    Ports are chosen at their first use.
    """

    def __init__(self, paths: Mapping[str, object] | None = None) -> None:
        """paths: files, folders, host names and other texts of the document -> what stands for them here."""
        self.paths = {old: str(new) for old, new in (paths or {}).items()}
        self._ports: dict[int, int] = {}

    def port(self, number: int) -> int:
        """Return the port that stands for this one here."""
        if number not in self._ports:
            self._ports[number] = free_port()
        return self._ports[number]

    def host(self, address: str) -> str:
        return _ADDRESS.sub(r"127.\1", address)

    def here(self, text: str) -> str:
        """Return a configuration or a command of the document as it is used here."""
        for old, new in sorted(self.paths.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(old, new)
        text = re.sub(r"\b(bind )(?=:\d)", rf"\g<1>{LOOPBACK}", text)
        text = re.sub(r"\b(listen )(?=\d+[ ;])", rf"\g<1>{LOOPBACK}:", text)
        text = self.host(text).replace("0.0.0.0:", f"{LOOPBACK}:")
        return _PORT.sub(lambda found: f"{found[1]}{self.port(int(found[2]))}", text)

    def there(self, text: str) -> str:
        """Return output as the document shows it."""
        for number, port in self._ports.items():
            text = re.sub(rf"(https://[\w.]+):{port}\b", r"\1", text) if number == 443 else text
            text = re.sub(rf"\b{port}\b", str(number), text)
        for old, new in self.paths.items():
            text = text.replace(new, old)
        return re.sub(r"\b127\.(?!0\.0\.1\b)(\d+\.\d+\.\d+)\b", r"10.\1", text)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield (command, output) of what is typed in a block of the document. A backslash continues a command."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        found = re.match(r"((?:.*\\\n)*.*\n)", part)
        assert found is not None
        yield found[1], part[found.end() :]


def _words(text: str) -> list[str]:
    """The lines of an output with single blanks, without empty ones at its ends: columns are wider here."""
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def is_shown(output: str, shown: str) -> bool:
    """Whether an output is what the document shows, in which `...` stands for any text, and in a line of its own for
    any lines."""
    pattern = ""
    for line in _words(shown):
        pattern += r"(?:.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _words(output))) is not None


def section_of(name: str) -> str:
    """Return the section of the document that shows this recipe."""
    text = (EXAMPLES / f"{name}.conf").read_text()
    found = [section for section in _SECTION.findall(DOCUMENT.read_text()) if f"```ktcpvs\n{text}```\n" in section]
    assert len(found) == 1, f"{DOCUMENT.name} shows {name}.conf {len(found)} times"
    return str(found[0])


def web_server(name: str) -> Callable[[socket.socket], None]:
    """A web server for SocketServer: responds with its name, the request's line, and what it is told of the client."""

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            while line := stream.readline():
                method, target, _ = line.decode().split(" ")
                fields = email.parser.BytesParser().parsebytes(b"".join(iter(stream.readline, b"\r\n")))
                stream.read(int(fields.get("Content-Length", "0")))
                said = f"{name} {method} {target}"
                for word, field in (("for", "X-Forwarded-For"), ("by", "X-Forwarded-Proto")):
                    said += f" {word} {fields[field]}" if fields[field] else ""
                lines = ["HTTP/1.1 200 OK", "Server: example", "X-Powered-By: example"]
                sock.sendall("\r\n".join((*lines, f"Content-Length: {len(said) + 1}", "", f"{said}\n")).encode())

    return serve


class Recipe:
    """One recipe, which a daemon serves."""

    def __init__(self, daemon: Daemon, folder: Path, name: str, paths: Mapping[str, object] | None = None) -> None:
        """folder: for its files; commands run there. paths: as for Places; certificates need no entry."""
        self.daemon = daemon
        self.folder = folder
        self.name = name
        self.text = (EXAMPLES / f"{name}.conf").read_text()
        self.authority = Authority(folder)
        self.places = Places({**certificates(self.text, self.authority), **(paths or {})})
        self._blocks = iter(_CONSOLE.findall(section_of(name)))
        (folder / "bin").mkdir()
        write_tcpvsadm(folder / "bin/tcpvsadm")

    @property
    def servers(self) -> list[str]:
        """The addresses of its servers, as in the document, each once."""
        return list(dict.fromkeys(re.findall(r"^    server = (10\.\S+)", self.text, re.MULTILINE)))

    def where(self, address: str) -> tuple[str, int]:
        """Return host and port of an address of the document."""
        host, _, port = address.rpartition(":")
        return self.places.host(host).replace("0.0.0.0", LOOPBACK), self.places.port(int(port))

    def load(self) -> None:
        """Check the recipe and start its services. Checks of servers may take longer on a busy machine."""
        text = re.sub(r"^    check = .*\n", r"\g<0>    check_timeout = 30\n", self.text, flags=re.MULTILINE)
        text = self.places.here(text)
        assert not re.search(r"\b10\.|0\.0\.0\.0:|/etc/", text), text
        path = self.folder / f"{self.name}.conf"
        path.write_text(text)
        checked = self.daemon.adm("--check", path)
        assert checked.stderr == ""
        loaded = self.daemon.adm("-f", path, "--start", "--allow-empty")
        assert loaded.stderr == ""

    def types(self, command: str) -> str:
        """Run a command of the document in a shell; return what it wrote, as the document shows it."""
        settings = {"silent": None, "show-error": None, "noproxy": "*", "cacert": self.authority.pem}
        lines = [name if value is None else f'{name} = "{value}"' for name, value in settings.items()]
        for port in (25, 80, 443):
            here = self.places.port(port)
            lines += [f'connect-to = ":{called}:{LOOPBACK}:{here}"' for called in (port, here)]
        (self.folder / ".curlrc").write_text("\n".join(lines))
        environment = {
            **os.environ,
            "CURL_HOME": str(self.folder),
            "KTCPVS_CONTROL": self.daemon.control,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-c", self.places.here(command)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        return self.places.there(done.stdout.replace("\r\n", "\n"))

    def play(self, repeats: bool = False) -> None:
        """Type the next block of commands of its section: each shows what the document shows.

        repeats: the block changes nothing, so its commands are repeated until they do: checks take a moment.
        """
        for command, shown in commands(next(self._blocks)):
            self._type(command, shown, TIMEOUT if repeats else 0.0)

    def play_on_another(self) -> None:
        """Type the commands of the next block that are about no switch in particular: another program serves."""
        for command, shown in commands(next(self._blocks)):
            if "tcpvsadm" not in command:
                self._type(command, shown, 0.0)

    def _type(self, command: str, shown: str, timeout: float) -> None:
        """Type a command, and repeat it for so many seconds until it shows that."""
        output = ""

        def is_right() -> bool:
            nonlocal output
            output = self.types(command)
            return is_shown(output, shown)

        wait_for(is_right, lambda: f"{command}{output}", timeout, pause=0.1)

    def ends(self) -> None:
        """Check that all blocks of its section have been played."""
        assert list(self._blocks) == []


def certificates(text: str, authority: Authority) -> dict[str, str]:
    """Issue the certificates that a configuration names; return their paths in it -> the files.

    A folder of certbot's, a PEM file for the name of its file, or a file `...-ca.pem` with the CA.
    """
    paths = {}
    for path in re.findall(r"/etc/letsencrypt/live/[\w.]+", text):
        name = path.rpartition("/")[2]
        folder = authority.folder / name
        if not folder.exists():
            folder.mkdir()
            pem = authority.issue(name, name, purposes=(SERVER,)).read_text()
            certificate, key = re.findall(r"-----BEGIN.*?-----END[^\n]*-----\n", pem, re.DOTALL)
            (folder / "fullchain.pem").write_text(certificate)
            (folder / "privkey.pem").write_text(key)
        paths[path] = str(folder)
    for path in re.findall(r"/etc/\w+/[\w.-]+\.pem", text):
        name = path.rpartition("/")[2].removesuffix(".pem")
        is_authority = name.endswith("-ca")
        paths[path] = str(authority.pem if is_authority else authority.issue(name, name, purposes=(CLIENT, SERVER)))
    return paths
