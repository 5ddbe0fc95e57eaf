"""Edits of administrators in a cluster: on trial, on one node only, without etcd, and while a daemon is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from etcd_server import EtcdServer
from servers import LOOPBACK, Nginx, free_port, wait_for

from ktcpvs.control.command_table import EDIT_COMMANDS
from ktcpvs.errors import Busy

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]


WORKERS = {"a": 2, "b": 0}


class Nodes:
    """Nodes of a cluster: `a`, with two workers, and `b`, which reaches etcd through `link`, a switch too.

    states: their state files.
    """

    def __init__(self, thread: ControlThread, make_folder: Callable[[str], Path], stack: contextlib.ExitStack) -> None:
        """stack: ends all of them."""
        self._thread, self._make_folder, self._stack = thread, make_folder, stack
        self.etcd = EtcdServer(make_folder("etcd"))
        stack.callback(self.etcd.stop)
        port = free_port()
        self.link = self._make("link")
        self.link.start()
        self.link.service("etcd", port, f"{LOOPBACK}:{self.etcd.port}", scheduler="wlc")
        self._urls = {"a": self.etcd.url, "b": f"http://{LOOPBACK}:{port}"}
        self.states = {name: make_folder(f"state_{name}") / "state" for name in self._urls}
        self.a, self.b = self.start("a"), self.start("b")

    def _make(self, name: str, *options: str | Path, **named: Any) -> Daemon:
        daemon = Daemon(self._thread, self._make_folder(name), *options, preloaded=True, **named)
        self._stack.callback(daemon.finish)
        return daemon

    def options(self, name: str) -> tuple[str | Path, ...]:
        return ("--cluster", f"etcd:{self._urls[name]}/edits", "--node", name, "--state", self.states[name])

    def rows(self, asked: Daemon | None = None) -> dict[str, dict[str, Any]]:
        """What one node tells of each."""
        return {row["node"]: row for row in (asked or self.a).call("nodes")["nodes"]}

    def are_in_step(self) -> bool:
        tables = [daemon.call("nodes") for daemon in (self.a, self.b)]
        return all(
            one["connected"] and [(row["node"], row["state"]) for row in one["nodes"]] == [("a", "ok"), ("b", "ok")]
            for one in tables
        )

    def wait_until_in_step(self) -> None:
        wait_for(self.are_in_step, lambda: f"both nodes to be in step: {self.a.call('nodes')}")

    def cut_b(self) -> None:
        """Cut node b from etcd: nothing that it sends arrives."""
        self.link.signal(signal.SIGSTOP)

    def connect_b(self) -> None:
        self.link.signal(signal.SIGCONT)

    def take_over(self, *options: str | Path) -> Daemon:
        """Let a new daemon take over node a."""
        old, control = self.a, self.a.control
        new = self._make(
            "a", *self.options("a"), *options, "--takeover", control, control=control, workers=WORKERS["a"]
        )
        new.run()
        new.wait_for_log("taken over from", timeout=TIMEOUT)
        old.wait()
        self.a = new
        return new

    def start(self, name: str, control: str | None = None) -> Daemon:
        """Start a node, and wait until it follows. control: its address; None: a new one."""
        node = self._make(name, *self.options(name), control=control, workers=WORKERS[name])
        node.start()
        node.wait_for_log(f"node {name} follows")
        return node

    def start_again(self, name: str) -> None:
        """Start a node that has ended."""
        old = getattr(self, name)
        old.may_have_ended = True
        setattr(self, name, self.start(name, old.control))


@pytest.fixture(scope="module")
def nodes(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        nodes = Nodes(control_thread, tmp_path_factory.mktemp, stack)
        stack.callback(nodes.connect_b)
        yield nodes


@pytest.fixture(autouse=True)
def shop(nodes: Nodes) -> Iterator[str]:
    """Each test begins with the service `shop`, which is stopped, and leaves both nodes in step."""
    nodes.wait_until_in_step()
    nodes.a.call("load", "", allow_empty=True)
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}", scheduler="wlc")
    nodes.a.call("add_server", "shop", "127.0.0.1:81")
    nodes.a.call("add_server", "shop", "127.0.0.1:82")
    nodes.wait_until_in_step()
    yield "shop"
    nodes.connect_b()
    nodes.etcd.thaw()
    wait_for(lambda: nodes.a.call("nodes")["connected"], "node a to follow")
    wait_for(lambda: nodes.a.call("nodes")["trial"] is None, "the end of a trial")
    nodes.a.call("stop")


def idents(daemon: Daemon) -> list[str]:
    return [service["ident"] for service in daemon.call("table")["services"]]


def weights(daemon: Daemon, ident: str = "shop") -> dict[str, int]:
    table = {service["ident"]: service for service in daemon.call("table")["services"]}
    return {server["address"]: server["weight"] for server in table[ident]["servers"]}


# On trial.


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A file with the service `new` and no other."""
    path = tmp_path / "new.conf"
    path.write_text(f"Virtual new {{\n listen = {LOOPBACK}:{free_port()}\n server = 127.0.0.1:83 1\n}}\n")
    return path


