"""Rules and services none of whose servers takes new clients: requests for them are refused, as no later rule is tried.

Edits warn when they leave one behind, and the trouble of the status page, `--top` and the metrics name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ktcpvs.errors import Refusal, shorten
from ktcpvs.model.conditions import conditions_of
from ktcpvs.model.edits import DeleteServer, Drain, Edit, Load, Maintenance, StartService
from ktcpvs.model.health import EJECTED, IDLE, STANDBY, STARTING, UP
from ktcpvs.model.pattern import DEFAULT_PATTERNS
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_warnings import hidden_rules, some_of
from ktcpvs.model.scheduling import ISchedulerFactory
from ktcpvs.model.server_words import READY
from ktcpvs.model.service import VirtualService, is_meant
from ktcpvs.model.unmatched import NOBODY_SHARE, matches_everything, reads_requests, reads_rules

USABLE = frozenset((UP, STANDBY, IDLE, STARTING))
"""The states of a server that new clients may get."""

_USABLE_IN_RULE = USABLE | {EJECTED}
"""The states of a server that a rule may use: an ejected one is used where no other is left."""

_MAX_PARSED = 16384
"""The most texts of conditions whose meaning is remembered."""

Data = dict[str, Any]


def unserved_rules(service: VirtualService, scheduler: ISchedulerFactory | None) -> list[Rule]:
    """Return the rules that requests reach, and whose servers are all drained, in maintenance, or of the weight 0.

    scheduler: the plugin of its option; None: it is not installed. Nothing for a service with a redirect address, which
    takes these requests, nor for one whose servers are all like that, of which `_about_service` warns.
    """
    if service.redirect is not None or scheduler is None or not reads_rules(scheduler):
        return []
    shares = {server.address: server.share for server in service.servers}
    if not any(shares.values()):
        return []
    idle = [
        rule
        for rule in service.rules
        if rule.servers
        and NOBODY_SHARE not in rule.conditions
        and not any(shares[address] and weight != 0 for address, weight in rule.weighed_servers)
    ]
    hidden = {one.rule.key for one in hidden_rules(service.rules)} if idle else ()
    return [rule for rule in idle if rule.key not in hidden]


def warnings_about_unserved(
    edit: Edit,
    before: Mapping[str, VirtualService],
    services: Mapping[str, VirtualService],
    installed: Callable[[], Iterable[ISchedulerFactory]],
) -> Iterator[str]:
    """Yield the warnings about services and rules that `edit` leaves without a server that takes new clients, a line
    each. A load and a start warn of all that have none.

    before, services: before and after it. installed: returns the schedulers.
    """
    concerned = [one for one in services.values() if _is_concerned(edit, before.get(one.ident), one)]
    plugins = {one.name: one for one in installed()} if concerned else {}
    for service in concerned:
        old = None if isinstance(edit, Load | StartService) else before.get(service.ident)
        scheduler = plugins.get(service.scheduler_name)
        if text := _about_service(service, scheduler):
            had_one = old is None or not _about_service(old, plugins.get(old.scheduler_name))
            if had_one or isinstance(edit, Drain | Maintenance):
                yield f"service {service.ident}: {text}"
        elif isinstance(edit, DeleteServer) and not service.servers and not service.rules:
            then = "goes to the redirect address" if service.redirect is not None else "is refused"
            yield f"service {service.ident}: it has no servers left: every client {then}"
        rules = unserved_rules(service, scheduler)
        if rules and old is not None:
            known = {rule.key for rule in unserved_rules(old, plugins.get(old.scheduler_name))}
            rules = [rule for rule in rules if rule.key not in known or _uses(rule, edit)]
        if rules and scheduler is not None:
            yield f"service {service.ident}: {_describe(service, rules, scheduler)}"


def _is_concerned(edit: Edit, old: VirtualService | None, service: VirtualService) -> bool:
    if isinstance(edit, Load | StartService):
        return getattr(edit, "ident", None) in (None, service.ident)
    if isinstance(edit, Drain | Maintenance):  # a command that is repeated has its warning again
        return edit.ident in (None, service.ident) and service.has_server(edit.address)
    return old is not service and old is not None


def _uses(rule: Rule, edit: Edit) -> bool:
    """Whether a server that `edit` drains is one of the rule's."""
    return isinstance(edit, Drain | Maintenance) and any(is_meant(one, edit.address) for one in rule.servers)


