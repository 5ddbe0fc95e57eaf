"""Warnings about a service: options, rules and weights that have no effect, and servers that nothing uses.

A warning never refuses an edit. It says which option or rule is ignored, by what, and what would use it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from attrs import fields, frozen

from ktcpvs.errors import shorten
from ktcpvs.model import edits
from ktcpvs.model.address import Address
from ktcpvs.model.check import OFF, parse_check
from ktcpvs.model.options import OFF as NO_RATE
from ktcpvs.model.placement import PLACE, KnownNodes, placement_warnings
from ktcpvs.model.quorum import NODE, QUORUM
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_warnings import (
    about_endless,
    about_foreign_variables,
    about_hidden,
    about_stars,
    endless_redirects,
    hidden_rules,
    some_of,
)
from ktcpvs.model.scheduling import (
    CLIENT_HELLO,
    CONNECTION,
    EACH_REQUEST,
    FIRST_REQUEST,
    USES_BALANCE,
    USES_COOKIE,
    USES_EACH_SERVER,
    USES_MATCH,
    USES_MAXCONN,
    USES_RULES,
    USES_WEIGHT,
    ISchedulerFactory,
    IUsesOptions,
)
from ktcpvs.model.server_words import H2
from ktcpvs.model.service import KERNEL, NO_LOG, OPTIONS, OWN, SHARED, SPLICE, VirtualService
from ktcpvs.model.service_plugins import ServicePlugins
from ktcpvs.model.tls import TLS_OPTIONS
from ktcpvs.model.unmatched import (
    NOBODY_SHARE,
    describe_unmatched,
    leaves_unmatched,
    proposed_command,
    proposed_line,
    reads_rules,
)

WHOLE = "whole"
"""The subject of warnings that make sense only for a complete configuration."""

RULES, MATCH, WEIGHT, MAXCONN, SERVERS = "rules", "match", "weight", "maxconn", "servers"
"""Subjects that are not options of a service; H2 is another one."""

POOL_OPTIONS = ("startservers", "minspareservers", "maxspareservers")
FORWARDING_OPTIONS = (
    "forwarded",
    "x_forwarded_for",
    "x_forwarded_proto",
    "x_forwarded_host",
    "via",
    "client_cert_header",
)
REQUEST_OPTIONS = (
    "request_header",
    "response_header",
    "why_for",
    "trace",
    "eject_slow",
    "keepalive_timeout",
    "response_timeout",
    "request_timeout",
    "first_byte_timeout",
    "body_size",
    "http2",
    "upgrade",
)
COOKIE_OPTIONS = ("cookie_name", "cookie_domain", "cookie_max_age", "cookie_samesite", "cookie_secure")
PROXY_OPTIONS = ("trusted_proxies", "trusted_header")
CONNECTION_OPTIONS = ("preconnect",)
HELLO_OPTIONS = ("not_tls", "starttls")
HEAD_OPTIONS = ("client_head", "client_head_rate")
READER_OPTIONS = (*HEAD_OPTIONS, "head_timeout", "head_size", "head_lines", "uri_size")
CHECK_OPTIONS = ("check_interval", "check_timeout", "check_rise", "check_fall", "check_by", "close_on_down")
EJECT_OPTIONS = ("eject_time", "eject_share")
_OF_CLUSTERS = (("check_by", QUORUM, NODE), ("share", SHARED, OWN))
"""Options that have an effect in a cluster only: name, value, and the value that they have elsewhere."""

ENGINES = (KERNEL, SPLICE)
"""The values of `relay` with which the bytes stay in the kernel."""

CLIENT_LIMITS = ("client_connections", "client_rate", *HEAD_OPTIONS)

MANY_SERVERS = 1000
"""The most servers of a scheduler that looks at each of them for each choice, before a warning: `chash` takes 25 us
for it then, as long as the rest of a request. With 10,000 it takes 0.25 ms, and `fo` and `ovf` take 3 ms."""

MAX_NAMED = 5
"""The most schedulers that a warning names."""

_DEFAULTS = {attribute.name: attribute.default for attribute in fields(VirtualService)}


@frozen
class ServiceWarning:
    """A warning. ident: of the service. text: what has no effect, and why. about: the options that it concerns, or
    RULES, MATCH, WEIGHT, MAXCONN, SERVERS, H2, PLACE or WHOLE."""

    ident: str
    text: str
    about: frozenset[str]

    def __str__(self) -> str:
        return f"service {self.ident}: {self.text}"


_ABOUT_ALL = (edits.Load, edits.StartService)
_ABOUT_ONE = (
    edits.AddService,
    edits.EditService,
    edits.AddListener,
    edits.DeleteListener,
    edits.AddRule,
    edits.EditRule,
    edits.DeleteRule,
    edits.AddServer,
    edits.EditServer,
)
_OF_COVERAGE = (edits.AddRule, edits.EditRule, edits.DeleteRule, edits.EditService)
"""The edits after which requests may be refused that a service has served before."""

Installed = Callable[[], Iterable[ISchedulerFactory]]
"""Returns all schedulers that are installed: a warning names those that use what a service's own one ignores."""


