"""The file of --cluster-secret: the secrets that all nodes of a cluster have, a line each."""

from __future__ import annotations

import binascii
import os
import stat
from base64 import b64decode

from ktcpvs.cluster.sealing import SECRET_BYTES, Sealer
from ktcpvs.errors import NoConfiguration
from ktcpvs.system.files import read_file

MAX_SECRETS = 2
"""The most secrets in one file: the newest, and the one before while nodes still use it."""

HOW_TO_MAKE = "(umask 077; head -c 32 /dev/urandom | base64 > {path})"
"""A command for a shell that makes such a file."""


def read_secret_file(path: str) -> Sealer:
    """Return what seals with the secrets of a file. Raises NoConfiguration."""
    try:
        why = _readable_by_others(path)
        text = read_file(path).decode("ascii", "replace")
    except OSError as error:
        advice = f"; make one with {HOW_TO_MAKE.format(path=path)}" if isinstance(error, FileNotFoundError) else ""
        raise NoConfiguration(f"--cluster-secret {path}: {error.strerror}{advice}") from None
    if why is not None:
        raise NoConfiguration(f"--cluster-secret {path}: {why}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_SECRETS:
        raise NoConfiguration(
            f"--cluster-secret {path}: it has {len(lines)} lines; expected one secret, or the new one and then the one "
            "before"
        )
    if not lines:
        raise NoConfiguration(f"--cluster-secret {path}: it is empty; make one with {HOW_TO_MAKE.format(path=path)}")
    return Sealer([_read_secret(line, f"{path}:{number}") for number, line in enumerate(lines, 1)])


def _read_secret(line: str, where: str) -> bytes:
    for read in (bytes.fromhex, lambda text: b64decode(text, validate=True)):
        try:
            secret = read(line)
        except (ValueError, binascii.Error):
            continue
        if len(secret) == SECRET_BYTES:
            return secret
    raise NoConfiguration(
        f"--cluster-secret {where}: expected {SECRET_BYTES} random bytes, in base64 or as {2 * SECRET_BYTES} digits of "
        f"hexadecimal; make a file with {HOW_TO_MAKE.format(path='FILE')}"
    )


def _readable_by_others(path: str) -> str | None:
    """Return why others than this user and root can read or write a file; None: they cannot. Raises OSError.

    A file of root may be readable by a group, which is then the one of the user that the daemon becomes.
    """
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}; expected this user or root"
    forbidden = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
    if status.st_uid != 0:
        forbidden |= stat.S_IRGRP
    if status.st_mode & forbidden:
        return f"others may read or change it (mode {stat.S_IMODE(status.st_mode):03o}); try: chmod 600 {path}"
    return None
