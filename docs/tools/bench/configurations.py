"""The configurations of the switch and of its peers, as people write them. Logging is off unless a site asks for it.

A `Site` says what is to be served; each function here writes it in the language of one program.
"""

from __future__ import annotations

import re

from attrs import frozen

LOOPBACK = "127.0.0.1"
HOUR = 3600
"""Seconds. Nobody's idle timeout shall end what is measured."""

FOREVER = 1_000_000_000
"""Requests that nginx answers on one connection: never the last."""

CLIENTS = 64
"""Connections of wrk, each with one request at a time."""

NAME = "localhost"
"""The server name that clients of TLS send, and that the certificate is for."""


@frozen
class Rule:
    """Requests whose path begins with `prefix` (a regular expression without an anchor, if `is_regex`) go to `server`.

    server: the place of the real server in the site's list. host: which the request must ask for; an empty text: any.
    """

    prefix: str
    server: int
    is_regex: bool = False
    host: str = ""

    @property
    def pattern(self) -> str:
        """The rule as a regular expression."""
        return f"^{self.prefix}"


@frozen
class HostRule:
    """Requests for `host` go to `server`, with the field X-Site that says `site`. server: as in Rule."""

    host: str
    server: int
    site: str


@frozen
class Site:
    """port: where the proxy listens. servers: HOST:PORT of each real server. rules: tried in their order.
    default: the server for what no rule matches. clients: connections that the proxy must be able to hold.
    forwards: servers get X-Forwarded-For. log: the format of the access log, "combined" or "json"; an empty text: there
    is none. log_file: its path. sessions: a cookie keeps a client at its server. threads: of HAProxy, and
    worker processes of nginx. certificate: the file with the certificate and key with which the proxy speaks TLS 1.3;
    an empty text: it speaks none. is_http2: clients speak HTTP/2. has_http2_servers: so do the servers, without TLS.
    hosts: in place of rules; then header fields of requests and responses are edited, as EDITS says.
    requests: the most at a time, and so the idle connections that everybody may keep for a server."""

    port: int
    servers: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    default: int = 0
    clients: int = 1000
    forwards: bool = False
    log: str = ""
    log_file: str = ""
    sessions: bool = False
    threads: int = 1
    certificate: str = ""
    is_http2: bool = False
    has_http2_servers: bool = False
    requests: int = CLIENTS
    hosts: tuple[HostRule, ...] = ()


REQUEST_ID = "X-Request-ID"
"""The field with a random ID, in requests to servers."""

EDITS = {
    "request": {"X-Real-IP": "the client", "X-Site": "as its rule says"},
    "response": {"Strict-Transport-Security": "max-age=31536000", "X-Frame-Options": "DENY"},
}
"""Fields that a site with hosts sets, besides REQUEST_ID. The field Server of responses is removed; nginx puts its own
there."""

RULED = ("http", "hhttp", "phttp", "chttp")
"""Schedulers that serve nobody without a rule."""


def ktcpvs(site: Site, scheduler: str, relay: str = "") -> str:
    """The switch. scheduler: its name. relay: what carries the bytes; an empty text for what it takes by itself."""
    lines = [f"global {{ keepalive_timeout = {HOUR} read_timeout = {HOUR} pool_size = {site.requests} }}"]
    tls = " tls" if site.certificate else ""
    lines += ["Virtual web {", f"    listen = {LOOPBACK}:{site.port}{tls}", f"    scheduler = {scheduler}"]
    lines += [f"    certificate = {site.certificate}", "    tls_min = 1.3"] if tls else []
    lines += [f"    relay = {relay}"] if relay else []
    lines += ["    x_forwarded_for = append"] if site.forwards else []
    lines += [f"    access_log = {site.log_file}", f"    access_log_format = {site.log}"] if site.log else []
    lines += ["    http2 = on"] if site.is_http2 else []
    h2 = " 1 h2" if site.has_http2_servers else ""
    lines += [f"    server = {server}{h2}" for server in site.servers]
    if scheduler == "sni":
        lines += [f"    rule = host {NAME} use server {site.servers[site.default]}"]
    if site.hosts:
        lines += [f'    request_header = {REQUEST_ID} "{{request_id}}"', '    request_header = X-Real-IP "{client}"']
        lines += [f'    response_header = {name} "{value}"' for name, value in EDITS["response"].items()]
        lines += ['    response_header = Server ""']
        lines += [
            f'    rule = host {rule.host} request_header X-Site "{rule.site}" use server {site.servers[rule.server]}'
            for rule in site.hosts
        ]
    if scheduler in RULED and not site.sessions:
        for rule in site.rules:
            host = f"host {rule.host} " if rule.host else ""
            lines.append(f'    rule = {host}pattern "{rule.pattern}" use server {site.servers[rule.server]}')
        lines.append(f'    rule = pattern ".*" use server {site.servers[site.default]}')
    return "\n".join([*lines, "}", ""])


