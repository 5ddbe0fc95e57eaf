"""Words of the configurations of HAProxy, nginx, Caddy, Traefik and keepalived, and what this language has instead."""

from __future__ import annotations

from collections.abc import Iterable

from ktcpvs.errors import did_you_mean, shorten, unknown

_MODE = "the scheduler says what is balanced: wlc, rr and others connections, http and phttp requests"
_BLOCK = "a service is a block 'Virtual NAME { ... }' with lines 'listen = ADDR:PORT' and 'server = ADDR:PORT'"
_SERVER = "a server is a line 'server = ADDR:PORT [WEIGHT]' in the block of its service"
_RULE = "use a rule (example: rule = path /images/ use server ADDR:PORT)"
_SCHEDULER = "use 'scheduler = NAME'; 'tcpvsadm --schedulers' lists them"
_LISTEN = "use 'listen = ADDR:PORT' (example: listen = 0.0.0.0:80)"
_CHECK = "use 'check = tcp' or 'check = http PATH'"
_CHECK_TIMES = "use 'check_interval = SECONDS', 'check_rise = N' and 'check_fall = N'"
_TIMEOUTS = "use connect_timeout, read_timeout, keepalive_timeout or response_timeout, in seconds"
_CERTIFICATE = "use 'certificate = FILE' and 'listen = ADDR:PORT tls'"
_HEADERS = "use 'request_header = NAME VALUE' or 'response_header = NAME VALUE'"
_SESSION = "use 'scheduler = chttp', which keeps a client on its server by a cookie, or 'scheduler = sh'"
_GLOBAL = "settings for all services are in a block 'global { NAME = VALUE ... }'"
_NOT_COMPRESSED = "responses are not compressed"
_FILES = "files are only in responses of rules (example: rule = path /x use respond 503 file FILE)"
_REDIRECT = "use a rule (example: rule = path /old use redirect 301 https://{host}/new), or 'https_only = on'"
_LIMITS = "use 'client_rate = 100/s' or 'client_connections = N', or 'rate 100/s' in a rule"
_MAXCLIENTS = "use 'maxclients = N' for a service, and 'server = ADDR:PORT maxconn N' for a server"
_TRIES = "use 'retry_on = ...' and the setting connect_tries"
_EJECTION = "use the options 'eject = N' and 'eject_time = SECONDS' of the service"
_ACME = "use 'certificate = acme NAME...'"
_LOG_FORMAT = "use 'access_log_format = combined' or 'json'"

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
    "stats": "use 'ktcpvs --control ENDPOINT' and 'ktcpvs --status ENDPOINT' (example: ktcpvs --status tcp:9109)",
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
    "mode": _MODE,
    "protocol": _MODE,
    "port": _LISTEN,
    "entrypoints": _LISTEN,
    "ssl": _CERTIFICATE,
    "tls": _CERTIFICATE,
    "https": _CERTIFICATE,
    "tls.certresolver": _ACME,
    "certresolver": _ACME,
    "acme": _ACME,
    "email": "use the setting acme_email",
    "reverse_proxy": _SERVER,
    "loadbalancer": _SERVER,
    "weight": "the weight is a number behind the address of a server (example: server = 10.0.0.1:80 5)",
    "backup": "write it behind the address of a server (example: server = 10.0.0.1:80 1 backup)",
    "label": "labels stand behind the address of a server (example: server = 10.0.0.1:80 1 label zone=a)",
    "labels": "labels stand behind the address of a server (example: server = 10.0.0.1:80 1 label zone=a)",
    "routers": _RULE,
    "middlewares": "rules have modifiers, as rate, request_header and strip_prefix",
    "redir": _REDIRECT,
    "rewrite": "use a rule (example: rule = path /a/ strip_prefix /a use server ADDR:PORT)",
    "include": "write '=' behind it (example: include = conf.d/*.conf)",
    "combined": _LOG_FORMAT,
    "json": _LOG_FORMAT,
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
    "root": _FILES,
    "file_server": _FILES,
    "try_files": _FILES,
    "http-request": f"use a rule, or {_HEADERS.removeprefix('use ')}",
    "http-response": _HEADERS,
    "proxy_set_header": _HEADERS,
    "add_header": _HEADERS,
    "header": _HEADERS,
    "header_up": _HEADERS,
    "header_down": _HEADERS,
    "forwardfor": "use 'x_forwarded_for = append'",
    "option": f"options are lines 'NAME = VALUE'; for checks {_CHECK}, for forwardfor 'x_forwarded_for = append'",
    "http_get": _CHECK,
    "httpchk": _CHECK,
    "http-check": _CHECK,
    "tcp-check": _CHECK,
    "health_check": _CHECK,
    "healthcheck": _CHECK,
    "health_uri": _CHECK,
    "delay_loop": "use 'check_interval = SECONDS'",
    "inter": _CHECK_TIMES,
    "rise": _CHECK_TIMES,
    "fall": _CHECK_TIMES,
    "retries": _TRIES,
    "proxy_next_upstream": _TRIES,
    "max_fails": _EJECTION,
    "fail_timeout": _EJECTION,
    "limit_req": _LIMITS,
    "limit_conn": _LIMITS,
    "rate_limit": _LIMITS,
    "ratelimit": _LIMITS,
    "client_max_body_size": "use 'body_size = KIB'",
    "timeout": _TIMEOUTS,
    "timeout_connect": _TIMEOUTS,
    "timeout_client": _TIMEOUTS,
    "timeout_server": _TIMEOUTS,
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
    "maxconn": _MAXCLIENTS,
    "max_conn": _MAXCLIENTS,
    "max_conns": _MAXCLIENTS,
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
    "encode": _NOT_COMPRESSED,
    "log": "use 'access_log = FILE', and 'ktcpvs --logfile FILE' for the daemon's own log",
}
"""Words of lines in blocks -> what to use instead."""