def warnings_about(
    edit: edits.Edit,
    before: Mapping[str, VirtualService],
    services: Mapping[str, VirtualService],
    plugins_of: Callable[[VirtualService], ServicePlugins],
    installed: Installed,
    nodes: KnownNodes | None = None,
) -> list[str]:
    """Return the warnings that are due after `edit`, a line each. before, services: before and after the edit. nodes:
    of the cluster; None: nothing is known of where services run."""
    is_whole = isinstance(edit, _ABOUT_ALL)
    found: list[str] = []
    for service in _concerned(edit, services):
        plugins = plugins_of(service)
        about = warnings_of(service, plugins, installed, is_whole=is_whole)
        if nodes is not None:
            placement = placement_warnings(service, nodes)
            about += [ServiceWarning(service.ident, text, frozenset(subjects)) for text, subjects in placement]
        about = [warning for warning in about if is_due(warning, edit)]
        if is_whole or isinstance(edit, _OF_COVERAGE):
            about += _about_unmatched(edit, before.get(service.ident), service, plugins.scheduler)
        if isinstance(edit, edits.AddServer):
            about += _about_added(edit, service, plugins.scheduler)
        found += map(str, about)
    return found


def _about_unmatched(
    edit: edits.Edit, before: VirtualService | None, service: VirtualService, scheduler: ISchedulerFactory
) -> Iterator[ServiceWarning]:
    """Warn of requests that no rule matches: always after a load or a start, otherwise if the edit has caused it."""
    if not leaves_unmatched(service, scheduler):
        return
    which = describe_unmatched(service, scheduler)
    if isinstance(edit, _ABOUT_ALL):
        is_file = isinstance(edit, edits.Load)
        how = proposed_line(service, scheduler) if is_file else proposed_command(service, scheduler)
        text = f"{which}; for a default rule: {how}"
    elif before is not None and before.scheduler == service.scheduler and leaves_unmatched(before, scheduler):
        return
    else:
        is_first = before is not None and bool(before.servers) and not before.rules
        served = "; until now, all its servers served them" if is_first else ""
        text = f"{which} now{served}; for a default rule: {proposed_command(service, scheduler)}"
    yield ServiceWarning(service.ident, text, frozenset((WHOLE,)))


def _about_added(
    edit: edits.AddServer, service: VirtualService, scheduler: ISchedulerFactory
) -> Iterator[ServiceWarning]:
    """Warn of a server that gets nothing, since the rules of its service lead to no server at all, as in the quick
    start. Where they lead to others, its rule is usually the next command, and this would be noise."""
    if service.rules and reads_rules(scheduler) and not any(rule.servers for rule in service.rules):
        address = service.complete(edit.address)
        text = (
            f"server {address} gets no requests: no rule leads to a server; for a rule: "
            f"'tcpvsadm --add-rule -i {service.ident} path /PATH/ -r {address}'"
        )
        yield ServiceWarning(service.ident, text, frozenset((SERVERS,)))


