"""A service's next configuration with everything that it needs, prepared before anything changes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from attrs import Factory, define, evolve, field

from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduler_options import read_options
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.streams.connector import ConnectionOptions
from ktcpvs.streams.preamble import Stage
from ktcpvs.system.response_files import ResponseFile


@define
class Prepared:
    """A prepared configuration of one service. config: the next configuration. destinations: one for each of its
    servers. factory, balance, fallback: scheduler plugins; fallback None: the service has none. rule_balances: those
    that rules name for themselves, by their text there. key: the secret that signs its cookies. is_dry_run: the
    scheduler is bound for a dry run only and dropped afterwards. scheduler: the bound scheduler. seen: the view it was
    bound with. socks: new listening sockets, a list for each address on which it does not listen yet. listens_anew: its
    addresses change. stages: address -> the stages of the preamble of its clients there. connection_options: address ->
    how connections to that server are made, where they are not plain. response_files: those that its rules respond
    with, by their paths."""

    config: VirtualService
    destinations: dict[Address, Destination]
    factory: Any
    balance: Any
    fallback: Any
    rule_balances: Mapping[str, Any]
    key: bytes = field(repr=False)
    is_dry_run: bool = False
    scheduler: Any = None
    seen: ServiceView | None = None
    socks: dict[Address, list[socket.socket]] = Factory(dict)
    listens_anew: bool = False
    stages: Mapping[Address, Sequence[Stage]] = Factory(dict)
    connection_options: Mapping[Address, ConnectionOptions] = Factory(dict)
    response_files: Mapping[str, ResponseFile] = Factory(dict)

    @property
    def plugins(self) -> tuple[Any, ...]:
        """All its scheduler plugins."""
        plugins = self.factory, self.balance, self.fallback, *self.rule_balances.values()
        return tuple([plugin for plugin in plugins if plugin is not None])

    @property
    def scheduler_names(self) -> tuple[str, ...]:
        """The names of all its schedulers."""
        return tuple([plugin.name for plugin in self.plugins])

    def view(self, before: ServiceView | None = None) -> ServiceView:
        """Return the service as a scheduler sees it. before: the view of the scheduler that runs now."""
        return ServiceView.of(*self._seen_by(before))

    def viewing(self, before: ServiceView | None = None) -> Generator[None, None, ServiceView]:
        """Make the view in steps."""
        return ServiceView.building(*self._seen_by(before))

    def _seen_by(self, before: ServiceView | None) -> tuple[Any, ...]:
        """Return the arguments of ServiceView.building."""
        key, is_dry_run = self.key, self.is_dry_run
        options = read_options(self.factory, self.config.scheduler)
        return self.config, self.destinations, self.balance, key, before, is_dry_run, self.rule_balances, options

    def bind_fallback(self) -> Callable[[], Any] | None:
        """Return a function that binds the fallback scheduler, or None without one. It is called only when it is
        needed."""
        if self.fallback is None:
            return None
        options = read_options(self.fallback, self.config.fallback)
        return lambda: self.fallback.bind(evolve(self.view(), options=options), None)
