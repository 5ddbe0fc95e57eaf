"""The options of a scheduler plugin, as it reads them when it is bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktcpvs.interfaces import SchedulerOption, ServiceView


def option_of(service: ServiceView, declared: Mapping[str, SchedulerOption], name: str) -> Any:
    """Return the value of an option: as the service, or its rule, gives it, or the default. declared: the plugin's
    `options`."""
    return service.options.get(name, declared[name].default)
