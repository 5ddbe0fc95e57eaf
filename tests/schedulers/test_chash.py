"""chash: no server has more than its share, and no key moves without need."""

from __future__ import annotations

from collections import Counter
from math import ceil

from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.chash import BoundCHash
from ktcpvs.schedulers.hashing import hash_bytes
from ktcpvs.schedulers.keys import Key
from ktcpvs.schedulers.sh import SH

CLIENTS = [f"10.{n // 250}.{n % 250}.7" for n in range(2000)]


def servers(*weights: int) -> list[Destination]:
    return [Destination(Inet(f"10.0.{n}.1", 80), weight) for n, weight in enumerate(weights, 1)]


def view(destinations: list[Destination]) -> ServiceView:
    return ServiceView(VirtualService("s"), tuple(destinations))


def where(destinations: list[Destination], factor: float = 1.25, *tried: Destination) -> dict[str, Destination]:
    """Return client -> its server, with the loads as they are."""
    scheduler = BoundCHash(view(destinations), Key(), factor)
    chosen = {client: scheduler.choose(Request(client, tried=set(tried))) for client in CLIENTS}
    return {client: choice.destination for client, choice in chosen.items() if choice is not None}


WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@examples(100)
@given(WEIGHTS, st.lists(st.integers(0, 40), max_size=60), st.sampled_from([1.0, 1.1, 1.25, 2.0]), st.data())
def test_no_server_gets_more_than_its_share(
    weights: list[int], clients: list[int], factor: float, data: st.DataObject
) -> None:
    """However few clients there are: the server that is chosen has room for one more below the bound."""
    destinations = servers(*weights)
    scheduler = BoundCHash(view(destinations), Key(), factor)
    for client in clients:
        tried = data.draw(st.sets(st.sampled_from(destinations), max_size=2)) if client % 9 == 0 else set()
        usable = [one for one in destinations if one not in tried]
        choice = scheduler.choose(Request(CLIENTS[client], tried=tried))
        if choice is None:
            assert not usable
            continue
        chosen = choice.destination
        assert chosen in usable
        total, weight = sum(one.active for one in usable) + 1, sum(one.weight for one in usable)
        assert chosen.active + 1 <= ceil(factor * total * chosen.weight / weight + 1e-9)
        chosen.active += 1


@examples(30)
@given(WEIGHTS)
def test_while_no_server_has_too_much_the_key_decides_as_in_sh(weights: list[int]) -> None:
    destinations = servers(*weights)
    other = SH().bind(view(destinations), None)
    for client, destination in where(destinations).items():
        choice = other.choose(Request(client))
        assert choice is not None
        assert choice.destination is destination


def test_a_full_server_moves_only_its_own_keys_and_has_them_back() -> None:
    destinations = servers(1, 1, 1, 1)
    before = where(destinations)
    for destination in destinations:
        destination.active = 100
    destinations[1].active = 140
    during = where(destinations)
    assert destinations[1] not in during.values()
    assert all(during[client] is before[client] for client in CLIENTS if before[client] is not destinations[1])
    moved = Counter(during[client] for client in CLIENTS if before[client] is destinations[1])
    assert len(moved) == 3
    assert max(moved.values()) < 1.3 * min(moved.values())  # no neighbour takes them all
    destinations[1].active = 120
    assert where(destinations) == before


def test_servers_that_cannot_serve_move_only_their_own_keys() -> None:
    destinations = servers(1, 3, 2, 1)
    before = where(destinations)
    for leaving in destinations:
        after = where(destinations, 1.25, leaving)
        assert all(after[client] is before[client] for client in CLIENTS if before[client] is not leaving)
        assert leaving not in after.values()


def test_the_reason_tells_of_servers_that_are_full() -> None:
    destinations = servers(1, 1)
    scheduler = BoundCHash(view(destinations), Key(), 1.25)
    first = scheduler.choose(Request("192.0.2.7"))
    assert first is not None
    assert first.reason == "by the hash of the client's address among 2"
    first.destination.active = 9
    second = scheduler.choose(Request("192.0.2.7"))
    assert second is not None
    assert second.reason == "by the hash of the client's address among 2, those before it have their share"


def test_hashes_are_the_same_on_all_machines_and_in_all_versions() -> None:
    """Clients of sh and sticky keep their servers through an upgrade."""
    assert hash_bytes(b"192.0.2.7") == 0x4B8997DA821CFF27
