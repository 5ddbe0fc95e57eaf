"""The documents are right: their links, programs, tables, command lines and output."""

from __future__ import annotations

import configparser
import functools
import importlib
import itertools
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import fields
from e2e.harness import write_tcpvsadm
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyObject

from ktcpvs import interfaces
from ktcpvs.control.tcpvsadm.argument_reader import read_arguments
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.errors import BadConfiguration
from ktcpvs.interfaces import IScheduler, ISchedulerFactory, Outcome
from ktcpvs.model import exchange
from ktcpvs.model.destination import Destination
from ktcpvs.model.language.keywords import KEYWORDS
from ktcpvs.model.language.lexer import unquoted
from ktcpvs.model.language.parser import parse
from ktcpvs.model.outcome import FAILURES
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.model.settings import SECRETS, TEXTS, Settings
from ktcpvs.model.table import Table
from ktcpvs.protocols.forwarding import FIELDS
from ktcpvs.system.names import service_port
from ktcpvs.system.plugins import find_schedulers

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
EXAMPLE = DOCS / "examples" / "ktcpvs-random"

_FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of one language, in their order."""
    return [body for kind, body in _FENCE.findall(text_of(name)) if kind == language]


def documents_with(language: str) -> list[str]:
    names = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
    return [name for name in names if blocks(name, language)]


def prose(name: str) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", text_of(name))


def built_in() -> list[str]:
    """The names of this package's schedulers."""
    known = find_schedulers().known.items()
    return sorted(name for name, plugin in known if type(plugin).__module__.startswith("ktcpvs."))


# Links.


