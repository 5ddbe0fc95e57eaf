"""Examines HTTP/2 of a running daemon with h2spec: `make h2spec`.

h2spec (github.com/summerwind/h2spec) is not packaged by Debian. Its source builds there with the packages golang-go,
golang-golang-x-net-dev, golang-github-fatih-color-dev and golang-github-spf13-cobra-dev. `H2SPEC` names the program, if
it is not in the PATH. Three listeners of a daemon with default settings are examined, with the strict cases too: one by
TLS, one without, and one without whose clients must speak HTTP/2 (`http2 = only`). A case that fails is a failure,
except those that say nothing about the switch. Exits with 1 then. Options of h2spec choose cases, for example
`http2/6.5`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

from attrs import frozen

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from authority import SERVER, Authority  # noqa: E402
from e2e.harness import ControlThread, Daemon  # noqa: E402
from servers import LOOPBACK, Nginx, free_port  # noqa: E402

NAME = "localhost"
PATIENCE = 300
"""Seconds that h2spec may take."""

NOT_OURS = {
    # Where a client may speak HTTP/1 too, it does until the preface has come: its bad request gets 400 in HTTP/1.
    ("without TLS", "http2/3.5", "Sends invalid connection preface"),
}
"""Cases that may fail, by listener, section and title."""


@frozen
class Case:
    """A case of h2spec. listener: where it was examined. problem: what is wrong; "": it has passed."""

    listener: str
    section: str
    title: str
    problem: str = ""

    @property
    def is_ours(self) -> bool:
        return (self.listener, self.section, self.title) not in NOT_OURS


def read_report(report: Path, listener: str) -> list[Case]:
    """Return the cases in a report of h2spec, which has the form of JUnit. Raises SystemExit for one without cases."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((one for one in case if one.tag in ("failure", "error")), None)
        text = "" if problem is None else (" ".join((problem.text or "").split()) or problem.tag)
        found.append(Case(listener, case.attrib["package"], case.attrib["classname"], text))
    if not found:
        raise SystemExit(f"h2spec has examined nothing {listener}")
    return found


def failures(cases: Iterable[Case]) -> list[str]:
    """A line for each case that has failed and is about the switch."""
    return [
        f"{one.listener}: {one.section}: {one.title}: {one.problem}" for one in cases if one.problem and one.is_ours
    ]


def examine(program: str, listener: str, port: int, report: Path, *options: str) -> list[Case]:
    """Run h2spec; return its cases. Raises SystemExit when it did not finish."""
    report.unlink(missing_ok=True)
    words = [program, "--strict", "--host", NAME, "--port", str(port), "--junit-report", str(report), *options]
    done = subprocess.run(words, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    if not report.exists():
        raise SystemExit(f"h2spec has not finished (exit code {done.returncode})")
    return read_report(report, listener)


def main() -> int:
    program = os.environ.get("H2SPEC") or shutil.which("h2spec")
    if program is None:
        print("h2spec is not installed; H2SPEC=/PATH/h2spec names it (tests/h2spec.py says how to build it)")
        return 1
    with tempfile.TemporaryDirectory(prefix="ktcpvs-h2spec-") as name, ExitStack() as stack:
        folder, port, tls_port, only = Path(name), free_port(), free_port(), free_port()
        pem = Authority(folder).issue("site", NAME, purposes=(SERVER,))
        nginx = Nginx("behind", folder)
        stack.callback(nginx.stop)
        thread = ControlThread()
        stack.callback(thread.stop)
        config = folder / "site.conf"
        listen = f"listen = {LOOPBACK}:{port} listen = {LOOPBACK}:{tls_port} tls certificate = {pem}"
        serve = f'server = {nginx.address} rule = pattern ".*" use server {nginx.address}'
        services = [f"Virtual site {{ {listen} scheduler = phttp {serve} }}\n"]
        services += [f"Virtual only {{ listen = {LOOPBACK}:{only} scheduler = phttp http2 = only {serve} }}\n"]
        config.write_text("".join(services))
        daemon = Daemon(thread, folder, "--config", config, tls=True)
        stack.callback(daemon.finish)
        daemon.start()
        report, options = folder / "report.xml", sys.argv[1:]
        cases = examine(program, "without TLS", port, report, *options)
        cases += examine(program, "without TLS, http2 = only", only, report, *options)
        cases += examine(program, "by TLS", tls_port, report, "--tls", "--insecure", *options)
    wrong = failures(cases)
    for line in wrong:
        print(line)
    excused = sum(1 for one in cases if one.problem and not one.is_ours)
    print(f"{len(cases)} cases of h2spec, {len(wrong)} failed, {excused} of HTTP/1")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
