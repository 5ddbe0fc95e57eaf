"""Hints for options and words of ipvsadm and other programs that tcpvsadm does not have."""

from __future__ import annotations

SERVICE_HINT = "use -i ID for the name of a service, and -l ADDR:PORT for its address"
METHOD_HINT = "connections are always relayed, so there is no packet-forwarding method to choose"
PERSISTENCE_HINT = "use -s chttp, which keeps a client on its server by a cookie, or -s sh, which hashes its address"
UNLOAD_HINT = "use --set unload=1, which ends the daemon; --stop stops services"
IPVSADM_OPTIONS = {
    "-t": SERVICE_HINT,
    "--tcp-service": SERVICE_HINT,
    "-u": "UDP is not supported; for TCP " + SERVICE_HINT,
    "--udp-service": "UDP is not supported; for TCP " + SERVICE_HINT,
    "-g": METHOD_HINT,
    "--gatewaying": METHOD_HINT,
    "--masquerading": METHOD_HINT,
    "--ipip": METHOD_HINT,
    "-c": "use --connections",
    "-V": "use --version",
    "-Z": "counters cannot be zeroed; --rate shows rates per second",
    "--exact": "numbers are always exact",
    "--thresholds": "use --stats, which shows MaxConn",
    "--persistent-conn": "use --connections",
    "--timeout": "use --get and --set NAME=VALUE, such as read_timeout=60",
    "--fwmark-service": SERVICE_HINT,
    "--nosort": "listings are in the order of the table",
    "--daemon": "use 'ktcpvs --cluster' for a table that several switches share",
    "--start-daemon": "use 'ktcpvs --cluster' for a table that several switches share",
    "--stop-daemon": "use 'ktcpvs --cluster' for a table that several switches share",
    "--reload": "use -f FILE, --load-configfile FILE",
    "--status": "use --list or --stats",
    "--show": "use --list or --stats",
    "-x": "use --maxconn N",
    "--u-threshold": "use --maxconn N",
    "--clear": "use -F, --flush",
    "--zero": "counters cannot be zeroed; --rate shows rates per second",
    "--persistent": PERSISTENCE_HINT,
    "--enable": "use --ready -r ADDR",
    "--disable": "use --drain -r ADDR or --maintenance -r ADDR",
    "--loglevel": "use --set debug_level=5",
    "--log-level": "use --set debug_level=5",
    "--debug": "use --set debug_level=5",
    "--shutdown": UNLOAD_HINT,
    "--quit": UNLOAD_HINT,
    "--exit": UNLOAD_HINT,
    "--unload": UNLOAD_HINT,
    "--undrain": "use --ready -r ADDR; for a node of a cluster, --undrain-node NODE",
}
"""Options of ipvsadm and other programs that do not exist here -> what to use instead."""

WORD_HINTS = {
    "reload": "use -f FILE, --load-configfile FILE",
    "load": "use -f FILE, --load-configfile FILE",
    "status": "use --list or --stats",
    "show": "use --list or --stats",
    "ls": "use --list",
    "add": "use -A -i ID for a service, -a -i ID -r ADDR for a server",
    "delete": "use -D -i ID for a service, -d -i ID -r ADDR for a server",
    "remove": "use -D -i ID for a service, -d -i ID -r ADDR for a server",
    "enable": "use --ready -r ADDR",
    "disable": "use --drain -r ADDR or --maintenance -r ADDR",
    "info": "use --list, --nodes or --version",
    "shutdown": UNLOAD_HINT,
    "quit": UNLOAD_HINT,
    "exit": UNLOAD_HINT,
    "unload": UNLOAD_HINT,
}
"""Words where other programs have commands -> what to use instead."""

UNEXPECTED_HINTS = {
    "save": "it prints the configuration: tcpvsadm --save > {word}",
    "restore": "it reads standard input: use -f {word}",
    "help": "'tcpvsadm --COMMAND --help' describes one command",
    "move-rule": "the rule in front of which it goes is named by --before: --before {word}",
}
"""Commands that take no words -> what to use instead of one, as a format of `word`."""