@functools.cache
def anchors(name: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        name = str(path.relative_to(ROOT))
        yield from ((name, target) for target in _LINK.findall(prose(name)))


def leads_somewhere(name: str, target: str) -> bool:
    """Whether the file and the anchor of a link exist."""
    if target.startswith("https://"):
        return True
    file, _, anchor = target.partition("#")
    path = (ROOT / name).parent / file if file else ROOT / name
    return path.exists() and (not anchor or anchor in anchors(str(path.resolve().relative_to(ROOT))))


def test_every_link_leads_somewhere() -> None:
    found = list(links())
    assert found
    assert [f"{name} -> {target}" for name, target in found if not leads_somewhere(name, target)] == []


def test_every_document_is_reached_from_the_readme() -> None:
    todo, found = ["README.md"], set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            targets = [target.partition("#")[0] for target in _LINK.findall(prose(name))]
            paths = [((ROOT / name).parent / target).resolve() for target in targets if target.endswith(".md")]
            todo.extend(str(path.relative_to(ROOT)) for path in paths if path.exists())
    assert {str(path.relative_to(ROOT)) for path in DOCUMENTS} <= found


def test_every_picture_is_shown() -> None:
    shown = {Path(target).name for _, target in links() if "pictures/" in target}
    assert {path.name for path in (DOCS / "pictures").iterdir()} == shown


# The README.


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE))
    named = set(
        re.findall(
            r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`make [^`]*`|^    make .*$", text_of("README.md"), re.M))
        )
    )
    assert {"demo", "test"} <= named <= targets


def test_the_readme_names_the_schedulers_that_work_and_no_other() -> None:
    works, missing = text_of("README.md").split("## What works today")[1].split("\n## ")[0].split("Not here yet")
    assert sorted(re.findall(r"`(\w[\w-]*)`", works.partition("- Your own")[0])) == built_in()
    assert not set(re.findall(r"`(\w+)`", missing)) & set(built_in())


# Command lines.


def command_lines(name: str) -> Iterator[str]:
    """Every tcpvsadm command of a document: after a prompt, in an indented block, or in backquotes."""
    shells = "\n".join(blocks(name, "console") + blocks(name, "sh"))
    lines = re.findall(r"^(?:\$ )?(.*\btcpvsadm\b.*)$", shells, re.MULTILINE)
    lines += re.findall(r"^    (tcpvsadm .*)$", prose(name), re.MULTILINE)
    lines += re.findall(r"`(tcpvsadm -[^`]*)`", prose(name).replace("\n", " "))
    for line in lines:
        if re.match(r"tcpvsadm: |KTCPVS_CONTROL=", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        if "tcpvsadm" in words:  # not only as a part of a file's name
            yield " ".join(map(shlex.quote, words[words.index("tcpvsadm") :]))


def arguments(line: str) -> list[str]:
    """The words after `tcpvsadm`, up to the first operator of the shell. A process is named by a variable, or PID."""
    words = [re.sub(r"^(\$\w+|\$!|PID)$", "4711", word) for word in shlex.split(line)[1:]]
    ends = [place for place, word in enumerate(words) if word in (">", "<", "|", "||", "&&", ";", "&")]
    return words[: min(ends, default=len(words))]


COMMAND_LINES = [
    (name, line)
    for name in (str(path.relative_to(ROOT)) for path in DOCUMENTS if path.name != "tcpvsadm.md")  # it has synopses
    for line in dict.fromkeys(command_lines(name))
]


def test_every_command_line_is_valid() -> None:
    wrong = []
    for name, line in COMMAND_LINES:
        try:
            read_arguments(arguments(line))
        except UsageError as misuse:
            wrong.append(f"{name} shows `{line}`: {misuse}")
    assert wrong == []


def test_command_lines_were_found_in_every_document_for_users() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/configuration.md"} <= {name for name, _ in COMMAND_LINES}


# Configurations.

CONFIGURATIONS = [
    pytest.param(name, body, id=f"{name} {number}")
    for name in documents_with("ktcpvs")
    for number, body in enumerate(blocks(name, "ktcpvs"), 1)
]


@pytest.mark.parametrize(("name", "body"), CONFIGURATIONS)
def test_a_configuration_can_be_read(name: str, body: str) -> None:
    try:
        table = parse(body, name, service_port).apply(Table())
    except BadConfiguration as error:
        pytest.fail(str(error))
    assert table != Table(), "the configuration is empty"


def test_every_keyword_of_a_service_is_described_and_no_other() -> None:
    section = text_of("docs/configuration.md").split("## A virtual service")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` ", section, re.MULTILINE) == list(KEYWORDS)


def test_the_grammar_has_every_keyword() -> None:
    grammar = text_of("docs/configuration.md").split("## Grammar")[1].split("\n## ")[0]
    option = grammar.split("    option ")[1].split("\n\n")[0]
    written: set[str] = set()
    for line in option.splitlines():
        if '"="' not in line and "REQUEST" not in line:
            continue  # more words of the option before
        before = line.split('"="')[0] if '"="' in line else line.split("REQUEST")[0]
        written |= {word.lower() for word in re.findall(r'"(\w+)"', before)}
    limits = {name for name in KEYWORDS if name.startswith("client_")} - written
    assert written | limits | set(FIELDS) == set(KEYWORDS)
    assert not written & set(FIELDS)
    for group in "LIMIT", "FIELD":
        assert f'| {group} "="' in option


def test_the_quoting_examples_are_right() -> None:
    section = text_of("docs/configuration.md").split("## Tokens and quotes")[1].split("\n## ")[0]
    rows = re.findall(r'^\| `"(.*)"` \| `(.*)` \|$', section, re.MULTILINE)
    assert len(rows) >= 4
    for written, meant in rows:
        assert unquoted(written) == meant, written


def test_the_table_of_settings_is_whole_and_right() -> None:
    section = text_of("docs/configuration.md").split("## Settings")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.+) \|$", section, re.MULTILINE)
    expected = []
    for attribute in fields(Settings):
        if attribute.name in SECRETS:
            expected.append((attribute.name, "none", "8..128", "characters"))
            continue
        if attribute.name in TEXTS:
            expected.append((attribute.name, attribute.default or "none", "text", "-"))
            continue
        lowest, highest = attribute.metadata["range"]
        expected.append((attribute.name, str(attribute.default), f"{lowest}..{highest}", attribute.metadata["unit"]))
    assert [row[:4] for row in rows] == expected


# Schedulers.


def test_the_programs_about_schedulers_run() -> None:
    """The programs run in turn as one module; so do its tests."""
    programs = blocks("docs/schedulers.md", "python")
    assert len(programs) >= 4
    names: dict[str, object] = {"__name__": "schedulers_document"}
    for number, program in enumerate(programs):
        exec(compile(program, f"docs/schedulers.md, program {number + 1}", "exec"), names)
    tests = {name: value for name, value in names.items() if name.startswith("test_") and callable(value)}
    assert len(tests) >= 3
    for name, test in tests.items():
        try:
            test()
        except Exception:
            pytest.fail(f"{name} of docs/schedulers.md fails:\n{traceback.format_exc()}")


def test_the_simulations_of_the_document_run() -> None:
    """All but those that need a fixture."""
    names: dict[str, Any] = {"__name__": "simulations_document"}
    for number, program in enumerate(blocks("docs/simulations.md", "python")):
        exec(compile(program, f"docs/simulations.md, program {number + 1}", "exec"), names)
    tests = {
        name: value
        for name, value in names.items()
        if name.startswith("test_") and callable(value) and not value.__code__.co_argcount
    }
    assert len(tests) >= 5
    for name, test in tests.items():
        try:
            test()
        except Exception:
            pytest.fail(f"{name} of docs/simulations.md fails:\n{traceback.format_exc()}")


def test_the_schedulers_of_the_document_provide_their_interfaces() -> None:
    names: dict[str, Any] = {"__name__": "schedulers_document"}
    programs = blocks("docs/schedulers.md", "python")
    for program in programs:
        exec(program, names)
    factories = [
        value for value in names.values() if isinstance(value, type) and ISchedulerFactory.implementedBy(value)
    ]
    assert {"Random", "Sticky", "Canary"} <= {factory.__name__ for factory in factories}
    for factory in factories:
        verifyObject(ISchedulerFactory, factory())
        view = names["service_of"](2, factory=factory())
        verifyObject(IScheduler, factory().bind(view, None))


def test_every_built_in_scheduler_is_described_and_asked_when_the_table_says() -> None:
    section = text_of("docs/schedulers.md").split("## The built-in schedulers")[1].split("\n## ")[0]
    units = {
        "CONNECTION": "per connection",
        "CLIENT_HELLO": "ClientHello",
        "FIRST_REQUEST": "first request",
        "EACH_REQUEST": "each request",
    }
    known = find_schedulers().known
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w ]+) \|", section, re.MULTILINE)
    assert sorted(rows) == [(name, units[known[name].unit]) for name in built_in()]


def test_everything_that_a_plugin_may_use_is_described() -> None:
    text = text_of("docs/schedulers.md")
    contracts = [name for name, value in vars(interfaces).items() if isinstance(value, InterfaceClass)]
    assert {"IBindsInSteps", "IExplains", "IWatches"} <= set(contracts)
    assert [name for name in contracts if name != "Interface" and f"`{name}`" not in text] == []
    table = text.split("### Attributes of a destination")[1].split("\n#")[0]
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    of_the_switch = {"clock", "errors", "failed_at", "freed", "heard", "last_error", "pending", "watchers"}
    of_the_switch |= {"measured_errors", "measured_latency"}
    made = {"error_rate", "is_full", "latency", "queued", "state"}
    assert told == {*Destination.__slots__, *made} - of_the_switch


@pytest.mark.parametrize(
    ("heading", "described"),
    [
        ("### Outcomes", {attribute.name for attribute in fields(Outcome)} | {"has_failed"}),
        ("### Latency and errors", {"ewma", "last", "histogram", "count", "within"}),
    ],
)
def test_the_tables_of_what_a_scheduler_gets_are_whole(heading: str, described: set[str]) -> None:
    table = text_of("docs/schedulers.md").split(heading)[1].split("\n#")[0].split("| reason | meaning")[0]
    told = re.findall(r"`(\w+)(?:\(\w+\))?`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert set(told) == described


def test_what_shown_schedulers_read_of_a_service_is_described() -> None:
    """The package that `--new-scheduler` writes, the examples, and the programs of the document."""
    sources = [*EXAMPLE.parent.glob("*/ktcpvs_*/**/*.py"), ROOT / "ktcpvs/new_scheduler.py"]
    texts = [*(path.read_text() for path in sources), *blocks("docs/schedulers.md", "python")]
    read = {name for text in texts for name in re.findall(r"\bservice\.(\w+)", text)} & set(dir(ServiceView))
    assert {"destinations", "why"} <= read
    contract = text_of("docs/schedulers.md").split("`service` is a `ServiceView`:")[1].split("\n### ")[0]
    assert read <= {*re.findall(r"`(?:service\.)?(\w+)(?:\([^`]*\))?`", contract)}


def test_every_reason_of_an_outcome_is_described() -> None:
    rows = text_of("docs/schedulers.md").split("| reason | meaning")[1].split("\n\n")[0]
    assert dict(re.findall(r"^\| `(\w+)` \|.*\| (yes)? ?\|$", rows, re.MULTILINE)) == {
        reason: "yes" if reason in FAILURES else "" for reason in interfaces.REASONS
    }


def test_a_scheduler_has_twenty_lines() -> None:
    """`tests/e2e/test_plugin.py` installs it and serves clients with it."""
    program = (EXAMPLE / "ktcpvs_random" / "__init__.py").read_text()
    assert "A scheduler in twenty lines." in program
    assert "in twenty lines of Python" in text_of("README.md")
    assert len([line for line in program.splitlines() if line.strip()]) <= 20


def test_the_scheduler_of_the_document_is_the_one_of_the_example() -> None:
    programs = blocks("docs/schedulers.md", "python")
    assert programs[0] == (EXAMPLE / "ktcpvs_random" / "__init__.py").read_text()
    entry_points = (EXAMPLE / "setup.cfg").read_text().partition("[options.entry_points]")[2]
    assert f"[options.entry_points]{entry_points}" in blocks("docs/schedulers.md", "ini")


# Generated tables, pictures, names of files.


def test_the_generated_tables_are_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "tools" / "draw_states.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


DRAWN = {"explain.svg", "live-edit.svg", "speed.svg", "schedulers-p99.svg", "schedulers-shares.svg"}
"""Pictures that `make pictures` draws, and docs/tools/compare_schedulers.py."""

DIAGRAMS = [path for path in sorted((DOCS / "pictures").glob("*.svg")) if path.name not in DRAWN]


def test_the_bars_of_the_readme_are_those_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    pictures = importlib.import_module("readme_pictures")
    assert pictures.speed(pictures.from_text(pictures.RESULTS.read_text())) == text_of("docs/pictures/speed.svg")


@pytest.mark.parametrize(("name", "count"), [("explain.svg", 1), ("live-edit.svg", 8)])
def test_the_commands_in_a_picture_of_a_terminal_are_valid(name: str, count: int) -> None:
    typed = set(re.findall(r'class="bold">(tcpvsadm [^<]*)</text>', text_of(f"docs/pictures/{name}")))
    whole = [line for line in typed if not any(other.startswith(line) for other in typed - {line})]
    assert len(whole) == count
    for line in whole:
        read_arguments(arguments(line))


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.name)
def test_the_files_in_a_picture_exist(path: Path) -> None:
    files = re.findall(r"\b[a-z]+/[\w/]+\.py\b", path.read_text())
    assert files
    assert [file for file in files if not (ROOT / "ktcpvs" / file).exists()] == []


def test_every_module_is_listed_with_its_purpose_and_no_other() -> None:
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.+) \|$", text_of("docs/files.md"), re.MULTILINE)
    package = ROOT / "ktcpvs"
    made = ("__init__.py", "_version.py")  # the latter by the installation
    there = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name not in made}
    assert sorted(name for name, _ in rows) == sorted(there)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_modules_that_a_document_names_exist(path: Path) -> None:
    """Names in backquotes: of the package (`http/pool.py`, `schedulers/`) or of the source (`tests/memory.py`)."""
    folders = {folder.name for folder in (ROOT / "ktcpvs").iterdir() if folder.is_dir()} | {"tests", "docs"}
    named = re.findall(r"`([a-z]\w*/[\w/]*(?:\.py)?)`", prose(str(path.relative_to(ROOT))))
    ours = [name for name in named if name.partition("/")[0] in folders and "NAME" not in name]
    assert [name for name in ours if not (ROOT / "ktcpvs" / name).exists() and not (ROOT / name).exists()] == []


def test_the_parts_of_the_architecture_are_the_layers() -> None:
    """From top to bottom; a row of the document may hold neighbouring layers."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    layers = re.findall(r"ktcpvs\.(\w+)", setup["importlinter:contract:layers"]["layers"])
    section = text_of("docs/architecture.md").split("## The parts")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    parts = [re.findall(r"`(\w+)`", row) for row in rows]
    assert sorted(name for row in parts for name in row) == sorted(layers)
    places = [[layers.index(name) for name in row] for row in parts]
    assert all(max(above) < min(below) for above, below in itertools.pairwise(places))


def test_every_state_of_a_request_has_its_timeouts() -> None:
    section = text_of("docs/timeouts.md").split("## Schedulers that decide per request")[1].split("\n## ")[0]
    first = re.findall(r"^\| (\S.*?) \|.*\|.*\|.*\|$", section, re.MULTILINE)
    named = {state for column in first for state in column.split(", ")}
    assert named >= exchange.TABLE.keys()
    assert named - exchange.TABLE.keys() == {"state", "every state", "(a server connection)"}


def test_every_dependency_has_its_reason_and_no_other() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = "".join((setup["options"]["install_requires"], *setup["options.extras_require"].values()))
    named = re.findall(r"^\| `([\w.-]+)` \|", text_of("docs/dependencies.md"), re.MULTILINE)
    assert set(named) == set(re.findall(r"^([\w.-]+)", wanted, re.MULTILINE))  # some belong to several extras


def test_an_extra_that_brings_pyopenssl_brings_all_that_twisted_needs_with_it() -> None:
    """With pyOpenSSL and without service_identity, importing Twisted's endpoints fails."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needed = {line.split()[0] for line in extras["tls"].split("\n") if line}
    assert needed <= {line.split()[0] for line in extras["acme"].split("\n") if line}


def test_the_measurements_of_the_document_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/tools/measure.py, with numbers so small that the results mean nothing."""
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    measure = importlib.import_module("measure")
    monkeypatch.delitem(sys.modules, "measure")
    measure.rules((10,), 1)
    measure.admission((1, 10), 10)
    measure.http2(20)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 3 + 4


# The tutorial, played.

PORTS = ("8001", "8002", "8080")
HOME = "/home/you/ktcpvs"
MARK = "=====next====="
NOTICE = re.compile(r"^(\S*: line \d+: +\d+ |\[\d+\]. +)(Killed|Terminated|Done) .*\n", re.MULTILINE)
"""Bash's messages about its jobs."""

WAITS = {
    "python3 -m http": "for try in {{1..200}}; do (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.1; done",
    "kill ": "wait $switch 2>/dev/null",
}
"""Beginning of a command -> shell command that waits until a reader would go on."""


def free_ports(count: int) -> list[str]:
    """Unused ports of four digits, as in the document; at random, since another run of the tests may look too."""
    found: list[str] = []
    for port in random.sample(range(5200, 9900), 4700):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        try:
            socket.getservbyport(port, "tcp")
        except OSError:
            found.append(str(port))
        if len(found) == count:
            break
    return found


def steps() -> list[tuple[str, str]]:
    """(command, output) of everything that a reader types, except the installation."""
    typed = "".join(blocks("docs/tutorial.md", "console")[1:])
    return [(part.split("\n", 1)[0], part.split("\n", 1)[1]) for part in re.split(r"^\$ ", typed, flags=re.M)[1:]]


def alike(output: str) -> str:
    """Output without what differs between machines: byte counts, versions, the widths of columns."""
    output = re.sub(r"(?<=version )\S+", "X", output)
    output = re.sub(r"^  relay .*$", "  relay X", output, flags=re.MULTILINE)  # depends on the machine
    output = re.sub(r"(?<= )\d{2,}(?=\s)", "N", output)
    return re.sub(r" +", " ", output)


@pytest.mark.programs
@pytest.mark.e2e
@pytest.mark.long
def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    to_real = dict(zip(PORTS, free_ports(3), strict=True))
    to_shown = {real: shown for shown, real in to_real.items()}
    played = steps()
    script = ["set -m", "trap 'kill -9 $(jobs -p) 2>/dev/null; exit' EXIT TERM"]
    for command, _ in played:
        command = re.sub("|".join(PORTS), lambda found: to_real[found[0]], command)
        port = next((word for word in command.split() if word in to_shown), "")
        waits = [wait.format(port=port) for begin, wait in WAITS.items() if command.startswith(begin)]
        script += [f"eval {shlex.quote(command)} 2>&1", *waits, f"echo {MARK}"]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    write_tcpvsadm(programs / "tcpvsadm")
    environment |= {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
    bash = subprocess.Popen(["bash", "-c", "\n".join(script)], cwd=home, env=environment, stdout=subprocess.PIPE)
    try:
        stdout, _ = bash.communicate(timeout=180)
    finally:
        bash.terminate()  # its trap ends what it started
        bash.wait()
    outputs = stdout.decode().split(f"{MARK}\n")
    assert len(outputs) == len(played) + 1
    for (command, shown), output in zip(played, outputs, strict=False):
        output = re.sub("|".join(to_shown), lambda found: to_shown[found[0]], NOTICE.sub("", output))
        output = output.replace(str(home), HOME)
        assert alike(output) == alike(shown.rstrip("\n") + "\n" if shown.strip() else ""), f"$ {command}\n{output}"
