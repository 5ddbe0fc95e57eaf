"""Answers of the daemon as text. This module uses neither the daemon nor the system.

`show` is the function that formats an address. --load-configfile reads the output of `table` back to the same services.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ktcpvs.control.tcpvsadm.all_nodes import describe_place, format_nodes_line
from ktcpvs.control.tcpvsadm.columns import align, wrap
from ktcpvs.errors import shorten
from ktcpvs.model.conditions import written_text
from ktcpvs.model.health import EJECTED, IDLE, STANDBY, STARTING
from ktcpvs.model.language import writer
from ktcpvs.model.language.writer import ShowAddress
from ktcpvs.model.latency import within
from ktcpvs.model.pattern import DEFAULT_PATTERNS
from ktcpvs.model.server_words import write_use_words

SERVICE_COUNTERS = ("active", "total", "refused", "queued", "requests", "bytes_in", "bytes_out")
SERVER_COUNTERS = ("active", "total", "failures", "kept", "reused", "bytes_in", "bytes_out")
SERVICE_RATES = ("connections", "requests", "bytes_in", "bytes_out")
SERVER_RATES = ("connections", "", "bytes_in", "bytes_out")
"""The columns, by the names of their counters; "": an empty column."""

_COUNTER_OF_RATE = {"connections": "total", "requests": "requests", "bytes_in": "bytes_in", "bytes_out": "bytes_out"}
"""The name of each rate -> that of its counter."""

_HEADINGS = {
    "queued": "Queued",
    "kept": "Kept",
    "reused": "Reused",
    "active": "Active",
    "total": "Total",
    "refused": "Refused",
    "failures": "Failed",
    "connections": "Conns",
    "requests": "Reqs",
    "bytes_in": "InBytes",
    "bytes_out": "OutBytes",
}


EACH_REQUEST = "EACH_REQUEST"
"""The unit of schedulers that choose for each request, as `model.scheduling` has it, whose import takes long."""

MAX_NAMES = 5
"""The most services that the line below --rate names."""

NOTHING_PASSED = "Nothing has passed in the second that --rate has measured; --stats shows the sums.\n"

MAX_IDLE_RULES = 20
"""The most rules of a service of which --stats shows those without a request too."""

NOT_HERE = "not on this node"
"""The state of a service that runs on other nodes of a cluster only."""

_OUTCOMES = {
    "server": "{}",
    "redirect": "redirect to {}",
    "respond": "a response of the switch itself",
    "queue": "queued for {}",
    "nobody": "no server",
}
"""The outcome of a request -> its text in --explain, with the server's address."""


def format_heading(version: str) -> str:
    """Return the first line of --list, without its line end."""
    return f"TCP Virtual Server version {version}"


def format_table(answer: dict[str, Any], show: ShowAddress = str) -> str:
    """Format each service as a block of the configuration language, with a comment that says whether it runs."""
    head = [format_heading(answer["version"]) + "\n", _format_trial(answer), _format_local(answer)]
    blocks = ["".join([*head, format_nodes_line(answer)])]
    for service in answer["services"]:
        first, rest = writer.write_service(service, show).split("\n", 1)
        local = [f"on this node only: {escape(part)}" for part in service.get("local", ())]
        lines = [format_state(service), *local, *_format_unresolved(service, show)]
        lines += [*_format_default_rule(service), *_format_differences(answer, service, show)]
        comments = "".join(f"    # {line}\n" for line in lines)
        blocks.append(f"{first}\n{comments}{rest}")
    return "\n".join(blocks)


def format_configuration(answer: dict[str, Any]) -> str:
    """Format settings and services as a configuration file: numeric ports, hosts as configured."""
    return writer.write(answer["services"], answer["settings"])


def format_stats(answer: dict[str, Any], show: ShowAddress = str, width: int = 0) -> str:
    """Format counters: a line for each service; below it its relay, its rejected clients, its servers, its redirect. A
    service of other nodes has only the line."""
    return _format_counters(answer, show, "stats", SERVICE_COUNTERS, SERVER_COUNTERS, width=width)