def trials(nodes: Nodes) -> list[int | None]:
    return [daemon.call("table")["trial"] for daemon in (nodes.a, nodes.b)]


def test_a_trial_is_in_force_on_all_nodes_and_confirmed_on_any(nodes: Nodes, new: Path) -> None:
    nodes.a.adm("-f", new, "--confirm", "5m", "--wait-nodes")
    assert idents(nodes.a) == idents(nodes.b) == ["new"]
    assert all(left is not None and 0 < left <= 300 for left in trials(nodes))
    assert "It is on trial: undone in " in nodes.b.adm("--nodes").stdout
    assert "\n# On trial: undone in " in nodes.b.adm("--list").stdout
    for daemon in (nodes.a, nodes.b):
        with pytest.raises(Busy, match=r"^the table is on trial, and undone in \d+ s: 'tcpvsadm --confirm' keeps it$"):
            daemon.set(read_timeout=8)
    assert all("Virtual shop" in path.read_text() for path in nodes.states.values())
    nodes.b.adm("--confirm")
    wait_for(lambda: trials(nodes) == [None, None], "the trial to end")
    for path in nodes.states.values():
        wait_for(lambda path=path: "Virtual new" in path.read_text(), "the confirmed table on the disk")
    nodes.b.call("add_server", "new", "127.0.0.1:84")
    wait_for(lambda: idents(nodes.a) == ["new"] and len(weights(nodes.a, "new")) == 2, "the next edit")


def test_an_unconfirmed_trial_is_undone_on_all_nodes(nodes: Nodes, new: Path) -> None:
    saved = {name: path.read_text() for name, path in nodes.states.items()}
    for daemon in (nodes.a, nodes.b):
        daemon.forget_log()
    nodes.a.adm("-f", new, "--confirm", "2s")
    for daemon in (nodes.a, nodes.b):
        daemon.wait_for_log("the table that was loaded on node a is on trial: it is undone in 2 s")
        daemon.wait_for_log("the table on trial is undone")
    wait_for(lambda: idents(nodes.a) == idents(nodes.b) == ["shop"], "the table before")
    assert {name: path.read_text() for name, path in nodes.states.items()} == saved
    for daemon in (nodes.a, nodes.b):
        refused = daemon.adm("--confirm", check=False).stderr
        assert refused == "tcpvsadm: confirm: no change is waiting for confirmation\n"


def test_a_trial_is_undone_when_its_node_dies(nodes: Nodes, new: Path) -> None:
    nodes.a.adm("-f", new, "--confirm", "5s", "--wait-nodes")
    nodes.a.kill()
    wait_for(lambda: idents(nodes.b) == ["shop"], "the table before", timeout=TIMEOUT)
    assert "Virtual shop" in nodes.states["a"].read_text()
    nodes.start_again("a")
    assert idents(nodes.a) == ["shop"]


def test_a_node_that_restarts_during_a_trial_takes_part_in_it(nodes: Nodes, new: Path) -> None:
    nodes.a.adm("-f", new, "--confirm", "5m", "--wait-nodes")
    nodes.b.finish()
    nodes.start_again("b")
    wait_for(lambda: idents(nodes.b) == ["new"] and trials(nodes)[1] is not None, "the table on trial")
    assert "Virtual shop" in nodes.states["b"].read_text()
    nodes.a.adm("--confirm")
    wait_for(lambda: "Virtual new" in nodes.states["b"].read_text(), "the confirmed table on the disk")