def warnings_of(
    service: VirtualService, plugins: ServicePlugins, installed: Installed, *, is_whole: bool = True
) -> list[ServiceWarning]:
    """Return all warnings about `service`. is_whole: False leaves out those about WHOLE, for which every rule is
    examined."""
    scheduler = plugins.scheduler
    found = [
        *_about_scheduler(service, plugins, installed),
        *_about_rule_balances(service, plugins, installed),
        *_about_maxconn(service, plugins),
        *_about_many_servers(service, plugins),
        *_about_unit(service, scheduler, installed),
        *_about_checks(service),
        *_about_options(service),
        *_about_tls(service, scheduler),
        *_about_servers(service, scheduler, installed),
    ]
    if is_whole:
        found += _about_whole(service, scheduler)
    return [ServiceWarning(service.ident, text, frozenset(about)) for text, about in found]


def warnings_without_cluster(edit: edits.Edit, services: Mapping[str, VirtualService]) -> list[str]:
    """Return the warnings about options that only a node of a cluster uses, a line each. services: after the edit."""
    found = [
        ServiceWarning(
            service.ident, f"{name} = {value} means {meaning}: this switch is in no cluster", frozenset({name})
        )
        for service in _concerned(edit, services)
        for name, value, meaning in _OF_CLUSTERS
        if getattr(service, name) == value
    ]
    return [str(warning) for warning in found if is_due(warning, edit)]


def is_due(warning: ServiceWarning, edit: edits.Edit) -> bool:
    """Whether the warning is due after `edit`: the edit sets what the warning is about."""
    if isinstance(edit, _ABOUT_ALL):
        return True
    if WHOLE in warning.about:
        return False
    if isinstance(edit, edits.AddService):
        return True
    if isinstance(edit, edits.AddListener):
        return {PLACE, "listen"} <= warning.about
    if isinstance(edit, edits.DeleteListener):
        return "listen" in warning.about
    if isinstance(edit, edits.EditService):
        return not warning.about.isdisjoint(edit.options)
    if isinstance(edit, edits.AddRule | edits.EditRule):
        return RULES in warning.about or (MATCH in warning.about and edit.match is not None)
    if isinstance(edit, edits.AddServer | edits.EditServer):
        is_weighed = WEIGHT in warning.about and edit.weight not in (None, 0, 1)
        is_unlimited = MAXCONN in warning.about and edit.maxconn == 0
        is_one_more = SERVERS in warning.about and isinstance(edit, edits.AddServer)
        return is_weighed or is_unlimited or is_one_more or (H2 in warning.about and bool(edit.options.get(H2)))
    return False


def _concerned(edit: edits.Edit, services: Mapping[str, VirtualService]) -> Iterable[VirtualService]:
    """Return the services that `edit` may cause warnings about."""
    if not isinstance(edit, (*_ABOUT_ALL, *_ABOUT_ONE)):
        return ()
    ident: str | None = getattr(edit, "ident", None)
    return services.values() if ident is None else [services[ident]]


_Found = tuple[str, tuple[str, ...]]
"""The text of a warning, and its subjects."""


