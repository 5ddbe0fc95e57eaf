"""The container image: built, run without root and with a read-only file system, asked for its health, and stopped.

KTCPVS_IMAGE=NAME examines that image and builds none; KTCPVS_BASE=NAME builds it on that image. CONTAINERS is the
program that runs it, perhaps with options, as in CONTAINERS="podman --runtime runc"; else docker or podman.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from servers import wait_for

ROOT = Path(__file__).parent.parent

SITE = """
Virtual web {
    listen = 127.0.0.1:8080
    scheduler = phttp
    server = 127.0.0.1:8081
    rule = pattern ".*" use respond 200 "from the switch"
}
"""

FETCH = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8080/').read().decode())"
EXTRAS = "import acme, google.protobuf, OpenSSL, treq"


def _containers() -> list[str]:
    """The program that runs containers, with its options; empty: there is none that works."""
    named = os.environ.get("CONTAINERS", "").split()
    for command in [named] if named else [["docker"], ["podman"]]:
        if shutil.which(command[0]) and subprocess.run([*command, "info"], capture_output=True).returncode == 0:
            return command
    return []


CONTAINERS = _containers()

_given = any(os.environ.get(name) for name in ("KTCPVS_IMAGE", "KTCPVS_BASE", "CONTAINERS"))
_why_not = "neither docker with its daemon nor podman works" if not CONTAINERS else ""
if not (_why_not or _given or os.environ.get("CI")):
    _why_not = "it would fetch an image: KTCPVS_BASE=NAME builds on one that is here, KTCPVS_IMAGE=NAME examines one"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.together,
    pytest.mark.skipif(_why_not != "", reason=_why_not),
]


def run(*words: str, check: bool = True) -> str:
    """Run a command of the container program; return what it prints."""
    done = subprocess.run([*CONTAINERS, *words], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """The name of the image of this source."""
    if os.environ.get("KTCPVS_IMAGE"):
        return os.environ["KTCPVS_IMAGE"]
    base = os.environ.get("KTCPVS_BASE", "")
    environment = {**os.environ, "BUILDER": CONTAINERS[0], "BASE": base}
    build = subprocess.run([ROOT / "docs/tools/build_image"], capture_output=True, text=True, env=environment)
    assert build.returncode == 0, build.stdout + build.stderr
    return build.stdout.split()[2]  # "docker builds ktcpvs:1.2.0 ..."


@pytest.fixture(scope="module")
def container(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of the image, without any right, and with a file system that it cannot write."""
    file = tmp_path_factory.mktemp("container") / "ktcpvs.conf"
    file.write_text(SITE)
    file.chmod(0o644)
    for folder in (file.parent, *file.parent.parents[:2]):
        folder.chmod(0o755)
    # Docker makes /run a part of the image; podman makes it a copy of that in memory.
    tmpfs = ["--tmpfs", "/run/ktcpvs:uid=8080,gid=8080"] if CONTAINERS[0] == "docker" else []
    name = f"ktcpvs-{token_hex(4)}"
    options = ["--read-only", *tmpfs, "--cap-drop", "ALL", "--network", "none"]
    options += ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    run("run", "--detach", "--name", name, *options, "--volume", f"{file}:/etc/ktcpvs/ktcpvs.conf:ro", image)
    try:
        yield name
    finally:
        run("rm", "--force", name, check=False)


def test_it_becomes_healthy(container: str) -> None:
    """The check of the image itself, in the container."""
    (state,) = json.loads(run("inspect", container))
    check = state["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"

    def is_healthy() -> bool:
        return subprocess.run([*CONTAINERS, "exec", container, *check[1:]], capture_output=True).returncode == 0

    wait_for(is_healthy, lambda: run("logs", container), timeout=60)


def test_it_serves_without_root(container: str) -> None:
    wait_for(lambda: run("exec", container, "tcpvsadm", "--list", check=False), lambda: run("logs", container))
    assert "# running" in run("exec", container, "tcpvsadm", "--list")
    assert run("exec", container, "python3", "-c", FETCH) == "from the switch\n"
    status = run("exec", container, "cat", "/proc/1/status")
    assert "Uid:\t8080\t8080\t8080\t8080" in status
    assert "CapEff:\t0000000000000000" in status


def test_it_has_the_extras_and_the_compiled_code(container: str) -> None:
    code = f"{EXTRAS}; from ktcpvs.http import fast_path; from ktcpvs.streams import compiled, tls_operations; "
    code += "print(fast_path.IS_COMPILED, compiled.IS_COMPILED, tls_operations.IS_COMPILED)"
    assert run("exec", container, "/opt/ktcpvs/bin/python3", "-c", code) == "True True True\n"


def test_it_loads_its_file_again_and_ends_in_order(container: str) -> None:
    run("exec", container, "tcpvsadm", "--set", "read_timeout=7")
    run("kill", "--signal", "HUP", container)
    wait_for(lambda: "read_timeout = 7" not in run("exec", container, "tcpvsadm", "--list"), "the file")
    run("stop", "--time", "30", container)
    (state,) = json.loads(run("inspect", container))
    assert state["State"]["ExitCode"] == 0, run("logs", container)
