"""Services as endpoints use them: no listeners, and a scheduler that chooses before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import evolve, fields_dict

from ktcpvs.errors import BadValue, Refusal
from ktcpvs.interfaces import CONNECTION
from ktcpvs.model.address import Unix
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import NO_FALLBACK, VirtualService
from ktcpvs.system.plugins import Schedulers

OF_CLIENTS = (
    "on", "certificate", "tls_default", "client_ca", "client_certificate", "client_cert_header", "https_only",
    "starttls", "proxy_from", "trusted_proxies", "access_log", "trace", "error_page", "maxclients", "allow", "deny",
    "client_connections", "client_rate", "client_burst", "client_head", "client_head_rate", "tests",
)  # fmt: skip
"""The options that are about clients of listeners and their requests: endpoints have neither."""

_DEFAULTS: dict[str, Any] = {name: fields_dict(VirtualService)[name].default for name in OF_CLIENTS}


def services_for_endpoints(
    services: Iterable[VirtualService], schedulers: Schedulers
) -> tuple[dict[str, VirtualService], dict[str, Refusal]]:
    """Return the services in the form that endpoints use, and those that have no such form, with the reason; both by
    ident. schedulers: the installed ones. Raises NoSuchScheduler."""
    usable: dict[str, VirtualService] = {}
    refused: dict[str, Refusal] = {}
    for number, service in enumerate(services):
        try:
            usable[service.ident] = _for_endpoints(service, number, schedulers)
        except BadValue as refusal:
            refused[service.ident] = refusal
    return usable, refused


def _for_endpoints(service: VirtualService, number: int, schedulers: Schedulers) -> VirtualService:
    """Return the service as it runs behind endpoints. number: of the service in its table. Raises NoSuchScheduler, and
    BadValue if none of its rules can be used."""
    # A service has an address; nothing is opened there.
    listen = (ListenAddress(Unix(f"/in-process/{number}")),)
    servers, scheduler = service.servers, service.scheduler
    if schedulers.factory(service.scheduler_name).unit != CONNECTION:
        scheduler = service.balance
        if service.rules:
            rule = _default_rule(service)
            scheduler = rule.modifiers.balance or scheduler
            servers = _servers_of(service, rule)
    return evolve(
        service,
        **_DEFAULTS,
        listen=listen,
        scheduler=scheduler,
        fallback=scheduler if service.fallback != NO_FALLBACK else NO_FALLBACK,
        servers=tuple([evolve(server, start=None) for server in servers]),  # a daemon starts them, not this process
        rules=(),
    )


def _default_rule(service: VirtualService) -> Rule:
    """Return the rule for requests that no other one takes. Raises BadValue without one that names servers."""
    found = next((rule for rule in service.rules if rule.is_default), None)
    form = f"service {service.ident}: an endpoint connects before there is a request, and"
    if found is None:
        raise BadValue(f'{form} each rule needs one: add a default rule (rule = pattern ".*" use server ...)')
    if found.action is not None:
        raise BadValue(f"{form} its default rule has no servers, but {found.action.summary}")
    return found


def _servers_of(service: VirtualService, rule: Rule) -> tuple[RealServer, ...]:
    """Return the servers of a rule, with their weights in it."""
    weights = rule.weights or (None,) * len(rule.servers)
    servers = [(service.server(address), weight) for address, weight in zip(rule.servers, weights, strict=True)]
    return tuple([one if weight is None else evolve(one, weight=weight) for one, weight in servers])