SESSION = "KTCPVS_SID"
"""The cookie of `chttp`; HAProxy uses the same name."""

HAPROXY_CAPTURES = [
    "    http-request capture req.hdr(Host) len 100",
    "    http-request capture req.hdr(Referer) len 300",
    "    http-request capture req.hdr(User-Agent) len 300",
]

HAPROXY_LOGS = {
    "combined": r"%ci\ -\ -\ [%T]\ %{+Q}r\ %ST\ %B\ %{+Q}[capture.req.hdr(1)]\ %{+Q}[capture.req.hdr(2)]",
    "json": (
        r"{\"time\":\"%tr\",\"service\":\"%ft\",\"client\":\"%ci\",\"method\":\"%HM\","
        r"\"target\":\"%[capture.req.uri,json(utf8s)]\",\"protocol\":\"%HV\","
        r"\"host\":\"%[capture.req.hdr(0),json(utf8s)]\",\"referer\":\"%[capture.req.hdr(1),json(utf8s)]\","
        r"\"user_agent\":\"%[capture.req.hdr(2),json(utf8s)]\",\"status\":%ST,\"server\":\"%si:%sp\",\"reason\":\"%b\","
        r"\"connect\":%Tc,\"first\":%Tr,\"total\":%Ta,\"bytes_in\":%U,\"bytes_out\":%B,\"retries\":%rc,"
        r"\"ending\":\"%ts\"}"
    ),
}
"""The switch's own formats, in HAProxy's words. It writes each line by itself, to a file here."""

HAPROXY = """\
global
    nbthread {threads}
    no strict-limits
    maxconn {clients}
defaults
    mode {mode}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""


def haproxy_bind(site: Site) -> str:
    """The line with HAProxy's address."""
    protocols = "h2,http/1.1" if site.is_http2 else "http/1.1"
    tls = f" ssl crt {site.certificate} ssl-min-ver TLSv1.3 alpn {protocols}" if site.certificate else ""
    return f"    bind {LOOPBACK}:{site.port}{tls}"


def haproxy_http(site: Site, map_file: str = "") -> str:
    """HAProxy in mode http. Plain prefixes are `path_beg` rules. Regular expressions stand in `map_file`, as
    people do who have many, which costs HAProxy a third of one `path_reg` rule for each; these it has without the
    file's name."""
    lines = ["    http-reuse always"]
    lines += ["    option forwardfor"] if site.forwards else []
    lines += ["frontend web", haproxy_bind(site)]
    if site.log:
        lines += ["    log stdout format raw local0", *HAPROXY_CAPTURES, f"    log-format {HAPROXY_LOGS[site.log]}"]
    if site.sessions:
        lines += ["    default_backend all", "backend all", "    balance leastconn"]
        lines += [f"    cookie {SESSION} insert indirect nocache"]
        lines += [f"    server s{number} {server} cookie s{number}" for number, server in enumerate(site.servers)]
        return HAPROXY.format(mode="http", clients=site.clients, threads=site.threads) + "\n".join([*lines, ""])
    lines += [f"    use_backend s{rule.server} if {{ req.hdr(host) -i {rule.host} }}" for rule in site.hosts]
    if site.hosts:
        lines += ["    unique-id-format %[uuid()]", f"    unique-id-header {REQUEST_ID}"]
        lines += ["    http-request set-header X-Real-IP %[src]", "    http-response del-header Server"]
        lines += [f"    http-response set-header {name} {value}" for name, value in EDITS["response"].items()]
    lines += [
        f"    use_backend s{rule.server} if {{ path_beg {rule.prefix} }}" for rule in site.rules if not rule.is_regex
    ]
    regexes = [rule for rule in site.rules if rule.is_regex]
    if not map_file:
        lines += [f"    use_backend s{rule.server} if {{ path_reg {rule.pattern} }}" for rule in regexes]
    if map_file and regexes:
        subject = "base" if has_rules_of_hosts(site) else "path"
        lines += [f"    use_backend %[{subject},map_reg({map_file},s{site.default})]"]
    else:
        lines += [f"    default_backend s{site.default}"]
    for number, server in enumerate(site.servers):
        h2 = " proto h2" if site.has_http2_servers else ""
        lines += [f"backend s{number}", f"    server one {server}{h2}"]
        lines += [f"    http-request set-header X-Site {rule.site}" for rule in site.hosts if rule.server == number]
    return HAPROXY.format(mode="http", clients=site.clients, threads=site.threads) + "\n".join([*lines, ""])