def _about_scheduler(service: VirtualService, plugins: ServicePlugins, installed: Installed) -> Iterator[_Found]:
    """Warn of what the scheduler, and its balance scheduler, ignore."""
    scheduler = plugins.scheduler
    name = f"scheduler {service.scheduler_name}"
    uses_rules = _uses(scheduler, USES_RULES)
    if service.rules and not uses_rules:
        others = _users(installed, USES_RULES, "do")
        yield f"its rules have no effect: {name} uses none; {others}", ("scheduler", RULES)
    elif service.rules and not IUsesOptions.providedBy(scheduler):
        others = _users(installed, USES_RULES, "do")
        yield (
            f"its rules may have no effect: {name} does not say whether it uses any, in an attribute uses; {others}",
            ("scheduler", RULES),
        )
    elif not _uses(scheduler, USES_MATCH) and (hashed := [rule for rule in service.rules if rule.match is not None]):
        rules = f"rule '{shorten(hashed[0].label, 40)}'" + (f" and {len(hashed) - 1} more" if hashed[1:] else "")
        yield (
            f"match has no effect in {rules}: {name} hashes nothing; {_users(installed, USES_MATCH, 'do')}",
            ("scheduler", RULES, MATCH),
        )
    uses_balance = _uses(scheduler, USES_BALANCE)
    if service.balance != _DEFAULTS["balance"] and not uses_balance:
        yield (
            f"balance = {service.balance} has no effect: {name} chooses by itself; "
            f"with scheduler = {service.balance} it would choose",
            ("scheduler", "balance"),
        )
    yield from _about_stickiness(service, scheduler, installed)
    weighs = _uses(scheduler, USES_WEIGHT) or (
        uses_balance and (service.sticky != OFF or any(_uses(one, USES_WEIGHT) for one in plugins.balances))
    )
    if not weighs and not (_uses(scheduler, USES_MATCH) and any(rule.match is not None for rule in service.rules)):
        word = f"balance {service.balance}" if uses_balance else name
        about = ("scheduler", "balance") if uses_balance else ("scheduler",)
        others = _users(installed, USES_WEIGHT, "use", "them")
        if len({server.weight for server in service.servers} - {0}) > 1:
            yield f"weights have no effect, except 0: {word} ignores them; {others}", (*about, WEIGHT)
        if service.slow_start:
            yield f"slow_start has no effect: {word} ignores weights; {others}", (*about, "slow_start")


def _about_rule_balances(service: VirtualService, plugins: ServicePlugins, installed: Installed) -> Iterator[_Found]:
    """Warn of balance schedulers and weights of rules that have no effect."""
    scheduler = plugins.scheduler
    if not _uses(scheduler, USES_RULES):
        return
    hashes = _uses(scheduler, USES_MATCH)
    if unused := [rule for rule in service.rules if rule.modifiers.balance and hashes and rule.match is not None]:
        yield (
            f"balance has no effect in rule {some_of(unused)}: match hashes a group of the pattern",
            ("scheduler", RULES),
        )
    ignoring: dict[str, list[Rule]] = {}
    for rule in service.rules:
        name = rule.modifiers.balance or service.balance
        is_hashed = service.sticky != OFF or (hashes and rule.match is not None)
        weighs = _uses(plugins.balance_of(rule.modifiers.balance), USES_WEIGHT)
        if len(set(rule.weights) - {0}) > 1 and not is_hashed and not weighs:
            ignoring.setdefault(name, []).append(rule)
    for name, rules in ignoring.items():
        others = _users(installed, USES_WEIGHT, "use", "them")
        about = ("scheduler", "balance", RULES)
        yield f"weights have no effect in rule {some_of(rules)}, except 0: balance {name} ignores them; {others}", about
    if off := [rule for rule in service.rules if NOBODY_SHARE in rule.conditions]:
        yield f"rule {some_of(off)} is switched off: share 0% is no client", (RULES,)
    for text in (*about_stars(service.rules), *about_foreign_variables(service.rules)):
        yield text, (RULES,)


def _about_maxconn(service: VirtualService, plugins: ServicePlugins) -> Iterator[_Found]:
    """Warn of schedulers that fill one server before the next, and of a server before the last that is never full."""
    choosing = plugins.balances if _uses(plugins.scheduler, USES_BALANCE) else (plugins.scheduler,)
    if not any(IUsesOptions.providedBy(plugin) and USES_MAXCONN in plugin.uses for plugin in choosing):
        return
    limits = {server.address: server.maxconn for server in service.servers}
    unlimited: dict[tuple[str, Address], None] = {}
    for what, plugin, addresses in _choosers_of_servers(service, plugins):
        if IUsesOptions.providedBy(plugin) and USES_MAXCONN in plugin.uses:
            unlimited |= {(what, one): None for one in addresses[:-1] if not limits[one]}
    if unlimited:
        what, address = next(iter(unlimited))
        others = len({server for _, server in unlimited}) - 1
        has = f"server {address} and {others} more have" if others else f"server {address} has"
        yield (
            f"{has} no maxconn: {what} uses the servers after it only while it cannot serve "
            f"(example: server = {address} 1 maxconn 100)",
            ("scheduler", "balance", RULES, MAXCONN),
        )


