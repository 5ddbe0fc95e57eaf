"""Files and folders that other users may have tampered with: atomic writes, reads that never block, owners' checks."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ktcpvs.errors import CannotListen

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def replace_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to a new file beside `path`, sync it to the disk, and rename it over `path`.

    A crash at any moment leaves either the old file or the new one. The new file, `path`.new, is always created: a file
    that is there already is neither followed nor waited for, and removed if it is this user's. mode: of the file.
    Raises OSError and leaves `path` unchanged.
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
    """Remove the file of an earlier attempt. Raises FileExistsError for a file of another user."""
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
    """Return the contents of a file. Raises OSError; ValueError for a name with a NUL.

    may_wait: the file may be a pipe whose other end is waited for; else only a regular file is read, so that the call
    cannot block a daemon that serves clients.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if may_wait else os.O_NONBLOCK))
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not (may_wait or stat.S_ISREG(mode)):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file.read()


def private_folder(path: str, owner: int | None = None) -> None:
    """Create a folder with mode 0700 if it is missing. An existing one must belong to this user or `owner`, and no
    other user may write to it. owner: a user's number, or None. Raises CannotListen.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        why = untrusted_folder(path, owner)
    except OSError as error:
        raise CannotListen(f"cannot create the folder {path}: {error.strerror}") from None
    if why is not None:
        raise CannotListen(f"{why}: others could replace the control socket; remove it, or use another --control")


def untrusted_folder(path: str, owner: int | None = None) -> str | None:
    """Return why users other than root, this user and `owner` can create files in a folder, or None. Raises OSError."""
    allowed = {0, os.geteuid(), owner}
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) and status.st_uid in allowed:
        status = os.stat(path)
    if status.st_uid not in allowed:
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & WRITABLE_BY_OTHERS:
        return f"{path} is writable by other users"
    return None


MAX_LINKS = 40
"""The most symbolic links that are followed in a path, as by Linux."""


def untrusted_path(path: str) -> str | None:
    """Return why users other than root and this user can replace what is at `path`, or change it; None: they cannot.

    All folders on the way are looked at, also those that symbolic links lead through. In a folder with the sticky bit,
    such as /tmp, others cannot replace what is not theirs. path: absolute. Raises OSError.
    """
    allowed = {0, os.geteuid()}
    place, left, links = "/", path.split("/"), 0
    while True:
        status = os.lstat(place)
        if status.st_uid not in allowed:
            return f"{place} belongs to user {status.st_uid}; expected root or user {os.geteuid()}"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(place)
            place, left = "/" if target.startswith("/") else os.path.dirname(place), [*target.split("/"), *left]
            continue
        is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_mode & WRITABLE_BY_OTHERS and not (is_sticky and any(left)):
            return f"{place} may be written by other users; chmod go-w {place}"
        while left and left[0] in ("", "."):
            del left[0]
        if not left:
            return None
        part = left.pop(0)
        place = os.path.dirname(place) if part == ".." else os.path.join(place, part)


def untrusted_socket(path: str) -> str | None:
    """Return why a user other than root, this user, and the folder's owner may have created the unix socket at `path`;
    None if that is impossible, or if there is no folder.

    The owner of the folder decides, not that of the socket: systemd gives the socket to the service's user
    (SocketUser).
    """
    folder = os.path.dirname(path)
    try:
        # If only trusted users can create folders here, they have chosen the owner of this one.
        owner = os.stat(folder).st_uid if untrusted_folder(os.path.dirname(folder)) is None else None
        return untrusted_folder(folder, owner)
    except OSError:  # then no server can be there
        return None
