"""Running services use files of TLS: for their connections to servers, and to tell their hosts from those of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ktcpvs.model.address import Address
from ktcpvs.model.service import VirtualService
from ktcpvs.model.tls_files import AUTHORITIES, CLIENT_CERTIFICATE, TLSFile
from ktcpvs.model.tls_hosts import foreign_hosts
from ktcpvs.services.connection_options import connection_options
from ktcpvs.services.running import RunningService
from ktcpvs.services.tls_file_store import TLSFiles
from ktcpvs.streams.connector import ConnectionOptions
from ktcpvs.system.steps import Steps
from ktcpvs.system.tls_contexts import ClientContexts
from ktcpvs.system.tls_files import Authorities


class TLSFileUsers:
    """Has services use new versions of files as soon as `files` has them."""

    def __init__(
        self,
        files: TLSFiles,
        services: Mapping[str, RunningService],
        running: Callable[[], Iterable[str]],
        steps: Steps,
    ) -> None:
        """services: by ident. running: returns the idents of those that run."""
        self._files = files
        self._services = services
        self._running = running
        self._steps = steps
        self._contexts = ClientContexts(self._read_authorities, self._read_client_certificate)
        files.observe(self._files_replaced)

    def connection_options(self, config: VirtualService, unit: str) -> dict[Address, ConnectionOptions]:
        """See `connection_options`."""
        return connection_options(config, unit, self._contexts)

    def follow_hosts(self) -> None:
        """Tell services with TLS which hosts belong to services that demand other things of their clients."""
        profiles = [(service, service.tls) for service in map(self._services.__getitem__, self._running())]
        found = foreign_hosts((tls.demands, tls.names) for _, tls in profiles if tls is not None)
        for service, tls in profiles:
            service.refuse_hosts(None if tls is None else found.get(tls.demands))

    def _files_replaced(self) -> None:
        """Connect to servers with the new versions of files from now on."""
        for ident in self._running():
            self._steps.run(f"service {ident}: connectors", self._renew_connections_of, self._services[ident])
        self._steps.run("hosts of TLS", self.follow_hosts)  # of the certificates that are in use now

    def _renew_connections_of(self, service: RunningService) -> None:
        service.use_connection_options(self.connection_options(service.config, service.traffic.unit))

    def _read_authorities(self, path: str) -> str:
        found = self._files.contents(TLSFile(AUTHORITIES, path))
        assert isinstance(found, Authorities)
        return found.pem

    def _read_client_certificate(self, path: str) -> bytes:
        found = self._files.contents(TLSFile(CLIENT_CERTIFICATE, path))
        assert not isinstance(found, Authorities)
        return b"".join(one.pem for one in found)