def _about_many_servers(service: VirtualService, plugins: ServicePlugins) -> Iterator[_Found]:
    """Warn of a scheduler that looks at each of many servers for each choice."""
    if len(service.servers) <= MANY_SERVERS:
        return
    for what, plugin, addresses in _choosers_of_servers(service, plugins):
        is_slow = IUsesOptions.providedBy(plugin) and USES_EACH_SERVER in plugin.uses
        if is_slow and len(addresses) > MANY_SERVERS:
            yield (
                f"{what} looks at all {len(addresses)} servers for each choice: with more than {MANY_SERVERS} that "
                "takes as long as the rest of a request, or longer; maglev, wlc and p2c do not",
                ("scheduler", "balance", RULES, SERVERS),
            )
            return


def _choosers_of_servers(
    service: VirtualService, plugins: ServicePlugins
) -> Iterator[tuple[str, ISchedulerFactory, Sequence[Address]]]:
    """Yield (words, plugin, servers) of each scheduler that chooses among servers: that of the service, or those of its
    rules."""
    if not _uses(plugins.scheduler, USES_BALANCE):
        yield f"scheduler {service.scheduler}", plugins.scheduler, [server.address for server in service.servers]
    elif not service.rules:
        yield f"balance {service.balance}", plugins.balance, [server.address for server in service.servers]
    else:
        for rule in service.rules:
            name = rule.modifiers.balance
            yield f"balance {name or service.balance}", plugins.balance_of(name), rule.servers


def _about_unit(service: VirtualService, scheduler: ISchedulerFactory, installed: Installed) -> Iterator[_Found]:
    """Warn of options about what the scheduler does not read or change."""
    name = f"scheduler {service.scheduler_name}"
    if scheduler.unit != EACH_REQUEST and (given := _given(service, FORWARDING_OPTIONS)):
        others = _choosers(installed, (EACH_REQUEST,), "add", "header fields")
        yield f"{_have(given)} no effect: {name} passes requests on unchanged; {others}", ("scheduler", *given)
    if scheduler.unit != EACH_REQUEST and (given := _given(service, REQUEST_OPTIONS)):
        others = _choosers(installed, (EACH_REQUEST,), "decide", "per request")
        yield f"{_have(given)} no effect: {name} relays whole connections; {others}", ("scheduler", *given)
    if scheduler.unit not in (FIRST_REQUEST, EACH_REQUEST) and (given := _given(service, PROXY_OPTIONS)):
        others = _choosers(installed, (FIRST_REQUEST, EACH_REQUEST), "do")
        yield f"{_have(given)} no effect: {name} reads no requests; {others}", ("scheduler", *given)
    if scheduler.unit == EACH_REQUEST and (given := _given(service, CONNECTION_OPTIONS)):
        others = _choosers(installed, (CONNECTION, CLIENT_HELLO, FIRST_REQUEST), "relay", "whole connections")
        yield f"{_have(given)} no effect: {name} keeps connections that it has used; {others}", ("scheduler", *given)
    if scheduler.unit != CLIENT_HELLO and (given := _given(service, HELLO_OPTIONS)):
        others = _choosers(installed, (CLIENT_HELLO,), "do")
        yield f"{_have(given)} no effect: {name} reads no ClientHellos; {others}", ("scheduler", *given)
    if scheduler.unit == CONNECTION and (given := _given(service, READER_OPTIONS)):
        others = _choosers(installed, (FIRST_REQUEST, EACH_REQUEST), "do")
        yield f"{_have(given)} no effect: {name} reads no requests; {others}", ("scheduler", *given)