def test_a_node_without_etcd_undoes_a_trial_by_itself(nodes: Nodes, new: Path) -> None:
    nodes.a.adm("-f", new, "--confirm", "12s", "--wait-nodes")
    nodes.cut_b()
    nodes.a.adm("--confirm")
    nodes.b.wait_for_log("this node goes back to the table before it, until etcd responds", timeout=TIMEOUT)
    wait_for(lambda: idents(nodes.b) == ["shop"], "the table before")
    assert idents(nodes.a) == ["new"]
    nodes.connect_b()
    wait_for(lambda: idents(nodes.b) == ["new"], "the confirmed table")


def test_a_trial_is_undone_in_etcd_when_it_responds_again(nodes: Nodes, new: Path) -> None:
    nodes.b.adm("-f", new, "--confirm", "3s", "--wait-nodes")
    nodes.etcd.freeze()
    for daemon in (nodes.a, nodes.b):
        wait_for(lambda daemon=daemon: idents(daemon) == ["shop"], "the table before")
    nodes.etcd.thaw()
    wait_for(lambda: trials(nodes) == [None, None], "the trial to end")
    nodes.wait_until_in_step()
    assert idents(nodes.a) == idents(nodes.b) == ["shop"]


def test_a_file_that_changes_nothing_is_not_on_trial(nodes: Nodes, tmp_path: Path) -> None:
    same = tmp_path / "same.conf"
    same.write_text(nodes.a.adm("--save").stdout)
    shown = nodes.a.adm("-f", same, "--confirm", "5m")
    assert shown.stderr == "tcpvsadm: warning: this changes nothing, so nothing is on trial\n"
    assert trials(nodes) == [None, None]


def test_garbage_under_the_key_of_a_trial_is_named(nodes: Nodes) -> None:
    key = b64encode(b"/edits/trial").decode()
    ask_etcd(nodes, "put", {"key": key, "value": b64encode(b'{"format":1,"seconds":"x"}').decode()})
    why = "the cluster's key /edits/trial cannot be read, so edits are refused: generation is missing"
    for daemon in (nodes.a, nodes.b):
        wait_for(lambda daemon=daemon: why in daemon.adm("--stop", check=False).stderr, "a refusal")
    assert idents(nodes.a) == idents(nodes.b) == ["shop"]
    ask_etcd(nodes, "deleterange", {"key": key})
    for daemon in (nodes.a, nodes.b):
        wait_for(lambda daemon=daemon: not daemon.adm("--stop", check=False).stderr, "an edit")


