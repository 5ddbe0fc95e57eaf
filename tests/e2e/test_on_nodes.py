"""Services and listeners that are for some nodes of a cluster only: two daemons, one table in a real etcd."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import EtcdServer
from servers import LOOPBACK, Nginx, answers, free_port, wait_for

from ktcpvs.errors import CannotListen

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

AT_A, AT_B = "127.0.0.21", "127.0.0.22"
"""The addresses of both nodes."""


class Nodes:
    """Node a, with two workers and the label edge, and node b, with the label core."""

    def __init__(self, thread: ControlThread, make_folder: Callable[[str], Path], etcd: EtcdServer) -> None:
        self._thread, self._make_folder = thread, make_folder
        self.options = ["--cluster", f"etcd:{etcd.url}/on-nodes"]
        self.a = self._make("a", "edge,eu", 2)
        self.b = self._make("b", "core", 0)

    def _make(self, name: str, labels: str, workers: int) -> Daemon:
        folder = self._make_folder(name)
        options = [*self.options, "--node", name, "--node-labels", labels, "--state", folder / "state"]
        daemon = Daemon(self._thread, folder, *options, workers=workers, preloaded=True)
        daemon.start()
        daemon.wait_for_log(f"node {name} follows")
        return daemon

    def replace_b(self, labels: str) -> None:
        """End node b, and start it with other labels and its state file."""
        self.b.finish()
        folder = self.b.folder
        options = [*self.options, "--node", "b", "--node-labels", labels, "--state", folder / "state"]
        self.b = Daemon(self._thread, folder, *options, preloaded=True)
        self.b.forget_log()
        self.b.start()
        self.b.wait_for_log("node b follows")

    def in_step(self) -> bool:
        tables = [daemon.call("nodes")["nodes"] for daemon in (self.a, self.b)]
        return all([(row["node"], row["state"]) for row in rows] == [("a", "ok"), ("b", "ok")] for rows in tables)


@pytest.fixture(scope="module")
def nodes(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    etcd = EtcdServer(tmp_path_factory.mktemp("etcd"))
    with contextlib.ExitStack() as stack:
        stack.callback(etcd.stop)
        made = Nodes(control_thread, tmp_path_factory.mktemp, etcd)
        stack.callback(lambda: made.a.finish())
        stack.callback(lambda: made.b.finish())
        wait_for(made.in_step, "both nodes to know each other")
        yield made


@pytest.fixture(autouse=True)
def empty(nodes: Nodes) -> Iterator[None]:
    yield
    wait_for(lambda: nodes.a.call("nodes")["connected"], "node a to follow")
    nodes.a.call("stop")
    nodes.a.call("load", "", allow_empty=True)
    wait_for(nodes.in_step, lambda: f"both nodes to be in step: {nodes.a.call('nodes')}")


def get(host: str, port: int) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read()


def service(daemon: Daemon, ident: str) -> dict[str, Any]:
    (found,) = daemon.call("stats", ident)["services"]
    return dict(found)


def total(daemon: Daemon, ident: str) -> int:
    return int(service(daemon, ident)["stats"]["total"])


def test_a_site_with_an_address_on_each_machine(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.a.adm("-A", "-i", "web", "-l", f"{AT_A}:{port} on a", "-s", "phttp")
    nodes.b.adm("--add-listener", "-i", "web", "-l", f"{AT_B}:{port}", "on", "label:core")
    nodes.a.adm("-a", "-i", "web", "-r", web[0].address)
    nodes.a.adm("--start", "-i", "web", "--wait-nodes")
    assert get(AT_A, port).endswith(b" GET /\n")
    assert get(AT_B, port).endswith(b" GET /\n")
    assert get(AT_B, port).endswith(b" GET /\n")
    wait_for(lambda: (total(nodes.a, "web"), total(nodes.b, "web")) == (1, 2), "each node to serve its own clients")
    assert [one["here"] for one in service(nodes.a, "web")["listeners"]] == [True, False]
    assert [one["here"] for one in service(nodes.b, "web")["listeners"]] == [False, True]
    listed = nodes.b.adm("--list").stdout
    assert f"    listen = {AT_A}:{port} on a\n    listen = {AT_B}:{port} on label:core\n" in listed


def test_a_service_of_one_node_is_shown_on_the_other(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.b.adm("-A", "-i", "web", "-l", f"{AT_A}:{port}", "-s", "phttp", "on=label:edge")
    nodes.b.adm("-a", "-i", "web", "-r", web[0].address)
    nodes.b.adm("--start", "-i", "web", "--wait-nodes")
    assert get(AT_A, port).endswith(b" GET /\n")
    assert (service(nodes.a, "web")["here"], service(nodes.b, "web")["here"]) == (True, False)
    assert "    # not on this node\n" in nodes.b.adm("--list").stdout
    assert "    # running\n" in nodes.a.adm("--list").stdout
    stats = nodes.b.adm("--list", "--stats").stdout
    assert "web          not on this node" in stats
    assert web[0].address not in stats
    explained = nodes.b.adm("--explain", "-i", "web", "GET", "/").stdout
    assert explained.startswith("Service web, not on this node: ")
    assert "service web does not run on this node: this is what it would do" in explained
    assert nodes.a.adm("--explain", "-i", "web", "GET", "/").stdout.startswith("Service web, running: ")


def test_connections_drain_where_a_service_leaves(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.a.call("add_service", "web", listen=[f"{AT_A}:{port} on a", f"{AT_B}:{port} on b"], scheduler="phttp")
    nodes.a.call("add_server", "web", web[0].address)
    nodes.a.adm("--start", "-i", "web", "--wait-nodes")
    web[0].file("moving", 300_000)
    with contextlib.ExitStack() as stack:
        kept = [http.client.HTTPConnection(host, port, timeout=TIMEOUT) for host in (AT_A, AT_B)]
        for one in kept:
            stack.callback(one.close)
            one.request("GET", "/slow/moving")
        begun = [one.getresponse() for one in kept]
        nodes.a.adm("-E", "-i", "web", "on=b", "--wait-nodes")
        wait_for(lambda: not connects(AT_A, port), "node a to listen no more")
        assert get(AT_B, port).endswith(b" GET /\n")
        assert [len(one.read()) for one in begun] == [300_000, 300_000]
    nodes.b.adm("-E", "-i", "web", "on=a", "--wait-nodes")
    assert get(AT_A, port).endswith(b" GET /\n")
    assert not connects(AT_B, port)


def connects(host: str, port: int) -> bool:
    try:
        get(host, port)
    except OSError:
        return False
    return True


def test_what_only_one_machine_has_is_no_matter_for_the_other(nodes: Nodes, tmp_path: Path) -> None:
    page = tmp_path / "none.html"
    text = f"Virtual web {{ listen = {AT_B}:{free_port()} on = b server = 127.0.0.1:81 error_page = 503 {page} }}"
    refused = nodes.b.adm("--restore", input=text, check=False)
    assert f"{page}: No such file or directory" in refused.stderr
    done = nodes.a.adm("--restore", "--start", "--wait-nodes", input=text)
    assert "node b is refused: service web: " in done.stderr
    page.write_text("sorry")
    nodes.a.adm("-E", "-i", "web", "maxclients=9", "--wait-nodes")
    wait_for(nodes.in_step, "node b to have it in force")


def test_two_services_with_one_address(nodes: Nodes) -> None:
    port = free_port()
    nodes.a.call("add_service", "one", listen=f"{AT_A}:{port} on a")
    nodes.a.call("add_service", "two", listen=f"{AT_A}:{port} on b")
    nodes.a.call("add_server", "one", "127.0.0.1:81")
    nodes.a.call("start", "one")
    refused = nodes.b.adm("-E", "-i", "two", f"listen={AT_A}:{port} on label:edge")
    assert refused.stderr == ""
    with pytest.raises(CannotListen, match=f"service two: service one listens on {AT_A}:{port} too, on a: give one of"):
        nodes.b.call("start", "two")
    nodes.b.call("edit_service", "two", listen=f"{AT_A}:{port} on label:new")
    nodes.b.call("edit_service", "one", listen=f"{AT_A}:{port} on label:edge")
    with pytest.raises(
        CannotListen, match=r"perhaps on the same node, since none that is alive has the label new: give one"
    ):
        nodes.b.call("start", "two")


def test_names_and_labels_that_no_node_has(nodes: Nodes) -> None:
    at = f"{AT_A}:{free_port()}"
    nodes.a.call("add_service", "web", listen=at)
    done = nodes.a.adm("--add-listener", "-i", "web", "-l", f"{AT_B}:1", "tls", check=False)
    assert "missing certificate" in done.stderr
    done = nodes.a.adm("--add-listener", "-i", "web", "-l", f"{AT_B}:1", "on", "bb,", "label:coer")
    name = f"tcpvsadm: warning: service web: listen = {AT_B}:1 on"
    assert f"{name} bb: no member of the cluster has this name; did you mean 'b'?" in done.stderr
    assert f"{name} label:coer: no node that is alive has this label; did you mean 'core'?" in done.stderr
    wrong = nodes.a.adm("--add-listener", "-i", "web", "-l", f"{AT_B}:2", "on", "b", "b", check=False)
    assert "after the address: unknown word 'b'" in wrong.stderr
    wrong = nodes.a.adm("--add-listener", "-i", "web", "-l", f"{AT_B}:2", "no", "b", check=False)
    assert "Unexpected argument 'no' with the 'add-listener' command: expected 'tls' or 'on NODE'" in wrong.stderr
    wrong = nodes.a.adm("-E", "-i", "web", "on=b,,a", check=False)
    assert "a name is missing" in wrong.stderr
    nodes.a.adm("-E", "-i", "web", "on=a, b")
    nodes.a.adm("-E", "-i", "web", "on=")
    assert service(nodes.a, "web")["on"] is None


def test_what_is_saved_can_be_loaded_and_compared(nodes: Nodes, tmp_path: Path) -> None:
    at = f"{AT_A}:{free_port()}"
    nodes.a.call("add_service", "web", listen=f"{at} on a, label:core", on="a, b")
    saved = nodes.b.adm("--save").stdout
    assert f"    listen = {at} on a, label:core\n    on = a, b\n" in saved
    path = tmp_path / "saved.conf"
    path.write_text(saved)
    assert nodes.a.adm("--diff", path).stdout == ""
    path.write_text(saved.replace("on = a, b", "on = b"))
    assert nodes.a.adm("--diff", path, check=False).stdout == "service web: on: a, b -> b\n"
    checked = nodes.a.adm("--check", path)
    assert "member" not in checked.stderr + checked.stdout


def test_the_labels_of_nodes_are_shown(nodes: Nodes) -> None:
    rows = {row["node"]: row for row in nodes.b.call("nodes")["nodes"]}
    assert (rows["a"]["labels"], rows["b"]["labels"]) == (["edge", "eu"], ["core"])
    shown = nodes.b.adm("--nodes").stdout
    assert shown.splitlines()[1].endswith("  Labels")
    assert any(line.startswith("a ") and line.endswith("  edge, eu") for line in shown.splitlines())


def test_a_node_with_other_labels_runs_other_services(nodes: Nodes, web: list[Nginx]) -> None:
    core, edge = free_port(), free_port()
    nodes.a.call("add_service", "inner", listen=f"{AT_B}:{core}", on="label:core", scheduler="phttp")
    nodes.a.call("add_service", "outer", listen=f"{AT_B}:{edge}", on="label:outside", scheduler="phttp")
    for ident in ("inner", "outer"):
        nodes.a.call("add_server", ident, web[0].address)
    nodes.a.adm("--start", "--wait-nodes")
    assert (connects(AT_B, core), connects(AT_B, edge)) == (True, False)
    nodes.replace_b("outside")
    try:
        wait_for(lambda: connects(AT_B, edge), "node b to serve what is for its new label")
        assert not connects(AT_B, core)
    finally:
        nodes.replace_b("core")
    wait_for(lambda: connects(AT_B, core), "node b to serve what is for its old label")
    assert not connects(AT_B, edge)


def test_an_edit_of_the_place_on_one_node_only(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.a.call("add_service", "web", listen=[f"{AT_A}:{port} on a", f"{AT_B}:{port} on b"], scheduler="phttp")
    nodes.a.call("add_server", "web", web[0].address)
    nodes.a.adm("--start", "-i", "web", "--wait-nodes")
    nodes.a.adm("-E", "-i", "web", "on=b", "--local")
    assert (connects(AT_A, port), connects(AT_B, port)) == (False, True)
    assert (service(nodes.a, "web")["here"], service(nodes.b, "web")["on"]) == (False, None)
    nodes.a.adm("--end-local")
    assert connects(AT_A, port)


def test_a_worker_that_is_replaced_runs_the_same(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.a.call("add_service", "web", listen=[f"{AT_A}:{port} on a", f"{AT_B}:{port} on b"], scheduler="phttp")
    nodes.a.call("add_service", "other", listen=f"{AT_B}:{port + 1}", on="b")
    nodes.a.call("add_server", "web", web[0].address)
    nodes.a.adm("--start", "--wait-nodes")
    before = nodes.a.workers()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    nodes.a.wait_until_workers_serve(2, but=before)
    for _ in range(8):
        assert get(AT_A, port).endswith(b" GET /\n")


def test_a_takeover_keeps_the_place(
    nodes: Nodes, web: list[Nginx], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    old = make_daemon("--node", "a", "--state", tmp_path / "state", workers=2)
    old.start()
    old.call("add_service", "other", listen=f"{AT_B}:{other}", on="b")
    old.call("add_service", "web", listen=[f"{AT_B}:{port} on b", f"{AT_A}:{port} on a"], scheduler="phttp")
    old.call("add_server", "web", web[0].address)
    old.call("start")
    assert get(AT_A, port).endswith(b" GET /\n")
    options = ["--node", "a", "--state", tmp_path / "state", "--takeover", old.control]
    new = make_daemon(*options, control=old.control, workers=2)
    new.run()
    new.wait_for_log("taken over from ktcpvs")
    old.may_have_ended = True
    assert get(AT_A, port).endswith(b" GET /\n")
    assert not connects(AT_B, port)
    assert not connects(AT_B, other)
    assert [one["here"] for one in service(new, "web")["listeners"]] == [False, True]


def test_a_switch_in_no_cluster_has_a_name_too(make_daemon: Callable[..., Daemon], web: list[Nginx]) -> None:
    alone = make_daemon("--node", "c", "--node-labels", "edge")
    alone.start()
    port = free_port()
    alone.call("add_service", "own", listen=f"{LOOPBACK}:{port}", on="label:edge", scheduler="phttp")
    alone.call("add_server", "own", web[0].address)
    alone.call("start", "own")
    assert get(LOOPBACK, port).endswith(b" GET /\n")
    done = alone.adm("-A", "-i", "other", "-l", f"{LOOPBACK}:{free_port()}", "on=b")
    assert (
        "warning: service other: it does not run here: on = b, and this switch is in no cluster, and its name is c, "
        "its labels edge (--node, --node-labels)"
    ) in done.stderr
    assert answers(port)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--node", "a b"), "--node a b: expected 1 to 63 letters"),
        (("--node-labels", "label:a"), "--node-labels label:a: expected 1 to 63 letters"),
        (("--node-labels", ""), "--node-labels : expected 1 to 63 letters"),
    ],
)
def test_names_that_no_node_can_have(make_daemon: Callable[..., Daemon], options: tuple[str, ...], why: str) -> None:
    daemon = make_daemon(*options)
    daemon.run()
    assert daemon.wait() != 0
    assert why in daemon.log()