def _about_stickiness(service: VirtualService, scheduler: ISchedulerFactory, installed: Installed) -> Iterator[_Found]:
    """Warn of options that keep a client at its server, and have no effect."""
    name = f"scheduler {service.scheduler_name}"
    if (given := _given(service, COOKIE_OPTIONS)) and not _uses(scheduler, USES_COOKIE):
        others = _users(installed, USES_COOKIE, "do")
        yield f"{_have(given)} no effect: {name} sets no cookie; {others}", ("scheduler", *given)
    elif (
        service.cookie_samesite == "none"
        and service.cookie_secure == OFF
        and not all(listener.is_tls for listener in service.listen)
    ):
        yield (
            "cookie_samesite = none: browsers drop such a cookie unless it is for TLS only (cookie_secure = on)",
            ("cookie_samesite", "cookie_secure", "listen"),
        )
    if service.sticky != OFF and (
        scheduler.unit not in (FIRST_REQUEST, EACH_REQUEST) or not _uses(scheduler, USES_BALANCE)
    ):
        others = _choosers(installed, (FIRST_REQUEST, EACH_REQUEST), "do")
        yield f"sticky has no effect: {name} reads no requests, or uses no balance; {others}", ("scheduler", "sticky")


def _about_checks(service: VirtualService) -> Iterator[_Found]:
    if service.check == OFF and (given := _given(service, CHECK_OPTIONS)):
        yield f"{_have(given)} no effect without check", ("check", *given)
    check, servers = parse_check(service.check), service.servers
    for word, is_given in (("tls", check.tls), ("proxy", check.proxy)):
        if is_given and servers and all(getattr(server, word) in (None, OFF) for server in servers):
            yield f"the word {word} of check has no effect: no server has {word}", ("check",)


def _about_options(service: VirtualService) -> Iterator[_Found]:
    """Warn of options that need another one, or that never have an effect."""
    if given := _given(service, POOL_OPTIONS):
        yield f"{_have(given)} no effect: accepted for old files, but the switch has no thread pool", tuple(given)
    if service.access_log == NO_LOG and (given := _given(service, ("access_log_format",))):
        yield f"{_have(given)} no effect without access_log", ("access_log", *given)
    if not service.trusted_proxies and (given := _given(service, ("trusted_header",))):
        yield f"{_have(given)} no effect without trusted_proxies", ("trusted_proxies", *given)
    if not (service.eject or service.eject_slow) and (given := _given(service, EJECT_OPTIONS)):
        yield f"{_have(given)} no effect with eject = 0", ("eject", *given)
    if len({server.priority for server in service.servers}) < 2 and (given := _given(service, ("overflow",))):
        example = "server = 10.0.0.20:80 1 priority 1"
        yield f"{_have(given)} no effect: all servers have one priority (example: {example})", tuple(given)
    if not service.preconnect and (given := _given(service, ("preconnect_timeout",))):
        yield f"{_have(given)} no effect without preconnect", ("preconnect", *given)
    if service.preconnect and service.servers and all(server.proxy != OFF for server in service.servers):
        yield (
            "preconnect has no effect: all servers are told the client for which a connection is made",
            ("preconnect",),
        )
    if service.client_rate == NO_RATE and (given := _given(service, ("client_burst",))):
        yield f"{_have(given)} no effect without client_rate", ("client_rate", *given)
    has_rates = any(rule.modifiers.rate is not None for rule in service.rules)
    if not has_rates and not _given(service, CLIENT_LIMITS) and (given := _given(service, ("client_ipv6",))):
        yield f"{_have(given)} no effect without one of {', '.join(CLIENT_LIMITS)}", (*CLIENT_LIMITS, *given)


