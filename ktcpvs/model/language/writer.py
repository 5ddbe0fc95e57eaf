"""Writes services, tests and settings in the configuration language. `parser` reads them back to the same values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ktcpvs.model.assumed_request import LOCAL_CLIENT
from ktcpvs.model.conditions import HOST, NAME, is_only, is_pattern, written_text
from ktcpvs.model.expectation import Expectation
from ktcpvs.model.language.lexer import quoted, word
from ktcpvs.model.listen import write_listen_words
from ktcpvs.model.network import read_networks
from ktcpvs.model.options import Option, read_address
from ktcpvs.model.server_words import write_words
from ktcpvs.model.service import OPTIONS
from ktcpvs.model.settings import DEFAULT_SETTINGS

NETWORKS_PER_LINE = 8
"""The networks on one line."""

ShowAddress = Callable[[str], str]
"""Address -> its text: as it is, with names, or numeric."""


def write_service(described: dict[str, Any], show: ShowAddress = str) -> str:
    """Return the `Virtual ID { ... }` block of a service as plain data (model.describe)."""
    lines = [f"Virtual {word(described['ident'])} {{"]
    for option in OPTIONS.values():
        if option.name == "listen":
            lines += [f"    listen = {listener}" for listener in write_listeners(described, show)]
            continue
        value = described.get(option.name)
        if value is None or (value == option.default and not option.shown):
            continue
        if option.read is read_networks:
            lines += [f"    {option.name} = {' '.join(some)}" for some in _parts(value)]
            continue
        if option.repeats:
            lines += [f"    {option.name} = {item if _is_phrase(option, item) else word(item)}" for item in value]
            continue
        text = show(value) if option.read is read_address else str(value)
        lines.append(f"    {option.name} = {text if _is_phrase(option, text) else word(text)}")
    for server in described["servers"]:
        most = f" maxconn {server['maxconn']}" if server["maxconn"] else ""
        words = write_words(server)
        lines.append(f"    server = {word(show(server['address']))} {server['weight']}{most}{words and f' {words}'}")
    for rule in described["rules"]:
        lines += [f"    rule = {line}" for line in write_rule(rule, show)]
    lines += [f"    {line}" for line in described.get("tests", ())]
    lines.append("}")
    return "\n".join(lines) + "\n"


def _is_phrase(option: Option, item: str) -> bool:
    """Whether a value of an option, or one of its values, is written as several words."""
    return option.is_phrase or (option.opens_phrase != "" and item.startswith(f"{option.opens_phrase} "))


def write_rule(rule: dict[str, Any], show: ShowAddress = str) -> list[str]:
    """Return a rule, each line as the value of `rule`. A rule that older versions know has a line for each server, as
    they write it. rule: as model.describe returns it, perhaps by a daemon of an older version."""
    name, text = rule.get("name"), rule["pattern"]
    match = "" if rule["match"] is None else f" match {rule['match']}"
    named = "" if name is None else f"{NAME} {word(name)} "
    modifiers = rule.get("modifiers") or ""
    head = f"{named}{written_text(text)}{modifiers and f' {modifiers}'}{match} use"
    if rule.get("action") is not None:
        return [f"{head} {rule['action']}"]
    weights = rule.get("weights") or ()
    numbers = ["" if weight is None else f" {weight}" for weight in weights] or [""] * len(rule["servers"])
    uses = [f"server {word(show(server))}{number}" for server, number in zip(rule["servers"], numbers, strict=True)]
    is_joined = name is not None or bool(modifiers) or bool(weights) or not (is_pattern(text) or is_only(HOST, text))
    return [f"{head} {one}" for one in ([" ".join(uses)] if is_joined else uses)]


def write_listeners(described: dict[str, Any], show: ShowAddress = str) -> list[str]:
    """Return the addresses on which a service listens, each as the value of `listen`. described: perhaps by a daemon
    of an older version, which has one address, or knows no nodes."""
    listeners = described.get("listeners") or [{"listen": described["listen"], "tls": False}]
    return [word(show(one["listen"])) + write_listen_words(one["tls"], one.get("on")) for one in listeners]


def _parts(networks: list[str]) -> Iterable[list[str]]:
    """Yield the networks of each line."""
    return (networks[start : start + NETWORKS_PER_LINE] for start in range(0, len(networks), NETWORKS_PER_LINE))


def write_test(test: Expectation) -> str:
    """Return `test "GET /x" ... -> ...`, which the parser reads."""
    words = ["test", quoted(test.request), *map(quoted, test.headers)]
    if test.client != LOCAL_CLIENT:
        words += ["from", test.client]
    if test.port is not None:
        words += ["port", str(test.port)]
    return " ".join([*words, "->", test.expected])


def write_settings(values: dict[str, int | str]) -> str:
    """Return the `global { ... }` block of the settings that differ from their defaults, or ""."""
    defaults = DEFAULT_SETTINGS.described()
    changed = [f"    {name} = {word(str(value))}" for name, value in values.items() if value != defaults[name]]
    return "\n".join(("global {", *changed, "}")) + "\n" if changed else ""


def write(services: Iterable[dict[str, Any]], settings: dict[str, int | str]) -> str:
    """Return a whole configuration."""
    blocks = [write_settings(settings), *(write_service(service) for service in services)]
    return "\n".join(block for block in blocks if block)
