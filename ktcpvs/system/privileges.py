"""Drops the privileges of root: the process continues as another user, with the few capabilities that a switch needs.

It cannot get them back: the bounding set is cleared too, and programs that it starts cannot gain privileges
(PR_SET_NO_NEW_PRIVS). Workers, which are started as programs, inherit the remaining capabilities as ambient ones.
Numbers are those of linux/capability.h and linux/prctl.h; see capabilities(7).
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache

from attrs import frozen

from ktcpvs.errors import BadValue, CannotDrop

KEPT = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_BPF": 39}
"""For ports below 1024, and the two that the kernel relay needs."""

_VERSION = 0x20080522
_CAPABILITIES = "6I"
"""Effective, permitted and inheritable: the low 32 bits of each, then the high ones."""

_AMBIENT_IS_SET, _AMBIENT_CLEAR_ALL = 1, 4
_DUMPABLE, _KEEPCAPS, _CAPBSET_DROP, _NO_NEW_PRIVS, _AMBIENT, _AMBIENT_RAISE = 4, 8, 24, 38, 47, 2
_LAST = 63


@frozen
class Identity:
    """The user of the daemon by name and number, and the group's number."""

    name: str
    uid: int
    gid: int


def identity(user: str, group: str = "") -> Identity:
    """Return the user and group with these names or numbers. group: "" for the user's own. Raises BadValue."""
    try:
        known = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise BadValue(f"--user {user}: no such user; create it, as with 'useradd --system ktcpvs'") from None
    return Identity(known.pw_name, known.pw_uid, group_number(group, "--group") if group else known.pw_gid)


def group_number(group: str, option: str) -> int:
    """Return the number of a group by name or number. option: for the message of BadValue, which this raises."""
    try:
        return (grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)).gr_gid
    except (KeyError, OverflowError):
        raise BadValue(f"{option} {group}: no such group") from None


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    """Call prctl(2). Raises OSError."""
    result = int(_libc().prctl(option, *(ctypes.c_ulong(value) for value in (first, second, 0, 0))))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _set_capabilities(kept: int) -> None:
    """Set the permitted, effective and inheritable capabilities."""
    header = ctypes.create_string_buffer(struct.pack("Ii", _VERSION, 0))
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = ctypes.create_string_buffer(struct.pack(_CAPABILITIES, low, low, low, high, high, high))
    if _libc().capset(header, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def permitted() -> int:
    """Return the permitted capabilities of this process, a bit for each (capget(2))."""
    header = ctypes.create_string_buffer(struct.pack("Ii", _VERSION, 0))
    data = ctypes.create_string_buffer(struct.calcsize(_CAPABILITIES))
    if _libc().capget(header, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _, low, _, _, high, _ = struct.unpack_from(_CAPABILITIES, data)
    return int(low | high << 32)


@contextmanager
def without_capabilities() -> Iterator[None]:
    """Programs that this thread starts within the context get no capabilities, as its workers do. Those of root's
    programs are not affected."""
    held = []
    with suppress(OSError):  # a kernel before 4.3 has no ambient capabilities
        held = [number for number in KEPT.values() if prctl(_AMBIENT, _AMBIENT_IS_SET, number)]
    if held:
        prctl(_AMBIENT, _AMBIENT_CLEAR_ALL)
    try:
        yield
    finally:
        for number in held:
            prctl(_AMBIENT, _AMBIENT_RAISE, number)


def check_may_become(who: Identity) -> None:
    """Raise CannotDrop where this process cannot become the user `who`, since it is not root's."""
    if os.geteuid() != 0 and os.getuid() != who.uid:
        raise CannotDrop(f"--user {who.name}: only root can become another user; leave out --user, or start as root")


def become(who: Identity, *groups: int, kept: Mapping[str, int] = KEPT) -> None:
    """Become the user `who` for good, and keep those capabilities of `kept` that this process has. Raises CannotDrop.

    groups: additional groups. A process that already runs as `who`, and not as root, is left unchanged.
    """
    check_may_become(who)
    if os.getuid() == who.uid != 0:
        return
    bits = sum(1 << number for number in kept.values()) & permitted()
    try:
        for number in range(_LAST + 1):
            if not bits >> number & 1:
                try:
                    prctl(_CAPBSET_DROP, number)
                except OSError:
                    break  # the kernel does not know this one and those after it
        prctl(_KEEPCAPS, 1)
        os.setgroups([*os.getgrouplist(who.name, who.gid), *groups])
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
        _set_capabilities(bits)
        for number in kept.values():
            if bits >> number & 1:
                prctl(_AMBIENT, _AMBIENT_RAISE, number)
        prctl(_NO_NEW_PRIVS, 1)
        prctl(_DUMPABLE, 1)  # else its /proc/self would belong to root and be unreadable
    except OSError as error:
        raise CannotDrop(f"--user {who.name}: cannot drop privileges: {error.strerror}") from None
    for path in (os.__file__, __file__):
        if not os.access(path, os.R_OK):
            why = f"cannot read {path}, which the daemon and its workers need: install it where all users can read it"
            raise CannotDrop(f"--user {who.name}: {who.name} {why}")
