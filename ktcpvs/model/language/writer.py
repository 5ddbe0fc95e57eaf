"""A described service -> its block in the configuration language.

What is written here, `parser` reads back to the same service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ktcpvs.model.language.lexer import quoted, word
from ktcpvs.model.settings import Settings

ShowAddress = Callable[[str], str]
"""How an address is shown: itself, with names, or in numbers."""

OPTIONS = ("listen", "scheduler", "startservers", "maxclients", "minspareservers", "maxspareservers", "redirect")


def write_service(described: dict[str, Any], show: ShowAddress = str) -> str:
    """The `Virtual ID { ... }` block of a service as `model.describe` describes it."""
    lines = [f"Virtual {word(described['ident'])} {{"]
    for option in OPTIONS:
        value = described.get(option)
        if value is None or (option == "maxclients" and value == 0):
            continue
        if option in ("listen", "redirect"):
            value = show(value)
        lines.append(f"    {option} = {word(str(value))}")
    for server in described["servers"]:
        lines.append(f"    server = {word(show(server['address']))} {server['weight']}")
    for rule in described["rules"]:
        match = "" if rule["match"] is None else f" match {rule['match']}"
        pattern = quoted(rule["pattern"])
        for server in rule["servers"]:
            lines.append(f"    rule = pattern {pattern}{match} use server {word(show(server))}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def write_settings(values: dict[str, int]) -> str:
    """The `global { ... }` block of the settings that differ from their defaults; "" when none does."""
    defaults = Settings().described()
    changed = [f"    {name} = {value}" for name, value in values.items() if value != defaults[name]]
    return "\n".join(("global {", *changed, "}")) + "\n" if changed else ""


def write(services: Iterable[dict[str, Any]], settings: dict[str, int]) -> str:
    """A whole configuration."""
    blocks = [write_settings(settings), *(write_service(service) for service in services)]
    return "\n".join(block for block in blocks if block)
