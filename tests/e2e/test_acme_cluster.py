"""One node of a cluster obtains a certificate of a CA, and all nodes serve it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_server import EtcdServer
from servers import LOOPBACK, free_port, wait_for

from ktcpvs.errors import Busy

from .harness import TIMEOUT, ControlThread, Daemon
from .test_acme import CA, SELF_SIGNED, ca, orders, running_ca, seen, settings, wait_for_state
from .test_cluster_secrets import SECRET, options, write_secret

__all__ = ["ca", "running_ca"]

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.slow, pytest.mark.programs]

NAME = "cluster.example"


class Nodes:
    """Two nodes, `a` and `b`, each with listeners of its own. tls: the port of each."""

    def __init__(self, thread: ControlThread, folder: Path, etcd: EtcdServer, ca: CA) -> None:
        self.daemons: dict[str, Daemon] = {}
        self.tls = {"a": ca.tls_port, "b": free_port()}
        self.http = {"a": ca.http_port, "b": free_port()}
        for name in "ab":
            own = folder / name
            own.mkdir()
            secret = write_secret(own / "secret", SECRET)
            words = [*options(etcd, name, secret, "/acme-test/"), "--state", own / "state"]
            self.daemons[name] = Daemon(thread, own, *words, workers=2 if name == "a" else 0, tls=True, preloaded=True)
            self.daemons[name].start()
            self.daemons[name].wait_for_log(f"node {name} follows")

    def configuration(self, ca: CA) -> str:
        listeners = "".join(
            f"    listen = {LOOPBACK}:{self.http[name]} on {name}\n"
            f"    listen = {LOOPBACK}:{self.tls[name]} tls on {name}\n"
            for name in "ab"
        )
        return (
            settings(ca) + f"Virtual site {{\n{listeners}    certificate = acme {NAME}\n"
            f"    scheduler = phttp\n    server = {LOOPBACK}:{free_port()}\n}}\n"
        )

    def serial(self, name: str) -> int:
        return seen(self.tls[name], NAME).serial_number

    def leader(self) -> str:
        (found,) = [name for name, one in self.daemons.items() if "this node, " + name + ", orders" in one.log()]
        return found


@pytest.fixture
def nodes(control_thread: ControlThread, tmp_path: Path, ca: CA) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        etcd = EtcdServer(tmp_path)
        stack.callback(etcd.stop)
        nodes = Nodes(control_thread, tmp_path, etcd, ca)
        for daemon in nodes.daemons.values():
            stack.callback(daemon.finish)
        yield nodes


def test_one_node_orders_and_all_serve_and_another_one_goes_on(nodes: Nodes, ca: CA) -> None:
    nodes.daemons["a"].call("load", nodes.configuration(ca))
    nodes.daemons["a"].call("start", "site")
    for daemon in nodes.daemons.values():
        wait_for(lambda daemon=daemon: orders(daemon), daemon.log, timeout=TIMEOUT)  # type: ignore[misc]
        wait_for_state(daemon, NAME, "valid")
    wait_for(lambda: nodes.serial("a") == nodes.serial("b"), "one certificate on both nodes", timeout=TIMEOUT)
    assert seen(nodes.tls["b"], NAME).issuer.rfc4514_string() != f"CN={SELF_SIGNED}"
    assert sum("issued by" in daemon.log() for daemon in nodes.daemons.values()) == 1
    leader = nodes.leader()
    other = "b" if leader == "a" else "a"
    nodes.daemons[other].wait_for_log(f"certificate for {NAME}: another node has obtained it")
    with pytest.raises(Busy, match=r"this switch orders no certificates now; node \w does: give this command there"):
        nodes.daemons[other].call("renew_certificate", NAME)
    before = nodes.serial(other)

    nodes.daemons[leader].kill()
    survivor = nodes.daemons[other]
    survivor.wait_for_log(f"this node, {other}, orders certificates", timeout=60)
    if leader == "a":  # the CA looks there
        ca.names.point(NAME, "127.0.0.1")
        nodes.daemons[leader].start()
    survivor.call("renew_certificate", NAME)
    wait_for(lambda: nodes.serial(other) != before, survivor.log, timeout=60)
    wait_for_state(survivor, NAME, "valid")


def test_without_a_secret_a_cluster_refuses(
    control_thread: ControlThread, nodes: Nodes, ca: CA, tmp_path: Path
) -> None:
    etcd = EtcdServer(tmp_path / "b")
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(etcd.stop)
        folder = tmp_path / "c"
        folder.mkdir()
        words = [*options(etcd, "c"), "--state", folder / "state"]
        daemon = Daemon(control_thread, folder, *words, tls=True, preloaded=True)
        stack.callback(daemon.finish)
        daemon.start()
        daemon.wait_for_log("node c follows")
        config = tmp_path / "site.conf"
        config.write_text(nodes.configuration(ca).replace(" on a", "").replace(" on b", ""))
        refused = daemon.adm("-f", config, "--start", check=False)
        assert refused.returncode == 1
        assert "certificate = acme in a cluster needs --cluster-secret on all nodes" in refused.stderr
