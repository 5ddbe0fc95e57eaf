"""The manual pages of the daemon and of its configuration: whole, sound, and made from the document."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from attrs import fields

from ktcpvs.command_line import OPTIONS
from ktcpvs.control.tcpvsadm.usage import help_text
from ktcpvs.model.language.keywords import KEYWORDS
from ktcpvs.model.settings import Settings

PROGRAM = Path(__file__).parent.parent / "docs" / "tools" / "manual_pages.py"
TCPVSADM = Path(__file__).parent.parent / "docs" / "tcpvsadm.8"


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages, as the installation writes them."""
    spec = importlib.util.spec_from_file_location("manual_pages", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    folder = tmp_path_factory.mktemp("manual")
    program.write(folder)
    return folder


def tags(page: Path) -> str:
    """The tags of a page's lists."""
    text = page.read_text().replace("\\-", "-")
    return "\n".join(re.findall(r"^\.TP\n(.*)$", text, re.MULTILINE))


def test_the_page_of_the_daemon_has_every_option_and_no_other(manual: Path) -> None:
    described = set(re.findall(r"--([a-z-]+)", tags(manual / "ktcpvs.8")))
    assert described == OPTIONS.keys()


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_the_page_of_the_daemon_describes_its_signals(manual: Path, signal: str) -> None:
    assert signal in tags(manual / "ktcpvs.8")


def test_the_page_of_the_configuration_has_every_keyword_and_setting(manual: Path) -> None:
    described = re.findall(r"^\\fB(\w+)\\fR$", tags(manual / "ktcpvs.conf.5"), re.MULTILINE)
    assert set(KEYWORDS) <= set(described)
    assert {attribute.name for attribute in fields(Settings)} <= set(described)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("name", ["ktcpvs.8", "ktcpvs.conf.5"])
def test_the_page_is_sound(manual: Path, name: str) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", manual / name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_text_of_the_document_is_shown_as_it_is(manual: Path) -> None:
    """Backslashes, quotes, carets and leading dots mean something to roff."""
    done = subprocess.run(["mandoc", "-T", "ascii", manual / "ktcpvs.conf.5"], capture_output=True, text=True)
    shown = re.sub(".\b", "", done.stdout)
    for line in (
        r'rule = pattern "^/customers/[0-9]+" use server 192.168.0.12:www',
        r'"^/a b\.html$"',
        r"say \"hello\"",
    ):
        assert line in shown


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_a_table_that_compares_has_a_list_for_each_of_its_columns(manual: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "ascii", manual / "ktcpvs.8"], capture_output=True, text=True)
    words = " ".join(re.sub(".\b", "", done.stdout).partition("One source of truth")[2].split())
    first, second = re.split(r"ktcpvs --config FILE(?: --state STATE)? purpose: ", words)[1:]
    assert first.startswith("a file that people or tools maintain first start: loads FILE, starts all its services ")
    assert first.endswith("changes by tcpvsadm: last until the next start or SIGHUP ")
    assert second.startswith("a switch that is administered with tcpvsadm first start: ")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_a_terminal_of_80_columns_shows_each_line_as_it_is(manual: Path) -> None:
    for page in (manual / "ktcpvs.8", manual / "ktcpvs.conf.5", TCPVSADM):
        done = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, text=True)
        shown = re.sub(".\b", "", done.stdout).splitlines()
        assert [line for line in shown if len(line) > 80] == []


def test_the_synopsis_of_the_daemon_has_every_option(manual: Path) -> None:
    synopsis = (manual / "ktcpvs.8").read_text().split('.SH "SYNOPSIS"')[1].split(".SH")[0].replace("\\-", "-")
    assert set(re.findall(r"--([a-z-]+)", synopsis)) == OPTIONS.keys()


def test_the_synopsis_of_tcpvsadm_has_every_option_of_each_command() -> None:
    text = TCPVSADM.read_text().split(".Sh SYNOPSIS")[1].split(".Sh DESCRIPTION")[0]
    described = {}
    for block in text.split(".Nm\n")[1:]:
        first, *others = block.splitlines()
        command = re.findall(r"Fl -([a-z-]+)", first)[0]
        described[command] = set(re.findall(r"Fl (-[a-z-]+|\w)", "\n".join(others)))
    shown: dict[str, set[str]] = {}
    for line in help_text().split("Commands:\n")[1].split("\nOptions:")[0].splitlines():
        if found := re.match(r"  (?:-\w, |    )--([a-z-]+)", line):
            options = shown.setdefault(found[1], set())
            line = line[found.end() :]
        elif not line.startswith(" " * 10):
            continue
        options |= set(re.findall(r"(?:^|[\[ ])-(-[a-z-]+|\w)\b", line))
    assert described == shown
