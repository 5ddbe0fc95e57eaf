"""TLS of control connections without Twisted, by the standard library's ssl, with its errors in words."""

from __future__ import annotations

import socket
import ssl

from ktcpvs.control import client_errors
from ktcpvs.control.blocking_client import BlockingSwitch
from ktcpvs.control.client_errors import NoAnswer, NotTrusted
from ktcpvs.control.endpoints import ControlAddress, TLSFiles
from ktcpvs.errors import NoTLS

_ALERTS = {
    "unknown ca": "the daemon's ca= has not signed our certificate",
    "certificate expired": "our certificate has expired; get a new one",
    "unsupported certificate": "our certificate is not for clients: its extendedKeyUsage must contain clientAuth",
    "bad certificate": "our certificate may not be valid yet; compare the clocks",
}
"""Meanings of the alerts that the daemon sends about our certificate (RFC 8446, section 6.2)."""


def context(files: TLSFiles) -> ssl.SSLContext:
    """Return the context of a client that shows its certificate, and verifies that of the daemon. Raises NoTLS."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, path in (("ca", files.ca), ("cert", files.cert)):
        try:
            if name == "ca":
                made.load_verify_locations(path)
            else:
                made.load_cert_chain(path, files.key, password="")
        except (OSError, ValueError) as failure:
            why = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
            raise NoTLS(f"control over tls: {name}={path}: {why}") from None
    return made


def refusal(address: ControlAddress, failure: ssl.SSLError) -> NotTrusted:
    """Return why a daemon is not trusted, or does not trust this side."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return NotTrusted(f"the daemon at {address}: its certificate is not accepted: {failure.verify_message}")
    reason = (failure.reason or str(failure)).lower().replace("_", " ")
    meaning = next((meaning for word, meaning in _ALERTS.items() if word in reason), "see its log")
    return NotTrusted(f"the daemon at {address}: TLS failed ({reason}): {meaning}")


class TLSBlockingSwitch(BlockingSwitch):
    """A blocking connection over TLS."""

    def _lost(self, failure: OSError) -> NoAnswer:
        return refusal(self._address, failure) if isinstance(failure, ssl.SSLError) else super()._lost(failure)


def connect_blocking_tls(address: ControlAddress, timeout: float) -> BlockingSwitch:
    """Connect to the switch at `address`, which has TLS. timeout: seconds, for the connection and for the handshake.
    Raises NoAnswer and NoTLS."""
    assert address.tls is not None
    made = context(address.tls)
    try:
        sock = socket.create_connection((address.host, address.port), timeout)
        try:
            tls = made.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
    except ssl.SSLError as failure:
        raise refusal(address, failure) from None
    except TimeoutError:
        raise client_errors.no_daemon(address, f"no connection within {timeout:g} s") from None
    except OSError as failure:
        raise client_errors.no_daemon(address, failure.strerror or str(failure)) from None
    tls.settimeout(None)
    return TLSBlockingSwitch(tls, address)