def ask_etcd(nodes: Nodes, command: str, arguments: dict[str, str]) -> None:
    request = urllib.request.Request(f"{nodes.etcd.url}/v3/kv/{command}", json.dumps(arguments).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


# While a daemon is replaced.


class Editor(threading.Thread):
    """Adds servers to `shop`, one after the other, by tcpvsadm. added: their addresses. wrong: what was refused."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.added: list[str] = []
        self.wrong: list[str] = []
        self._daemon = daemon
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            address = f"127.0.0.1:{1000 + len(self.added)}"
            done = self._daemon.adm("-a", "-i", "shop", "-r", address, check=False)
            if done.returncode:
                self.wrong.append(done.stderr)
                return
            self.added.append(address)

    def stop(self) -> None:
        self._over.set()
        self.join()


def test_a_takeover_loses_no_edit_and_no_name(nodes: Nodes) -> None:
    old, watching = nodes.a, nodes.b
    old.forget_log()
    editor = Editor(old)
    states = set()
    try:
        for _ in range(2):
            number = len(editor.added)
            wait_for(lambda number=number: len(editor.added) > number or editor.wrong, "edits")
            new = nodes.take_over()
            new.wait_for_log("node a follows")
            states.add(nodes.rows(watching)["a"]["state"])
            number = len(editor.added)
            wait_for(lambda number=number: len(editor.added) > number + 1 or editor.wrong, "edits")
    finally:
        editor.stop()
    assert editor.wrong == []
    nodes.wait_until_in_step()
    for daemon in (nodes.a, watching):
        assert list(weights(daemon)) == ["127.0.0.1:81", "127.0.0.1:82", *editor.added]
    assert states <= {"ok", "behind"}
    for daemon in (old, nodes.a):
        assert "is in the cluster already" not in daemon.log()
        assert "has just joined" not in daemon.log()


def test_sighup_does_not_load_the_file_of_one_node(nodes: Nodes, new: Path) -> None:
    nodes.take_over("--config", new)
    nodes.a.wait_for_log("node a follows")
    nodes.a.signal(signal.SIGHUP)
    nodes.a.wait_for_log(
        "SIGHUP: --config is not loaded, since the table is the cluster's; 'tcpvsadm -f FILE' loads it on all nodes"
    )
    assert idents(nodes.a) == ["shop"]


# On one node only.


@pytest.fixture
def ends_local(nodes: Nodes) -> Iterator[None]:
    yield
    for daemon in (nodes.a, nodes.b):
        daemon.adm("--end-local", check=False)


local = pytest.mark.usefixtures("ends_local")


@local
def test_a_local_edit_holds_on_its_node_under_later_edits_of_the_cluster(nodes: Nodes) -> None:
    nodes.a.adm("-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "0", "--local")
    assert (weights(nodes.a), weights(nodes.b)) == (
        {"127.0.0.1:81": 0, "127.0.0.1:82": 1},
        {"127.0.0.1:81": 1, "127.0.0.1:82": 1},
    )
    nodes.b.adm("-e", "-i", "shop", "-r", "127.0.0.1:82", "-w", "7", "--wait-nodes")  # another part
    nodes.a.adm(
        "-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "5", "--wait-nodes"
    )  # the same part, on the node itself
    assert weights(nodes.a) == {"127.0.0.1:81": 0, "127.0.0.1:82": 7}
    assert weights(nodes.b) == {"127.0.0.1:81": 5, "127.0.0.1:82": 7}
    edit = "edit-server --ident shop --real-server 127.0.0.1:81 --weight 0"
    assert nodes.rows(nodes.b)["a"]["local"] == [edit]
    assert f"node a: on this node only: {edit}\n" in nodes.b.adm("--nodes").stdout
    listed = nodes.a.adm("--list").stdout
    assert f"# On this node only: {edit}\n" in listed
    assert "    # on this node only: server 127.0.0.1:81\n" in listed
    assert "on this node only" not in nodes.b.adm("--list").stdout
    assert nodes.a.adm("--save").stdout == nodes.b.adm("--save").stdout
    nodes.a.adm("--end-local", "-i", "shop")
    assert weights(nodes.a) == weights(nodes.b)
    again = nodes.a.adm("--end-local", check=False).stderr
    assert again == "tcpvsadm: end-local: no edit holds on this node only; --list shows those that do\n"


@local
def test_workers_serve_by_local_edits(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.a.call("add_service", "web", listen=f"{LOOPBACK}:{port}", scheduler="wlc")
    for server in web[:2]:
        nodes.a.call("add_server", "web", server.address)
    nodes.a.adm("--start", "-i", "web", "--local")  # node b could not listen there too
    assert fetch(port)
    assert nodes.b.call("table", "web")["services"][0]["running"] is False
    for server in web[:2]:
        nodes.a.adm("--drain", "-r", server.address, "--local")
    with pytest.raises((HTTPError, URLError, ConnectionError)):
        fetch(port)
    pid = nodes.a.workers()[0]
    os.kill(pid, signal.SIGKILL)
    nodes.a.wait_until_workers_serve(but=[pid])
    nodes.a.adm("--ready", "-r", web[0].address, "--local")
    assert all(fetch(port) for _ in range(4))
    nodes.b.call("delete_service", "web")
    wait_for(lambda: nodes.rows(nodes.b)["a"]["local"] == [], "the end of the local edits")
    notes = nodes.a.adm("--nodes").stdout
    assert "an edit does not hold on this node any more: start --ident web: no service web" in notes


@local
def test_local_edits_survive_a_restart_and_a_takeover(nodes: Nodes) -> None:
    edits = [
        "stop --ident shop",
        "set read_timeout=77",
        "edit-server --ident shop --real-server 127.0.0.1:82 --weight 3",
    ]
    nodes.a.call("start", "shop")
    nodes.a.adm("--stop", "-i", "shop", "--local")
    nodes.a.adm("--set", "read_timeout=77", "--local")
    nodes.a.adm("-e", "-i", "shop", "-r", "127.0.0.1:82", "-w", "3", "--local")
    assert "read_timeout = 77  # on this node only\n" in nodes.a.adm("--get").stdout

    def check() -> None:
        assert [one["edit"] for one in nodes.a.call("table")["local"]] == edits
        (service,) = nodes.a.call("table")["services"]
        assert (service["running"], service["local"]) == (False, ["running", "server 127.0.0.1:82"])

    check()
    nodes.a.finish()
    nodes.start_again("a")
    check()
    nodes.take_over()
    nodes.a.wait_for_log("node a follows")
    check()
    nodes.b.call("stop")


def test_local_edits_that_are_refused(nodes: Nodes, new: Path, new_daemon: Daemon) -> None:
    def refusal(*words: object, daemon: Daemon = nodes.a) -> str:
        return daemon.adm(*words, check=False).stderr

    assert "change parts of it with --local" in refusal("-f", new, "--local")
    assert "no service nothing" in refusal("--stop", "-i", "nothing", "--local")
    assert "is connected to etcd at http" in refusal("--stop", "-i", "shop", "--force-local")
    assert "in no cluster" in refusal("--set", "read_timeout=7", "--local", daemon=new_daemon)
    assert nodes.a.call("table")["local"] == []


# Without etcd.


def test_a_forced_edit_holds_until_etcd_responds(nodes: Nodes) -> None:
    nodes.cut_b()
    wait_for(lambda: not nodes.b.call("nodes")["connected"], "node b to notice", timeout=TIMEOUT)
    refused = nodes.b.adm("-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "0", check=False).stderr
    assert "--force-local changes this node until then" in refused
    nodes.b.adm("-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "0", "--force-local")
    nodes.b.adm("--set", "read_timeout=66", "--force-local")
    assert weights(nodes.b)["127.0.0.1:81"] == 0
    assert "# On this node only, until etcd responds: edit-server" in nodes.b.adm("--list").stdout
    nodes.a.call("edit_server", "shop", "127.0.0.1:82", weight=4)
    nodes.connect_b()
    wait_for(lambda: weights(nodes.b) == weights(nodes.a), "the cluster's table")
    assert nodes.b.call("table")["local"] == []
    lines = wait_for(lambda: nodes.rows(nodes.b)["b"].get("notes"), "the notes of node b")
    assert [line.partition("the cluster's table is in force: ")[2] for line in lines[-3:]] == [
        "setting read_timeout: 66 -> 180",
        "service shop: server 127.0.0.1:81: weight 0 -> 1",
        "service shop: server 127.0.0.1:82: weight 1 -> 4",
    ]
    wait_for(lambda: lines[-1] in nodes.a.adm("--nodes").stdout, "the notes of node b")


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/", timeout=10) as response:
        return bytes(response.read())


def test_a_node_edits_what_it_cannot_put_in_force(nodes: Nodes) -> None:
    nodes.a.call("start", "shop")
    wait_for(lambda: nodes.rows()["b"]["state"] == "refused", "node b to refuse")
    warned = nodes.b.adm("-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "6").stderr
    assert "tcpvsadm: warning: node b: service shop: cannot listen on" in warned
    wait_for(lambda: weights(nodes.a)["127.0.0.1:81"] == 6, "the edit")
    nodes.b.adm("--stop", "-i", "shop")
    nodes.wait_until_in_step()
    assert [one.call("table")["services"][0]["running"] for one in (nodes.a, nodes.b)] == [False, False]


# Every edit.

Words = tuple[object, ...]

SHOP = ("-i", "shop")
FIRST = (*SHOP, "-r", "127.0.0.1:81")

EVERYWHERE: dict[str, Words] = {
    "EditService": ("-E", *SHOP, "-s", "phttp"),
    "AddListener": ("--add-listener", *SHOP, "-l", "127.0.0.2:9999"),
    "DeleteListener": ("--del-listener", *SHOP, "-l", "127.0.0.2:9999"),
    "AddServer": ("-a", *SHOP, "-r", "127.0.0.1:84"),
    "EditServer": ("-e", *FIRST, "-w", "7"),
    "DeleteServer": ("-d", *SHOP, "-r", "127.0.0.1:84"),
    "Drain": ("--drain", "-r", "127.0.0.1:81"),
    "Maintenance": ("--maintenance", "-r", "127.0.0.1:81"),
    "Ready": ("--ready", "-r", "127.0.0.1:81"),
    "AddRule": ("--add-rule", *FIRST, "-p", "/one", "--name", "one"),
    "AddRule, another": ("--add-rule", *FIRST, "-p", "/two", "--name", "two"),
    "EditRule": ("--edit-rule", *SHOP, "--rule", "one", "-p", "/other"),
    "MoveRule": ("--move-rule", *SHOP, "--rule", "two", "--before", "one"),
    "DeleteRule": ("--del-rule", *FIRST, "--rule", "two"),
    "Allow": ("--allow", *SHOP, "10.0.0.0/8"),
    "Deny": ("--deny", *SHOP, "10.1.0.0/16"),
    "DeleteNetwork": ("--del-network", *SHOP, "10.0.0.0/8"),
    "Set": ("--set", "read_timeout=33"),
    "AddService": ("-A", "-i", "second", "-l", "127.0.0.1:9998"),
    "StartService": ("--start", *SHOP),
    "StopService": ("--stop",),
    "DeleteService": ("-D", "-i", "second"),
    "Flush": ("-F",),
    "Load": ("-f", "FILE"),
}
"""Edit -> the command that asks for it; each changes the table that those before it have made."""

ON_ONE_NODE = {"Unload", "ReloadCertificates", "RenewCertificate", "ReloadSchedulers", "EndLocal"}
"""Edits of the node on which they are made."""

OTHERS = {"Confirm", "DrainNode", "UndrainNode", "ForgetNode"}
"""Edits of what nodes do with the table; they have tests of their own."""


def configured(daemon: Daemon) -> str:
    """The table and which services run; `--save` leaves out the services' states."""
    table = daemon.call("read", "configured")
    return repr((table["services"], table["settings"]))


def test_every_edit_of_the_table_is_in_force_everywhere(nodes: Nodes, new: Path) -> None:
    both = (nodes.a, nodes.b)
    for number, (name, words) in enumerate(EVERYWHERE.items()):
        editing, other = both[number % 2], both[1 - number % 2]
        before = configured(other), other.call("nodes")["revision"]
        editing.adm(*(new if word == "FILE" else word for word in words), "--wait-nodes")
        assert other.call("nodes")["revision"] > before[1], f"{name} is not stored"
        if name == "StartService":  # on one machine, only one of them can listen
            refusals = [row["errors"] for row in nodes.rows().values() if row["state"] == "refused"]
            assert "service shop: cannot listen" in repr(refusals)
            continue
        assert name == "StopService" or configured(other) != before[0], f"{name} is not in force on the other node"
        assert configured(nodes.a) == configured(nodes.b), name
    named = {name.partition(",")[0] for name in EVERYWHERE} | ON_ONE_NODE | OTHERS
    assert named == {entry.edit for entry in EDIT_COMMANDS}


def test_edits_of_one_node_leave_the_others_alone(nodes: Nodes) -> None:
    nodes.b.call("start", "shop")
    wait_for(lambda: nodes.rows()["a"]["state"] == "refused", "node a to refuse")
    before = nodes.a.call("nodes")["revision"]
    nodes.b.adm("--reload-certificates")
    nodes.b.adm("--set", "unload=1")
    nodes.b.wait()
    assert nodes.a.call("nodes")["revision"] == before
    assert '"running": ["shop"]' in nodes.states["b"].read_text()
    nodes.start_again("b")
    nodes.b.adm("--stop", "--wait-nodes")