def format_rates(answer: dict[str, Any], show: ShowAddress = str, width: int = 0) -> str:
    """Format the result of `rates` like `stats`. A line below it says that nothing has passed meanwhile, or of which
    services the servers get requests one by one."""
    text = _format_counters(answer, show, "rate", SERVICE_RATES, SERVER_RATES, "/s", width)
    services = answer["services"]
    if not any(any(service["rate"].values()) for service in services):
        return text + ("\n" + NOTHING_PASSED if services else "")
    busy = [one for one in services if one.get("unit") == EACH_REQUEST and any(one["rate"].values())]
    names = [service["ident"] for service in busy[:MAX_NAMES]]
    more = f" and {len(busy) - MAX_NAMES} more" if busy[MAX_NAMES:] else ""
    return text + (f"\nConns/s of the servers of {escape(', '.join(names))}{more} are requests\n" if busy else "")


def compute_rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Make rates from two answers of `stats`, `seconds` apart.

    Returns the later one with `rate` (and `redirect_rate`) instead of the counters: new connections, requests of a
    service, and bytes per second, rounded. Counters that are new began at 0; a counter that was reset has the rate 0.
    """
    known = {service["ident"]: service for service in before["services"]}
    services = [_compute_service_rate(known.get(now["ident"], {}), now, seconds) for now in after["services"]]
    rates = {**after, "services": services}
    if "nodes" in after:
        known = {one["node"]: one for one in before["nodes"]}
        rates["nodes"] = [compute_rates(known[now["node"]], now, seconds) for now in after["nodes"]]
    return rates


def format_connections(
    answer: list[dict[str, Any]] | dict[str, Any] | int, show: ShowAddress = str, width: int = 0
) -> str:
    """Format a line for each client connection, in a cluster with its node. Ages are seconds; "-": no server has been
    chosen yet. A number is that of the connections (--count)."""
    if isinstance(answer, int):
        return f"{answer}\n"
    line = format_nodes_line(answer) if isinstance(answer, dict) else ""
    connections: list[dict[str, Any]] = answer["connections"] if isinstance(answer, dict) else answer
    rows = [("ID", "Service", "Client", "Server", "State", "Age", "Idle", "InBytes", "OutBytes")]
    for one in connections:
        server = "-" if one["server"] is None else show(one["server"])
        numbers = (str(round(one[name])) for name in ("age", "idle", "bytes_in", "bytes_out"))
        rows.append((one.get("id", "-"), one["service"], escape(one["client"]), server, one["state"], *numbers))
    if not line:
        return align(rows, "<<<<<>>>>", width)
    nodes = ["Node", *(escape(one["node"]) for one in connections)]
    return line + align([(node, *row) for node, row in zip(nodes, rows, strict=True)], "<<<<<<>>>>", width)


def format_closed(one: dict[str, Any]) -> str:
    """Format the description of a connection that was closed."""
    return f"closed {one['id']} of service {one['service']}: {escape(one['client'])} -> {one['server'] or '-'}\n"


def format_schedulers(answer: dict[str, Any], width: int = 0, is_verbose: bool = False) -> str:
    """Format a line for each scheduler, and then the plugins that could not be loaded, if there are any. is_verbose:
    with the place of each, and a line for each option of a scheduler's own."""
    rows = [("Scheduler", "Decides", "Services", "From" if is_verbose else "Module", "Summary")]
    for one in answer["schedulers"]:
        unit = one["unit"].lower().replace("_", " ")
        place = escape(one.get("source", one["module"])) if is_verbose else one["module"]
        rows.append((one["name"], unit, str(one["services"]), place, escape(one["summary"])))
    text = align(rows, "<<><<", width)
    if is_verbose:
        text += _format_scheduler_options(answer["schedulers"], width)
    if answer["broken"]:
        text += "\nNot loaded:\n"
        text += "".join(f"  {escape(one['module'])}: {escape(one['error'])}\n" for one in answer["broken"])
    return text


