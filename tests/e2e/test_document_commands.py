"""Every block of commands in every document is run, or says why not.

All documents share one daemon, whose table is DEFAULT at the beginning of each document. Blocks run in their order, in
a folder with the files that documents name. Addresses, ports and paths are those of this machine, as for the cookbook.
`make` says what it would do (`make -n`), since most of its targets take minutes, and `pip` looks whether extras exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import SERVER, Authority
from documents import DOCUMENTS, LANGUAGES, ROOT, Block, blocks_of
from servers import LOOPBACK

from ktcpvs.errors import BadConfiguration
from ktcpvs.model.language.keywords import KEYWORDS
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.system.names import service_port

from .cookbook import Places, commands, is_shown
from .harness import TIMEOUT, ControlThread, Daemon, environment, write_tcpvsadm

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

DEFAULT = """
Virtual web {
    listen = 127.0.0.1:8080
    scheduler = phttp
    server = 10.0.0.1:80
    server = 10.0.0.2:80
}
Virtual shop {
    listen = 10.0.0.5:80
    scheduler = phttp
    server = 10.0.0.11:80
    server = 10.0.0.12:80
    server = 10.0.0.13:80
}
Virtual mail {
    listen = 127.0.0.1:8025
    scheduler = wlc
    server = 10.0.0.25:25
}
"""
"""The services that documents talk about."""

SITE = """
Virtual web {
    listen = 127.0.0.1:8080
    scheduler = phttp
    server = 10.0.0.1:80 2
}
"""

FILES = {
    "etc/ktcpvs/drop.txt": "203.0.113.0/24  # as an example\n",
    "var/log/ktcpvs/web.log": '{"time": "x", "target": "/", "server": "10.0.0.1:80", "total": 1, "status": 502, '
    '"ending": "failed"}\n',
}

LISTED = """
Virtual web {
    listen = 127.0.0.1:8080
    scheduler = http
    redirect = 127.0.0.1:8009
    server = 127.0.0.1:8001 1
    server = 127.0.0.1:8002 2
    rule = pattern "/images/.*" use server 127.0.0.1:8001
    rule = pattern ".*" use server 127.0.0.1:8002
}
Virtual mail {
    listen = 127.0.0.1:8025
    scheduler = wlc
    server = 127.0.0.1:25
}
"""

EXPLAINED = """
Virtual web {
    listen = 127.0.0.1:8080
    scheduler = http
    server = 127.0.0.1:8001
    server = 127.0.0.1:8002 2 maxconn 100
    server = 127.0.0.1:8003 0
    rule = pattern "^/images/" use server 127.0.0.1:8001
    rule = pattern ".*" use server 127.0.0.1:8001 server 127.0.0.1:8002 server 127.0.0.1:8003
}
"""

CONFIGURATIONS = {
    "default.conf": DEFAULT,
    "explained.conf": EXPLAINED,
    "listed.conf": LISTED,
    "shop.conf": SITE.replace("8080", "8083"),
    "site.conf": SITE,
    "web.conf": SITE.replace("8080", "8082"),
    "etc/ktcpvs/ktcpvs.conf": SITE,
}
"""The configurations that documents and comments in them name."""

SERVICES = {"http-alt": 8080, "smtp": 25}
"""Names of ports in the documents: ports of this machine have none."""

PROGRAMS = {
    "deploy": "#!/bin/sh\necho deployed $1\n",
    "make": '#!/bin/sh\nexec /usr/bin/make -n -C "$SOURCE" "$@"\n',
    "pip": f"""#!{sys.executable}
import sys
from importlib.metadata import metadata
from packaging.requirements import Requirement
assert sys.argv[1] == "install", sys.argv
for word in sys.argv[2:]:
    wanted = Requirement(f"ktcpvs{{word[1:]}}" if word.startswith(".") else word)  # `.`: the clone of the reader
    unknown = wanted.extras - set(metadata(wanted.name).get_all("Provides-Extra"))
    assert not unknown, f"{{wanted.name}} has no extra {{unknown}}"
