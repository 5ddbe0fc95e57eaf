"""Play the example of KTCPVS' README with three web servers and a switch on loopback.

`make demo` runs until Ctrl-C; `make demo ONESHOT=1` checks each step and exits with 0 or 1.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from demonstration import BIN, Demonstration, free_port, run_until_interrupted, running

PATHS = {"/images/cat.txt": "r1", "/html/page.txt": "r2", "/about.txt": "r3"}
"""Path -> the server that the example's rules choose for it."""


class Demo(Demonstration):
    """Three web servers, and one switch."""

    def adm(self, *arguments: str) -> None:
        """Run one tcpvsadm command and print its output."""
        status, _ = self.run_tcpvsadm((), arguments)
        self.failures += status != 0

    def servers(self) -> list[str]:
        """Start three web servers with the same paths, each with its own name in every response."""
        addresses = []
        for name in ("r1", "r2", "r3"):
            root = self.folder / name
            for path in PATHS:
                file = root / path[1:]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{path} from {name}\n")
            addresses.append(self.start_web_server(name))
            print(f"{name} is {addresses[-1]}")
        return addresses

    def request_all(self, url: str) -> None:
        """Request every path and check which server responds."""
        for path, server in PATHS.items():
            with urllib.request.urlopen(url + path, timeout=10) as response:
                body = response.read().decode()
            right = body == f"{path} from {server}\n"
            print(f"$ curl {url}{path}\n{body}", end="")
            self.check(right, f"{server} should have responded")

    def play(self, addresses: list[str]) -> str:
        """Play the example. Returns the URL of the service."""
        r1, r2, r3 = addresses
        url = f"127.0.0.1:{free_port(8080)}"
        file = self.folder / "ktcpvs.conf"
        self.say("A virtual service, three real servers, three rules:")
        self.adm("-A", "-i", "http", "-s", "http")
        for address in addresses:
            self.adm("-a", "-i", "http", "-r", address)
        self.adm("--add-rule", "-i", "http", "--pattern=/images/.*", "-r", r1)
        self.adm("--add-rule", "-i", "http", "--pattern=/html/.*", "-r", r2)
        self.adm("--add-rule", "-i", "http", "--pattern=.*", "-r", r3)
        self.say("This demonstration stays on loopback (the default is 0.0.0.0:8080):")
        self.adm("-E", "-i", "http", "-l", url)
        self.say("The table now:")
        self.adm("--list")
        self.say("Save it to a file, load the file, flush, load it again:")
        saved = subprocess.run([BIN / "tcpvsadm", "--save"], capture_output=True, text=True, check=True).stdout
        file.write_text(saved)
        print(f"$ tcpvsadm --save > {file.name}")
        self.adm("-f", str(file))
        self.adm("-F")
        self.adm("-f", str(file))
        self.say("Start the service and send requests:")
        self.adm("--start", "-i", "http")
        self.request_all(f"http://{url}")
        self.adm("--list", "--stats", "-n")
        self.say("Stop the service:")
        self.adm("--stop", "-i", "http")
        try:
            urllib.request.urlopen(f"http://{url}/", timeout=5)
            self.check(False, "the service still responds")
        except OSError:
            print("Connection refused, as it must be.")
        return f"http://{url}"


def main() -> int:
    oneshot = "--oneshot" in sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ktcpvs-demo-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        control = folder / "control.sock"
        os.environ["KTCPVS_CONTROL"] = f"unix:{control}"
        demo = Demo(folder, stack)
        demo.say("Three web servers and the switch:")
        addresses = demo.servers()
        log = folder / "ktcpvs.log"
        print(f"$ ktcpvs --control unix:{control}")
        daemon = stack.enter_context(running(str(BIN / "ktcpvs"), "--control", f"unix:{control}", log=log))
        if demo.run_tcpvsadm((), ("--wait-ready",))[0]:
            print(log.read_text(), file=sys.stderr)
            return 1
        url = demo.play(addresses)
        if oneshot:
            print("\nEvery step succeeded." if not demo.failures else f"\n{demo.failures} steps failed.")
            if demo.failures:
                print(log.read_text(), file=sys.stderr)
            return min(demo.failures, 1)
        demo.say("Start it again for you:")
        demo.adm("--start", "-i", "http")
        print(f"\nOpen {url}/images/cat.txt, {url}/html/page.txt or {url}/about.txt")
        print(f"and try tcpvsadm yourself: export KTCPVS_CONTROL=unix:{control}; {BIN}/tcpvsadm --list")
        print("Ctrl-C ends everything.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            daemon.wait()
    print("\nEnded.")
    return 0


if __name__ == "__main__":
    run_until_interrupted(main)
