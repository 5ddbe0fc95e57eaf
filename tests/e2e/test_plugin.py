"""Schedulers of other packages: how a running daemon finds them, and what happens when they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from http_servers import TwistedWeb
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_all, read_exactly, speak_first, wait_for

from .harness import ROOT, TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]

EXAMPLE = ROOT / "docs/examples/ktcpvs-random"

PLUGIN = '''
from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, IScheduler, ISchedulerFactory
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice


@implementer(IPlugin, ISchedulerFactory)
class Factory:
    """{summary}"""

    name = "{name}"
    unit = CONNECTION

    def bind(self, service, previous):
        {bind}
        return Bound(service.destinations)


@implementer(IScheduler)
class Bound:
    def __init__(self, destinations):
        self.destinations = destinations

    def choose(self, request):
        {choose}


factory = Factory()
'''


def add_plugin(folder: Path, name: str, choose: str, bind: str = "pass") -> None:
    plugins = folder / "twisted/plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    text = PLUGIN.format(name=name, choose=choose, bind=bind, summary=f"The scheduler {name}.")
    (plugins / f"ktcpvs_{name}_plugin.py").write_text(text)


def served(port: int) -> bytes:
    """Connect; return the server's greeting, or b"" when the client is refused."""
    with dial((LOOPBACK, port)) as client:
        client.shutdown(1)
        return read_all(client)


