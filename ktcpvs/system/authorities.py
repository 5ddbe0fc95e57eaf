"""Files of CAs that verify the TLS of another host, checked before they are used."""

from __future__ import annotations

import ssl

from ktcpvs.errors import BadValue


def check_authorities(path: str, name: str) -> None:
    """Raise BadValue if the file at `path` cannot be read, or has no certificate of a CA. name: of the setting."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise BadValue(f"{name} = {path}: the file has no certificate in PEM") from None
    except OSError as error:
        raise BadValue(f"{name} = {path}: {error.strerror}") from error