def _format_scheduler_options(schedulers: Sequence[dict[str, Any]], width: int) -> str:
    """Return a line for each option of schedulers; "": they have none."""
    rows = [("Scheduler", "Option", "Value", "Default", "Meaning")]
    for one in schedulers:
        for option in one.get("options", ()):
            default = "required" if option["required"] else "none" if option["default"] is None else option["default"]
            values = (option["name"], option["type"], default, option["help"])
            rows.append((one["name"], *map(escape, values)))
    return f"\n{align(rows, '<<<<<', width)}" if len(rows) > 1 else ""


def format_certificates(answer: list[dict[str, Any]], width: int = 0) -> str:
    """Format a line for each certificate, and then what is wrong with some of them."""
    rows = [("Names", "Issuer", "Expires", "Left", "Key", "Used by", "File")]
    for one in answer:
        names = ", ".join(one["names"]) or one["subject"] or "-"
        left = "-" if one["left"] is None else f"{one['left']:.0%}"
        expires = "-"
        if one["not_after"] is not None:
            expires = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one["not_after"]))
        issuer, file = escape(one["issuer"]) or "-", escape(one["file"])
        rows.append((escape(names), issuer, expires, left, one["kind"] or "-", ", ".join(one["services"]), file))
    text = align(rows, "<<<><<<", width)
    kept = "what was read before stays in use"
    errors = [f"{one['error']}; {kept}" if one["not_after"] else one["error"] for one in answer if one["error"]]
    orders = [_format_order(one["acme"]) for one in answer if one.get("acme") is not None]
    wrong = dict.fromkeys([*errors, *(one["warning"] for one in answer if one["warning"]), *orders])
    return text + ("\n" + "".join(f"{escape(line)}\n" for line in wrong) if wrong else "")


def _format_order(order: dict[str, Any]) -> str:
    """Return a line about a certificate that the switch obtains from a CA. order: `acme` of a certificate's row."""
    due = order["next"] is not None and order["next"] > 0
    when = time.strftime("on %Y-%m-%d %H:%M:%S UTC", time.gmtime(order["next"])) if due else "now"
    names = f"acme {' '.join(order['names'])}"
    if order["state"] == "ordering":
        return f"{names}: an order is in progress"
    if order["state"] == "valid":
        return f"{names}: to be renewed {when}"
    if order["state"] == "waiting":
        return f"{names}: to be ordered {when}"
    return f"{names}: failed: {order['error']}; next attempt {when}"


def format_settings(answer: list[dict[str, Any]]) -> str:
    """Format a line `NAME = VALUE` for each setting, with a comment where it has no effect on the daemon's machine."""
    lines = (f"{one['name']} = {one['value']}{_format_note(one)}\n" for one in answer)
    return "".join(lines)


def _format_note(setting: dict[str, Any]) -> str:
    note = setting.get("note")
    return f"  # {escape(note)}" if note else ""


def format_explanation(answer: dict[str, Any], width: int = 0) -> str:
    """Format an explanation: the request, the rules and servers that were considered, and the answer."""
    unit = answer["unit"].lower().replace("_", " ")
    request = answer["request"]
    words = "a connection" if request["method"] is None else f"{request['method']} {request['target']}"
    lines = [
        f"Service {answer['service']}, {format_state(answer)}: scheduler {answer['scheduler']} ({unit})",
        f"Request: {escape(words)}, from {request['client']}",
        *(f"  {header['name']}: {escape(header['value'])}" for header in request["headers"]),
    ]
    if request["path"] not in (None, request["target"]):
        lines.append(f"  matched against rules as {escape(request['path'])}")
    if answer["rules"]:
        lines += ["", "Rules tried:"]
        rows = [(f"  {rule['number']}", rule["pattern"], rule["why"]) for rule in answer["rules"]]
        lines += align(rows, "><<", width).splitlines()
    lines += ["", "Servers considered:" if answer["servers"] else "No server is considered."]
    if answer["servers"]:
        servers = [("  Server", "State", "Active", "Weight", "MaxConn")]
        for one in answer["servers"]:
            numbers = str(one["active"]), str(one["weight"]), _format_limit(one["maxconn"])
            servers.append((f"  {one['address']}", one["state"], *numbers))
        lines += align(servers, "<<>>>", width).splitlines()
        checked = [one for one in answer["servers"] if one.get("check_response")]
        lines += [f"  {one['address']} responds to checks: {escape(one['check_response'])}" for one in checked]
        ejected = [one for one in answer["servers"] if one.get("ejected")]
        lines += [f"  {one['address']} is ejected: {escape(one['ejected'])}" for one in ejected]
        failed = [one for one in answer["servers"] if one.get("last_error") and one not in ejected]
        lines += [f"  {one['address']} has failed: {escape(one['last_error'])}" for one in failed]
    if answer["notes"]:
        lines += ["", "Notes:", *(f"  {escape(note)}" for note in answer["notes"])]
    found = answer["answer"]
    lines += [
        "",
        f"Answer: {_OUTCOMES[found['outcome']].format(found['server'] or 'a server')}",
        f"  {escape(found['reason'])}",
        *([f"  to {escape(found['location'])}"] if found.get("location") else []),
    ]
    if width:
        lines = [part for line in lines for part in wrap(line, width)]
    return "\n".join(lines) + "\n"


