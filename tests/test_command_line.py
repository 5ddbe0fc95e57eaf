"""The command line of `ktcpvs`: what is read, what is refused and with which hint, and the text of --help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ktcpvs.command_line import (
    GROUPS,
    HINTS,
    OPTIONS,
    SERVICE_OPTIONS,
    WIDTH,
    WrongUsage,
    help_text,
    read_arguments,
)
from ktcpvs.errors import NoSuchSetting
from ktcpvs.model.language.foreign_words import DAEMON_OPTIONS
from ktcpvs.model.settings import DEFAULT_SETTINGS
from ktcpvs.tap import Options


def refused(*argv: str) -> str:
    with pytest.raises(WrongUsage) as refusal:
        read_arguments(argv)
    return str(refusal.value)


def test_options_of_the_service_and_of_the_process() -> None:
    given = read_arguments(
        ["-c", "a.conf", "--state=s", "-D", "--control", "tcp:1", "--control=unix:/x", "--pidf", "p"]
    )
    assert given.service == ("--config=a.conf", "--state=s", "--control=tcp:1", "--control=unix:/x")
    assert given.own == {"daemonize": "", "pidfile": "p"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--confg x", "unknown option '--confg'; did you mean '--config'?"),
        ("--Workers 2", "unknown option '--Workers'; did you mean '--workers'?"),
        (
            "--port 80",
            "unknown option '--port': services listen where the configuration or 'tcpvsadm -A -i ID -l ADDR:PORT' says",
        ),
        (
            "--set a=1",
            "unknown option '--set': it is a command of tcpvsadm, which changes and shows a daemon that runs",
        ),
        ("-A", "unknown option '-A': it is a command of tcpvsadm, which changes and shows a daemon that runs"),
        ("--zzz", "unknown option '--zzz'"),
        ("-z", "unknown option '-z'"),
        ("--clust x", "option '--clust' may be --cluster or --cluster-ca"),
        ("--help=x", "option '--help' takes no value"),
        ("--workers", "option '--workers' needs a value: N"),
        ("-c", "option '-c' needs a value: FILE"),
        ("--conf", "option '--config' needs a value: FILE"),
        ("--takeover --state x", "option '--takeover' needs a value: unix:/PATH; it is followed by --state"),
        ("-c --workers=2", "option '-c' needs a value: FILE; it is followed by --workers=2"),
        ("--check=", "--check: missing FILE"),
        ("-c a -c b", "--config is given twice"),
        ("--logfile a --syslog", "--logfile excludes --syslog"),
        ("web.conf", "unexpected argument 'web.conf': to load it, use --config web.conf"),
        ("reload", "unexpected argument 'reload': send SIGHUP, or run 'tcpvsadm -f FILE'"),
        ("stop", "send SIGTERM"),
        ("-s reload", "--state reload: send SIGHUP, or run 'tcpvsadm -f FILE' (a state file of that name: ./reload)"),
        ("-s reopen", "send SIGUSR1"),
        ("other", "unexpected argument 'other'"),
        ("-t", "use --check FILE"),
        ("-f web.conf", "use -c FILE, --config FILE"),
        ("-sf 17", "use --takeover unix:/PATH"),
        ("--reactor=epoll", "twistd --reactor=NAME ktcpvs"),
    ],
)
def test_wrong_usage_has_one_line_that_says_what_would_be_right(line: str, why: str) -> None:
    said = refused(*line.split())
    assert why in said
    assert "\n" not in said


def test_hints_are_for_options_that_do_not_exist() -> None:
    known = {f"--{name}" for name in OPTIONS} | {f"-{option.short}" for option in OPTIONS.values() if option.short}
    assert not HINTS.keys() & known
    for written in HINTS:
        assert HINTS[written] in refused(written)


def test_help_has_all_options_in_their_groups_and_fits_the_terminal() -> None:
    text = help_text()
    assert max(map(len, text.splitlines())) <= WIDTH
    for title, group in GROUPS.items():
        below = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        for option in group:
            assert f"--{option.name}" in below
    assert "[default: auto]" in text


def test_twistd_takes_the_same_options_of_the_service() -> None:
    options = Options()
    for option in SERVICE_OPTIONS:
        assert option.name in options.longOpt or f"{option.name}=" in options.longOpt
    options.parseOptions(["--workers=0", "--control=unix:/x", "--control=tcp:7", "--nameserver=127.0.0.1:5"])
    assert options["workers"] == 0
    assert [str(where) for where in options["control"]] == ["unix:/x", "tcp:7:interface=127.0.0.1"]
    assert options["nameservers"] == (("127.0.0.1", 5),)


def test_help_and_wrong_usage_import_no_twisted() -> None:
    """Imports take most of the time of these."""
    code = (
        "import sys; sys.argv = ['ktcpvs', *sys.argv[1:]]\n"
        "from ktcpvs.daemon import run\n"
        "try: run()\n"
        "finally: assert not any(name.startswith('twisted') for name in sys.modules)\n"
    )
    ran = [
        subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True)
        for word in ("--help", "--version", "--bogus")
    ]
    assert [one.returncode for one in ran] == [0, 0, 2], ran
    assert ran[1].stdout.startswith("ktcpvs ")
    assert ran[2].stderr == "ktcpvs: unknown option '--bogus'\nTry 'ktcpvs --help'.\n"


def test_a_setting_that_is_an_option_of_the_daemon() -> None:
    """What `--set` and `global { }` say of it; each option that is none of a single run is known."""
    alone = ("check", "help", "version")
    assert {
        option.name: option.value or "" for option in OPTIONS.values() if option.name not in alone
    } == DAEMON_OPTIONS
    for name in ("workers", "status", "state", "status_host", "control-group"):
        with pytest.raises(NoSuchSetting) as refusal:
            DEFAULT_SETTINGS.changed({name: "4"})
        option = name.replace("_", "-")
        use = f"use 'ktcpvs --{option} {DAEMON_OPTIONS[option]}'"
        assert str(refusal.value) == f"no setting '{name}'; that is an option of the daemon: {use}"


def test_an_unknown_setting() -> None:
    for name, hint in (
        ("drain", "did you mean 'drain_timeout' or 'drain_spread'?"),
        ("read_timeuot", "did you mean 'read_timeout'?"),
    ):
        with pytest.raises(NoSuchSetting) as refusal:
            DEFAULT_SETTINGS.changed({name: "4"})
        assert str(refusal.value) == f"no setting '{name}'; {hint}"
    with pytest.raises(NoSuchSetting, match=r"^no setting 'zzz'; there are: debug_level, .* more, which 'tcpvsadm"):
        DEFAULT_SETTINGS.changed({"zzz": "4"})
