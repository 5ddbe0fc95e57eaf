"""The command line of tcpvsadm: from argv to a command with its values, or to the exact error and exit status."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.harness import tcpvsadm as preloaded_tcpvsadm
from hypothesis import example, given
from hypothesis import strategies as st

from ktcpvs import __version__
from ktcpvs.control.command_table import COMMAND_OF_NAME
from ktcpvs.control.tcpvsadm.argument_reader import read_arguments
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.control.tcpvsadm.options import COMMANDS, GLOBAL, OPTIONS, SCOPES, Command
from ktcpvs.control.tcpvsadm.usage import command_help, help_text, synopsis

COLUMNS = (
    *("ident", "scheduler", "balance", "port", "listen", "redirect", "maxclients", "real-server", "weight", "maxconn"),
    *(
        "pattern",
        "match",
        "name",
        "rule",
        "before",
        "header",
        "from",
        "confirm",
        "allow-empty",
        "wait",
        "only",
        "numeric",
    ),
    *("views", "json", "delay", "all-nodes", "wide", "filter", "sort", "count", "verbose", "for", "config", "seconds"),
    *("reset", "body", "pid", "not-pid"),
)
MATRIX = """
list                o . . . . . . . . . . . . . . . . . . . . o o o . o o o o o . . . . . . . .
kill                . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
top                 o . . . . . . . . . . . . . . . . . . . . o . . . o . . . . . . . . . . . .
add-service         r o o o o o o . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
edit-service        r o o o o o o . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
delete-service      r . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
flush               . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
add-listener        r . . . r . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
del-listener        r . . . r . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
add-server          r . . . . . . r o o . . . . . . . . . . . . . . . . . . . . . . . . . . . .
edit-server         r . . . . . . r o o . . . . . . . . . o . . . . . . . . . . . . . . . . . .
delete-server       r . . . . . . r . . . . . . . . . . . o . . . . . . . . . . . . . . . . . .
drain               o . . . . . . r . . . . . . . . . . . o . . . . . . . . . . . . . . . . . .
ready               o . . . . . . r . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
maintenance         o . . . . . . r . . . . . . . . . . . o . . . . . . . . . . . . . . . . . .
rebalance           r . . . . . . . . . . . . . . . . . . o . . . o . o . . . . . . . . o . . .
add-rule            r . . . . . . o o . o o o . o . . . . . . . . . . . . . . . . . . . . . . .
edit-rule           r . . . . . . . . . o o o r . . . . . . . . . . . . . . . . . . . . . . . .
move-rule           r . . . . . . . . . . . . r o . . . . . . . . . . . . . . . . . . . . . . .
del-rule            r . . . . . . o . . o . . o . . . . . . . . . . . . . . . . . . . . . . . .
allow               r . . . . . . . . . . . . . . . . . . . o . . . . . . . . . . . . . . . . .
deny                r . . . . . . . . . . . . . . . . . . . o . . . . . . . . . . . . . . . . .
del-network         r . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
load-configfile     . . . . . . . . . . . . . . . . . o o . . . . . . . . . . . . . . . . . . .
restore             . . . . . . . . . . . . . . . . . o o . . . . . . . . . . . . . . . . . . .
confirm             . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
end-local           o . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
check               . . . . . . . . . . . . . . . . . . o . . . . . . . . . . . . . . . . . . .
diff                . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
save                . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
start               o . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
stop                o . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
set                 . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
get                 . . . . . . . . . . . . . . . . . . . . . . . o . . . . . . . . . . . . . .
explain             r . . o . . . . . . . . . . . o o . . . . . . o . . o . . . . . . . . o . .
trace               o . . . . . . . . . . . . . . . . . . . . . . o . . . . . o . o . . . . . .
certificates        o . . . . . . . . . . . . . . . . . . . . . . o . . o . . . . . . . . . . .
reload-certificates . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
renew-certificate   . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
wait-ready          . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . o o
nodes               . . . . . . . . . . . . . . . . . . . . . . . o . . o . . . . . . . . . . .
drain-node          . . . . . . . . . . . . . . . . . . . o . . . . o . . . . . . . . . . . . .
undrain-node        . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
forget-node         . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
replay              o o o . . . . . . . . . . . . o . . . . . . . o . . o . . . . . o o . . . .
new-scheduler       . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
schedulers          . . . . . . . . . . . . . . . . . . . . . . . o . . o . . . o . . . . . . .
reload-schedulers   . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
help                . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
version             . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . .
"""
"""r: required, o: may be given, .: refused; in the order of COLUMNS. `views` are --stats, --rate and --connections."""

ROWS = [line.split() for line in MATRIX.strip().splitlines()]
VIEWS = ("stats", "rate", "connections")
FLAGS = (
    "verbose",
    *SCOPES,
    "allow-empty",
    "wait",
    "reset",
    "wait-nodes",
    "only",
    "numeric",
    *VIEWS,
    "json",
    "all-nodes",
    "wide",
    "count",
)
VALUES = {
    "weight": "2",
    "match": "1",
    "maxclients": "9",
    "port": "80",
    "maxconn": "3",
    "delay": "9",
    "header": "A: b",
    "confirm": "60s",
    "for": "60",
    "pid": "4711",
    "not-pid": "4712",
    "seconds": "0.5",
}
WORDS = {
    "set": ["a=1"],
    "add-listener": ["tls"],
    "add-rule": ["host", "a.example", "use", "respond", "403"],
    "del-rule": ["host", "a.example"],
    **{name: ["FILE"] for name in ("load-configfile", "check", "diff")},
    "kill": ["ID"],
    "rebalance": ["20%"],
    "trace": ["path /a"],
    "replay": ["LOG"],
    "new-scheduler": ["NAME", "DIR"],
    **{name: ["NODE"] for name in ("drain-node", "undrain-node", "forget-node")},
    "renew-certificate": ["a.example"],
    "wait-ready": ["5m"],
    **{name: ["::1"] for name in ("allow", "deny", "del-network")},
}

USES = {
    row[0]: {
        option: use
        for column, use in zip(COLUMNS, row[1:], strict=True)
        for option in (VIEWS if column == "views" else (column,))
    }
    for row in ROWS
}
CELLS = [(command, option, use) for command, uses in USES.items() for option, use in uses.items()]


def written(option: str) -> list[str]:
    """The option with a value of its form."""
    return [f"--{option}"] if option in FLAGS else [f"--{option}", VALUES.get(option, "x")]


def line(command: str, *options: str) -> list[str]:
    """The command with its words and these options."""
    words = [word for option in options for word in written(option)]
    if command == "trace":  # the only command with which it has a value
        words = [f"{word}=5" if word == "--count" else word for word in words]
    return [f"--{command}", *WORDS.get(command, ()), *words]


def required(command: str) -> list[str]:
    return [option for option, use in USES[command].items() if use == "r"]


def complaint(argv: list[str]) -> str:
    with pytest.raises(UsageError) as caught:
        read_arguments(argv)
    return str(caught.value)


def test_the_matrix_has_every_command_and_option() -> None:
    assert list(USES) == sorted(COMMANDS, key=list(USES).index)
    assert {*USES["list"], *GLOBAL, *SCOPES} == set(OPTIONS)


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, o, use in CELLS if use != "."])
def test_an_option_that_belongs_to_the_command(command: str, option: str) -> None:
    options = dict.fromkeys([*required(command), option])
    said = read_arguments(line(command, *options))
    assert said.command.name == command
    values = {**VALUES, "confirm": "60"}
    flags = {**dict.fromkeys(FLAGS, ""), "count": "5" if command == "trace" else ""}
    assert said.values == {name: flags.get(name, values.get(name, "x")) for name in options}


@pytest.mark.parametrize("command", USES)
def test_the_options_that_do_not_belong_to_the_command(command: str) -> None:
    for option, use in USES[command].items():
        if command == "help" and option in ("confirm", *VIEWS):  # it describes these
            assert read_arguments(line(command, option)).words
        elif use == "." and option != command:
            why = complaint(line(command, *required(command), option))
            assert why.partition(";")[0] == f"Illegal '{option}' option with the '{command}' command"


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, o, use in CELLS if use == "r"])
def test_an_option_that_is_missing(command: str, option: str) -> None:
    others = [name for name in required(command) if name != option]
    written = f"-{OPTIONS[option].short}" if OPTIONS[option].short else f"--{option}"
    missing = (
        f"You need to supply the '{option}' option for the '{command}' command: {written} {OPTIONS[option].value}, "
    )
    assert complaint(line(command, *others)).startswith(missing)


@pytest.mark.parametrize("command", USES)
def test_every_command_goes_with_control(command: str) -> None:
    said = read_arguments([*line(command, *required(command)), "--control", "unix:/x", "--wait-nodes"])
    assert said.values["control"] == "unix:/x"
    assert "wait-nodes" in said.values


@pytest.mark.parametrize("command", USES)
def test_local_goes_with_every_command_that_edits_and_no_other(command: str) -> None:
    is_edit = command in COMMAND_OF_NAME or command == "restore"
    for option in SCOPES:
        words = [*line(command, *required(command)), f"--{option}"]
        if is_edit:
            assert option in read_arguments(words).values
        else:
            assert complaint(words) == f"Illegal '{option}' option with the '{command}' command"
    if is_edit:
        assert (
            complaint([*words, "--local"]) == "Illegal 'local' option with the 'force-local' option: give one of them"
        )


@pytest.mark.parametrize("command", USES)
def test_two_commands_at_once(command: str) -> None:
    for other in USES:
        check_two_commands(command, other)


def check_two_commands(command: str, other: str) -> None:
    if "help" in (command, other) and command != other:
        return
    if {command, other} & {"load-configfile", "restore"} and "start" in (command, other):
        loading = command if other == "start" else other
        assert read_arguments([*line(loading, "allow-empty"), "--start"]).values == {"start": "", "allow-empty": ""}
        return
    why = complaint([*line(command, *required(command)), *line(other)])
    if "confirm" in (command, other):  # which is an option then
        other = next((name for name in (command, other) if name != "confirm"), "confirm")
        said = ["You need to supply", "The 'confirm' option is given twice", "confirm '"]
        if "confirm" not in COMMANDS[other].optional:
            said[2] = f"Illegal 'confirm' option with the '{other}' command"
        assert why.startswith(tuple(said))
    elif command == other:
        assert why == f"The '{command}' command is given twice"
    else:
        assert why == f"Two commands: '{command}' and '{other}'"


@pytest.mark.parametrize("option", [option.name for option in OPTIONS.values() if not option.repeats])
def test_an_option_twice(option: str) -> None:
    assert complaint([*written(option), *written(option)]) == f"The '{option}' option is given twice"


@pytest.mark.parametrize(
    "command", [name for name, command in COMMANDS.items() if command.max_words in (0, 1) and name != "get"]
)
def test_leftover_words(command: str) -> None:
    why = complaint([*line(command, *required(command)), "xyzzy", "over"])
    first = "over" if command == "reload-schedulers" else "xyzzy"  # whose word may be left out
    assert why.startswith(f"Unexpected argument '{first}' with the '{command}' command")
    if "ident" in COMMANDS[command].optional and not COMMANDS[command].max_words:
        assert why.endswith(": the name of the virtual service goes with -i: -i xyzzy")


VALID = [
    # Nothing at all, and views without a command.
    ([], "list", {}, ()),
    (["-n"], "list", {"numeric": ""}, ()),
    (["--stats"], "list", {"stats": ""}, ()),
    (["--rate", "--json"], "list", {"rate": "", "json": ""}, ()),
    (["-i", "web", "--connections"], "list", {"ident": "web", "connections": ""}, ()),
    # The README's example.
    (["-A", "-i", "http", "-s", "http"], "add-service", {"ident": "http", "scheduler": "http"}, ()),
    (["-a", "-i", "http", "-r", "r1:80"], "add-server", {"ident": "http", "real-server": "r1:80"}, ()),
    (
        ["--add-rule", "-i", "http", "--pattern=/images/.*", "-r", "r1:80"],
        "add-rule",
        {"ident": "http", "pattern": "/images/.*", "real-server": "r1:80"},
        (),
    ),
    (
        ["--add-rule", "-i", "http", "--name", "n", "not", "path", "/a", "-r", "r1"],
        "add-rule",
        {"ident": "http", "name": "n", "real-server": "r1"},
        ("not", "path", "/a"),
    ),
    (
        ["--add-rule", "-i", "http", "path", "/a", "Use", "redirect", "301", "/b"],
        "add-rule",
        {"ident": "http"},
        ("path", "/a", "Use", "redirect", "301", "/b"),
    ),
    (["--edit-rule", "-ix", "--rule=1", "--name="], "edit-rule", {"ident": "x", "rule": "1", "name": ""}, ()),
    (["--list"], "list", {}, ()),
    (["-f", "site.conf"], "load-configfile", {}, ("site.conf",)),
    (["-f", "site.conf", "--confirm", "60s"], "load-configfile", {"confirm": "60"}, ("site.conf",)),
    (["--confirm=5m", "-f", "site.conf"], "load-configfile", {"confirm": "300"}, ("site.conf",)),
    (["--restore", "--confirm", "9"], "restore", {"confirm": "9"}, ()),
    (["--confirm"], "confirm", {}, ()),
    (["-f", "site.conf", "--start"], "load-configfile", {"start": ""}, ("site.conf",)),
    (["--start", "-fsite.conf", "--confirm", "60s"], "load-configfile", {"confirm": "60", "start": ""}, ("site.conf",)),
    (["--restore", "--star", "--allow-empty"], "restore", {"start": "", "allow-empty": ""}, ()),
    (["--check", "site.conf"], "check", {}, ("site.conf",)),
    (["--diff=site.conf"], "diff", {}, ("site.conf",)),
    (["-d", "-i", "web", "-r", "r1", "--wait"], "delete-server", {"ident": "web", "real-server": "r1", "wait": ""}, ()),
    (["-F"], "flush", {}, ()),
    (["-C"], "flush", {}, ()),
    (["-L", "--connection"], "list", {"connections": ""}, ()),
    (["-S"], "save", {}, ()),
    (["-R"], "restore", {}, ()),
    (["--start", "-i", "http"], "start", {"ident": "http"}, ()),
    # Short options in one word, values with and without a space.
    (["-L", "-n"], "list", {"numeric": ""}, ()),
    (["-Ln"], "list", {"numeric": ""}, ()),
    (["-nL"], "list", {"numeric": ""}, ()),
    (["-Lniweb"], "list", {"numeric": "", "ident": "web"}, ()),
    (["-Lni", "web"], "list", {"numeric": "", "ident": "web"}, ()),
    (["-ffile"], "load-configfile", {}, ("file",)),
    (["-Di=x"], "delete-service", {"ident": "=x"}, ()),
    (["--ident=a=b", "--start"], "start", {"ident": "a=b"}, ()),
    # A word that looks like an option is a value where a value is expected.
    (["-D", "-i", "-L"], "delete-service", {"ident": "-L"}, ()),
    (["--start", "--ident", "--"], "start", {"ident": "--"}, ()),
    (["-f", "-"], "load-configfile", {}, ("-",)),
    (["-aiweb", "-rx", "-w", "-1"], "add-server", {"ident": "web", "real-server": "x", "weight": "-1"}, ()),
    (
        ["--add-rule", "-i", "web", "-p", "", "-r", "x"],
        "add-rule",
        {"ident": "web", "pattern": "", "real-server": "x"},
        (),
    ),
    (["--load-configfile=a b"], "load-configfile", {}, ("a b",)),
    (["--load-configfile", "é"], "load-configfile", {}, ("é",)),
    # Abbreviations, as getopt_long has them; a name that is whole is not ambiguous.
    (["--fl"], "flush", {}, ()),
    (["--sto"], "stop", {}, ()),
    (["--star", "--id=x"], "start", {"ident": "x"}, ()),
    (["--load", "x"], "load-configfile", {}, ("x",)),
    (["--vers"], "version", {}, ()),
    (["--conn", "--num"], "list", {"connections": "", "numeric": ""}, ()),
    # Words.
    (["--set", "a=1"], "set", {}, ("a=1",)),
    (["--set", "a=1", "b="], "set", {}, ("a=1", "b=")),
    (["--set=a=1", "b=2=3"], "set", {}, ("a=1", "b=2=3")),
    (["a=1", "--set", "b=2"], "set", {}, ("a=1", "b=2")),
    (["--set", "--control", "unix:/x", "a=1"], "set", {"control": "unix:/x"}, ("a=1",)),
    (["--set", "--", "-a=1"], "set", {}, ("-a=1",)),
    (["--get"], "get", {}, ()),
    (["--get", "debug_level"], "get", {}, ("debug_level",)),
    (["--get=debug_level", "--json"], "get", {"json": ""}, ("debug_level",)),
    (["--list", "--"], "list", {}, ()),
    # Ports by number and by name; numbers of up to nine digits, good or not.
    (["-A", "-i", "w", "-P", "www"], "add-service", {"ident": "w", "port": "www"}, ()),
    (["-A", "-i", "w", "-P", "3com-tsmux"], "add-service", {"ident": "w", "port": "3com-tsmux"}, ()),
    (["-A", "-i", "w", "-P", "999999999"], "add-service", {"ident": "w", "port": "999999999"}, ()),
    (["-E", "-i", "w", "--redirect", "none"], "edit-service", {"ident": "w", "redirect": "none"}, ()),
    (["-E", "-i", "w", "--maxclients=-5"], "edit-service", {"ident": "w", "maxclients": "-5"}, ()),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "command", "values", "words"), VALID, ids=lambda it: None)
def test_valid_command_lines(argv: list[str], command: str, values: dict[str, str], words: tuple[str, ...]) -> None:
    assert read_arguments(argv) == Invocation(COMMANDS[command], values, words)


IDENT = ": -i ID, name of the virtual service (example: -i shop)"


INVALID = [
    (["--xyzzy"], "Unknown option '--xyzzy'"),
    (["-Z"], "Unknown option '-Z': counters cannot be zeroed; --rate shows rates per second"),
    (["-LZ"], "Unknown option '-Z': counters cannot be zeroed; --rate shows rates per second"),
    (["-y"], "Unknown option '-y'"),
    (["-Ly"], "Unknown option '-y'"),
    (["--Lst"], "Unknown option '--Lst'; did you mean '--list'?"),
    (["--exact"], "Unknown option '--exact': numbers are always exact"),
    (["reload"], "Unexpected argument 'reload' with the 'list' command: use -f FILE, --load-configfile FILE"),
    (["status"], "Unexpected argument 'status' with the 'list' command: use --list or --stats"),
    (["list"], "Unexpected argument 'list' with the 'list' command; did you mean '--list'?"),
    (["stats"], "Unexpected argument 'stats' with the 'list' command; did you mean '--stats'?"),
    (
        ["whatever"],
        "Unexpected argument 'whatever' with the 'list' command: the name of the virtual service goes with -i: "
        "-i whatever",
    ),
    (
        ["-D", "shop"],
        "You need to supply the 'ident' option for the 'delete-service' command: the name of the virtual service goes "
        "with -i: -i shop",
    ),
    (
        ["--drain", "10.0.0.1:80"],
        "You need to supply the 'real-server' option for the 'drain' command: the real server goes with -r: "
        "-r 10.0.0.1:80",
    ),
    (["-l"], "Option '-l' needs a value (to list, use -L)"),
    (
        ["-L", "shop"],  # the name is similar to --stop
        "Unexpected argument 'shop' with the 'list' command: the name of the virtual service goes with -i: -i shop",
    ),
    (
        ["shop"],
        "Unexpected argument 'shop' with the 'list' command; did you mean '--stop', or -i shop for a virtual service?",
    ),
    (["-help"], "Unknown option '-help'; did you mean '--help'?"),
    (["--loglevel", "5"], "Unknown option '--loglevel': use --set debug_level=5"),
    (
        ["--save", "x.conf"],
        "Unexpected argument 'x.conf' with the 'save' command: it prints the configuration: tcpvsadm --save > x.conf",
    ),
    (
        ["-R", "x.conf"],
        "Unexpected argument 'x.conf' with the 'restore' command: it reads standard input: use -f x.conf",
    ),
    (
        ["--help", "rule"],
        "Unexpected argument 'rule' with the 'help' command: 'tcpvsadm --COMMAND --help' describes one command",
    ),
    (["--wait-ready", "--pid", "x"], "pid 'x': not the number of a process (example: --pid 4711)"),
    (["--wait-ready", "--not-pid", "0"], "not-pid '0': not the number of a process (example: --not-pid 4711)"),
    (
        ["--shutdown"],
        "Unknown option '--shutdown': use --set unload=1, which ends the daemon; --stop stops services",
    ),
    (
        ["shutdown"],
        "Unexpected argument 'shutdown' with the 'list' command: use --set unload=1, which ends the daemon; --stop "
        "stops services",
    ),
    (
        ["--del-rule", "-i", "x", "canary"],
        "Unexpected argument 'canary' with the 'del-rule' command: a rule goes with --rule: --rule canary",
    ),
    (
        ["--del-rule", "-i", "x", "--name", "canary"],
        "Illegal 'name' option with the 'del-rule' command; the rule goes with --rule: --rule canary",
    ),
    (
        ["--add-rule", "-i", "x", "path", "/x", "respond", "404"],
        "Unexpected argument 'respond' with the 'add-rule' command: write 'use' before it: use respond 404",
    ),
    (["-ln"], "Illegal 'listen' option with the 'list' command; to list numeric addresses, use -L -n"),
    (
        ["-aix", "-ry", "-m"],
        "Option '-m' needs a value: connections are always relayed, so there is no packet-forwarding method to choose",
    ),
    (
        ["-A", "-f", "1"],
        "Two commands: 'add-service' and 'load-configfile'; marks of a firewall are not supported: use -i ID for the "
        "name of a service, and -l ADDR:PORT for its address",
    ),
    (["-\x1b"], r"Unknown option '-\x1b'"),
    (["---list"], "Unknown option '---list'"),
    (["--=x"], "Unknown option '--'"),
    (["--wieght", "2"], "Unknown option '--wieght'; did you mean '--weight'?"),
    (["--lst"], "Unknown option '--lst'; did you mean '--list'?"),
    # Options of ipvsadm.
    (
        ["-A", "-t", "10.0.0.1:80", "-s", "wlc"],
        "Unknown option '-t': use -i ID for the name of a service, and -l ADDR:PORT for its address",
    ),
    (
        ["-A", "--tcp-service", "x"],
        "Unknown option '--tcp-service': use -i ID for the name of a service, and -l ADDR:PORT for its address",
    ),
    (
        ["-a", "-i", "web", "-r", "x", "-g"],
        "Unknown option '-g': connections are always relayed, so there is no packet-forwarding method to choose",
    ),
    (["-Lc"], "Unknown option '-c': use --connections"),
    (["-e", "-x", "5"], "Unknown option '-x': use --maxconn N"),
    (["--clear"], "Unknown option '--clear': use -F, --flush"),
    (["-f", "x", "--start", "-i", "web"], "Illegal 'ident' option with the 'load-configfile' command"),
    (["-f", "x", "--start", "--start"], "Two commands: 'load-configfile' and 'start'"),
    (["--st"], "Option '--st' may be --start or --stop or --stats"),
    (["--add-ser"], "Option '--add-ser' may be --add-service or --add-server"),
    (["--li"], "Option '--li' may be --list or --listen"),
    (
        ["--re", "x"],
        "Option '--re' may be --ready or --rebalance or --restore or --reload-certificates or "
        "--renew-certificate or --replay or --reload-schedulers or --redirect or --real-server or --reset",
    ),
    (["-i"], "Option '-i' needs a value: -i shop"),
    (["--start", "--ident"], "Option '--ident' needs a value: --ident shop"),
    (["--id"], "Option '--ident' needs a value: --ident shop"),
    (["-f"], "Option '-f' needs a value: -f FILE"),
    (["--load-configfile"], "Option '--load-configfile' needs a value: --load-configfile FILE"),
    (["--stop", "-i", ""], "The value of option '-i' is empty"),
    (["--stop", "--ident="], "The value of option '--ident' is empty"),
    (["--control="], "The value of option '--control' is empty"),
    (["--load-configfile="], "The value of option '--load-configfile' is empty"),
    (["--stats=3"], "Option '--stats' takes no value"),
    (["--stop=web"], "Option '--stop' takes no value"),
    (["--stats", "--rate"], "Illegal 'rate' option with the 'stats' option: give one of them"),
    (["--connections", "--stats"], "Illegal 'stats' option with the 'connections' option: give one of them"),
    (
        ["web"],
        "Unexpected argument 'web' with the 'list' command: the name of the virtual service goes with -i: -i web",
    ),
    (["-"], "Unexpected argument '-' with the 'list' command"),
    (["--", "-L"], "Unexpected argument '-L' with the 'list' command"),
    (["--get", "a", "b"], "Unexpected argument 'b' with the 'get' command"),
    (["--get", ""], "The name of a setting is empty"),
    (["-f", "a", "b"], "Unexpected argument 'b' with the 'load-configfile' command"),
    (["--set"], "You need to supply NAME=VALUE... for the 'set' command"),
    (["--set", "a"], "'a': not NAME=VALUE (example: read_timeout=60)"),
    (["--set", "=1"], "'=1': not NAME=VALUE (example: read_timeout=60)"),
    (["--set", "a=1", "a=2"], "The setting 'a' is given twice"),
    (["-Aix", "a"], "'a': not NAME=VALUE (example: maxclients=100)"),
    *(
        (
            ["-Aix", *words],
            f"'{at}': not NAME=VALUE; write a listener's words and its address as one argument: -l {shown}",
        )
        for words, at, shown in (
            (["-l", "127.0.0.1:8091", "tls"], "tls", "'127.0.0.1:8091 tls'"),
            (["-l", "h:1", "a=b", "tls", "on", "n1,n2", "via=off"], "tls", "'h:1 tls on n1,n2'"),
            (["listen=h:1", "on", "n1"], "on", "'h:1 on n1'"),
            (["tls"], "tls", "'0.0.0.0:443 tls'"),
        )
    ),
    (["-Eix", "-l", "h:1", "proxy"], "'proxy': not NAME=VALUE (example: maxclients=100)"),
    (["-V"], "Unknown option '-V': use --version"),
    (
        ["--explain", "shop"],
        "You need to supply the 'ident' option for the 'explain' command: the name of the virtual service goes with "
        "-i: -i shop",
    ),
    (["--explain", "GET /"], f"You need to supply the 'ident' option for the 'explain' command{IDENT}"),
    (["-Aix", "server=10.0.0.1:80"], "A service has no option 'server': a server is added by -a -i ID -r ADDR:PORT"),
    (
        ["-Eix", "test="],
        "A service has no option 'test': a test is changed in the configuration file (where there is none: "
        "'tcpvsadm --save > FILE', edit FILE, 'tcpvsadm -f FILE')",
    ),
    (["-Eix", "via=off", "via=append"], "The option 'via' is given twice"),
    (["-Eix", "-swlc", "scheduler=rr"], "The option 'scheduler' is given twice"),
    (["-Eix", "maxclients=3", "--maxclients", "4"], "The option 'maxclients' is given twice"),
    (["--explain", "-ix", "GET"], "'GET': not METHOD TARGET (example: 'GET /index.html')"),
    (["--explain", "-ix", "GET /a b"], "'GET /a b': not METHOD TARGET (example: 'GET /index.html')"),
    (["--explain", "-ix", "GET  /a"], "'GET  /a': not METHOD TARGET (example: 'GET /index.html')"),
    (["--explain", "-ix", "GET /a HTTP/2"], "'GET /a HTTP/2': not METHOD TARGET (example: 'GET /index.html')"),
    (["--explain", "-ix", "GET", "/a", "HTTP/1.1", "x"], "Unexpected argument 'x' with the 'explain' command"),
    (["--explain", "-ix", ""], "'': not METHOD TARGET (example: 'GET /index.html')"),
    (["--explain", "-ix", "-H", "Accept"], "header 'Accept': not 'NAME: VALUE'"),
    (["--explain", "-ix", "-H", ""], "The value of option '-H' is empty"),
    (["--explain", "GET /"], f"You need to supply the 'ident' option for the 'explain' command{IDENT}"),
    (["-aix", "-ry", "--maxconn", "x"], "maxconn 'x': not a whole number of at most 9 digits"),
    (["-w", "3"], "Illegal 'weight' option with the 'list' command"),
    (["--start", "-w", "3"], "Illegal 'weight' option with the 'start' command"),
    (["-a"], f"You need to supply the 'ident' option for the 'add-server' command{IDENT}"),
    (
        ["--drain", "-i", "shop"],
        "You need to supply the 'real-server' option for the 'drain' command: -r ADDR[:PORT], real server (example: -r "
        "10.0.0.1:80)",
    ),
    (
        ["--edit-rule", "-i", "shop"],
        "You need to supply the 'rule' option for the 'edit-rule' command: --rule RULE, a rule: its name, its "
        "conditions, or its number",
    ),
    (["--enable", "-r", "h:1"], "Unknown option '--enable': use --ready -r ADDR"),
    (["--disable", "-r", "h:1"], "Unknown option '--disable': use --drain -r ADDR or --maintenance -r ADDR"),
    (
        ["--undrain", "-r", "h:1"],
        "Unknown option '--undrain': use --ready -r ADDR; for a node of a cluster, --undrain-node NODE",
    ),
    (
        ["-E", "-i", "shop", "-p", "300"],
        "Illegal 'pattern' option with the 'edit-service' command; for persistence, use -s chttp, which keeps a "
        "client on its server by a cookie, or -s sh, which hashes its address",
    ),
    (["-aix", "-ry", "-w", "two"], "weight 'two': not a whole number of at most 9 digits"),
    (["-aix", "-ry", "-w", "1.5"], "weight '1.5': not a whole number of at most 9 digits"),
    (["-aix", "-ry", "-w", "+5"], "weight '+5': not a whole number of at most 9 digits"),
    (["-aix", "-ry", "-w", "٣"], "weight '٣': not a whole number of at most 9 digits"),
    (["-aix", "-ry", "-w", "5\n"], r"weight '5\n': not a whole number of at most 9 digits"),
    (["-eix", "-ry", "-w", "1234567890"], "weight '1234567890': not a whole number of at most 9 digits"),
    (
        ["--add-rule", "-ix", "-ry"],
        "You need to supply the 'pattern' option or conditions for the 'add-rule' command",
    ),
    (["--explain", "-ix", "-P", "http"], "port 'http': not a number"),
    (
        ["--add-rule", "-ix", "path", "/a"],
        "You need to supply the 'real-server' option for the 'add-rule' command, "
        "or servers or an action (examples: use server 10.0.0.1:80 95, use respond 403)",
    ),
    (
        ["--add-rule", "-ix", "path", "/a", "use"],
        "Missing action or servers after 'use' with the 'add-rule' command (example: use respond 403)",
    ),
    (
        ["--edit-rule", "-ix", "--rule=1", "use"],
        "Missing action or servers after 'use' with the 'edit-rule' command (example: use respond 403)",
    ),
    (
        ["--add-rule", "-ix", "use", "respond", "403"],
        "You need to supply the 'pattern' option or conditions for the 'add-rule' command",
    ),
    (["--add-rule", "-ix", "-ry", "-pz", "-mm"], "match 'm': not a whole number of at most 9 digits"),
    (["-Aix", "--maxclients", "many"], "maxclients 'many': not a whole number of at most 9 digits"),
    (["-Aix", "-P", "-1"], "port '-1': not a number or a service name"),
    (["-Aix", "-P", "1234567890"], "port '1234567890': not a number or a service name"),
    (["-Aix", "-P", "a b"], "port 'a b': not a number or a service name"),
    (["-i", os.fsdecode(b"caf\xe9")], "Argument 2 is not text in this locale: 'caf\\xe9'"),
    (["--", os.fsdecode(b"\xff")], "Argument 2 is not text in this locale: '\\xff'"),
    (["-f", "\ud800"], "Argument 2 is not text in this locale: '\\ud800'"),
]


@pytest.mark.parametrize(("argv", "why"), INVALID, ids=lambda it: None)
def test_invalid_command_lines(argv: list[str], why: str) -> None:
    assert complaint(argv) == why


@pytest.mark.parametrize("command", [["--set"], ["-A", "-i", "web"], ["-E", "-i", "web"]])
def test_words_that_are_names_and_values(command: list[str]) -> None:
    assert read_arguments([*command, "a=1", "b=2=3", "c="]).named() == {"a": "1", "b": "2=3", "c": ""}


def test_words_of_conditions_may_be_those_of_actions_and_one_condition_is_a_word() -> None:
    given = read_arguments(["--add-rule", "-i", "x", "query", "redirect", "-r", "10.0.0.1:80"])
    assert given.conditions == ("query", "redirect")
    assert read_arguments(["--edit-rule", "-i", "x", "--rule", "1", "query", "redirect"]).action == ()
    assert read_arguments(["--del-rule", "-i", "x", "tls"]).conditions == ("tls",)


def test_a_header_may_be_repeated() -> None:
    said = read_arguments(["--explain", "-i", "web", "-H", "Accept: a", "--header=Accept:b ", "-HX-Empty:"])
    assert said.headers == (("Accept", "a"), ("Accept", "b"), ("X-Empty", ""))
    assert read_arguments(["--explain", "-i", "web"]).headers == ()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], None),
        (["GET /x"], ("GET", "/x")),
        (["GET", "/x"], ("GET", "/x")),
        (["GET /x HTTP/1.1"], ("GET", "/x")),
        (["POST", "http://h:81/x?y", "HTTP/1.0"], ("POST", "http://h:81/x?y")),
        (["OPTIONS *"], ("OPTIONS", "*")),
    ],
)
def test_a_request_is_a_method_and_a_target(words: list[str], meant: tuple[str, str] | None) -> None:
    assert read_arguments(["--explain", "-i", "web", *words]).request() == meant


PIECES = [
    *(f"--{name}" for name in [*COMMANDS, *OPTIONS]),
    "-L",
    "-A",
    "-i",
    "-iw",
    "-w1",
    "--",
    "-",
    "a=1",
    "--st",
    "80",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=()), max_size=6), max_size=6))
@example(["--set=", "=", "--"])
@example(["--restore", "--local"])
@example(["--save", "--local"])
def test_any_command_line_is_read_or_refused_in_one_line(argv: list[str]) -> None:
    try:
        said = read_arguments(argv)
    except UsageError as error:
        why = str(error)
    else:
        why = f"{said.command.name} is valid"
        is_edit = said.command.name in COMMAND_OF_NAME or said.command.name == "restore"
        of_edits = SCOPES if is_edit else ()
        assert set(said.values) <= {*said.command.required, *said.command.optional, *GLOBAL, *of_edits}
    assert why
    assert why.isprintable()


def test_help_shows_every_command_and_option() -> None:
    text = help_text()
    commands, options = text.split("\nOptions:\n")
    for command in COMMANDS.values():
        assert f"--{command.name}" in commands
        assert not command.short or f"-{command.short}, --{command.name}" in commands
    for option in OPTIONS.values():
        assert f"--{option.name}" in options
    assert "  -a, --add-server -i ID -r ADDR[:PORT] [WORD...] [-w N] [--maxconn N]\n" in commands
    assert "      --explain -i ID ['METHOD TARGET'] [-H 'NAME: VALUE']... [--body FILE]\n" in commands
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_of_its_own_that_names_the_options_which_it_takes(name: str) -> None:
    command = COMMANDS[name]
    if name == "help":
        return
    for words in ([f"--{name}", "--help"], [f"--{name}", "-h"], ["-ix", f"--{name}", "--help", "more"]):
        asked = read_arguments(words)
        assert (asked.command.name, asked.words) == ("help", (name,))
    text = command_help(command)
    assert text.startswith(f"Usage: tcpvsadm {synopsis(command)[0].strip()}")
    shown = {found for found in OPTIONS if re.search(rf"^  .*--{found}\b(?!-)", text, re.MULTILINE)}
    assert shown >= {*command.required, *command.optional, "control"} & OPTIONS.keys()
    assert ("wait-nodes" in shown) == ("local" in shown) == (name in COMMAND_OF_NAME or name == "restore")
    assert max(map(len, text.splitlines())) <= 80


def test_the_value_of_an_option_may_look_like_the_one_for_help() -> None:
    assert read_arguments(["--explain", "-i", "s", "-H", "help: -h"]).headers == (("help", "-h"),)
    assert read_arguments(["--add-rule", "-i", "s", "-p", "-h", "-r", "10.0.0.1:80"]).values["pattern"] == "-h"


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_the_reference_has_a_heading_for_the_command(command: Command) -> None:
    headings = [line for line in (DOCS / "tcpvsadm.md").read_text().splitlines() if line.startswith("#")]
    written = " ".join(synopsis(command)).strip()
    assert len([line for line in headings if f"`{written}`" in line]) == 1


def test_the_manual_page_has_every_command_and_option_and_no_other() -> None:
    items = re.findall(r"^\.It Fl (?:(\w) , )?-([a-z-]+)", (DOCS / "tcpvsadm.8").read_text(), re.MULTILINE)
    known = [(it.short or "", it.name) for it in (*COMMANDS.values(), *OPTIONS.values())]
    assert sorted(items) == sorted(known)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_the_manual_page_is_sound() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", DOCS / "tcpvsadm.8"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


# The program.

RUN = "from ktcpvs.adm import run; run()"
MAIN = """
import os, sys
from ktcpvs.control.tcpvsadm.main import main
status = main(sys.argv[1:], os.environ)
print("twisted" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def unused_control(tmp_path: Path) -> str:
    """A control address at which no daemon answers."""
    return f"unix:{tmp_path}/no.sock"


def tcpvsadm(*argv: str | bytes, control: str, code: str = RUN, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a run."""
    environment = {**os.environ, "KTCPVS_CONTROL": control}
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


TRY = "Try 'tcpvsadm --help'.\n"


@pytest.mark.parametrize("argv", [[], ["-L", "--json"], ["-F"], ["--stop"], ["--set", "debug_level=1"], ["--rate"]])
def test_no_daemon_answers(unused_control: str, argv: list[str]) -> None:
    done = preloaded_tcpvsadm(*argv, KTCPVS_CONTROL=unused_control)
    what_to_do = "start it with 'ktcpvs', or give its address with --control"
    assert done.stderr == f"tcpvsadm: no daemon answers at {unused_control} (No such file or directory): {what_to_do}\n"
    assert (done.returncode, done.stdout) == (3, "")


HINT = """
import os, sys
from ktcpvs.control.endpoints import default_control
from ktcpvs.control.tcpvsadm.session import what_to_do
if os.geteuid() == 0:
    os.setuid(65534)
print(what_to_do(default_control(), sys.argv[1]))
"""
"""Prints what a user who is not root is told where no daemon answers at the default address."""


def test_a_folder_that_cannot_be_searched_may_have_the_socket_of_root(tmp_path: Path) -> None:
    closed = tmp_path / "run"
    closed.mkdir(mode=0)
    socket = closed / "control.sock"
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-c", HINT, socket]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert f"; root's daemon may have unix:{socket}: run tcpvsadm as root, or with --control" in done.stdout
    closed.rmdir()


def test_control_on_the_command_line_takes_precedence_over_the_environment(unused_control: str) -> None:
    status, _, err = tcpvsadm("--list", "--control", f"{unused_control}2", control=unused_control)
    assert status == 3
    assert f"at {unused_control}2 (" in err


def test_an_invalid_control_address_is_wrong_usage(unused_control: str) -> None:
    places = "expected unix:/PATH, tcp:PORT on loopback, or tls:PORT:interface=HOST with certificates"
    why = f"tcpvsadm: control 'here': {places}\n"
    assert tcpvsadm("--list", "--control", "here", control=unused_control) == (2, "", why + TRY)


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (["--help"], 0, help_text(), ""),
        (["--version"], 0, f"tcpvsadm {__version__}\n", ""),
        (
            ["-Z"],
            2,
            "",
            f"tcpvsadm: Unknown option '-Z': counters cannot be zeroed; --rate shows rates per second\n{TRY}",
        ),
        (
            ["-E", "-i", "shop"],
            2,
            "",
            "tcpvsadm: Nothing to change: give an option of the service (examples: maxclients=100, -s wlc)\n" + TRY,
        ),
        (
            ["-e", "-i", "shop", "-r", "10.0.0.1:80"],
            2,
            "",
            "tcpvsadm: Nothing to change: give a weight, a maxconn or words of the server (examples: -w 2, maintenance)"
            f"\n{TRY}",
        ),
        (["--count"], 2, "", f"tcpvsadm: The 'count' option needs the 'connections' option\n{TRY}"),
        (
            ["--connections", "--sort", "aeg"],
            2,
            "",
            "tcpvsadm: sort 'aeg': not one of age, idle, in, out, client, server, state; did you mean 'age'?\n" + TRY,
        ),
        (["-i", b"\xff"], 2, "", f"tcpvsadm: Argument 2 is not text in this locale: '\\xff'\n{TRY}"),
        (["-f", "/no/such"], 1, "", "tcpvsadm: load-configfile: /no/such: No such file or directory\n"),
        (["-f", "/"], 1, "", "tcpvsadm: load-configfile: /: Is a directory\n"),
        (["-f", "/a\nb"], 1, "", "tcpvsadm: load-configfile: /a\\nb: No such file or directory\n"),
        (["--restore"], 1, "", "tcpvsadm: restore: <stdin>:2:3: byte 0xe9 is not UTF-8 text\n"),
        (["-f-"], 1, "", "tcpvsadm: load-configfile: <stdin>:2:3: byte 0xe9 is not UTF-8 text\n"),
    ],
)
def test_commands_that_need_no_daemon_do_not_import_twisted(
    unused_control: str, argv: list[str | bytes], status: int, out: str, err: str
) -> None:
    assert tcpvsadm(*argv, control=unused_control, code=MAIN, stdin="é\né ".encode() + b"\xe9") == (
        status,
        out,
        f"{err}False\n",
    )


@pytest.mark.parametrize("argv", [["-L"], ["-F"], ["-L", "--stats"], ["-d", "-i", "s", "-r", "10.0.0.1", "--wait"]])
def test_commands_to_a_daemon_on_this_machine_do_not_import_twisted(unused_control: str, argv: list[str]) -> None:
    status, _, err = tcpvsadm(*argv, control=unused_control, code=MAIN)
    assert (status, err.splitlines()[-1]) == (3, "False")
    assert err.startswith("tcpvsadm: no daemon answers at ")


def test_a_command_by_tls_imports_twisted(tmp_path: Path) -> None:
    control = f"tls:127.0.0.1:1:cert={tmp_path}/none:ca={tmp_path}/none"
    status, _, err = tcpvsadm("-L", control=control, code=MAIN)
    assert (status, err.splitlines()[-1]) == (1, "True")


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", RUN, "--help"], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_full_disk_is_reported() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", RUN, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"tcpvsadm: cannot write: No space left on device\n")


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    """While tcpvsadm waits for a daemon."""
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        silent.settimeout(60)
        command = [sys.executable, "-c", RUN, "--list", "--control", f"unix:{path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130
