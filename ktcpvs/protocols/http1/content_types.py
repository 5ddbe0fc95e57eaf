"""The media types of files, by the extensions of their names."""

from __future__ import annotations

from ktcpvs.protocols.http1.own_message import PLAIN_TEXT

UNKNOWN = "application/octet-stream"
"""Of a file whose extension says nothing."""

_TYPES = {
    "css": "text/css; charset=utf-8",
    "gif": "image/gif",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": PLAIN_TEXT,
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff2": "font/woff2",
    "xml": "application/xml",
}
"""Not those of the system, which differ from machine to machine."""


def content_type(path: str) -> str:
    """Return the media type of a file."""
    name, dot, extension = path.rpartition("/")[2].rpartition(".")
    return _TYPES.get(extension.lower(), UNKNOWN) if name and dot else UNKNOWN
