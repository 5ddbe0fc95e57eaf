"""The errors for an administrator when etcd does not carry out a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ktcpvs.cluster.etcd import EtcdError, Unreachable
from ktcpvs.errors import CannotSave


@contextmanager
def store_errors(doubtful: str) -> Iterator[None]:
    """Raise CannotSave for errors of etcd. doubtful: what is not known where no response has come."""
    try:
        yield
    except Unreachable as error:
        raise CannotSave(f"etcd did not respond; whether {doubtful} is not known, see --list: {error}") from None
    except EtcdError as error:
        raise CannotSave(f"etcd refuses it: {error}") from None