def _about_tls(service: VirtualService, scheduler: ISchedulerFactory) -> Iterator[_Found]:
    """Warn of options that need a listener with TLS, or one without."""
    with_tls = [listener.is_tls for listener in service.listen]
    if not any(with_tls) and (given := _given(service, TLS_OPTIONS)):
        yield f"{_have(given)} no effect: no listener has tls (example: listen = [::]:443 tls)", ("listen", *given)
    if any(with_tls) and service.https_only != OFF:
        if all(with_tls):
            yield "https_only has no effect: all listeners have tls", ("listen", "https_only")
        if scheduler.unit != EACH_REQUEST:
            yield (
                f"https_only has no effect: scheduler {service.scheduler_name} relays whole connections; "
                "phttp and chttp decide per request",
                ("scheduler", "https_only"),
            )
    if service.relay in ENGINES and service.servers and all(server.tls is not None for server in service.servers):
        yield f"relay = {service.relay} has no effect: all servers have tls, and only copying can encrypt", ("relay",)
    if service.client_cert_header != OFF and service.client_certificate == OFF:
        yield (
            "client_cert_header only removes the field: no client shows a certificate with client_certificate = off",
            ("client_cert_header", "client_certificate"),
        )
    if service.client_ca is not None and service.client_certificate == OFF:
        yield "client_ca has no effect with client_certificate = off", ("client_ca", "client_certificate")


def _about_servers(service: VirtualService, scheduler: ISchedulerFactory, installed: Installed) -> Iterator[_Found]:
    """Warn of words of servers that have no effect."""
    if scheduler.unit != EACH_REQUEST and any(server.h2 for server in service.servers):
        others = _choosers(installed, (EACH_REQUEST,), "decide", "per request")
        yield (
            f"h2 of servers has no effect: scheduler {service.scheduler_name} relays whole connections; {others}",
            ("scheduler", H2),
        )


def _about_whole(service: VirtualService, scheduler: ISchedulerFactory) -> Iterator[_Found]:
    """Warn of what a complete service lacks, and of servers and rules that it never uses."""
    if not service.servers and not any(rule.action is not None for rule in service.rules):
        then = "goes to the redirect address" if service.redirect is not None else "is refused"
        yield f"it has no servers: every client {then}", (WHOLE,)
    if not service.rules or not reads_rules(scheduler):
        return
    used: set[Address] = {address for rule in service.rules for address in rule.servers}
    unused = [str(server.address) for server in service.servers if server.address not in used]
    if unused:
        more = f" and {len(unused) - 3} more" if unused[3:] else ""
        yield f"no rule uses {_count(unused, 'server')}: {', '.join(unused[:3])}{more}", (WHOLE,)
    for text in (*about_hidden(hidden_rules(service.rules)), *about_endless(endless_redirects(service))):
        yield text, (WHOLE,)


def _uses(plugin: ISchedulerFactory, what: str) -> bool:
    """Whether the plugin uses that part of a configuration; True if it does not say."""
    return not IUsesOptions.providedBy(plugin) or what in plugin.uses


def _users(installed: Installed, what: str, verb: str, rest: str = "") -> str:
    """Return "http and phttp do": the schedulers that say that they use that part of a configuration."""
    return _do([one.name for one in installed() if IUsesOptions.providedBy(one) and what in one.uses], verb, rest)


def _choosers(installed: Installed, units: Collection[str], verb: str, rest: str = "") -> str:
    """Return "http and phttp do": the schedulers that choose for one of these units."""
    return _do([one.name for one in installed() if one.unit in units], verb, rest)


def _do(names: list[str], verb: str, rest: str) -> str:
    if len(names) < 2:
        verb = "does" if verb == "do" else f"{verb}s"
    if len(names) > MAX_NAMED + 1:
        names = [*names[:MAX_NAMED], f"{len(names) - MAX_NAMED} more"]
    *most, last = names or ["no installed scheduler"]
    return " ".join(filter(None, (f"{', '.join(most)} and {last}" if most else last, verb, rest)))


def _given(service: VirtualService, names: Iterable[str]) -> list[str]:
    """Return those of these options that differ from their defaults."""
    return [name for name in names if getattr(service, name) != OPTIONS[name].default]


def _have(names: list[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'}"


def _count(things: list[str], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
