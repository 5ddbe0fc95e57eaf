"""A machine for tests of packages: a copy of this one in namespaces, with systemd as its first process.

Its root is an overlay over that of this machine, so what is installed there is gone with it. Its network is a loopback
device of its own, so its programs may listen on any port. It needs root, and the programs of util-linux, iproute2 and
systemd.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

LIMIT = 300.0
"""Seconds until the machine must have started, and until a command in it must have ended: dpkg compiles all modules."""

BOOT = """
set -e
folder=$1
mount --make-rprivate /
mount -t tmpfs none "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
cd "$folder/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$folder/upper",workdir="$folder/work" .
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 none dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=1777 none tmp
for place in $2; do
    [ -d sys/fs/cgroup/systemd ] || mount -t tmpfs -o mode=755 none sys/fs/cgroup
    case $place in
        */systemd/*)
            mkdir -p sys/fs/cgroup/systemd
            mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
            ;;
        */unified/*) mkdir -p sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 sys/fs/cgroup/unified ;;
        *) mount -t cgroup2 cgroup2 sys/fs/cgroup ;;
    esac
done
# Services of this machine that have no business in the other one; what its systemd mounts by itself is not needed.
for unit in dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount tmp.mount \\
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount systemd-udevd.service systemd-timesyncd.service; do
    ln -sf /dev/null etc/systemd/system/$unit
done
printf '[Unit]\\nDefaultDependencies=no\\nWants=systemd-journald.service\\n' > etc/systemd/system/machine.target
rm -f usr/sbin/policy-rc.d
ip link set lo up
exec chroot . /usr/bin/env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --system --unit=machine.target --show-status=no
"""

ENTER = """
for place in $2; do echo $$ >"$place/cgroup.procs"; done
exec unshare -mpnCuif --kill-child sh -c "$3" sh "$1" "$2"
"""

_numbers = itertools.count(1)


def missing() -> str | None:
    """Return why this machine cannot hold another one, or None."""
    if os.geteuid() != 0:
        return "root is needed for namespaces"
    programs = ("unshare", "nsenter", "ip", "dpkg", "systemctl")
    absent = [name for name in programs if shutil.which(name) is None]
    if absent or not Path("/lib/systemd/systemd").exists():
        return f"not installed: {', '.join(absent) or 'systemd'}"
    if subprocess.run(["unshare", "-mpnCuif", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        return "this machine allows no namespaces"
    return None


class Machine:
    """A running machine."""

    def __init__(self, folder: Path, first: int) -> None:
        """first: the process that is systemd there, as this machine numbers it."""
        self._enter = ["nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", "-C", "chroot", str(folder / "root")]
        self.started: list[subprocess.Popen[bytes]] = []
        self._enter += ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]

    def tried(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return subprocess.run([*self._enter, *command], capture_output=True, text=True, input=stdin, timeout=LIMIT)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command there that succeeds, and return its output."""
        done = self.tried(*command, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program there. It ends with the machine, at the latest."""
        program = subprocess.Popen([*self._enter, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.started.append(program)
        return program

    def write(self, path: str, text: str) -> None:
        self.run("tee", path, stdin=text)

    def copy(self, file: Path, path: str) -> None:
        """Copy a file of this machine to that path there."""
        with file.open("rb") as content:
            subprocess.run([*self._enter, "tee", path], stdin=content, stdout=subprocess.DEVNULL, check=True)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Machine]:
    """Run a machine whose root is below that empty folder. Everything of it ends with the context."""
    # systemd gets a control group of its own in each hierarchy that it uses, so that it leaves none behind.
    hierarchies = [path for name in ("systemd", "unified") if (path := Path("/sys/fs/cgroup") / name).is_dir()]
    name = f"ktcpvs-test-{os.getpid()}-{next(_numbers)}"
    groups = [path / name for path in hierarchies or [Path("/sys/fs/cgroup")]]
    for group in groups:
        group.mkdir()
    launched = subprocess.Popen(["sh", "-c", ENTER, "sh", folder, " ".join(map(str, groups)), BOOT])
    machine = None
    try:
        children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children")
        end = time.monotonic() + LIMIT
        while machine is None or machine.tried("systemctl", "is-system-running").stdout.strip() not in (
            "running",
            "degraded",
        ):
            assert launched.poll() is None, "the machine ended while it started"
            assert time.monotonic() < end, "the machine does not start"
            time.sleep(0.2)
            first = children.read_text().split()
            if first and Path(f"/proc/{first[0]}/comm").read_text().strip() == "systemd":
                machine = Machine(folder, int(first[0]))
        yield machine
    finally:
        launched.send_signal(signal.SIGKILL)
        launched.wait(LIMIT)
        for program in machine.started if machine is not None else ():
            program.wait(LIMIT)
        for group in groups:
            _remove(group)


def _remove(group: Path) -> None:
    """Remove a control group, as soon as its last process has ended."""
    end = time.monotonic() + LIMIT
    while group.exists():
        with contextlib.suppress(OSError):
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
        assert time.monotonic() < end, f"{group} has processes"
        time.sleep(0.02)
