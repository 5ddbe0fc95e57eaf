"""The view of a service without a switch, for tests that bind a scheduler and call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import Destination, ISchedulerFactory, ServiceView
from ktcpvs.model.language.parser import parse
from ktcpvs.model.scheduler_options import read_options
from ktcpvs.schedulers.wlc import WLC

IDENT = "tested"
"""The name of the service."""

KEY = b"a key of tests that is long enough"


class _Undeclared(dict[str, Any]):
    """The options of a view that was made without a factory: there are none, and reading one says why."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"{name}: the view has no options of a scheduler; give it: service_of(..., factory=FACTORY)")


def service_of(
    servers: int | Sequence[str] = 2,
    *,
    factory: ISchedulerFactory | None = None,
    named: str = "",
    options: Sequence[str] = (),
) -> ServiceView:
    """Return the view of a service, to bind a scheduler to.

    servers: what stands behind `server =` of each, as "10.0.0.1:80 3 label zone=a"; or how many, which are
    10.0.0.1:80, 10.0.0.2:80 and so on. factory: the scheduler whose options the view has. named: the scheduler with
    its options as in a configuration, "mine depth 3"; "": all of them have their defaults. options: lines of the
    service, as "slow_start = 30" or rules, which have the balance scheduler wlc.
    Raises BadConfiguration, with the place, and BadValue for an option that the scheduler does not have, or that is
    given without `factory`, which knows its options.
    """
    if isinstance(servers, int):
        servers = [f"10.0.0.{number}:80" for number in range(1, servers + 1)]
    text = named or (factory.name if factory is not None else "wlc")
    lines = [f"scheduler = {text}", *(f"server = {server}" for server in servers), *options]
    config = parse("\n".join([f"Virtual {IDENT} {{", *lines, "}"]), IDENT).services[IDENT]
    known = {}
    for server in config.servers:
        destination = known[server.address] = Destination(server.address, server.share, server.maxconn)
        destination.labels = dict(server.labels)
    if factory is None and " " in text:
        raise BadValue(f"named='{shorten(text, 60)}': its options need the scheduler: service_of(..., factory=FACTORY)")
    given = _Undeclared() if factory is None else read_options(factory, text)
    return ServiceView.of(config, known, WLC(), KEY, options=given)
