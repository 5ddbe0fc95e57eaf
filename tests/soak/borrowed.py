"""Duplicates descriptors of another process, to inspect its kernel objects. Needs the rights of root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PIDFD_GETFD = 438


@contextmanager
def borrowed(pid: int, number: int) -> Iterator[int]:
    """A duplicate of its descriptor. Raises OSError."""
    process = os.pidfd_open(pid)
    try:
        fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, number, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(process)
    try:
        yield fd
    finally:
        os.close(fd)


def descriptors(pid: int) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield (number, target of the link in /proc, fields of fdinfo) of each descriptor."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = os.readlink(f"/proc/{pid}/fd/{name}")
            lines = Path(f"/proc/{pid}/fdinfo/{name}").read_text().splitlines()
        except OSError:
            continue  # closed meanwhile
        yield int(name), kind, {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
