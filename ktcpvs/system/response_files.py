"""Files with the contents of responses: read when a configuration is put in force, not for each request."""

from __future__ import annotations

import os

from attrs import field, frozen

from ktcpvs.errors import BadValue
from ktcpvs.system.files import read_file

MAX_FILE_SIZE = 1 << 20
"""The most bytes of such a file."""

Fingerprint = tuple[int, ...]
"""Differs when a file has changed."""


@frozen
class ResponseFile:
    """A file as it was read."""

    path: str
    fingerprint: Fingerprint
    contents: bytes = field(repr=False)


def read_response_file(path: str, known: ResponseFile | None = None) -> ResponseFile:
    """Read a file. known: as it was read before, which is returned if it has not changed since.

    Raises BadValue, with the OSError as its cause for a file that cannot be read.
    """
    try:
        status = os.stat(path)
        fingerprint = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if known is not None and known.fingerprint == fingerprint:
            return known
        if status.st_size > MAX_FILE_SIZE:
            raise BadValue(f"{path}: it has {status.st_size} bytes, and at most {MAX_FILE_SIZE} are allowed")
        contents = read_file(path)
    except OSError as error:
        raise BadValue(f"{path}: {error.strerror}") from error
    return ResponseFile(path, fingerprint, contents[:MAX_FILE_SIZE])
