"""Files and folders that others may have prepared for us: written whole, read without waiting, checked for owners."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ktcpvs.errors import CannotListen

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def replace_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to a new file beside `path`, sync it to the disk, and rename it over `path`.

    A crash at any moment leaves either the old file or the new one. The new file, `path`.new, is always made here: what
    lies there already is not followed, not waited for, and removed if it is this user's. mode: of the file. Raises
    OSError; `path` is then as it was.
    """
    beside = f"{path}.new"
    _remove_leftover(beside)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask says
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_leftover(path: str) -> None:
    """Remove what an earlier attempt left at `path`. Raises FileExistsError for what another user has put there."""
    try:
        owner = os.lstat(path).st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        raise FileExistsError(errno.EEXIST, f"{path} belongs to user {owner}: remove it")
    try:
        os.unlink(path)
    except IsADirectoryError:
        raise FileExistsError(errno.EEXIST, f"{path} is a folder: remove it") from None


def read_file(path: str, may_wait: bool = False) -> bytes:
    """The contents of a file. may_wait: it may be a pipe, whose other end is waited for; else only a regular file is
    read, so that a daemon that serves cannot be held up. Raises OSError; ValueError for a name with a NUL."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if may_wait else os.O_NONBLOCK))
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not (may_wait or stat.S_ISREG(mode)):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file.read()


def private_folder(path: str, owner: int | None = None) -> None:
    """Make the folder, mode 0700, unless it is there; then it must be ours, or `owner`'s, and nobody else may write to
    it. owner: a user's number; None: ours alone. Raises CannotListen.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        why = untrusted_folder(path, owner)
    except OSError as error:
        raise CannotListen(f"cannot make the folder {path}: {error.strerror}") from None
    if why is not None:
        raise CannotListen(f"{why}, who could take our place: remove it, or choose another place with --control")


def untrusted_folder(path: str, owner: int | None = None) -> str | None:
    """Why somebody else than root, this user or the user `owner` can put something into a folder; None: nobody can.
    Raises OSError."""
    allowed = {0, os.geteuid(), owner}
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) and status.st_uid in allowed:
        status = os.stat(path)
    if status.st_uid not in allowed:
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & WRITABLE_BY_OTHERS:
        return f"{path} can be written to by other users"
    return None


def untrusted_socket(path: str) -> str | None:
    """Why somebody else than root, this user, or the user to whom root has given the folder can have put a unix socket
    at `path`; None: nobody can have, or there is no folder.

    The folder decides, whoever owns the socket: systemd gives it to the user of the service (SocketUser).
    """
    folder = os.path.dirname(path)
    try:
        # Where nobody else can make a folder, the owner of this one was chosen by who could.
        owner = os.stat(folder).st_uid if untrusted_folder(os.path.dirname(folder)) is None else None
        return untrusted_folder(folder, owner)
    except OSError:  # then nobody can be called there
        return None