def haproxy_map(site: Site) -> str:
    """The file of `map_reg`: a pattern and its backend in each line. Rules with hosts are searched in host and path."""
    return "".join(f"{_haproxy_pattern(rule)} s{rule.server}\n" for rule in site.rules if rule.is_regex)


def _haproxy_pattern(rule: Rule) -> str:
    return f"^{re.escape(rule.host)}{rule.prefix}" if rule.host else rule.pattern


def has_rules_of_hosts(site: Site) -> bool:
    """Whether the rules of the site name hosts."""
    return any(rule.host for rule in site.rules)


def haproxy_inspect(site: Site) -> str:
    """HAProxy in mode tcp that waits for the first request of a connection and chooses by its path, as `http` does."""
    lines = ["frontend web", f"    bind {LOOPBACK}:{site.port}", "    tcp-request inspect-delay 5s"]
    lines += ["    tcp-request content accept if HTTP"]
    lines += [f"    use_backend s{rule.server} if {{ path_beg {rule.prefix} }}" for rule in site.rules]
    lines += [f"    default_backend s{site.default}"]
    for number, server in enumerate(site.servers):
        lines += [f"backend s{number}", f"    server one {server}"]
    return HAPROXY.format(mode="tcp", clients=site.clients, threads=site.threads) + "\n".join([*lines, ""])


def haproxy_sni(site: Site) -> str:
    """HAProxy in mode tcp that waits for the ClientHello and chooses by its server name, as `sni` does. It may
    splice."""
    lines = ["frontend web", f"    bind {LOOPBACK}:{site.port}", "    option splice-auto"]
    lines += ["    tcp-request inspect-delay 5s", "    tcp-request content accept if { req.ssl_hello_type 1 }"]
    lines += [f"    use_backend named if {{ req.ssl_sni -i {NAME} }}", "backend named", "    option splice-auto"]
    lines += [f"    server one {site.servers[site.default]}"]
    return HAPROXY.format(mode="tcp", clients=site.clients, threads=site.threads) + "\n".join([*lines, ""])


def haproxy_tcp(site: Site, splice: tuple[str, ...] = ()) -> str:
    """HAProxy in mode tcp: the server with the fewest connections, which is what `wlc` does. splice: its
    options of that kind; none: it never does."""
    lines = ["listen web", f"    bind {LOOPBACK}:{site.port}", "    balance leastconn"]
    lines += [f"    option {option}" for option in splice]
    lines += [f"    server s{number} {server}" for number, server in enumerate(site.servers)]
    return HAPROXY.format(mode="tcp", clients=site.clients, threads=site.threads) + "\n".join([*lines, ""])


NGINX = """\
daemon off;
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
pcre_jit on;
events {{ worker_connections {connections}; }}
http {{
    {log}
    keepalive_requests {forever};
    keepalive_timeout {hour}s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{body}
}}
"""


NGINX_JSON = """log_format json escape=json '{"time":"$time_iso8601","client":"$remote_addr",'
        '"method":"$request_method","target":"$request_uri","protocol":"$server_protocol","host":"$host",'
        '"referer":"$http_referer","user_agent":"$http_user_agent","status":$status,"server":"$upstream_addr",'
        '"connect":"$upstream_connect_time","first":"$upstream_header_time","total":$request_time,'
        '"bytes_in":$request_length,"bytes_out":$bytes_sent,"body_out":$body_bytes_sent}';"""


def nginx(folder: str, body: str, user: str, connections: int, workers: int = 1, log: str = "access_log off;") -> str:
    """The part that every nginx here has. user: the line that says as whom its workers run, or an empty one. log: the
    lines that say what is logged."""
    return NGINX.format(
        folder=folder,
        body=body,
        user=user,
        connections=connections,
        workers=workers,
        forever=FOREVER,
        hour=HOUR,
        log=log,
    )


def nginx_log(site: Site) -> str:
    """The lines about the access log, which nginx writes in batches, as the switch does."""
    if not site.log:
        return "access_log off;"
    form = NGINX_JSON if site.log == "json" else ""
    return f"{form} access_log {site.log_file} {site.log} buffer=64k flush=1s;"