def format_json(answer: Any) -> str:
    """Format the answer as JSON, for programs."""
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


def format_state(service: dict[str, Any]) -> str:
    """Return whether a service runs. A daemon of an older version does not say whether it is for this node."""
    if not service["running"]:
        return "stopped"
    return "running" if service.get("here", True) else NOT_HERE


def _format_limit(maxconn: int) -> str:
    return str(maxconn) if maxconn else "-"


def escape(text: Any) -> str:
    """Escape foreign text for one line, and shorten it."""
    return shorten(str(text), 1000)


def _format_counters(
    answer: dict[str, Any],
    show: ShowAddress,
    kind: str,
    of_service: Sequence[str],
    of_server: Sequence[str],
    each: str = "",
    width: int = 0,
) -> str:
    """Format the counters of services and their servers. kind: the key of the counters. of_service, of_server: their
    names. each: appended to their headings."""

    def numbers(counters: dict[str, Any], names: Sequence[str]) -> list[str]:
        return [str(counters[name]) if name else "" for name in names]

    rows: list[tuple[str, ...]] = [
        ("Service", "State", "Scheduler", *_headings(of_service, each)),
        ("  -> Server", "Weight", "MaxConn", *_headings(of_server, each)),
    ]
    for service in answer["services"]:
        counts = {**service[kind], "requests": _requests(service, kind)}
        rows.append((service["ident"], format_state(service), service["scheduler"], *numbers(counts, of_service)))
        if service["running"] and service[kind].get("relay"):
            rows.append((_format_relay(service[kind]["relay"]),))
        if rejected := _format_rejected(service[kind]):
            rows.append((rejected,))
        rows += [(f"  {line}",) for line in _format_stopped(service)]
        rows += [(line,) for line in _format_rules(service[kind])]
        rows += [(line,) for line in _format_own_responses(service[kind])]
        rows += [(line,) for line in _format_preambles(service[kind])]
        if not service.get("here", True):
            continue
        for server in service["servers"]:
            begin = f"  -> {format_server(server, show)}", str(server["weight"]), _format_limit(server["maxconn"])
            rows.append((*begin, *numbers(server[kind], of_server)))
            if kind == "stats" and (use := _format_use(server)):
                rows.append((use,))
            if kind == "stats" and (state := _format_health(answer, server.get("health"))):
                rows.append((state,))
            if kind == "stats" and server.get("check_response"):
                label = "last check" if (server.get("health") or {}).get("state") == EJECTED else "check"
                rows.append((f"     {label}: {escape(server['check_response'])}",))
            if kind == "stats" and (error := _format_last_error(server.get("last_error"))):
                rows.append((error,))
            rows += [(line,) for line in _format_responses(server[kind])]
        if service["redirect"] is not None:
            begin = f"  -> {show(service['redirect'])}", "redirect", ""
            rows.append((*begin, *numbers(service[f"redirect_{kind}"], of_server)))
            rows += [(line,) for line in _format_responses(service[f"redirect_{kind}"])]
    above = f"{format_heading(answer['version'])}\n{_format_trial(answer)}{_format_local(answer)}"
    return above + format_nodes_line(answer) + align(rows, "<<<" + ">" * len(of_service), width)


