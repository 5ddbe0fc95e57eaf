"""The clients of a switch for programs: results with types, and a method for each edit; with coroutines or blocking.

`ktcpvs.control.client` has all of it, and what connects in Twisted. This module imports no Twisted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from ktcpvs.control import results
from ktcpvs.control.blocking_client import BlockingSwitch, connect, run
from ktcpvs.control.command_table import EditCommand
from ktcpvs.control.edit_methods import EditMethods
from ktcpvs.control.switch_base import SwitchBase, find_address
from ktcpvs.model.assumed_request import LOCAL_CLIENT

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Client(EditMethods[Coroutine[Any, Any, list[str]]]):
    """A connection to a running switch, for asyncio and Twisted.

    Methods are coroutines. Those that change something return the warnings about that, one per line, and raise a
    Refusal of `ktcpvs.errors`, without any effect. All raise NoAnswer where the connection fails. Several may be in
    progress; the switch answers one after the other. switch: the same connection, for plain data.
    """

    def __init__(self, switch: SwitchBase) -> None:
        self.switch = switch

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.switch.aclose()

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self.switch.close()

    def submit(self, entry: EditCommand, arguments: Mapping[str, Any]) -> Coroutine[Any, Any, list[str]]:
        return self.switch.submit(entry, arguments)

    async def version(self) -> str:
        """Return the version of the daemon."""
        return str((await self.switch.table())["version"])

    async def why_not_ready(self) -> str:
        """Return why the daemon should get no clients now: "starting", "ending", or the state of a node that is
        drained; "": it is ready."""
        return await self.switch.why_not_ready()

    async def services(self) -> list[results.Service]:
        """Return all services with their servers, their health and their counts."""
        return [results.read_service(one) for one in (await self.switch.stats())["services"]]

    async def service(self, ident: str) -> results.Service:
        """Return one service. Raises NoSuchService."""
        return results.read_service((await self.switch.stats(ident))["services"][0])

    async def connections(self, ident: str | None = None) -> list[results.ClientConnection]:
        """Return the open connections of clients. ident: of this service; None: of all."""
        return [results.read_connection(one) for one in await self.switch.connections(ident)]

    async def certificates(self, ident: str | None = None) -> list[results.Certificate]:
        """Return the certificates of running services. ident: of this one; None: of all."""
        return [results.read_certificate(one) for one in await self.switch.certificates(ident)]

    async def settings(self) -> list[results.Setting]:
        """Return all settings."""
        return [results.read_setting(one) for one in await self.switch.settings()]

    async def nodes(self) -> list[results.Node]:
        """Return the nodes of the cluster. Raises BadValue without a cluster."""
        return [results.read_node(one) for one in (await self.switch.nodes())["nodes"]]

    async def rebalance(
        self, ident: str, percent: int, resets: bool = False, all_nodes: bool = False
    ) -> results.Rebalance:
        """Move the oldest connections off servers with more than their share. Arguments as for
        `SwitchBase.rebalance`."""
        return results.read_rebalance(await self.switch.rebalance(ident, percent, resets, all_nodes))

    async def explain(
        self,
        ident: str,
        method: str | None = None,
        target: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        client: str = LOCAL_CLIENT,
        port: int | None = None,
        body: bytes = b"",
    ) -> results.Explanation:
        """Explain which server would handle a request; none is contacted. Arguments as for `SwitchBase.explain`."""
        return results.read_explanation(await self.switch.explain(ident, method, target, headers, client, port, body))


def _blocking(
    method: Callable[Concatenate[Client, Parameters], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[BlockingClient, Parameters], Result]:
    """Return a method of BlockingClient that does what `method` does, with its arguments and documentation."""

    @wraps(method)
    def call(self: BlockingClient, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return run(method(self._client, *args, **kwargs))

    call.__qualname__ = f"BlockingClient.{method.__name__}"
    return call


class BlockingClient(EditMethods[list[str]]):
    """A connection to a running switch whose methods block. They do, return and raise what those of Client do."""

    def __init__(self, switch: BlockingSwitch) -> None:
        self._client = Client(switch)

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._client.close()

    def submit(self, entry: EditCommand, arguments: Mapping[str, Any]) -> list[str]:
        return run(self._client.submit(entry, arguments))

    version = _blocking(Client.version)
    why_not_ready = _blocking(Client.why_not_ready)
    services = _blocking(Client.services)
    service = _blocking(Client.service)
    connections = _blocking(Client.connections)
    certificates = _blocking(Client.certificates)
    settings = _blocking(Client.settings)
    nodes = _blocking(Client.nodes)
    rebalance = _blocking(Client.rebalance)
    explain = _blocking(Client.explain)


def connect_blocking(control: str | None = None, timeout: float = 5.0) -> BlockingClient:
    """Connect to the switch at `control`, an endpoint description; None: the default address. It blocks.

    timeout: seconds for the connection, and again for its TLS handshake; a command may take as long as the switch
    does. Raises NoAnswer, with its kinds NotTrusted and NotPermitted; BadAddress for an invalid description; or NoTLS
    for certificate files that cannot be used.
    """
    address = find_address(control)
    if address.tls is None:
        return BlockingClient(connect(address, timeout))
    from ktcpvs.control.tls_sockets import connect_blocking_tls  # importing ssl takes as long as all else

    return BlockingClient(connect_blocking_tls(address, timeout))