def _about_service(service: VirtualService, scheduler: ISchedulerFactory | None) -> str:
    """Return the warning about a service none of whose servers takes new clients; "": one does, or rules lead to
    none."""
    if not service.servers or any(server.share for server in service.servers):
        return ""
    has_rules = bool(service.rules) and scheduler is not None and reads_rules(scheduler)
    if has_rules and not any(rule.servers for rule in service.rules):
        return ""
    then = "go to the redirect address" if service.redirect is not None else "are refused"
    if all(server.mode != READY for server in service.servers):
        return f"no server of it is ready: new clients {then}; to use one again: --ready"
    again = next(server.address for server in service.servers if server.mode == READY)
    return (
        f"no server of it takes new clients, which {then}: each is drained or has the weight 0; to use one again: "
        f"'tcpvsadm -e -i {service.ident} -r {again} -w 1'"
    )


def _describe(service: VirtualService, rules: Sequence[Rule], scheduler: ISchedulerFactory) -> str:
    """Return the warning about these rules, at least one."""
    verb, them = ("have", "one of them") if rules[1:] else ("has", "it")
    what, then = ("requests", "get status 503") if reads_requests(scheduler) else ("clients", "are refused")
    rule = rules[0]
    reference = rule.name or str(service.rules.index(rule) + 1)
    change = f"tcpvsadm --edit-rule -i {service.ident} --rule {reference} use server"
    address, again = _remedy(service, rule, change)
    return (
        f"rule {some_of(rules)} {verb} no server left that takes clients: {what} that match {them} {then}, since no "
        f"later rule is tried; to use {address} again: '{again}'; to use another one: '{change} ADDRESS'"
    )


def _remedy(service: VirtualService, rule: Rule, change: str) -> tuple[str, str]:
    """Return the server that is used again most easily, and the command for that. change: of the rule's servers."""
    address, weight = max(rule.weighed_servers, key=lambda pair: pair[1] != 0)
    server = service.server(address)
    if weight == 0 and server.share:
        return str(address), f"{change} {address}"
    if server.mode != READY:
        return str(address), f"tcpvsadm --ready -i {service.ident} -r {address}"
    return str(address), f"tcpvsadm -e -i {service.ident} -r {address} -w 1"


def unserved_rows(service: Data) -> list[tuple[Data, bool]]:
    """Return the rules that requests reach, and none of whose servers can be used now, each with whether it takes all
    requests that come to it.

    service: its row of the view `stats`, or of the status page; it runs. Nothing for a service with a redirect address,
    for one none of whose servers can be used, which is more than this, and where the scheduler counts no rules.
    """
    servers = service["servers"]
    if not service["stats"].get("rules") or service.get("redirect") is not None:
        return []
    if not any(server["health"]["state"] in USABLE for server in servers):
        return []
    usable = {
        name
        for server in servers
        if server["health"]["state"] in _USABLE_IN_RULE
        for name in (server["address"], server["name"])
    }
    is_complete = all(server["health"]["state"] in _USABLE_IN_RULE for server in servers)
    idle = [
        bool(one["servers"]) and (not is_complete or 0 in one.get("weights", ())) and not _has_server(one, usable)
        for one in service["rules"]
    ]
    if not any(idle):
        return []
    pairs = list(zip(service["rules"], idle, strict=True))
    found = []
    for rule, is_idle in sorted(pairs, key=lambda pair: pair[0]["pattern"] in DEFAULT_PATTERNS):
        takes_all, takes_none = _meaning(rule["pattern"])
        if is_idle and not takes_none:
            found.append((rule, takes_all))
        if takes_all:
            break  # no request reaches the rules behind it
    return found


def label_of(rule: Data, most: int = 60) -> str:
    """Return the label of a rule of a view, of so many characters at most."""
    return shorten(rule["pattern"] if rule["name"] is None else rule["name"], most)


def _has_server(rule: Data, usable: set[str | None]) -> bool:
    weights = rule.get("weights") or (None,) * len(rule["servers"])
    return any(address in usable and weight != 0 for address, weight in zip(rule["servers"], weights, strict=True))


@lru_cache(_MAX_PARSED)
def _meaning(text: str) -> tuple[bool, bool]:
    """Return whether conditions hold for every request, and whether they hold for none."""
    try:
        conditions = conditions_of(text)
    except Refusal:  # of a daemon of another version
        return False, False
    return matches_everything(conditions), NOBODY_SHARE in conditions
