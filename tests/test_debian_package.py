"""The Debian package: built, examined, installed on a machine with systemd, used, upgraded under load, and purged.

KTCPVS_PACKAGE=FILE examines that package and builds none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import systemd_machine
from servers import wait_for
from systemd_machine import Machine

ROOT = Path(__file__).parent.parent
NEXT = "99.1"
"""The version of the newer package."""

SITE = """
Virtual web {
    listen = 127.0.0.1:80
    scheduler = phttp
    access_log = /var/log/ktcpvs/web.log
    server = 127.0.0.1:8081
    rule = pattern ".*" use server 127.0.0.1:8081
}
"""

REQUESTS = """
while [ ! -e /tmp/end ]; do
    curl --silent --fail --max-time 20 http://127.0.0.1/ >/dev/null || echo $? >>/tmp/failures
    echo >>/tmp/requests
done
"""

_absent = [name for name in ("dh", "dpkg-buildpackage", "fakeroot", "adduser") if shutil.which(name) is None]
_why_not = f"not installed: {', '.join(_absent)}" if _absent else systemd_machine.missing()

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.together,
    pytest.mark.skipif(_why_not is not None, reason=_why_not or ""),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this source."""
    if os.environ.get("KTCPVS_PACKAGE"):
        return Path(os.environ["KTCPVS_PACKAGE"]).resolve()
    folder = tmp_path_factory.mktemp("package")
    build = subprocess.run([ROOT / "docs/tools/build_deb", folder], capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (made,) = folder.glob("*.deb")
    return made


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package as version NEXT."""
    folder = tmp_path_factory.mktemp("newer")
    content = folder / "content"
    subprocess.run(["dpkg-deb", "-R", package, content], check=True)
    (version,) = content.glob("usr/lib/ktcpvs/lib/python3*/site-packages/ktcpvs/_version.py")
    for file, pattern, text in (
        (content / "DEBIAN/control", r"^Version: .*", f"Version: {NEXT}"),
        (version, r"^__version__ = .*", f'__version__ = "{NEXT}"'),
    ):
        file.write_text(re.sub(pattern, text, file.read_text(), flags=re.MULTILINE))
    made = folder / "newer.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", content, made], check=True, capture_output=True)
    return made


def field(package: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", package, name], capture_output=True, text=True, check=True).stdout.strip()


def install(machine: Machine, package: Path) -> None:
    machine.copy(package, "/package.deb")
    machine.run("dpkg", "-i", "/package.deb")


@pytest.fixture(scope="module")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which the package was installed, with a server at 127.0.0.1:8081."""
    with systemd_machine.running(tmp_path_factory.mktemp("machine")) as machine:
        install(machine, package)
        machine.run("mkdir", "/srv/site")
        machine.write("/srv/site/index.html", "from the server\n")
        server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/srv/site", "8081"]
        machine.start(*server)
        wait_for(lambda: machine.tried("curl", "-sf", "http://127.0.0.1:8081/").returncode == 0)
        machine.write("/etc/ktcpvs/conf.d/web.conf", SITE)
        machine.run("tcpvsadm", "--check", "/etc/ktcpvs/ktcpvs.conf")
        machine.run("systemctl", "reload", "ktcpvs")
        wait_for(lambda: serves(machine))
        yield machine


def serves(machine: Machine) -> bool:
    return machine.tried("curl", "-sf", "http://127.0.0.1/").stdout == "from the server\n"


def main_process(machine: Machine) -> int:
    return int(machine.run("systemctl", "show", "--value", "-p", "MainPID", "ktcpvs"))


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_no_error(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", package], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_service_runs_with_one_right_and_as_its_user(machine: Machine) -> None:
    assert machine.run("systemctl", "is-enabled", "ktcpvs").strip() == "enabled"
    status = machine.run("cat", f"/proc/{main_process(machine)}/status")
    user = machine.run("id", "-u", "ktcpvs").strip()
    assert re.search(r"^Uid:\t(.*)$", status, re.MULTILINE)[1].split() == [user] * 4  # type: ignore[index]
    assert re.search(r"^CapEff:\t0*400$", status, re.MULTILINE), status  # CAP_NET_BIND_SERVICE
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE), status


def test_the_unit_is_valid_and_confined(machine: Machine) -> None:
    assert machine.tried("systemd-analyze", "verify", "ktcpvs.service").stderr == ""
    unit = "/lib/systemd/system/ktcpvs.service"
    machine.run("systemd-analyze", "security", "--offline=true", "--threshold=18", unit)


def test_the_unit_confines_the_daemon_as_the_example_does() -> None:
    """The package has other folders and options of its own, and only those may differ."""
    example = (ROOT / "docs/examples/systemd/ktcpvs.service").read_text()
    packaged = (ROOT / "debian/ktcpvs.service").read_text()

    def confinement(text: str) -> list[str]:
        return re.findall(
            r"^(?:\w+Capabilit|Protect|Private|Restrict|System|NoNew|Lock|Memory|UMask|Remove).*", text, re.M
        )

    assert confinement(packaged) == confinement(example)
    assert len(confinement(packaged)) > 20


def test_the_version_names_the_commit(package: Path) -> None:
    """Whatever letters of a version of a beta the commit has in it."""
    version = field(package, "Version")
    for text, expected in (
        ("1.2", "1.2"),
        ("1.2rc1", "1.2~rc1"),
        ("0.1.dev1341+gedbdc04b1", "0.1~dev1341+gedbdc04b1"),
        ("1.2b1.dev3+g1a2b3c4.d20261127", "1.2~b1~dev3+g1a2b3c4.d20261127"),
        (version.replace("~dev", ".dev").replace("~", ""), version),
    ):
        done = subprocess.run([ROOT / "docs/tools/debian_version", text], capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}\n"


def test_every_document_that_a_document_links_to_is_in_the_package(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    folder = tmp_path / "usr/share/doc/ktcpvs"
    links = [
        (path, target)
        for path in folder.rglob("*.md")
        for target in re.findall(
            r"\]\(([^)#\s]+)[^)]*\)", re.sub("^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
        )
        if not target.startswith("https://")
    ]
    assert len({path for path, _ in links}) > 20
    missing = [f"{path.relative_to(folder)}: {target}" for path, target in links if not (path.parent / target).exists()]
    assert missing == []
    for name in ("monitoring/alerts.yml", "ktcpvs-random/setup.cfg", "cookbook/canary.conf", "systemd/ktcpvs.socket"):
        assert (folder / "examples" / name).exists()


def test_commands_and_pages_are_where_people_look(machine: Machine, package: Path) -> None:
    version = (
        field(package, "Version").replace("~", ".", 1)
        if "~dev" in field(package, "Version")
        else field(package, "Version")
    )
    assert machine.run("tcpvsadm", "--version") == f"tcpvsadm {version}\n"
    assert "server = 127.0.0.1:8081" in machine.run("tcpvsadm", "-Ln")
    for page in ("ktcpvs.8", "tcpvsadm.8", "ktcpvs.conf.5"):
        machine.run("test", "-s", f"/usr/share/man/man{page[-1]}/{page}.gz")
    for shell in ("bash-completion/completions/", "zsh/vendor-completions/_"):
        for program in ("ktcpvs", "tcpvsadm"):
            machine.run("test", "-s", f"/usr/share/{shell}{program}")
    compiled = "from ktcpvs.http import fast_path; from ktcpvs.streams import compiled, tls_operations; "
    compiled += "print(fast_path.IS_COMPILED, compiled.IS_COMPILED, tls_operations.IS_COMPILED)"
    assert machine.run("/usr/lib/ktcpvs/bin/python3", "-c", compiled) == "True True True\n"


def test_nothing_names_the_folder_of_the_build(machine: Machine) -> None:
    done = machine.tried("grep", "-rlI", "debian/ktcpvs", "/usr/lib/ktcpvs", "/usr/sbin/ktcpvs", "/usr/sbin/tcpvsadm")
    assert (done.returncode, done.stdout) == (1, "")


def test_the_log_rotates_and_no_line_is_lost(machine: Machine) -> None:
    machine.tried("curl", "-s", "http://127.0.0.1/before")
    wait_for(lambda: "GET /before" in machine.run("cat", "/var/log/ktcpvs/web.log"))
    machine.run("logrotate", "--force", "/etc/logrotate.d/ktcpvs")
    machine.tried("curl", "-s", "http://127.0.0.1/after")
    wait_for(lambda: "GET /after" in machine.tried("cat", "/var/log/ktcpvs/web.log").stdout)
    assert "GET /before" in machine.run("cat", "/var/log/ktcpvs/web.log.1")
    assert machine.run("stat", "-c", "%U %a", "/var/log/ktcpvs/web.log") == "ktcpvs 600\n"


def test_further_options_are_read_from_the_default_file(machine: Machine) -> None:
    machine.write("/etc/default/ktcpvs", 'OPTIONS="--status tcp:9109 --state /var/lib/ktcpvs/state"\n')
    machine.run("systemctl", "restart", "ktcpvs")
    assert machine.run("curl", "-sf", "http://127.0.0.1:9109/ready")
    assert machine.run("stat", "-c", "%U %a", "/var/lib/ktcpvs/state") == "ktcpvs 600\n"
    assert serves(machine)


def test_an_upgrade_keeps_the_configuration_and_loses_no_request(machine: Machine, newer: Path) -> None:
    machine.run("sed", "-i", "1i # Edited.", "/etc/ktcpvs/ktcpvs.conf")
    before = main_process(machine)
    client = machine.start("sh", "-c", REQUESTS)
    wait_for(lambda: machine.tried("test", "-s", "/tmp/requests").returncode == 0)
    install(machine, newer)
    wait_for(lambda: main_process(machine) != before, 60)
    wait_for(lambda: f"version {NEXT}" in machine.tried("tcpvsadm", "-L").stdout, 60)
    machine.run("touch", "/tmp/end")
    client.wait(60)
    assert machine.tried("cat", "/tmp/failures").stdout == ""
    assert len(machine.run("cat", "/tmp/requests")) > 10
    assert machine.run("systemctl", "is-active", "ktcpvs") == "active\n"
    assert machine.run("head", "-1", "/etc/ktcpvs/ktcpvs.conf") == "# Edited.\n"
    assert serves(machine)
    # The unit's restart is still one.
    machine.run("systemctl", "restart", "ktcpvs")
    assert serves(machine)


def test_a_purge_leaves_nothing(package: Path, tmp_path: Path) -> None:
    with systemd_machine.running(tmp_path) as machine:

        def found() -> set[str]:
            places = ("/etc", "/usr", "/var", "/lib/systemd", "/run", "/tmp")
            return set(machine.tried("find", *places, "-xdev", "-name", "*ktcpvs*").stdout.splitlines())

        before = found()
        install(machine, package)
        assert machine.run("systemctl", "is-active", "ktcpvs") == "active\n"
        machine.run("tcpvsadm", "-L")
        machine.run("dpkg", "--remove", "ktcpvs")
        assert machine.tried("systemctl", "is-active", "ktcpvs").returncode != 0
        machine.run("test", "-e", "/etc/ktcpvs/ktcpvs.conf")
        machine.run("test", "!", "-e", "/usr/lib/ktcpvs")
        machine.run("dpkg", "--purge", "ktcpvs")
        assert found() - before == set()
        assert machine.tried("id", "ktcpvs").returncode != 0
