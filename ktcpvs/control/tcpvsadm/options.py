"""The command line of tcpvsadm as a table: every command, and its options.

What reads argv by it is `argument_reader`, and `argument_checks` says which command lines make no sense.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from ktcpvs.control.command_table import COMMAND_OF_NAME


@frozen
class Option:
    """An option of tcpvsadm. value: the name of its value in --help; None: it has none. meaning: for --help. repeats:
    it may be given several times."""

    name: str
    short: str | None
    value: str | None
    meaning: str
    repeats: bool = False


@frozen
class Command:
    """A command, and the words and options that it takes.

    required, optional: names of options, or of the command `start` where it may be given as an option. meaning: for
    --help. words: their name in --help. min_words, max_words: how many there may be; None: any number. first_is_value:
    the first word is the value of the command's own option, as in `-f FILE`. option_values: option -> the name of the
    value that it has with this command, and with no other one.
    """

    name: str
    short: str | None
    meaning: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    words: str = ""
    min_words: int = 0
    max_words: int | None = 0
    first_is_value: bool = False
    option_values: Mapping[str, str] = field(factory=dict)


VIEWS = ("stats", "rate", "connections")
"""Listings that --list shows instead of the configuration, one at a time."""

_SERVICE = ("scheduler", "balance", "port", "listen", "redirect", "maxclients")
_LOAD = ("start", "confirm", "allow-empty")
_RULE_WORDS = "[CONDITION...] [MODIFIER...] [use ACTION | use SERVERS]"
_REQUEST = ("header", "body", "from", "port", "wide", "json")


def _edit_command(
    name: str,
    short: str | None = None,
    optional: tuple[str, ...] | None = None,
    also: tuple[str, ...] = (),
    note: str = "",
    words: str = "",
    min_words: int = 0,
    max_words: int | None = 0,
    first_is_value: bool = False,
    spares: tuple[str, ...] = (),
) -> Command:
    """Make the command of an edit from its entry in `command_table`.

    optional: instead of the entry's optional options. also: options that only tcpvsadm knows. note: added to the help.
    spares: required options instead of which there may be words or other options.
    """
    entry = COMMAND_OF_NAME[name]
    given = [(argument.option, argument.is_required and argument.option not in spares) for argument in entry.arguments]
    required = tuple(option for option, is_required in given if option and is_required)
    if optional is None:
        optional = tuple(option for option, is_required in given if option and not is_required)
    return Command(
        name,
        short,
        entry.help + note,
        required,
        (*optional, *also),
        words,
        min_words,
        max_words,
        first_is_value,
    )


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "list", "L", "print the table, as without any command",
            (), ("ident", "numeric", *VIEWS, "filter", "sort", "count", "all-nodes", "wide", "json"),
        ),
        Command(
            "kill", None, "close a client connection, which --connections lists with its ID",
            words="ID", min_words=1, max_words=1, first_is_value=True,
        ),
        Command("top", None, "show live rates, updated every second; q quits", (), ("ident", "numeric", "all-nodes")),
        _edit_command(
            "add-service", "A", _SERVICE, note="; NAME=VALUE sets any option", words="[NAME=VALUE...]", max_words=None
        ),
        _edit_command("edit-service", "E", _SERVICE, words="[NAME=VALUE...]", max_words=None),
        _edit_command("delete-service", "D"),
        _edit_command("flush", "F"),
        _edit_command("add-listener", words="[tls] [on NODE[,NODE...]]", max_words=None),
        _edit_command("del-listener"),
        _edit_command("add-server", "a", words="[WORD...]", max_words=None),
        _edit_command("edit-server", "e", also=("wait",), words="[WORD...]", max_words=None),
        _edit_command("delete-server", "d", also=("wait",)),
        _edit_command("drain", also=("wait",)),
        _edit_command("ready"),
        _edit_command("maintenance", also=("wait",)),
        Command(
            "rebalance", None, "move the oldest connections off servers that have more than their share",
            ("ident",), ("reset", "wait", "all-nodes", "json"),
            words="PERCENT%", min_words=1, max_words=1, first_is_value=True,
        ),
        _edit_command("add-rule", words=_RULE_WORDS, max_words=None, spares=("pattern",)),
        _edit_command("edit-rule", words=_RULE_WORDS, max_words=None),
        _edit_command("move-rule"),
        _edit_command("del-rule", also=("rule",), words="[CONDITION...]", max_words=None, spares=("pattern",)),
        _edit_command("allow", words="NETWORK|@FILE...", min_words=1, max_words=None),
        _edit_command("deny", words="NETWORK|@FILE...", min_words=1, max_words=None),
        _edit_command("del-network", words="NETWORK|@FILE...", min_words=1, max_words=None),
        _edit_command("load-configfile", "f", _LOAD, words="FILE", min_words=1, max_words=1, first_is_value=True),
        Command("restore", None, "like load-configfile, from standard input", (), _LOAD),
        _edit_command("confirm"),
        _edit_command("end-local"),
        Command(
            "check", None, "check a configuration file without a daemon, and run its tests",
            (), ("allow-empty",), words="FILE", min_words=1, max_words=1, first_is_value=True,
        ),
        Command(
            "diff", None, "print what -f would change; exit status 4 if anything",
            words="FILE", min_words=1, max_words=1, first_is_value=True,
        ),
        Command("save", None, "print the table and the settings as a configuration file"),
        _edit_command("start"),
        _edit_command("stop"),
        _edit_command("set", words="NAME=VALUE...", min_words=1, max_words=None),
        Command("get", None, "print all settings, or one", (), ("json",), words="[NAME]", max_words=1),
        Command(
            "explain", None, "explain which server would handle a request; none is contacted", ("ident",), _REQUEST,
            words="['METHOD TARGET']", max_words=3,
        ),
        Command(
            "trace", None, "print requests as they end, with what was decided and how long it took",
            (), ("ident", "count", "for", "json"),
            words="'[CONDITION...]'", min_words=1, max_words=1, first_is_value=True, option_values={"count": "N"},
        ),
        Command("certificates", None, "print the certificates of running services", (), ("ident", "wide", "json")),
        _edit_command("reload-certificates"),
        _edit_command("renew-certificate", words="[HOST]", max_words=1),
        Command(
            "wait-ready", None, "wait until the daemon answers and serves, for SECONDS (30) at most",
            (), ("pid", "not-pid"), words="[SECONDS]", max_words=1,
        ),
        Command("nodes", None, "print the nodes of the cluster, and what each of them runs", (), ("wide", "json")),
        _edit_command(
            "drain-node", also=("wait",), words="NODE", min_words=1, max_words=1, first_is_value=True
        ),
        _edit_command("undrain-node", words="NODE", min_words=1, max_words=1, first_is_value=True),
        _edit_command("forget-node", words="NODE", min_words=1, max_words=1, first_is_value=True),
        Command(
            "replay", None, "run an access log through a scheduler, in simulation, and compare", (),
            ("ident", "scheduler", "balance", "config", "header", "seconds", "wide", "json"),
            words="LOG", min_words=1, max_words=1, first_is_value=True,
        ),
        Command(
            "new-scheduler", None, "write the package of a scheduler of your own, with its tests",
            words="NAME DIR", min_words=2, max_words=2, first_is_value=True,
        ),
        Command(
            "schedulers", None, "print the available schedulers, and plugins that failed to load",
            (), ("verbose", "wide", "json"),
        ),
        _edit_command("reload-schedulers", words="[NAME]", max_words=1),
        Command("help", "h", "print this text"),
        Command("version", None, "print the version of tcpvsadm"),
    )
}  # fmt: skip
"""By name, in the order of --help."""

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("ident", "i", "ID", "name of the virtual service"),
        Option("scheduler", "s", "SCHED", "scheduler, see --schedulers (default: http)"),
        Option("balance", None, "SCHED", "scheduler among the servers of a rule (default: wlc)"),
        Option("listen", "l", "ADDR[:PORT]", "address to listen on (default: 0.0.0.0:8080)"),
        Option("port", "P", "PORT", "listening port, a number or a service name"),
        Option("redirect", None, "ADDR", "used when no server is available; none: refuse instead"),
        Option("maxclients", None, "N", "most clients at once; 0: limited by descriptors (default)"),
        Option("real-server", "r", "ADDR[:PORT]", "real server (default port: that of the service)"),
        Option("weight", "w", "N", "0..65535, 0: no new connections (default: 1)"),
        Option("maxconn", None, "N", "most connections at once; 0: no limit (default)"),
        Option("pattern", "p", "REGEX", "regular expression, searched in path and query"),
        Option("match", "m", "N", "group of the pattern to hash, 0..10"),
        Option("name", None, "NAME", "name of the rule"),
        Option("rule", None, "RULE", "a rule: its name, its conditions, or its number"),
        Option("before", None, "RULE", "the rule in front of which it goes"),
        Option("confirm", None, "TIME", "undo it after TIME (60s, 5m) unless confirmed"),
        Option("allow-empty", None, None, "load even a file without services, which deletes all of them"),
        Option("wait", None, None, "wait until all have left the server or the node, or have moved; print progress"),
        Option("reset", None, None, "with --rebalance: also reset connections that cannot be closed otherwise"),
        Option("delay", None, "SECONDS", "the node goes on accepting for so long (default: 0)"),
        Option("only", None, None, "replace the list instead of adding to it"),
        Option("numeric", "n", None, "print numeric ports and addresses"),
        Option("stats", None, None, "show counters"),
        Option("rate", None, None, "show rates per second"),
        Option("connections", None, None, "show client connections"),
        Option(
            "filter",
            None,
            "NAME=VALUE",
            "with --connections: only of this client, server or state; may be repeated",
            True,
        ),
        Option("sort", None, "COLUMN", "with --connections: age, idle, in, out, client, server, state"),
        Option("count", None, None, "with --connections: print their number; of --trace: N requests (100)"),
        Option("for", None, "TIME", "how long to trace: 30s, 5m (default: 60s)"),
        Option("verbose", "v", None, "with --schedulers: also the options of each scheduler"),
        Option("wide", None, None, "do not shorten names to the width of the terminal"),
        Option("all-nodes", None, None, "in a cluster: of all nodes together"),
        Option("header", "H", "'NAME: VALUE'", "header field of the request; may be repeated", True),
        Option("body", None, "FILE", "body of the request, of which 1 MiB is read; -: standard input"),
        Option("config", None, "FILE", "with --replay: a configuration, instead of the daemon's table"),
        Option("seconds", None, "TIME", "time of a request that the log does not tell (default: 0.1)"),
        Option("pid", None, "PID", "with --wait-ready: until the daemon of this process serves"),
        Option("not-pid", None, "PID", "with --wait-ready: until a daemon of another process serves"),
        Option("from", None, "ADDR", "IP address of the client (default: 127.0.0.1)"),
        Option("json", None, None, "print JSON"),
        Option("local", None, None, "in a cluster: change this node only, until --end-local"),
        Option("force-local", None, None, "while etcd fails: change this node only, until it responds"),
        Option("wait-nodes", None, None, "in a cluster: wait until all nodes have the change in force"),
        Option("control", None, "ENDPOINT", "address of the daemon (default: $KTCPVS_CONTROL)"),
    )
}
"""By name, in the order of --help."""

REPORTED = ("reload-schedulers", "reload-certificates", "renew-certificate")
"""Commands that edit and, unlike the others of ipvsadm's kind, print what they have done (see `reports`)."""

GLOBAL = ("control", "wait-nodes")
"""Options that go with every command."""

SCOPES = ("local", "force-local")
"""Options that go with every command that edits; the daemon refuses them with some."""

NUMBERS = ("weight", "match", "maxclients", "maxconn", "delay")
"""Options whose value is a whole number."""

REPEATING = ("listen", "certificate", "request_header", "response_header", "error_page")
"""Options of a service that may be given several times as NAME=VALUE."""

EXAMPLES = {
    "ident": "shop",
    "real-server": "10.0.0.1:80",
    "listen": "0.0.0.0:80",
    "rule": "NAME, or 1 for the first",
    "trace": "'path /shop/', or '' for all requests",
}
"""Options and commands -> a value, for errors."""