EXAMPLES = {
    "listen": "listen = 0.0.0.0:80",
    "server": "server = 10.0.0.1:80",
    "rule": "rule = path /images/ use server 10.0.0.1:80",
    "test": 'test "GET /" -> 10.0.0.1:80',
    "scheduler": "scheduler = phttp",
    "balance": "balance = wrr",
    "certificate": "certificate = /etc/ssl/site.pem",
    "check": "check = http /health",
    "allow": "allow = 10.0.0.0/8",
    "deny": "deny = 10.0.0.0/8",
    "access_log": "access_log = /var/log/ktcpvs/web.log",
    "error_page": "error_page = 502 503 /etc/ktcpvs/sorry.html",
    "request_header": 'request_header = X-Request-ID "{request_id}"',
    "response_header": 'response_header = Server ""',
    "redirect": "redirect = 10.0.0.9:80 for clients without a server; to redirect requests: https_only = on, or a rule",
}
"""Keywords -> how they are written."""

_ALL = "a rule for all requests that no other takes has 'pattern \".*\"'"
_AND = "conditions side by side must all hold: leave it out"
_OR = "several values of one condition stand side by side; for other conditions write a second rule"
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
    "path_dir": _PATH,
    "path_end": "use 'pattern REGEX' (example: pattern \"\\.png(\\?|$)\")",
    "path_sub": "use 'pattern REGEX'",
    "path_regexp": "use 'pattern REGEX'",
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
    "hdr(host)": _HOST,
    "req.hdr(host)": _HOST,
    "hdr": _NAMED_HEADER,
    "req.hdr": _NAMED_HEADER,
    "headerregexp": _NAMED_HEADER,
    "req.cook": "use 'cookie NAME PATTERN' (example: cookie beta \"^1$\")",
    "clientip": _FROM,
    "ssl_fc_sni": "use 'sni NAME'",
    "hostsni": "use 'sni NAME'",
    "headers": _NAMED_HEADER,
    "url_param": _QUERY,
    "arg": _QUERY,
    "args": _QUERY,
    "ssl": "use 'tls'",
    "ssl_fc": "use 'tls'",
    "https": "use 'tls'",
    "percent": "use 'share 5%'",
    "default": _ALL,
    "all": _ALL,
    "any": _ALL,
    "else": _ALL,
    "*": _ALL,
    "if": "conditions stand without it (example: rule = path /api/ use server ADDR:PORT)",
    "when": "conditions stand without it (example: rule = path /api/ use server ADDR:PORT)",
    "!": "use 'not CONDITION' (example: not path /api/)",
    "unless": "use 'not CONDITION' (example: not path /api/)",
}
"""Words of conditions of rules -> what to use instead."""

JOINERS = {
    "and": _AND,
    "&&": _AND,
    "or": _OR,
    "|": _OR,
    "||": _OR,
    "*": "'path /' is every path",
    "~": "for a regular expression use 'pattern REGEX'",
    "~*": "for a regular expression use 'pattern REGEX'",
    "=": "a condition has no '=' (example: host shop.example)",
    "==": "a condition has no '=' (example: host shop.example)",
}
"""Words between or in conditions of other programs, which stand where a value is expected -> what to use instead."""

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
_COOKIE = "use the option 'scheduler = chttp' of the service; the switch makes the cookies itself"

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
    "crt": "use 'tls cert PATH'",
    "ca-file": "use 'tls ca PATH'",
    "sni": "use 'tls name HOST'",
    "verifyhost": "use 'tls name HOST'",
    "alpn": "use 'h2' for HTTP/2",
    "proto": "use 'h2' for HTTP/2",
    "cookie": _COOKIE,
    "on-marked-down": "use the option 'close_on_down = on' of the service",
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


def hint_at_top(word: str, known: Iterable[str]) -> str:
    """Return "; " and what to use instead of a word with which a text begins, or that follows a block."""
    return hint(AT_TOP, word) or did_you_mean(word, known) or f"; {_BLOCK}"


def unknown_condition(text: str, known: Iterable[str]) -> str:
    """Return an unknown word in quotes where a condition is expected, and what to use instead: as for `unknown`."""
    names = list(known)
    if text.startswith("/"):
        found = f"; for a path: path {shorten(text, 40)}"
    elif (kind := text.partition("=")[0].lower()) in names and "=" in text:
        found = f"; a condition has no '=': write {kind} {shorten(text.partition('=')[2], 40)}"
    elif text.startswith("!"):
        found = hint(CONDITIONS, "!")
    else:
        found = hint(CONDITIONS, text) or hint(CONDITIONS, text.partition("(")[0])
    return f"'{shorten(text, 40)}'{found}" if found else unknown(text, names, 40)


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
    """Return "; " and what to use instead of `word`, written with `-` or `_`; "": it is none of `words`."""
    name = word.lower()
    found = words.get(name) or words.get(name.replace("_", "-")) or words.get(name.replace("-", "_"))
    return f"; {found}" if found else ""
