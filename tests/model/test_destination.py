"""Destinations: counting happens through leases, and comes out even."""

from __future__ import annotations

from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination

R1 = Inet("r1", 80)


def counts(destination):
    return destination.active, destination.total, destination.failures


def test_a_new_destination_counts_nothing():
    destination = Destination(R1)
    assert (destination.address, destination.weight) == (R1, 1)
    assert counts(destination) == (0, 0, 0)
    assert (destination.bytes_in, destination.bytes_out) == (0, 0)


def test_a_connection_that_is_made():
    destination = Destination(R1)
    lease = destination.lease()
    assert counts(destination) == (1, 0, 0)
    lease.made()
    assert counts(destination) == (1, 1, 0)
    lease.end()
    assert counts(destination) == (0, 1, 0)


def test_a_connection_that_cannot_be_made():
    destination = Destination(R1)
    destination.lease().end(failed=True)
    assert counts(destination) == (0, 0, 1)


def test_ending_twice_counts_once():
    destination = Destination(R1)
    other, lease = destination.lease(), destination.lease()
    lease.end(failed=True)
    lease.end(failed=True)
    lease.end()
    assert counts(destination) == (1, 0, 1)
    other.end()
    assert counts(destination) == (0, 0, 1)


def test_it_is_shown_for_people():
    destination = Destination(R1, 5)
    destination.lease()
    assert repr(destination) == "<Destination r1:80 weight 5, 1 active>"


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("made", "end", "fail"))), max_size=60))
def test_whatever_happens_active_is_the_number_of_open_leases(steps):
    destination = Destination(R1)
    open_leases = {}
    for number, step in steps:
        lease = open_leases.get(number) or open_leases.setdefault(number, destination.lease())
        if step == "made":
            lease.made()
        else:
            lease.end(failed=step == "fail")
            lease.end()
            del open_leases[number]
        assert destination.active == len(open_leases)
    for lease in open_leases.values():
        lease.end()
    assert destination.active == 0
    assert destination.total == [step for _, step in steps].count("made")
    assert destination.failures == [step for _, step in steps].count("fail")
