"""Words of the configurations of HAProxy, nginx and keepalived, and what this language has instead."""

from __future__ import annotations

from collections.abc import Iterable

from ktcpvs.errors import shorten, unknown

_BLOCK = "a service is a block 'Virtual NAME { ... }' with lines 'listen = ADDR:PORT' and 'server = ADDR:PORT'"
_SERVER = "a server is a line 'server = ADDR:PORT [WEIGHT]' in the block of its service"
_RULE = "use a rule (example: rule = path /images/ use server ADDR:PORT)"
_SCHEDULER = "use 'scheduler = NAME'; 'tcpvsadm --schedulers' lists them"
_LISTEN = "use 'listen = ADDR:PORT' (example: listen = 0.0.0.0:80)"
_CHECK = "use 'check = tcp' or 'check = http PATH'"
_TIMEOUTS = "use connect_timeout, read_timeout, keepalive_timeout or response_timeout, in seconds"
_CERTIFICATE = "use 'certificate = FILE' and 'listen = ADDR:PORT tls'"
_HEADERS = "use 'request_header = NAME VALUE' or 'response_header = NAME VALUE'"
_SESSION = "use 'scheduler = chttp', which keeps a client on its server by a cookie, or 'scheduler = sh'"
_GLOBAL = "settings for all services are in a block 'global { NAME = VALUE ... }'"
_NOT_COMPRESSED = "responses are not compressed"

OF_PROCESS = {
    "worker_processes": "use 'ktcpvs --workers N'",
    "nbthread": "use 'ktcpvs --workers N'",
    "nbproc": "use 'ktcpvs --workers N'",
    "daemon": "use 'ktcpvs --daemonize'",
    "user": "use 'ktcpvs --user USER'",
    "group": "use 'ktcpvs --group GROUP'",
    "pid": "use 'ktcpvs --pidfile FILE'",
    "pidfile": "use 'ktcpvs --pidfile FILE'",
    "error_log": "use 'ktcpvs --logfile FILE'",
    "stats": "use 'ktcpvs --control ENDPOINT' and 'ktcpvs --status ENDPOINT'",
    "resolvers": "use 'ktcpvs --nameserver HOST[:PORT]'",
}
"""Words that are about the process -> the option of the daemon."""

DAEMON_OPTIONS = {
    "config": "FILE",
    "state": "FILE",
    "workers": "N",
    "start-folder": "FOLDER",
    "nameserver": "HOST[:PORT]",
    "control": "ENDPOINT",
    "control-group": "GROUP",
    "status": "ENDPOINT",
    "status-host": "NAME",
    "takeover": "unix:/PATH",
    "user": "USER",
    "group": "GROUP",
    "cluster": "ADDRESS",
    "node": "NAME",
    "node-labels": "LABEL[,LABEL...]",
    "cluster-ca": "FILE",
    "cluster-cert": "FILE",
    "cluster-key": "FILE",
    "cluster-credentials": "FILE",
    "cluster-secret": "FILE",
    "daemonize": "",
    "pidfile": "FILE",
    "logfile": "FILE",
    "syslog": "",
}
"""The options of the daemon -> the name of the value; "": it has none. They are no settings of a table."""

IN_GLOBAL = (
    "log", "daemon", "maxconn", "user", "group", "chroot", "stats", "pidfile", "nbthread", "nbproc", "description",
    "ssl-default-bind-ciphers", "ssl-default-bind-options", "ca-base", "crt-base", "master-worker", "node",
)  # fmt: skip
"""Words that follow `global` in files of HAProxy, which have no braces."""

AT_TOP = {
    **OF_PROCESS,
    "frontend": _BLOCK,
    "backend": _BLOCK,
    "listen": _BLOCK,
    "http": f"blocks are not nested; {_BLOCK}",
    "stream": f"blocks are not nested; {_BLOCK}",
    "upstream": _BLOCK,
    "server": _BLOCK,
    "service": _BLOCK,
    "virtual_server": _BLOCK,
    "defaults": _GLOBAL,
    "global_defs": _GLOBAL,
    "events": "leave it out",
}
"""Words with which a text begins, or that follow a block -> what to use instead."""

