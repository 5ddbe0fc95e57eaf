"""The packages that the spans of requests need: whether they are installed."""

from __future__ import annotations

from importlib.util import find_spec


def unavailable() -> str:
    """Return why spans cannot be encoded; "" if they can."""
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        return "OpenTelemetry's messages are not installed: pip install 'ktcpvs[otel]'"
    return ""


def https_unavailable() -> str:
    """Return why no collector can be reached over https; "" if one can."""
    if find_spec("OpenSSL") is None or find_spec("service_identity") is None:
        return "https needs the packages for TLS: pip install 'ktcpvs[otel,tls]'"
    return ""