def nginx_tls(certificate: str) -> list[str]:
    """The lines of a server that speaks TLS 1.3."""
    pair = [f"        ssl_certificate {certificate};", f"        ssl_certificate_key {certificate};"]
    return [*pair, "        ssl_protocols TLSv1.3;"]


def nginx_proxy(site: Site) -> str:
    """nginx as a proxy that keeps its server connections. `proxy_max_temp_file_size 0`: a long answer is not written
    to the disk on its way, which no other peer does."""
    lines = []
    for number, server in enumerate(site.servers):
        lines.append(
            f"    upstream s{number} {{ server {server}; keepalive {site.requests}; keepalive_requests {FOREVER}; }}"
        )
    lines += ["    proxy_http_version 1.1;", '    proxy_set_header Connection "";', "    proxy_max_temp_file_size 0;"]
    lines += ["    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"] if site.forwards else []
    if site.hosts:
        lines += ["    proxy_set_header Host $http_host;"]
        lines += [f"    add_header {name} {value};" for name, value in EDITS["response"].items()]
        for rule in site.hosts:
            lines += ["    server {", f"        listen {LOOPBACK}:{site.port};", f"        server_name {rule.host};"]
            lines += ["        location / {", f"            proxy_pass http://s{rule.server};"]
            lines += [f"            {line}" for line in _nginx_request_fields(rule.site)]
            lines += ["        }", "    }"]
    tls = " ssl" if site.certificate else ""
    by_host: dict[str, list[Rule]] = {"": []}
    for rule in site.rules:
        by_host.setdefault(rule.host, []).append(rule)
    lines += ["    server_names_hash_max_size 16384;"] if has_rules_of_hosts(site) else []
    for host, rules in by_host.items():
        default = " default_server" if not host and (site.hosts or has_rules_of_hosts(site)) else ""
        lines += [
            "    server {",
            f"        listen {LOOPBACK}:{site.port}{tls}{default}{' http2' if site.is_http2 else ''};",
        ]
        lines += [f"        server_name {host};"] if host else []
        lines += nginx_tls(site.certificate) if tls else []
        for rule in rules:
            where = f'~ "{rule.pattern}"' if rule.is_regex else rule.prefix
            lines.append(f"        location {where} {{ proxy_pass http://s{rule.server}; }}")
        lines += [f"        location / {{ proxy_pass http://s{site.default}; }}", "    }"]
    return "\n".join(lines)


def _nginx_request_fields(site: str) -> list[str]:
    """The fields that a site with hosts sets in requests. nginx forgets those of outer blocks beside them."""
    fields = {
        "Host": "$http_host",
        "Connection": '""',
        "X-Forwarded-For": "$proxy_add_x_forwarded_for",
        REQUEST_ID: "$request_id",
        "X-Real-IP": "$remote_addr",
        "X-Site": site,
    }
    return [f"proxy_set_header {name} {value};" for name, value in fields.items()]


SHOW_FIELDS = "/customers/fields"
"""The path at which real servers answer with the header fields that a site with hosts sets in requests."""

ANSWER = "hello from {}"
"""12 bytes, and they say who answered."""


def nginx_servers(listens: tuple[tuple[str, ...], ...], files: str, certificate: str = "") -> str:
    """Real servers: each has addresses to listen on, answers `hello from a` (b, c ...), and has the files of the folder
    `files` under /files/. certificate: the file with the certificate and key of all of them; an empty text: they speak
    no TLS."""
    lines = ["    sendfile on;"]
    tls = " ssl" if certificate else ""
    for number, addresses in enumerate(listens):
        lines += ["    server {", *(f"        listen {address}{tls};" for address in addresses)]
        lines += nginx_tls(certificate) if tls else []
        lines += [f'        location / {{ return 200 "{answer(number)}"; }}']
        shown = "$http_x_request_id $http_x_real_ip $http_x_site $http_x_forwarded_for"
        lines += [f'        location = {SHOW_FIELDS} {{ return 200 "{shown}"; }}']
        lines += [f"        location /files/ {{ alias {files}/; }}", "    }"]
    return "\n".join(lines)


def nginx_grpc(address: str) -> str:
    """A server that responds as one of gRPC does, without TLS: each call gets a body of a few bytes, and the status OK
    in a trailer."""
    return (
        f"    server {{ listen {address} http2; location / {{ default_type application/grpc; "
        'add_trailer grpc-status 0; return 200 "hello"; } }'
    )


def answer(number: int) -> str:
    """Return the response of the real server with this place in the list."""
    return ANSWER.format("abcdefghijklmnopqrstuvwxyz"[number])