IN_BLOCK = {
    **OF_PROCESS,
    "bind": _LISTEN,
    "mode": "the scheduler says what is balanced: wlc, rr and others connections, http and phttp requests",
    "default_backend": _SERVER,
    "proxy_pass": _SERVER,
    "upstream": _SERVER,
    "real_server": _SERVER,
    "default-server": "each line 'server = ...' has its own words",
    "use_backend": _RULE,
    "acl": _RULE,
    "location": _RULE,
    "if": _RULE,
    "server_name": "use a rule (example: rule = host shop.example use server ADDR:PORT)",
    "return": "use a rule (example: rule = path /old use respond 403)",
    "root": "files are only in responses of rules (example: rule = path /x use respond 503 file FILE)",
    "http-request": f"use a rule, or {_HEADERS.removeprefix('use ')}",
    "http-response": _HEADERS,
    "proxy_set_header": _HEADERS,
    "add_header": _HEADERS,
    "option": f"options are lines 'NAME = VALUE'; for checks {_CHECK}",
    "http_get": _CHECK,
    "tcp_check": _CHECK,
    "delay_loop": "use 'check_interval = SECONDS'",
    "timeout": _TIMEOUTS,
    "proxy_read_timeout": "use 'read_timeout = SECONDS'",
    "proxy_send_timeout": "use 'read_timeout = SECONDS'",
    "proxy_connect_timeout": "use 'connect_timeout = SECONDS'",
    "stick": _SESSION,
    "stick-table": _SESSION,
    "cookie": _SESSION,
    "persistence_timeout": _SESSION,
    "persistent": _SESSION,
    "persistence": _SESSION,
    "errorfile": "use 'error_page = STATUS... FILE'",
    "maxconn": "use 'maxclients = N' for a service, and 'server = ADDR:PORT maxconn N' for a server",
    "ssl_certificate": _CERTIFICATE,
    "ssl_certificate_key": _CERTIFICATE,
    "ssl_protocols": "use 'tls_min = 1.2' or 'tls_min = 1.3'",
    "ssl_ciphers": "use 'tls_ciphers = ...'",
    "ip_hash": "use 'scheduler = sh'",
    "least_conn": "use 'scheduler = wlc'",
    "hash": "use 'scheduler = hhttp' or 'sticky = ...'",
    "lb_algo": _SCHEDULER,
    "lb_kind": "connections are always relayed, so there is no packet-forwarding method to choose",
    "keepalive": "connections to servers are kept without it; the setting pool_size limits them",
    "compression": _NOT_COMPRESSED,
    "gzip": _NOT_COMPRESSED,
    "log": "use 'access_log = FILE', and 'ktcpvs --logfile FILE' for the daemon's own log",
}
"""Words of lines in blocks -> what to use instead."""

_PATH = "use 'path /x' for a path, 'path /x/' for all below it, or 'pattern REGEX'"
_FROM = "use 'from NETWORK' (example: from 10.0.0.0/8)"
_HOST = "use 'host NAME' (example: host shop.example)"
_NAMED_HEADER = "use 'header NAME PATTERN' (example: header X-Beta \"^1$\")"
_QUERY = "use 'query NAME PATTERN' (example: query lang \"^en$\")"

CONDITIONS = {
    "uri": _PATH,
    "url": _PATH,
    "location": _PATH,
    "prefix": _PATH,
    "pathprefix": _PATH,
    "path_beg": _PATH,
    "path_reg": _PATH,
    "url_beg": _PATH,
    "regex": "use 'pattern REGEX'",
    "src": _FROM,
    "ip": _FROM,
    "client": _FROM,
    "client_ip": _FROM,
    "remote_addr": _FROM,
    "hostname": _HOST,
    "domain": _HOST,
    "server_name": _HOST,
    "hdr": _NAMED_HEADER,
    "headers": _NAMED_HEADER,
    "url_param": _QUERY,
    "arg": _QUERY,
    "args": _QUERY,
    "ssl": "use 'tls'",
    "ssl_fc": "use 'tls'",
    "https": "use 'tls'",
    "percent": "use 'share 5%'",
}
"""Words of conditions of rules -> what to use instead."""

_USE_SERVER = "use 'server ADDR:PORT', and add the line 'server = ADDR:PORT'"
_FORBID = "use 'respond 403'"

ACTIONS = {
    "return": "use 'redirect 301 URL' or 'respond 403'",
    "rewrite": "use 'redirect 301 URL'",
    "status": "use 'respond 403'",
    "deny": _FORBID,
    "reject": _FORBID,
    "forbid": _FORBID,
    "block": _FORBID,
    "proxy_pass": _USE_SERVER,
    "proxy": _USE_SERVER,
    "reverse_proxy": _USE_SERVER,
    "use_backend": _USE_SERVER,
    "backend": _USE_SERVER,
    "upstream": _USE_SERVER,
}
"""Words of actions of rules -> what to use instead."""