""",
}
"""Programs of the reader: one of the documents' own, `make` that does nothing, and `pip` that installs nothing: the
extras exist."""

FOLDERS = ("etc/letsencrypt/renewal-hooks/deploy", "var/lib/ktcpvs", "run/ktcpvs", "bin")

ELSEWHERE = {
    "docs/tutorial.md": "tests/test_documents.py",
    "docs/cookbook.md": "tests/e2e/test_cookbook.py",
    "docs/schedulers.md": "tests/test_documents.py",
}
"""Documents whose console blocks and programs another test runs, all of them."""

_ABSOLUTE = re.compile(r"(?<![\w./])/(?=(?:etc|var|run)/)")
_DAEMON = re.compile(r"^(?:twistd )?ktcpvs( .*)?$", re.MULTILINE)


class Desk:
    """The folder, the shell and the daemon of a reader who types what documents show."""

    def __init__(self, thread: ControlThread, folder: Path) -> None:
        self.folder = folder
        self.places = Places({"interface=0.0.0.0": f"interface={LOOPBACK}", "[::]:": "[::1]:"})
        self._thread = thread
        self._daemons = 0
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        for name, text in CONFIGURATIONS.items():
            (folder / name).write_text(self.here(text))
        Authority(folder).issue("site", "shop.example", purposes=(SERVER,)).rename(folder / "etc/ktcpvs/site.pem")
        write_tcpvsadm(folder / "bin/tcpvsadm", tls=True)
        for name, text in PROGRAMS.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        file = folder / "etc/ktcpvs/ktcpvs.conf"
        self.daemon = self.make_daemon("--config", file, "--node", "node-b", "--node-labels", "edge")
        self.daemon.start()

    def make_daemon(self, *words: str | Path, workers: str = "0") -> Daemon:
        """A daemon in this folder, not started yet."""
        self._daemons += 1
        control = f"unix:{self.folder}/control{self._daemons}.sock"
        daemon = Daemon(self._thread, self.folder, *words, control=control, workers=workers, tls=True, preloaded=True)
        daemon.log_path = self.folder / f"daemon{self._daemons}.log"
        return daemon

    def here(self, text: str) -> str:
        """A text of a document with the addresses, ports and paths of this machine."""
        return self.places.here(_ABSOLUTE.sub(f"{self.folder}/", text))

    def reset(self) -> None:
        """Bring the table back to DEFAULT."""
        self.daemon.set(drain_timeout=0)
        self.daemon.call("stop")
        self.daemon.call("load", self.here(DEFAULT))
        self.daemon.call("start")

    def type(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run commands of this machine in bash, which stops at the first that fails."""
        return self.start("bash", "-e", "-o", "pipefail", "-c", script)

    def start(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the folder of the reader until it ends."""
        variables = {
            **environment(tls=True),
            "HOME": str(self.folder),
            "KTCPVS_CONTROL": self.daemon.control,
            "NO_PROXY": "*",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "SOURCE": str(ROOT),
        }
        return subprocess.run(
            command,
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def run(self, script: str) -> None:
        """Run commands of a document: each must succeed, without a warning of tcpvsadm.

        A daemon in a line of its own is started, must answer, and is ended.
        """
        script = script.replace("\\\n", " ").replace(" PID\n", f" {self.daemon.pid}\n")
        rest = 0
        for found in _DAEMON.finditer(script):
            self._run_shell(script[rest : found.start()])
            self._run_daemon(found[0])
            rest = found.end()
        self._run_shell(script[rest:])

    def _run_shell(self, script: str) -> None:
        if script.strip():
            done = self.type(self.here(script))
            assert (done.returncode, re.findall("^tcpvsadm: .*", done.stderr, re.MULTILINE)) == (0, []), (
                script + done.stdout + done.stderr
            )

    def _run_daemon(self, line: str) -> None:
        words = shlex.split(self.here(line), comments=True)
        options = words[words.index("ktcpvs") + 1 :]
        workers = "0"
        for name in ("--workers", "--control"):
            while name in options:
                place = options.index(name)
                value = options[place + 1]
                if name == "--workers":
                    workers = value
                elif not value.startswith("unix:"):
                    break
                del options[place : place + 2]
        daemon = self.make_daemon(*options, workers=workers)
        daemon.start()
        daemon.finish()

    def show(self, block: Block) -> None:
        """Type the commands of a console block: each shows what the document shows."""
        for command, shown in commands(block.text):
            for name, port in SERVICES.items():
                shown = shown.replace(f":{name}", f":{port}")
            done = self.type(f"{{ {self.here(command)}}} 2>&1")
            output, shown = (re.sub(r"(?<=version )\S+", "X", text) for text in (self.places.there(done.stdout), shown))
            is_right = done.returncode == 0 if block.is_example else is_shown(output, shown)
            assert is_right, f"{command}{output}"


@pytest.fixture(scope="module")
def desk(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(control_thread, tmp_path_factory.mktemp("documents"))
    yield desk
    desk.daemon.finish()


def is_run_here(block: Block) -> bool:
    return not block.not_run and not block.run_by and block.document not in ELSEWHERE


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(map(is_run_here, blocks_of(name)))])
def test_the_commands_of_a_document(desk: Desk, document: str) -> None:
    desk.reset()
    for block in filter(is_run_here, blocks_of(document)):
        try:
            for script in block.before:
                done = desk.type(desk.here(script))
                assert done.returncode == 0, script + done.stdout + done.stderr
            if block.language == "sh":
                desk.run(block.text)
            elif block.language == "console":
                desk.show(block)
            elif block.language == "python":
                program = block.text.replace("connect(reactor)", f"connect(reactor, {desk.daemon.control!r})")
                done = desk.start(sys.executable, "-c", desk.here(program))
                assert done.returncode == 0, done.stderr
        except AssertionError as failure:
            pytest.fail(f"{block}: {failure}", pytrace=False)


def test_every_block_names_its_language() -> None:
    found = [block for document in DOCUMENTS for block in blocks_of(document)]
    assert [str(block) for block in found if block.language not in LANGUAGES] == []


def test_a_block_that_is_text_shows_no_command() -> None:
    """It would not be run: `console` and `sh` are."""
    found = [block for document in DOCUMENTS for block in blocks_of(document) if block.language == "text"]
    assert [str(block) for block in found if re.search(r"^\$ ", block.text, re.MULTILINE)] == []


NOT_RUN = {
    "CONTRIBUTING.md": 2,
    "README.md": 2,
    "docs/access-log.md": 2,
    "docs/automatic-https.md": 1,
    "docs/cluster.md": 1,
    "docs/examples/ktcpvs-redis/README.md": 1,
    "docs/log-shipping.md": 2,
    "docs/operations.md": 2,
    "docs/performance.md": 2,
    "docs/schedulers.md": 1,
    "docs/security.md": 1,
    "docs/tcpvsadm.md": 1,
    "docs/testing.md": 4,
    "docs/tls.md": 1,
}
"""The number of blocks of each document that no test runs; the reason is in front of each."""


def test_only_blocks_with_a_reason_are_not_run() -> None:
    found = {document: sum(bool(block.not_run) for block in blocks_of(document)) for document in DOCUMENTS}
    assert {document: count for document, count in found.items() if count} == NOT_RUN


def test_the_tests_that_run_blocks_elsewhere_exist() -> None:
    named = {block.run_by for document in DOCUMENTS for block in blocks_of(document)} - {""}
    assert named
    assert [name for name in {*named, *ELSEWHERE.values()} if not (ROOT / name).is_file()] == []


def test_every_comment_is_in_front_of_a_block() -> None:
    """Another one would be ignored."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        found = re.findall(r"<!-- *(before|example output|not run|run by)\b", text)
        used = [
            len(block.before) + block.is_example + bool(block.not_run) + bool(block.run_by)
            for block in blocks_of(document)
        ]
        assert sum(used) == len(found), document


def fragments() -> Iterator[tuple[Block, str]]:
    """(block, configuration): parts of a service or of a configuration in blocks that do not name their language."""
    for document in DOCUMENTS:
        for block in blocks_of(document):
            if block.language != "text":
                continue
            if re.match(r"Virtual \S+ \{", block.text):
                yield block, block.text
            found = re.match(r"(\w+) = ", block.text)
            if found and found[1] in KEYWORDS:
                servers = re.findall(r"^server = (\S+)", block.text, re.MULTILINE)
                used = [one for one in re.findall(r"\bserver ([^=\s]\S*)", block.text) if one not in servers]
                more = "".join(f"    server = {one}\n" for one in dict.fromkeys(used))
                yield block, f"Virtual web {{\n    scheduler = phttp\n    listen = 127.0.0.1:80\n{more}{block.text}}}\n"


def test_every_part_of_a_configuration_can_be_read() -> None:
    """Whole ones, in blocks of their language, are checked in tests/test_documents.py."""
    found = list(fragments())
    assert len(found) >= 8
    for block, text in found:
        try:
            parse(text, block.document, service_port).apply(Table())
        except BadConfiguration as error:
            pytest.fail(f"{block}: {error}\n{text}", pytrace=False)