def _format_stopped(service: dict[str, Any]) -> list[str]:
    """Return the line that names the nodes that do not run a service; no line for those that all nodes run."""
    stopped = service.get("not_running_on")
    return [f"not running on {escape(', '.join(stopped))}"] if stopped else []


def _format_unresolved(service: dict[str, Any], show: ShowAddress) -> list[str]:
    """Return a line for each server whose name is not found. A daemon of an older version does not say that."""
    unresolved = service.get("unresolved", {})
    return [
        f"{show(address)} unresolved: {escape(why) or 'the first look-up is in progress'}"
        for address, why in unresolved.items()
    ]


def _format_default_rule(service: dict[str, Any]) -> list[str]:
    """Return the line that says that a rule is tried last although others stand behind it; no line if none is."""
    patterns = [rule["pattern"] for rule in service["rules"]]
    first = next((place for place, pattern in enumerate(patterns) if pattern in DEFAULT_PATTERNS), len(patterns))
    if all(pattern in DEFAULT_PATTERNS for pattern in patterns[first:]):
        return []
    return [f"rule {written_text(patterns[first])} is a default rule: it is tried last, behind those below it"]


def _format_differences(answer: dict[str, Any], service: dict[str, Any], show: ShowAddress) -> list[str]:
    """Return what of a service differs from node to node, or is not as it should be; nothing of one daemon alone."""
    lines = _format_stopped(service)
    for server in service["servers"] if "nodes" in answer else ():
        if state := _format_health(answer, server["health"]):
            lines.append(f"{format_server(server, show)} {state.lstrip()}")
    return lines


def _format_trial(answer: dict[str, Any]) -> str:
    """Return the line that says how long the table is on trial; "" if it is not. It is a comment, since the output of
    --list can be loaded again."""
    left = answer.get("trial")
    return "" if left is None else f"# On trial: undone in {left} s unless 'tcpvsadm --confirm' is run.\n"


def _format_local(answer: dict[str, Any]) -> str:
    """Return a comment for each edit that holds on this node of a cluster only."""
    return "".join(
        f"# On this node only{', until etcd responds' if one['forced'] else ''}: {escape(one['edit'])}\n"
        for one in answer.get("local", ())
    )


def _format_use(server: dict[str, Any]) -> str:
    """Return "backup, standby" or "start app, idle": the words with which a server is configured that say when it is
    used, and why it is not used now; "" for a server without such words."""
    words = write_use_words(server)
    state = (server.get("health") or {}).get("state")
    return words and f"     {words}{f', {state}' if state in (STANDBY, IDLE, STARTING) else ''}"


def _format_health(answer: dict[str, Any], health: dict[str, Any] | None) -> str:
    """Return "down since DATE TIME: why" for a server whose state has changed, of all nodes "down on a, b since ...";
    else ""."""
    if health is None or not health["since"]:
        return ""
    where = describe_place(answer, health.get("nodes"))
    return f"     {health['state']}{where} since {_format_time(health['since'])}: {escape(health['reason'])}"


def _format_last_error(error: dict[str, Any] | None) -> str:
    """Return "failed at DATE TIME: why" for a server that has failed the last connection or request; else ""."""
    if error is None or not error["in_a_row"]:
        return ""
    where = f" on {escape(error['node'])}" if "node" in error else ""
    return f"     failed{where} at {_format_time(error['at'])}: {escape(error['reason'])}"


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _format_responses(stats: dict[str, Any]) -> list[str]:
    """Return the line with a server's responses by status class, their latency, and its retries; no line for a server
    that has handled no requests."""
    parts = []
    if counts := _format_counts(stats.get("answers", {})):
        half, most = within(stats["buckets"], 0.5), within(stats["buckets"], 0.99)
        parts.append(f"responses: {counts}; 50 % within {format_duration(half)}, 99 % within {format_duration(most)}")
    if stats.get("retries"):
        parts.append(f"retried: {stats['retries']}")
    return [f"     {'; '.join(parts)}"] if parts else []


def _headings(names: Sequence[str], each: str) -> list[str]:
    return [name and _HEADINGS[name] + each for name in names]


