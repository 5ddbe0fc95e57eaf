"""Who may become another user."""

from __future__ import annotations

import os

import pytest

from ktcpvs.errors import CannotDrop
from ktcpvs.system.privileges import Identity, check_may_become


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_only_root_may_become_another_user() -> None:
    """Asked before anything is created for that user."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        try:
            check_may_become(Identity("nobody", 65534, 65534))
            check_may_become(Identity("www-data", 33, 33))
        except CannotDrop as refusal:
            os.write(writing, str(refusal).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as said:
        why = "--user www-data: only root can become another user; leave out --user, or start as root"
        assert said.read() == why
