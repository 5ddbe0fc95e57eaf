"""The options of a node of a cluster, and the client of etcd that they describe."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from ktcpvs.cluster.etcd import Credentials, Etcd
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.errors import NoConfiguration, NoTLS
from ktcpvs.system.files import read_file


@frozen
class ClusterOptions:
    """Options of the command line that make this switch a node of a cluster. address: of etcd. node: the name of this
    node. cert, key, ca: files of TLS; None: none, or the system's CAs. credentials: a file with USER:PASSWORD in its
    first line; None: etcd asks for none. secret: a file with the secret of the cluster; None: this node shares no
    secrets."""

    address: EtcdAddress
    node: str
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    credentials: str | None = None
    secret: str | None = None


def make_etcd(reactor: Any, options: ClusterOptions) -> Etcd:
    """Return the client. Raises NoTLS and NoConfiguration."""
    user, password = _read_credentials(options.credentials) if options.credentials is not None else ("", "")
    policy = _Policy(options) if options.address.is_tls else None
    return Etcd(reactor, options.address, Credentials(user, password, policy))


def _read_credentials(path: str) -> tuple[str, str]:
    try:
        line = read_file(path).decode("utf-8").split("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise NoConfiguration(f"--cluster-credentials {path}: {getattr(error, 'strerror', None) or error}") from None
    user, colon, password = line.partition(":")
    if not user or not colon:
        raise NoConfiguration(f"--cluster-credentials {path}: its first line is not USER:PASSWORD")
    return user, password


@implementer(IPolicyForHTTPS)
class _Policy:
    """Verifies the members by their CA, and shows them this node's certificate."""

    def __init__(self, options: ClusterOptions) -> None:
        from twisted.internet.ssl import Certificate, PrivateCertificate, platformTrust, trustRootFromCertificates

        try:
            if options.ca is not None:
                end = b"-----END CERTIFICATE-----"
                parts = [part + end for part in read_file(options.ca).split(end)[:-1]]
                self._trust = trustRootFromCertificates([Certificate.loadPEM(part) for part in parts])
            else:
                self._trust = platformTrust()
            self._certificate = None
            if options.cert is not None:
                data = read_file(options.cert) + b"\n" + (read_file(options.key) if options.key is not None else b"")
                self._certificate = PrivateCertificate.loadPEM(data)
        except Exception as error:
            raise NoTLS(
                f"the files of TLS for etcd cannot be used: {getattr(error, 'strerror', None) or error}"
            ) from None

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        from twisted.internet.ssl import optionsForClientTLS

        return optionsForClientTLS(hostname.decode("ascii"), self._trust, self._certificate)