def _requests(service: dict[str, Any], kind: str) -> Any:
    """Return the requests of a service; "-" where connections are scheduled, and from a daemon that does not count
    them."""
    return service[kind].get("requests", "-") if service.get("unit") == EACH_REQUEST else "-"


def format_server(server: dict[str, Any], show: ShowAddress) -> str:
    """Return a server's address, and its name where the configuration names it."""
    name = server.get("name")
    return f"{show(server['address'])} ({name})" if name else show(server["address"])


def format_duration(seconds: float | None) -> str:
    """Format a duration with three digits, as "2.5 ms", "0.0312 ms" or "10 s"; None becomes "-"."""
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _format_rules(counters: dict[str, Any]) -> list[str]:
    """Return a line for each rule with the requests that it has taken; of many rules only for those with any."""
    counts = counters.get("rules", {})
    is_long = len(counts) > MAX_IDLE_RULES
    return [f"  rule {escape(label)}: {count}" for label, count in counts.items() if count or not is_long]


def _format_own_responses(counters: dict[str, Any]) -> list[str]:
    """Return the lines with the responses that the switch has given itself, and with those that broke off."""
    kinds = (("redirected", "redirected"), ("refused", "refusals"), ("responded", "responses"))
    found = ((word, counters.get(name)) for word, name in kinds)
    lines = [f"  {word}: {escape(_format_counts(counts))}" for word, counts in found if counts]
    broken = counters.get("broken_responses")
    return [*lines, f"  broken responses: {broken}"] if broken else lines


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _format_relay(relay: dict[str, Any]) -> str:
    """Return "relay copy (why it is not the configured one)", and the number of connections of each relay."""
    why, joined = relay["why"], relay.get("joined", {})
    counts = ", ".join(f"{name} {count}" for name, count in joined.items() if count)
    return f"  relay {relay['in_use']}{why and f' ({escape(why)})'}{counts and f'; connections: {counts}'}"


def _format_preambles(counters: dict[str, Any]) -> list[str]:
    """Return the lines with the TLS handshakes, with the clients that were refused before they were served, and with
    limits that were reached."""
    lines = []
    if counts := _format_counts(counters.get("handshakes", {})):
        lines.append(f"  handshakes: {counts}")
    lines += [f"  refused: {count} {escape(reason)}" for reason, count in counters.get("preambles", {}).items()]
    if overruns := counters.get("choose_overruns"):
        lines.append(f"  choose_budget exceeded: {_times(overruns)}")
    if failures := counters.get("scheduler_failures"):
        lines.append(f"  scheduler failed: {_times(failures)}")
    if pauses := counters.get("handshake_pauses"):
        lines.append(f"  max_handshakes reached: {pauses} times")
    return lines


def _format_rejected(counters: dict[str, Any]) -> str:
    """Return the numbers of clients that were denied and limited; "" where there were none."""
    counts = ", ".join(f"{name} {counters[name]}" for name in ("denied", "limited") if counters.get(name))
    return counts and f"  rejected: {counts}"


def _compute_service_rate(before: dict[str, Any], now: dict[str, Any], seconds: float) -> dict[str, Any]:
    known = {server["address"]: server for server in before.get("servers", ())}
    answer = dict(_omit_counters(now))
    answer["rate"] = _compute_rate(before.get("stats"), now["stats"], seconds)
    answer["servers"] = [
        {
            **dict(_omit_counters(server)),
            "rate": _compute_rate(known.get(server["address"], {}).get("stats"), server["stats"], seconds),
        }
        for server in now["servers"]
    ]
    if "redirect_stats" in now:
        same = before.get("redirect") == now["redirect"]
        answer["redirect_rate"] = _compute_rate(
            before.get("redirect_stats") if same else None, now["redirect_stats"], seconds
        )
    return answer


def _omit_counters(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in row.items() if key not in ("stats", "redirect_stats"))


def _compute_rate(before: dict[str, int] | None, now: dict[str, int], seconds: float) -> dict[str, int]:
    gained = {}
    for name, counter in _COUNTER_OF_RATE.items():
        if counter in now:
            gained[name] = max(0, round((now[counter] - (before.get(counter, 0) if before else 0)) / seconds))
    return gained
