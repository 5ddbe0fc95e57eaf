"""The secrets of session tickets: rotated in time, and handed to a daemon that takes over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from memory import log_into
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.ticket_secrets import CHECK_INTERVAL, HOUR, SecretsRecord, TicketSecrets


class Daemon:
    """used: the secrets that its processes were given."""

    def __init__(self, former: SecretsRecord | None = None, began: float = 0.0) -> None:
        self.used: list[tuple[bytes, bytes | None]] = []
        self.reactor: Any = MemoryReactorClock()
        self.context = Context(
            self.reactor, log_into([]), Descriptors(100), monotonic=lambda: began + self.reactor.seconds()
        )
        self.secrets = TicketSecrets(self.context, lambda *secrets: self.used.append(secrets), former)
        self.secrets.start()

    def wait(self, hours: float) -> int:
        """Return how many rotations there were meanwhile."""
        before = len(self.used)
        self.reactor.pump([CHECK_INTERVAL] * round(hours * HOUR / CHECK_INTERVAL))
        return len(self.used) - before


def test_they_are_rotated() -> None:
    daemon = Daemon()
    assert daemon.wait(11.9) == 0
    assert daemon.wait(0.2) == 1
    assert daemon.wait(24) == 2
    currents = [current for current, _ in daemon.used]
    assert [previous for _, previous in daemon.used] == [None, *currents[:-1]]
    assert len({*currents}) == 4
    assert {len(secret) for secret in currents} == {32}


def test_the_time_is_a_setting() -> None:
    daemon = Daemon()
    daemon.context.settings = Settings(tls_ticket_rotation=1)
    assert daemon.wait(5) == 5
    daemon.context.settings = Settings(tls_ticket_rotation=168)
    assert daemon.wait(167) == 0
    assert daemon.wait(2) == 1
    daemon.secrets.stop()
    assert daemon.wait(1000) == 0


def test_a_daemon_that_takes_over_goes_on() -> None:
    old = Daemon()
    old.secrets.rotate()
    old.wait(10)
    record = SecretsRecord.read(json.loads(json.dumps(old.secrets.record().described())))
    new = Daemon(record, began=12345.0)
    assert new.used == [old.used[-1]]
    assert new.wait(1.9) == 0
    assert new.wait(0.2) == 1
    assert new.used[-1][1] == old.used[-1][0]
    first = SecretsRecord.read(Daemon().secrets.record().described())
    assert first.previous is None


@pytest.mark.parametrize(
    "data", [{}, {"current": "zz", "previous": None, "age": 0}, {"current": "00" * 31, "previous": None, "age": 0}]
)
def test_bad_records(data: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        SecretsRecord.read(data)


def test_secrets_do_not_appear_in_a_log() -> None:
    assert repr(SecretsRecord(b"1" * 32, b"2" * 32, 5.0)) == "SecretsRecord(age=5.0)"


def test_a_cluster_is_asked_and_awaited_for_a_time() -> None:
    daemon = Daemon()
    proposed: list[SecretsRecord] = []
    daemon.secrets.share(proposed.append)
    assert daemon.wait(11.9) == 0
    assert not proposed
    first = daemon.secrets.current
    assert daemon.wait(0.2) == 0
    assert {record.previous for record in proposed} == {first}
    daemon.secrets.adopt(proposed[0])
    assert (daemon.secrets.current, daemon.secrets.previous) == (proposed[0].current, first)
    proposed.clear()
    assert daemon.wait(11.9) == 0
    assert not proposed
    assert daemon.wait(11.9) == 0  # nobody answers
    assert len(proposed) > 600
    assert daemon.wait(0.3) == 1
    assert daemon.secrets.previous == proposed[0].previous
