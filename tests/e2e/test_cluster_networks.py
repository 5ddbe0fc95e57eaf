"""Nodes and members of etcd in network namespaces of their own, between which the network fails as real ones do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_server import EtcdServer
from network_namespaces import Namespace, Switchboard
from servers import program, wait_for

from ktcpvs.errors import NoCluster

from .etcd_cluster import CUT_OFF
from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.programs]

TIMEOUT = 40.0
"""Seconds: a lease has ended, etcd has a new leader, and a node has tried again after that."""

PAGE = """
Virtual page {{
    listen = 0.0.0.0:80
    scheduler = phttp
    rule = path / use respond 200 "{text}"
}}
"""


class Node:
    """A switch in a namespace."""

    def __init__(self, thread: ControlThread, folder: Path, where: Namespace, name: str, urls: str) -> None:
        folder = folder / name
        folder.mkdir()
        self.name, self.where = name, where
        arguments = ["--cluster", f"etcd:{urls}/networks", "--node", name, "--state", folder / "state"]
        self.daemon = Daemon(thread, folder, *arguments, workers=2)
        self.daemon.prefix(*where.prefix)
        self.call = self.daemon.call

    def page(self) -> str:
        """What a client in this namespace gets."""
        return self.where.run(program("curl"), "-s", "-m", "5", f"http://{self.where.host}/").stdout

    def loads(self, text: str) -> None:
        self.call("load", PAGE.format(text=text), start="all")

    def state_of(self, name: str) -> str:
        rows = self.call("nodes")["nodes"]
        return next((str(row["state"]) for row in rows if row["node"] == name), "")

    def is_connected(self) -> bool:
        return bool(self.call("nodes")["connected"])

    def wait_until_cut_off(self) -> None:
        wait_for(lambda: not self.is_connected(), lambda: f"node {self.name} to notice: {self.daemon.log()}", TIMEOUT)

    def refuses_edits(self) -> bool:
        with pytest.raises(NoCluster, match="edits are refused until it responds"):
            self.call("set", {"read_timeout": "5"})
        return True


class Site:
    """Three members of etcd, and the nodes `a` and `b`."""

    def __init__(self, thread: ControlThread, folder: Path, stack: contextlib.ExitStack) -> None:
        self.network = Switchboard()
        stack.callback(self.network.close)
        self.homes = [self.network.add(f"m{number}") for number in range(3)]
        peers = {f"m{number}": f"http://{home.host}:2380" for number, home in enumerate(self.homes)}
        members = [
            EtcdServer(folder, name, peers, host=home.host, prefix=home.prefix)
            for name, home in zip(peers, self.homes, strict=True)
        ]
        for member in members:
            member.begin()
            stack.callback(member.stop)
        for member, home in zip(members, self.homes, strict=True):
            asked = [program("curl"), "-sf", "-m", "2", f"{member.url}/health"]
            member.wait_until(lambda home=home, asked=asked: '"true"' in home.run(*asked).stdout)
        urls = ",".join(member.url for member in members)
        self.a, self.b = (Node(thread, folder, self.network.add(name), name, urls) for name in "ab")
        for node in (self.a, self.b):
            stack.callback(node.daemon.finish)
            node.daemon.start()
            node.daemon.wait_for_log(f"node {node.name} follows")

    def serves(self, text: str) -> None:
        """Wait until both nodes serve this."""
        for node in (self.a, self.b):
            wait_for(lambda node=node: node.page() == text, lambda node=node: f"{text}: {node.daemon.log()}", TIMEOUT)

    def recover(self) -> None:
        self.network.mend()
        for node in (self.a, self.b):
            wait_for(node.is_connected, lambda node=node: f"node {node.name} to be back: {node.daemon.log()}", TIMEOUT)
            node.daemon.forget_log()


@pytest.fixture(scope="module")
def site(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(control_thread, tmp_path_factory.mktemp("networks"), stack)


@pytest.fixture(autouse=True)
def whole(site: Site) -> Iterator[None]:
    yield
    site.recover()


def test_a_node_whose_cable_is_pulled_serves_on_and_catches_up(site: Site) -> None:
    a, b = site.a, site.b
    a.loads("one")
    site.serves("one")
    site.network.unplug(b.where)
    wait_for(lambda: a.state_of("b") == "gone", lambda: str(a.call("nodes")), TIMEOUT)
    b.wait_until_cut_off()
    assert b.refuses_edits()
    a.loads("two")
    assert (a.page(), b.page()) == ("two", "one")
    assert b.daemon.log().count(CUT_OFF) == 1
    site.network.mend()
    site.serves("two")


def test_a_divided_network_leaves_the_side_of_the_majority(site: Site) -> None:
    """Node b reaches one member, which has no majority; also if that one was the leader."""
    a, b = site.a, site.b
    a.loads("three")
    site.serves("three")
    for home in site.homes:
        site.network.part(home, b.where)
        b.wait_until_cut_off()
        assert b.refuses_edits()

        def edits(text: str = home.name) -> bool:
            with contextlib.suppress(NoCluster):  # until there is a leader
                a.loads(text)
                return True
            return False

        wait_for(edits, lambda: f"an edit: {a.daemon.log()}", TIMEOUT)
        assert a.page() == home.name
        assert b.page() != home.name
        site.recover()
        site.serves(home.name)


def test_a_network_that_passes_one_direction_only(site: Site) -> None:
    """What node b sends arrives, and no response does."""
    a, b = site.a, site.b
    a.loads("four")
    site.serves("four")
    for home in site.homes:
        home.mute(b.where)
    b.wait_until_cut_off()
    assert b.refuses_edits()
    assert b.page() == "four"
    wait_for(lambda: a.state_of("b") == "gone", lambda: str(a.call("nodes")), TIMEOUT)
    a.loads("five")
    site.network.mend()
    site.serves("five")


def test_a_node_that_gets_another_address_goes_on(site: Site) -> None:
    """All its connections to etcd are half open: their address is no longer there."""
    a, b = site.a, site.b
    a.loads("six")
    site.serves("six")
    before = b.where.host
    b.where.give("10.97.0.200")
    try:
        a.loads("seven")
        site.serves("seven")
    finally:
        b.where.give(before)
    a.loads("eight")
    site.serves("eight")