LISTENER_WORDS = {
    "ssl": "use 'tls'",
    "https": "use 'tls'",
    "http2": "HTTP/2 is the option 'http2' of the service",
    "crt": f"use 'tls', and {_CERTIFICATE.removeprefix('use ').partition(' and ')[0]}",
    "default_server": "use 'tls_default = NAME' for TLS, or a rule for a host",
    "accept-proxy": "use the option 'proxy_from = NETWORK' of the service",
    "proxy_protocol": "use the option 'proxy_from = NETWORK' of the service",
}
"""Words behind the address of a listener -> what to use instead."""

_WEIGHT = "the weight is a number behind the address (example: server = 10.0.0.1:80 5); for tcpvsadm it is -w 5"
_MAXCONN = "write 'maxconn N' behind the weight; for tcpvsadm it is --maxconn N"
_CHECKS = "checks are options of the service: check, check_interval, check_rise and check_fall"
_EJECTION = "use the options 'eject = N' and 'eject_time = SECONDS' of the service"

SERVER_WORDS = {
    "weight": _WEIGHT,
    "maxconn": _MAXCONN,
    "max_conns": _MAXCONN,
    "max_fails": _EJECTION,
    "fail_timeout": _EJECTION,
    "slow_start": "use the option 'slow_start = SECONDS' of the service",
    "inter": _CHECKS,
    "rise": _CHECKS,
    "fall": _CHECKS,
    "ssl": "use 'tls'",
    "send-proxy": "use 'proxy v1'",
    "send-proxy-v2": "use 'proxy v2'",
    "down": "use 'maintenance'",
    "disabled": "use 'maintenance'",
}
"""Words behind the address of a server -> what to use instead."""

SCHEDULERS = {
    "roundrobin": "rr, or wrr with weights",
    "round_robin": "rr, or wrr with weights",
    "static-rr": "wrr",
    "leastconn": "wlc",
    "least_conn": "wlc",
    "least_time": "peak-ewma",
    "ewma": "peak-ewma",
    "random": "p2c",
    "source": "sh",
    "ip_hash": "sh",
    "uri": "hhttp",
    "url_param": "http, with 'sticky = query NAME'",
    "hdr": "http, with 'sticky = header NAME'",
    "mh": "maglev",
    "ketama": "chash",
    "ring_hash": "chash",
    "dh": "sh",
    "lblc": "hhttp",
    "lblcr": "hhttp",
}
"""Scheduling methods of other switches -> the schedulers that are most like them."""


def unknown_option(name: str, known: Iterable[str], listed_by: str = "'man ktcpvs.conf'") -> str:
    """Return an unknown name of an option or a setting in quotes, and what to use instead: as for `unknown`."""
    names = list(known)
    found = hint(IN_BLOCK, name) or hint_at_daemon_option(name, names)
    return f"'{shorten(name, 40)}'{found}" if found else unknown(name, names, 40, listed_by)


def unknown_condition(text: str, known: Iterable[str]) -> str:
    """Return an unknown word in quotes where a condition is expected, and what to use instead: as for `unknown`."""
    found = f"; for a path: path {shorten(text, 40)}" if text.startswith("/") else hint(CONDITIONS, text)
    return f"'{shorten(text, 40)}'{found}" if found else unknown(text, known, 40)


def hint_at_daemon_option(name: str, known: Iterable[str] = ()) -> str:
    """Return "; " and the option of the daemon that has this name; "": none has. known: names that count instead, if
    one of them differs from it in case or in a dash only."""
    option = name.lower().replace("_", "-")
    if option not in DAEMON_OPTIONS or option in (one.replace("_", "-") for one in known):
        return ""
    value = DAEMON_OPTIONS[option]
    return f"; that is an option of the daemon: use 'ktcpvs --{option}{f' {value}' if value else ''}'"


def hint_at_server_word(word: str) -> str:
    """Return "; " and what to use instead of a word behind a server, as `weight=5`; "": there is no hint."""
    return f"; {_WEIGHT}" if word.isascii() and word.isdigit() else hint(SERVER_WORDS, word.partition("=")[0])


def hint(words: dict[str, str], word: str) -> str:
    """Return "; " and what to use instead of `word`; "": it is none of `words`."""
    found = words.get(word.lower())
    return f"; {found}" if found else ""