def install(source: Path, target: Path) -> None:
    """Install as `pip install --target` does; copy the files where pip would need the network."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    built = target.parent / "source"
    shutil.copytree(source, built)
    done = subprocess.run([*command, "--target", target, built], capture_output=True, text=True, timeout=TIMEOUT * 2)
    if done.returncode != 0:
        shutil.copytree(source, target, dirs_exist_ok=True)


@pytest.mark.packages
def test_the_example_scheduler_is_installed_and_serves(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    install(EXAMPLE, tmp_path / "scratch")
    daemon = make_daemon(python_path=(tmp_path / "scratch",))
    daemon.start()
    one, other, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.adm("-A", "-i", "s", "-s", "random", "-l", f"{LOOPBACK}:{port}")
    daemon.adm("-a", "-i", "s", "-r", one.address)
    daemon.adm("-a", "-i", "s", "-r", other.address, "-w", "3")
    daemon.adm("--start")
    greetings = [served(port) for _ in range(60)]
    assert set(greetings) == {b"1", b"2"}
    other.stop()
    assert [served(port) for _ in range(5)] == [b"1"] * 5
    shown = daemon.adm("--schedulers").stdout
    assert "ktcpvs_random" in shown
    (row,) = (row for row in daemon.json("--schedulers")["schedulers"] if row["name"] == "random")
    assert row["services"] == 1


def test_a_scheduler_that_fails_costs_one_connection_and_is_logged_once(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    add_plugin(tmp_path, "raising", "raise RuntimeError('this scheduler is broken')")
    add_plugin(tmp_path, "foreign", "return Choice(Destination(self.destinations[0].address), 'not yours')")
    add_plugin(tmp_path, "nonsense", "return 42")
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.may_log_tracebacks = True
    daemon.start()
    server, good = serve(speak_first(b"1")), free_port()
    daemon.service("good", good, server.address)
    for name in ("raising", "foreign", "nonsense"):
        port = free_port()
        daemon.service(name, port, server.address, scheduler=name)
        assert served(port) == b"1", "the fallback serves"
        assert daemon.log().count(f"scheduler of service {name} failed") == 1
        counts = daemon.stats(name)["stats"]
        assert (counts["scheduler_failures"], counts["scheduler_failing"]) == (1, 1)
        assert "\n  scheduler failed: once\n" in daemon.adm("--stats", "-i", name).stdout
        daemon.call("edit_service", name, fallback="none")
        assert served(port) == b""
        assert served(good) == b"1"
        assert served(port) == b""
        assert daemon.log().count(f"scheduler of service {name} failed") == 1, "the same again so soon is counted only"
        daemon.call("edit_service", name, scheduler="wlc")
        assert served(port) == b"1"
        counts = daemon.stats(name)["stats"]
        assert (counts["scheduler_failures"], counts["scheduler_failing"]) == (3, 0), "the new one has not failed"
        daemon.call("stop", name)
        daemon.call("delete_service", name)
    daemon.wait_for_log("this scheduler is broken")
    daemon.wait_until_empty()


def test_a_scheduler_that_cannot_be_bound_is_refused(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    add_plugin(tmp_path, "unbindable", "pass", bind="raise ValueError('no such luck')")
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.may_log_tracebacks = True
    daemon.start()
    server, port = serve(speak_first(b"1")), free_port()
    daemon.service("s", port, server.address)
    refused = daemon.adm("-E", "-i", "s", "-s", "unbindable", check=False)
    assert refused.returncode == 1
    assert "no such luck" in refused.stderr
    for raised in ("KeyboardInterrupt", "GeneratorExit", "SystemExit(0)"):
        name = raised.lower().partition("(")[0]
        add_plugin(tmp_path, name, f"raise {raised}", bind=f"raise {raised}")
        refused = daemon.adm("-E", "-i", "s", "-s", name, check=False)
        assert f"scheduler {name} cannot serve s: {raised.partition('(')[0]}(" in refused.stderr
    add_plugin(tmp_path, "wordy", "pass", bind="raise ValueError('x' * 1_000_000)")
    refused = daemon.adm("-E", "-i", "s", "-s", "wordy", check=False)
    assert "scheduler wordy cannot serve s: ValueError('xxx" in refused.stderr
    assert len(refused.stderr) < 1000
    assert daemon.json("--list")["services"][0]["scheduler"] == "wlc"
    assert served(port) == b"1"


def test_a_scheduler_that_raises_an_interrupt_does_not_end_the_daemon(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    add_plugin(tmp_path, "interrupting", "raise KeyboardInterrupt")
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.may_log_tracebacks = True
    daemon.start()
    server, port = serve(speak_first(b"1")), free_port()
    daemon.service("s", port, server.address, scheduler="interrupting")
    assert [served(port) for _ in range(3)] == [b"1"] * 3, "the fallback has chosen"
    assert daemon.stats("s")["stats"]["scheduler_failures"] == 3


def test_a_scheduler_added_to_a_running_daemon_is_found(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "twisted/plugins").mkdir(parents=True)
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.start()
    refused = daemon.adm("-A", "-i", "s", "-s", "late", check=False)
    assert refused.returncode == 1
    assert "no scheduler 'late'; there are: " in refused.stderr
    assert f", wlc, wrr (a plugin must be installed in {sys.prefix})" in refused.stderr
    add_plugin(tmp_path, "late", "return Choice(self.destinations[0], 'the first')")
    server, port = serve(speak_first(b"1")), free_port()
    daemon.service("s", port, server.address, scheduler="late")
    assert served(port) == b"1"


def test_a_plugin_that_cannot_be_imported_is_named(make_daemon: Make, tmp_path: Path) -> None:
    plugins = tmp_path / "twisted/plugins"
    plugins.mkdir(parents=True)
    (plugins / "ktcpvs_syntax_plugin.py").write_text("def broken(:\n")
    (plugins / "ktcpvs_import_plugin.py").write_text("import there_is_no_such_module\n")
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.may_log_tracebacks = True
    daemon.start()
    refused = daemon.adm("-A", "-i", "s", "-s", "syntax", check=False)
    assert refused.returncode == 1
    assert "no scheduler 'syntax'" in refused.stderr
    shown = daemon.adm("--schedulers").stdout
    for text in (refused.stderr, shown):
        assert "ktcpvs_syntax_plugin" in text
        assert "ktcpvs_import_plugin" in text
        assert "there_is_no_such_module" in text
    assert len(daemon.json("--schedulers")["broken"]) == 2
    daemon.adm("-A", "-i", "s", "-s", "wlc")


def removed(name: str, folder: Path) -> None:
    """Uninstall what `add_plugin` has added."""
    (folder / f"twisted/plugins/ktcpvs_{name}_plugin.py").unlink()


def trouble_of(port: int) -> list[dict[str, Any]]:
    """Return the rows of trouble on the status page at that port."""
    with urlopen(f"http://{LOOPBACK}:{port}/api/v1/status", timeout=TIMEOUT) as page:
        return list(json.loads(page.read())["trouble"])


@pytest.mark.starts
@pytest.mark.parametrize("workers", [0, 2])
def test_a_table_whose_scheduler_is_gone_starts_and_its_fallback_chooses(
    make_daemon: Make, serve: Serve, tmp_path: Path, workers: int
) -> None:
    second = "return Choice(self.destinations[1], 'the second')"
    state, status = tmp_path / "state", free_port()
    add_plugin(tmp_path, "by-tenant", second)
    options = ("--state", state, "--status", f"tcp:{status}")
    daemon = make_daemon(*options, python_path=(tmp_path,), workers=workers)
    daemon.may_log_tracebacks = True
    daemon.start()
    one, two, port, other = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port(), free_port()
    daemon.service("s", port, (one.address, 1), (two.address, 0), scheduler="by-tenant")
    daemon.service("other", other, one.address)
    assert served(port) == b"2"
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0

    removed("by-tenant", tmp_path)
    daemon.forget_log()
    daemon.start()
    if workers:
        daemon.wait_until_workers_serve()
    why = "service s: scheduler by-tenant is missing, and fallback wlc chooses: no scheduler 'by-tenant'; there are: "
    assert f"{why}chash, " in daemon.log()
    assert "; mend that, then run: tcpvsadm --reload-schedulers" in daemon.log()
    (trouble,) = trouble_of(status)
    assert (trouble["kind"], trouble["service"]) == ("scheduler_failing", "s")
    assert trouble["text"] == "scheduler by-tenant fails: the fallback wlc chooses; see the log"
    assert [served(port), served(other)] == [b"1", b"1"]
    assert daemon.stats("s")["stats"]["scheduler_failures"] == 1

    # It can be edited meanwhile, and is kept for the next start. Nothing new may use the scheduler.
    daemon.adm("-E", "-i", "s", "maxclients=50")
    assert served(port) == b"1"
    for edit in (("-A", "-i", "new", "-s", "by-tenant"), ("-E", "-i", "other", "-s", "by-tenant")):
        assert "no scheduler 'by-tenant'; there are: " in daemon.adm(*edit, check=False).stderr
    assert json.loads(state.read_text())["units"]["by-tenant"] == "CONNECTION"
    daemon.restart()
    assert served(port) == b"1"
    if not workers:
        before, daemon = (
            daemon,
            make_daemon(*options, "--takeover", daemon.control, control=daemon.control, python_path=(tmp_path,)),
        )
        daemon.may_log_tracebacks = before.may_have_ended = True
        daemon.start()
        assert before.wait() == 0
        assert served(port) == b"1"

    # A plugin that cannot be bound does not mend that; a good one does.
    add_plugin(tmp_path, "by-tenant", second, bind="raise OSError('no list')")
    refused = daemon.adm("--reload-schedulers", check=False)
    assert "scheduler by-tenant cannot serve s: OSError('no list')" in refused.stderr
    assert served(port) == b"1"
    add_plugin(tmp_path, "by-tenant", second, bind="pass # this one is good")
    daemon.adm("--reload-schedulers")
    assert [served(port) for _ in range(4)] == [b"2"] * 4
    wait_for(lambda: not trouble_of(status), "the end of the trouble")
    daemon.adm("-E", "-i", "other", "-s", "by-tenant")


def test_a_takeover_by_a_daemon_that_lacks_a_scheduler_is_refused(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    add_plugin(tmp_path, "mine", "return Choice(self.destinations[0], 'the first')")
    daemon, server, port = make_daemon(python_path=(tmp_path,)), serve(speak_first(b"1")), free_port()
    daemon.start()
    daemon.service("s", port, server.address, scheduler="mine")
    refused = make_daemon("--takeover", daemon.control, control=daemon.control).refused()
    assert refused.startswith("ktcpvs: the table of the running daemon: service s: no scheduler 'mine'; ")
    assert served(port) == b"1"


def test_a_start_without_a_scheduler_of_the_configuration_is_refused_with_its_place(
    make_daemon: Make, tmp_path: Path
) -> None:
    """As from a state file of a version that did not save what the scheduler chooses for."""
    text, state, config = "Virtual s {\n    scheduler = gone\n}\n", tmp_path / "state", tmp_path / "conf"
    state.write_text(json.dumps({"format": 1, "running": ["s"], "configuration": text}))
    config.write_text(text)
    for option, where in (("--state", f"{state}: configuration"), ("--config", config)):
        refused = make_daemon(option, tmp_path / option[2:].replace("config", "conf")).refused()
        assert refused.startswith(f"ktcpvs: {where}:2:17: service s: no scheduler 'gone'; there are: chash, ")
        assert refused.endswith(f", wlc, wrr (a plugin must be installed in {sys.prefix})")


KEYED = '''
from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, ISchedulerFactory, TemplateOption
from ktcpvs.schedulers.wlc import WLC


@implementer(IPlugin, ISchedulerFactory)
class Keyed:
    """Per connection: by a key."""

    name = "keyed"
    unit = CONNECTION
    options = {"by": TemplateOption(default="{client}")}

    def bind(self, service, previous):
        return WLC().bind(service, previous)


keyed = Keyed()
'''


def test_a_template_that_is_always_empty_is_refused_by_edits_and_checks(make_daemon: Make, tmp_path: Path) -> None:
    plugin = tmp_path / "twisted/plugins/ktcpvs_keyed_plugin.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(KEYED)
    daemon, config = make_daemon(python_path=(tmp_path,)), tmp_path / "conf"
    daemon.start()
    user = "{header.x-user}"
    for scheduler in (f"keyed by {user}", f"chash key {user}"):
        name, option, _ = scheduler.split()
        why = (
            f"service s: {option} {user}: scheduler {name} chooses before it reads a request; with 'scheduler = phttp' "
            f"and 'balance = {name} {option} \"{user}\"' it sees each request"
        )
        assert why in daemon.adm("-A", "-i", "s", "-s", scheduler, check=False).stderr
        config.write_text(f"Virtual s {{\n    scheduler = {name} {option} '{user}'\n}}\n".replace("'", '"'))
        for command in ("--check", "-f"):
            assert f"{config}:2:17: {why}" in daemon.adm(command, config, check=False).stderr
        daemon.adm("-A", "-i", "s", "-s", f"{name} {option} {{client}}")
        assert why in daemon.adm("-E", "-i", "s", "-s", scheduler, check=False).stderr
        of_fallback = f"service s: {option} {user} of a fallback: scheduler {name} reads no requests"
        assert of_fallback in daemon.adm("-E", "-i", "s", f"fallback={scheduler}", check=False).stderr
        of_balance = f"service s: {option} {user} of a balance: scheduler tcp reads no requests"
        assert of_balance in daemon.adm("-E", "-i", "s", "-s", "tcp", f"balance={scheduler}", check=False).stderr
        daemon.adm("-E", "-i", "s", "-s", "phttp", f"balance={scheduler}", f"fallback={scheduler}")
        daemon.adm("-D", "-i", "s")


LEARNER = '''
import json
import os

from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, EACH_REQUEST, Choice, ILearns, IScheduler, ISchedulerFactory


@implementer(IPlugin, ISchedulerFactory)
class Factory:
    """Writes what it sees."""

    name = "learner"
    unit = {unit}
    {more}

    def bind(self, service, previous):
        return Bound(service.destinations)


@implementer(IScheduler, ILearns)
class Bound:
    def __init__(self, destinations):
        self.destinations = destinations

    def choose(self, request):
        self.write(prefix=request.body_prefix.decode())
        left = [one for one in self.destinations if one not in request.tried]
        return Choice(left[0], "the first") if left else None

    def completed(self, outcome):
        labels = outcome.destination.labels
        times, moved = [outcome.first_byte, outcome.total], [outcome.bytes_in, outcome.bytes_out]
        self.write(status=outcome.status, reason=outcome.reason, labels=labels, times=times, moved=moved)

    def write(self, **seen):
        with open({log!r}, "a") as file:
            file.write(json.dumps({{"pid": os.getpid(), **seen}}) + "\\n")


factory = Factory()
'''


def add_learner(folder: Path, unit: str, more: str = "") -> Path:
    """Add the plugin, and return the file to which it writes."""
    plugins, log = folder / "twisted/plugins", folder / "seen"
    plugins.mkdir(parents=True)
    (plugins / "ktcpvs_learner_plugin.py").write_text(LEARNER.format(log=str(log), unit=unit, more=more))
    return log


def test_bodies_and_outcomes_in_workers(make_daemon: Make, tmp_path: Path) -> None:
    """curl waits for 100 before it sends its bodies, over HTTP/1.1, and sends them over HTTP/2."""
    log = add_learner(tmp_path, "EACH_REQUEST", "body_prefix = 8")
    sent = tmp_path / "sent"
    sent.write_bytes(b"0123456789" * 20_000)
    daemon = make_daemon(python_path=(tmp_path,), workers=2)
    daemon.start()
    server, port = TwistedWeb(), free_port()
    try:
        daemon.adm("-A", "-i", "s", "-s", "learner", "-l", f"{LOOPBACK}:{port}")
        daemon.adm("-a", "-i", "s", "-r", server.address, "label", "zone=a")
        daemon.adm("--start")
        url = f"http://{LOOPBACK}:{port}"
        curl = ["curl", "-sS", "--fail", "--max-time", str(TIMEOUT)]
        waits = ["-H", "Expect: 100-continue", "--expect100-timeout", str(TIMEOUT)]
        for options in (waits, ["--http2-prior-knowledge"]):
            command = [*curl, *options, "--data-binary", f"@{sent}", f"{url}/echo"]
            assert subprocess.run(command, check=True, capture_output=True).stdout == sent.read_bytes()
        for _ in range(10):
            assert subprocess.run([*curl, f"{url}/hello.txt"], check=True, capture_output=True).stdout
        wait_for(lambda: log.read_text().count('"reason"') == 12, "the outcomes", timeout=TIMEOUT)
    finally:
        server.stop()
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["prefix"] for one in seen if "prefix" in one] == ["01234567"] * 2 + [""] * 10
    outcomes = [one for one in seen if "reason" in one]
    assert [(one["status"], one["reason"], one["labels"]) for one in outcomes] == [(200, "ok", {"zone": "a"})] * 12
    assert all(0 < one["times"][0] <= one["times"][1] < TIMEOUT for one in outcomes)


def test_outcomes_of_connections_that_are_spliced(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    log = add_learner(tmp_path, "CONNECTION")
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.start()
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address, scheduler="learner", relay="splice")
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"abc")
        assert read_exactly(client, 3) == b"abc"
        wait_for(lambda: daemon.stats("s")["stats"]["relay"]["joined"]["splice"] == 1, timeout=TIMEOUT)
        client.sendall(b"defg")
        assert read_exactly(client, 4) == b"defg"
        client.shutdown(1)
        assert read_all(client) == b""
    wait_for(lambda: '"reason"' in log.read_text(), "the outcome", timeout=TIMEOUT)
    (seen,) = (found for line in log.read_text().splitlines() if "reason" in (found := json.loads(line)))
    assert (seen["reason"], seen["moved"]) == ("ok", [7, 7])
    assert 0 < seen["times"][0] < seen["times"][1] < TIMEOUT


def test_a_scheduler_that_is_too_slow_is_counted_and_the_fallback_chooses(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    slow = "import time; time.sleep(0.02); return Choice(self.destinations[0], 'slow')"
    add_plugin(tmp_path, "slow", slow)
    daemon = make_daemon(python_path=(tmp_path,))
    daemon.start()
    server, port = serve(speak_first(b"1")), free_port()
    daemon.service("s", port, server.address, scheduler="slow", choose_budget="1")
    daemon.adm("--set", "choose_overruns=3")
    assert [served(port) for _ in range(6)] == [b"1"] * 6
    assert daemon.stats("s")["stats"]["choose_overruns"] == 3, "then the fallback has chosen"
    assert "choose_budget exceeded: 3 times" in daemon.adm("--stats").stdout
    daemon.wait_for_log("scheduler of service s was too slow 3 times in a row: the fallback chooses for 30 s")
    daemon.adm("-E", "-i", "s", "choose_budget=0")
    assert [served(port) for _ in range(3)] == [b"1"] * 3
    assert daemon.stats("s")["stats"]["choose_overruns"] == 3


VERSIONED = '''
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, Choice, IntegerOption, IScheduler, ISchedulerFactory


@implementer(ISchedulerFactory)
class Placed:
    """Per connection: the server at one place."""

    name = "placed"
    unit = CONNECTION
    options = {"place": IntegerOption(default=1, minimum=1, maximum=9, help="of the server, from 1")}

    def bind(self, service, previous):
        return BoundPlaced(service, 0 if previous is None else previous.bindings)


@implementer(IScheduler)
class BoundPlaced:
    def __init__(self, service, bindings):
        self.bindings = bindings + 1
        self.place = service.options["place"]
        self.destinations = service.destinations

    def choose(self, request):
        return Choice(self.destinations[self.place - 1], f"VERSION, bound {self.bindings} times")
'''


UNLOADABLE = {
    "while True: pass": "the plugins are not loaded within 10 s: they are at {file}:{line} in <module>",
    "import os; os._exit(0)": "loading the plugins ends the process: status 0",
    "import os; os._exit(4)": "loading the plugins ends the process: status 4",
    "import os; os.kill(os.getpid(), 11)": "loading the plugins ends the process: signal SIGSEGV",
    "bytes(4 << 30)": "{file}:{line}: MemoryError: : plugins may take 2048 MiB",
    "raise SystemExit(0)": "{file}:{line}: SystemExit: 0",
}


def install_placed(site: Path) -> Path:
    """Install the scheduler `placed` by an entry point; return its file."""
    info = site / "placed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: placed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ktcpvs.schedulers]\nplaced = placed_scheduler:Placed\n")
    file = site / "placed_scheduler.py"
    file.write_text(VERSIONED)
    return file


def test_a_scheduler_takes_options_and_is_loaded_again_in_all_workers(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    file = install_placed(tmp_path)
    daemon = make_daemon("--workers", "2", python_path=(tmp_path,))
    daemon.start()
    one, two, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.service("s", port, one.address, two.address, scheduler="placed place 2")
    assert {served(port) for _ in range(8)} == {b"2"}
    assert "scheduler = placed place 2\n" in daemon.adm("--save").stdout
    refused = daemon.adm("-E", "-i", "s", "-s", "placed plaec 1", check=False)
    assert "service s: scheduler = placed plaec 1: this scheduler has no option 'plaec'; did you mean 'place'?" in (
        refused.stderr
    )
    daemon.adm("-E", "-i", "s", "-s", "placed place 1")
    assert {served(port) for _ in range(8)} == {b"1"}
    assert "VERSION, bound 3 times" in daemon.adm("--explain", "-i", "s").stdout, "once for this, by previous"
    shown = daemon.adm("--schedulers", "-v").stdout
    assert "entry point placed of placed 1.0" in shown
    assert re.search(r"^placed +place +integer 1\.\.9 +1 +of the server, from 1$", shown, re.MULTILINE)

    same = (
        "warning: the Python files of placed are the same as those in use; if you have edited the source, run "
        "'pip install .' first; after a reload that was refused, the files of before are back\n"
    )
    reloaded = daemon.adm("--reload-schedulers", "placed")
    assert reloaded.stderr.endswith(same)
    assert reloaded.stdout == (
        f"placed: loaded again from {file}, unchanged since it was loaded before\nservices bound anew: s\n"
    )
    daemon.wait_for_log(
        "from placed_scheduler, whose Python files are the same as those in use before; services bound anew: s"
    )

    file.write_text(VERSIONED.replace("self.place - 1", "-self.place").replace("VERSION", "the other way round"))
    reloaded = daemon.adm("--reload-schedulers", "placed")
    assert (reloaded.stdout, reloaded.stderr) == (
        f"placed: loaded again from {file}\nservices bound anew: s\n",
        "",
    )
    assert {served(port) for _ in range(8)} == {b"2"}
    assert "the other way round, bound 5 times" in daemon.adm("--explain", "-i", "s").stdout
    daemon.wait_for_log("schedulers placed are loaded again from placed_scheduler; services bound anew: s")

    file.write_text(f"{VERSIONED}\n1 / 0\n")
    refused = daemon.adm("--reload-schedulers", check=False)
    assert refused.returncode == 1
    line = len(VERSIONED.splitlines()) + 2
    assert f"{file}:{line}: ZeroDivisionError: division by zero; what was loaded before stays in use" in refused.stderr
    assert {served(port) for _ in range(8)} == {b"2"}
    file.write_text(VERSIONED.replace("def choose", "def chooses"))
    refused = daemon.adm("--reload-schedulers", check=False)
    assert "service s: scheduler placed: its bind returned BoundPlaced, which has no method choose(request)" in (
        refused.stderr
    )
    file.write_text(VERSIONED.replace('"place":', '"position":'))
    refused = daemon.adm("--reload-schedulers", check=False)
    assert "service s: scheduler = placed place 1: this scheduler has no option 'place'" in refused.stderr
    assert {served(port) for _ in range(8)} == {b"2"}
    daemon.wait_until_empty()


@pytest.mark.slow
def test_a_plugin_that_would_hold_up_or_end_the_daemon_is_not_loaded_again(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    file = install_placed(tmp_path)
    daemon = make_daemon("--workers", "2", python_path=(tmp_path,))
    daemon.start()
    one, two, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.service("s", port, one.address, two.address, scheduler="placed place 2")
    workers, descriptors = daemon.workers(), os.listdir(f"/proc/{daemon.pid}/fd")
    line = len(VERSIONED.splitlines()) + 2
    for broken, why in UNLOADABLE.items():
        file.write_text(f"{VERSIONED}\n{broken}\n")
        refused = daemon.adm("--reload-schedulers", check=False)
        assert why.format(file=file, line=line) in refused.stderr
        assert "; what was loaded before stays in use" in refused.stderr
        assert {served(port) for _ in range(8)} == {b"2"}
    assert daemon.workers() == workers
    wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= len(descriptors), "the descriptors to be closed")
    file.write_text(f"{VERSIONED}\nKEPT = open(__file__)\n")
    for _ in range(3):
        daemon.adm("--reload-schedulers")
    assert {served(port) for _ in range(8)} == {b"2"}
    for pid in (daemon.pid, *daemon.workers()):
        links = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()]
        assert links.count(str(file)) == 1, "the modules of before are gone, with what they had open"


LOOPING = VERSIONED.replace(
    "return Choice", "if request.client == '127.0.0.9':\n            while True: pass\n        return Choice"
)


@pytest.mark.starts
def test_a_scheduler_that_loops_for_ever_is_named_and_its_worker_replaced(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    file = install_placed(tmp_path)
    file.write_text(LOOPING)
    daemon = make_daemon("--workers", "2", python_path=(tmp_path,))
    daemon.start()
    one, port = serve(speak_first(b"1")), free_port()
    daemon.service("s", port, one.address, scheduler="placed")
    daemon.set(worker_timeout=4)
    line = LOOPING[: LOOPING.index("while True")].count("\n") + 1
    with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.9", 0)):
        daemon.wait_for_log(f" s: it is at {file}:{line} in choose, called by ")
        daemon.wait_for_log("is killed: it has not responded for 4 s")
    daemon.wait_until_workers_serve()
    assert {served(port) for _ in range(8)} == {b"1"}
