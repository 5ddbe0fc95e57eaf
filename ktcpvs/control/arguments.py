"""The values of command arguments: read from AMP values and written as AMP values, by type.

Texts are those of the configuration language. Readers raise a Refusal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from ktcpvs.control.command_table import ArgumentType, text_of
from ktcpvs.errors import BadValue, NoConfiguration, Refusal, shorten
from ktcpvs.model.address import Address, parse_address, parse_port
from ktcpvs.model.language.foreign_words import unknown_option
from ktcpvs.model.network import Networks, parse_networks
from ktcpvs.model.rule_servers import is_servers, servers_of, write_servers
from ktcpvs.model.server_words import read_server_options, write_server_options
from ktcpvs.model.service import OPTIONS
from ktcpvs.system.names import service_port

NamedValues = list[dict[str, str]]
"""[{"name": ..., "value": ...}], as `commands.NAMED_VALUES` encodes it."""


def service_options(options: NamedValues) -> dict[str, Any]:
    """Return {option: typed value}. An empty text removes an option that may be absent.

    Raises BadValue or BadAddress.
    """
    values: dict[str, Any] = {}
    for option in options:
        name, text = option["name"], option["value"]
        if name in values:
            raise BadValue(f"option {shorten(name, 40)} is given twice")
        values[name] = _read_option(name, text)
    return values


def _read_option(name: str, text: str) -> Any:
    if name == "port":
        return parse_port(text, service_port)
    option = OPTIONS.get(name)
    if option is None:
        raise BadValue(f"a service has no option {unknown_option(name, [*OPTIONS, 'port'])}")
    if not text and option.default is None:
        return None
    return option.read_text(text, service_port)


def named_values(values: Mapping[str, Any]) -> NamedValues:
    """Return {name: value} as AMP encodes it; None becomes an empty text."""
    return [{"name": name, "value": text_of(value)} for name, value in values.items()]


def decode(data: bytearray, source: str) -> str:
    """Return an uploaded text. source: its name in the error. Raises NoConfiguration."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoConfiguration(f"{source}: byte {error.start} is not UTF-8 text") from None


def _read_address(text: str) -> Address:
    return parse_address(text, service_port)


def _write_address(address: Address | None) -> str | None:
    return None if address is None else str(address)


def _read_use(text: str) -> str:
    """Return the text of an action, or of servers with numbers in place of names of ports. The edit refuses what is
    neither."""
    with contextlib.suppress(Refusal):
        return write_servers(servers_of(text, service_port)) if is_servers(text) else text
    return text


def _read_settings(changes: NamedValues) -> dict[str, str]:
    return {change["name"]: change["value"] for change in changes}


def _read_networks(data: bytearray | None) -> Networks:
    if data is None:
        raise NoConfiguration("no networks were uploaded before the command")
    return parse_networks(decode(data, "networks"))


def _take_configuration(data: bytearray | None) -> bytearray:
    """Return the bytes undecoded: decoding errors name the text, and only the command knows its name."""
    if data is None:
        raise NoConfiguration("no configuration was uploaded before the command")
    return data


def _write_server_options(options: Mapping[str, Any]) -> str | None:
    """Return the words of a server, or None where nothing was given: older versions do not know the argument."""
    return write_server_options(options) or None


def _unchanged(value: Any) -> Any:
    return value


READERS: dict[ArgumentType, Callable[[Any], Any]] = {
    ArgumentType.TEXT: _unchanged,
    ArgumentType.INTEGER: _unchanged,
    ArgumentType.BOOLEAN: _unchanged,
    ArgumentType.ADDRESS: _read_address,
    ArgumentType.SERVICE_OPTIONS: service_options,
    ArgumentType.SERVER_OPTIONS: read_server_options,
    ArgumentType.USE: _read_use,
    ArgumentType.SETTINGS: _read_settings,
    ArgumentType.NETWORKS: _read_networks,
    ArgumentType.CONFIGURATION: _take_configuration,
}
"""Type -> the function that reads a value, or for the last two types an upload, which is None if there was none."""

WRITERS: dict[ArgumentType, Callable[[Any], Any]] = {
    ArgumentType.TEXT: _unchanged,
    ArgumentType.INTEGER: _unchanged,
    ArgumentType.BOOLEAN: _unchanged,
    ArgumentType.ADDRESS: _write_address,
    ArgumentType.SERVICE_OPTIONS: named_values,
    ArgumentType.SERVER_OPTIONS: _write_server_options,
    ArgumentType.USE: _unchanged,
    ArgumentType.SETTINGS: named_values,
    ArgumentType.NETWORKS: str,
    ArgumentType.CONFIGURATION: _unchanged,
}
"""Type -> the function that makes the value of a command, or the text of an upload, of a value of an edit."""
