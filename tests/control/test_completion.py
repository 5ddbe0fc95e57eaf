"""The shell completions of tcpvsadm and ktcpvs: keys typed into a real shell, with a real daemon."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.harness import write_tcpvsadm

from ktcpvs.control.command_table import COMMAND_OF_NAME
from ktcpvs.control.tcpvsadm.options import COMMANDS, GLOBAL, OPTIONS, SCOPES
from ktcpvs.model.service import OPTIONS as SERVICE_OPTIONS
from ktcpvs.tap import Options as DaemonOptions

ROOT = Path(__file__).parents[2]
COMPLETION = ROOT / "docs" / "completion"
LIMIT = 30.0
"""Seconds until a step has failed."""

DAEMON = f"""#!{sys.executable}
from ktcpvs.daemon import run
run()
"""

OF_NODES = {
    "confirm",
    "end-local",
    "reload-certificates",
    "reload-schedulers",
    "renew-certificate",
    "drain-node",
    "undrain-node",
    "forget-node",
}
"""Commands that concern this node, or all of them: the daemon refuses --local with these."""

TABLE = """
Virtual web {
    listen = 127.0.0.1:8080
    server = 10.0.0.1:80 1
    server = 10.0.0.2:8081 1
    server = [2001:db8::1]:80 1
    rule = pattern "address" use server 10.0.0.1:80
}
Virtual mail {
    listen = 127.0.0.1:8025
    scheduler = wlc
    server = 192.0.2.25:25 1
}
Virtual back\\slash {
    listen = 127.0.0.1:8026
}
"""

TAB, ALL, LOOK = "\t", "\x1b*", "\x0f"
"""Complete; insert all completions (bash); print the current line, for which the shells are configured."""


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, command: list[str], setup: list[str], environment: dict[str, str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        for line in setup:
            os.write(self.terminal, line.encode() + b"\n")
        os.write(self.terminal, b"echo rea''dy\n")
        self._until(r"ready\r?\n")

    def _until(self, pattern: str) -> re.Match[str]:
        seen = ""
        end = time.monotonic() + LIMIT
        while not (found := re.search(pattern, seen)):
            readable, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            assert readable, f"the shell did not say {pattern}: {seen!r}"
            seen += os.read(self.terminal, 65536).decode(errors="replace")
        return found

    def type(self, keys: str) -> str:
        """Return the line after these keys, and clear it."""
        os.write(self.terminal, keys.encode() + LOOK.encode())
        line = self._until(r"<<(.*)>>")[1]
        os.write(self.terminal, b"\x15")
        return line

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell while the daemon serves TABLE."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "bin").mkdir()
    write_tcpvsadm(folder / "bin" / "tcpvsadm")
    daemon_program = folder / "bin" / "ktcpvs"
    daemon_program.write_text(DAEMON)
    daemon_program.chmod(0o755)
    (folder / "site.conf").write_text(TABLE)
    control = folder / "control.sock"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("BASH", "ZSH", "COMP"))},
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KTCPVS_CONTROL": f"unix:{control}",
        "HOME": str(folder),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }
    log = folder / "ktcpvs.log"
    with log.open("wb") as output:
        command = ["ktcpvs", "--control", f"unix:{control}"]
        daemon = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        end = time.monotonic() + LIMIT
        while not control.exists():
            assert daemon.poll() is None, f"the daemon ended: {log.read_text()}"
            assert time.monotonic() < end, "the daemon does not start"
            time.sleep(0.02)
        subprocess.run(["tcpvsadm", "-f", str(folder / "site.conf")], env=environment, check=True)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait(LIMIT)


@pytest.fixture(scope="module")
def bash(environment: dict[str, str]) -> Iterator[Shell]:
    setup = [
        "bind 'set bell-style none' 'set enable-bracketed-paste off' 'set completion-query-items 0'",
        r"""bind -x '"\C-o": printf "<<%s>>\n" "$READLINE_LINE"'""",
        f"source {COMPLETION / 'tcpvsadm'}",
        f"source {COMPLETION / 'ktcpvs'}",
        f"cd {environment['HOME']}",
    ]
    shell = Shell(["bash", "--norc", "--noprofile", "-i"], setup, environment)
    yield shell
    shell.close()


def others(command: str, *given: str) -> set[str]:
    """The long options that can still be given."""
    taken = COMMANDS[command]
    scopes = SCOPES if (command in COMMAND_OF_NAME or command == "restore") and command not in OF_NODES else ()
    return {f"--{name}" for name in (*taken.required, *taken.optional, *GLOBAL, *scopes) if name not in given}


def named() -> set[str]:
    """The service options that are written NAME=VALUE."""
    return {f"{name}=" for name in SERVICE_OPTIONS if name not in OPTIONS}


def test_bash_completes_commands_and_the_options_of_a_list(bash: Shell) -> None:
    words = bash.type(f"tcpvsadm --{ALL}").split()
    assert set(words) == {"tcpvsadm", *(f"--{name}" for name in COMMANDS), *others("list")}
    assert len(words) == len(set(words))


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_the_options_of_a_command(bash: Shell, command: str) -> None:
    value = " file" if COMMANDS[command].first_is_value else ""
    words = bash.type(f"tcpvsadm --{command}{value} --{ALL}").split()
    assert set(words) - {"tcpvsadm", "file"} == {f"--{command}", *others(command)}


@pytest.mark.parametrize("command", [command for command in COMMANDS.values() if command.short])
def test_bash_knows_short_commands(bash: Shell, command: object) -> None:
    short, name = COMMANDS[command.name].short, command.name  # type: ignore[attr-defined]
    value = " file" if name == "load-configfile" else ""
    words = bash.type(f"tcpvsadm -{short}{value} --{ALL}").split()
    assert set(words) - {"tcpvsadm", "file", f"-{short}"} == others(name)


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if option.short and option.value])
def test_bash_knows_short_options(bash: Shell, option: object) -> None:
    """The word after such an option is its value, whatever it looks like."""
    short = option.short  # type: ignore[attr-defined]
    words = bash.type(f"tcpvsadm -{short} --start --{ALL}").split()
    assert set(words) >= {"--list", "--stats"}


TYPED = [
    ("tcpvsadm --sta\t", "tcpvsadm --sta"),
    ("tcpvsadm --star\t", "tcpvsadm --start "),
    ("tcpvsadm --start --id\t", "tcpvsadm --start --ident "),
    ("tcpvsadm --start -i w\t", "tcpvsadm --start -i web "),
    ("tcpvsadm -i m\t", "tcpvsadm -i mail "),
    ("tcpvsadm --stop --ident=w\t", "tcpvsadm --stop --ident=web "),
    ("tcpvsadm -D -iw\t", "tcpvsadm -D -iweb "),
    ("tcpvsadm -Lni w\t", "tcpvsadm -Lni web "),
    ("tcpvsadm -Di b\t", "tcpvsadm -Di back\\\\slash "),
    ('tcpvsadm --start -i "w\t', 'tcpvsadm --start -i "web" '),
    ("tcpvsadm -A -i w\t", "tcpvsadm -A -i w"),
    ("tcpvsadm -d -i web -r 10.0.0.2\t", "tcpvsadm -d -i web -r 10.0.0.2:8081 "),
    ("tcpvsadm -d -i web -r 10.0.0.2:8\t", "tcpvsadm -d -i web -r 10.0.0.2:8081 "),
    ("tcpvsadm -d -i web -r \\[\t", "tcpvsadm -d -i web -r \\[2001:db8::1\\]:80 "),
    ("tcpvsadm -d -i web --real-server=10.0.0.2:\t", "tcpvsadm -d -i web --real-server=10.0.0.2:8081 "),
    ("tcpvsadm -e --ident=mail -r1\t", "tcpvsadm -e --ident=mail -r192.0.2.25:25 "),
    ("tcpvsadm -d -i mail -r 10\t", "tcpvsadm -d -i mail -r 10"),
    ("tcpvsadm -a -i web -r 19\t", "tcpvsadm -a -i web -r 192.0.2.25:25 "),
    ("tcpvsadm --add-rule -i web -p '/a b' -r 10.0.0.1\t", "tcpvsadm --add-rule -i web -p '/a b' -r 10.0.0.1:80 "),
    ("tcpvsadm -E -i web -s wl\t", "tcpvsadm -E -i web -s wlc "),
    ("tcpvsadm -E -i web --redirect n\t", "tcpvsadm -E -i web --redirect none "),
    ("tcpvsadm -E -i web vi\t", "tcpvsadm -E -i web via="),
    ("tcpvsadm -E -i web via=ap\t", "tcpvsadm -E -i web via=append "),
    ("tcpvsadm -A -i new fallback=wl\t", "tcpvsadm -A -i new fallback=wlc "),
    ("tcpvsadm -E -i web access_log_format=j\t", "tcpvsadm -E -i web access_log_format=json "),
    ("tcpvsadm -E -i web relay=sp\t", "tcpvsadm -E -i web relay=splice "),
    ("tcpvsadm --explain -i w\t", "tcpvsadm --explain -i web "),
    ("tcpvsadm --explain -i web --from 1\t", "tcpvsadm --explain -i web --from 127.0.0.1 "),
    ("tcpvsadm --explain -i web -H 'A: b' --he\t", "tcpvsadm --explain -i web -H 'A: b' --header "),
    ("tcpvsadm --get deb\t", "tcpvsadm --get debug_level "),
    ("tcpvsadm --set deb\t", "tcpvsadm --set debug_level="),
    ("tcpvsadm --set debug_level=3 read\t", "tcpvsadm --set debug_level=3 read_timeout="),
    ("tcpvsadm -f sit\t", "tcpvsadm -f site.conf "),
    ("tcpvsadm --load-configfile=sit\t", "tcpvsadm --load-configfile=site.conf "),
    ("tcpvsadm --stats --ra\t", "tcpvsadm --stats --ra"),
    ("tcpvsadm -i web --id\t", "tcpvsadm -i web --id"),
    ("tcpvsadm --start -- --id\t", "tcpvsadm --start -- --id"),
    ("tcpvsadm --control unix:/no/such --start -i w\t", "tcpvsadm --control unix:/no/such --start -i w"),
]


@pytest.mark.parametrize(("keys", "line"), TYPED, ids=[keys.strip() for keys, _ in TYPED])
def test_bash_completes(bash: Shell, keys: str, line: str) -> None:
    assert bash.type(keys) == line


def test_bash_offers_all_services(bash: Shell) -> None:
    assert bash.type(f"tcpvsadm --start -i {ALL}").split()[3:] == ["back\\\\slash", "mail", "web"]


@pytest.mark.parametrize("command", ["-A", "--edit-service"])
def test_bash_offers_the_options_that_are_words(bash: Shell, command: str) -> None:
    words = bash.type(f"tcpvsadm {command} -i new {ALL}").split()[4:]
    assert set(words) >= named()
    assert {word for word in words if not word.startswith("--")} == named()


def test_bash_offers_all_settings_after_get(bash: Shell) -> None:
    assert {"debug_level", "read_timeout", "unload"} <= set(bash.type(f"tcpvsadm --get {ALL}").split())


def test_bash_offers_the_servers_of_every_service_while_none_is_named(bash: Shell) -> None:
    servers = bash.type(f"tcpvsadm -d -r {ALL}").split()[3:]
    assert servers == ["10.0.0.1:80", "10.0.0.2:8081", "192.0.2.25:25", "\\[2001:db8::1\\]:80"]


# zsh


needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")


@needs_zsh
@pytest.mark.parametrize("program", ["_tcpvsadm", "_ktcpvs"])
def test_zsh_reads_its_completion(program: str) -> None:
    done = subprocess.run(["zsh", "-n", str(COMPLETION / program)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def zsh(environment: dict[str, str]) -> Iterator[Shell]:
    setup = [
        "unsetopt beep prompt_cr prompt_sp; PS1='> '",
        f"fpath=({COMPLETION} $fpath); autoload -U compinit; compinit -u -D",
        'look() { print -r -- "<<$BUFFER>>" }; zle -N look',
        "bindkey -e; bindkey '^O' look; bindkey '^U' kill-whole-line",
        f"cd {environment['HOME']}",
    ]
    shell = Shell(["zsh", "-f", "-i"], setup, environment)
    yield shell
    shell.close()


ZSH_DIFFERS = {
    "tcpvsadm --start --id\t": "tcpvsadm --start --ident=",
    "tcpvsadm --explain -i web -H 'A: b' --he\t": "tcpvsadm --explain -i web -H 'A: b' --header=",
    'tcpvsadm --start -i "w\t': 'tcpvsadm --start -i "web" ',
}


@needs_zsh
@pytest.mark.parametrize(("keys", "line"), TYPED, ids=[keys.strip() for keys, _ in TYPED])
def test_zsh_completes(zsh: Shell, keys: str, line: str) -> None:
    assert zsh.type(keys) == ZSH_DIFFERS.get(keys, line)


# The daemon's options.


def daemon_options() -> set[str]:
    """The long options of ktcpvs."""
    return {f"--{name.rstrip('=')}" for name in DaemonOptions().longOpt}


DAEMON_TYPED = [
    ("ktcpvs --con\t", "ktcpvs --con"),
    ("ktcpvs --conf\t", "ktcpvs --config "),
    ("ktcpvs --config sit\t", "ktcpvs --config site.conf "),
    ("ktcpvs --config=sit\t", "ktcpvs --config=site.conf "),
    ("ktcpvs -w a\t", "ktcpvs -w auto "),
    ("ktcpvs --control unix:sit\t", "ktcpvs --control unix:site.conf "),
    ("ktcpvs --takeover u\t", "ktcpvs --takeover unix:"),
    ("ktcpvs --user nobod\t", "ktcpvs --user nobody "),
    ("ktcpvs --state file --stat\t", "ktcpvs --state file --status"),
]


def test_bash_completes_every_option_of_the_daemon_and_no_other(bash: Shell) -> None:
    words = bash.type(f"ktcpvs {ALL}").split()
    assert set(words) - {"ktcpvs"} == daemon_options()


@pytest.mark.parametrize(("keys", "line"), DAEMON_TYPED, ids=[keys.strip() for keys, _ in DAEMON_TYPED])
def test_bash_completes_the_daemon(bash: Shell, keys: str, line: str) -> None:
    assert bash.type(keys) == line


def test_zsh_has_every_option_of_the_daemon_and_no_other() -> None:
    text = (COMPLETION / "_ktcpvs").read_text()
    assert set(re.findall(r"[{,'*)](--[a-z-]+)=?[\[}]", text)) == daemon_options()


ZSH_DAEMON_DIFFERS = {"ktcpvs --conf\t": "ktcpvs --config="}


@needs_zsh
@pytest.mark.parametrize(("keys", "line"), DAEMON_TYPED, ids=[keys.strip() for keys, _ in DAEMON_TYPED])
def test_zsh_completes_the_daemon(zsh: Shell, keys: str, line: str) -> None:
    assert zsh.type(keys) == ZSH_DAEMON_DIFFERS.get(keys, line)
