"""Examines the TLS of a running daemon with Debian's testssl.sh: `make testssl`.

The daemon has default settings, one certificate of ECDSA and one of RSA, and an HTTP server behind it. Clients without
a server name get a certificate too, since some of the tests send none. A finding above "low" is a failure, except the
few that say nothing about the switch. Exits with 1 then. Options of testssl.sh choose tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from authority import SERVER, Authority  # noqa: E402
from e2e.harness import ControlThread, Daemon  # noqa: E402
from servers import LOOPBACK, Nginx, free_port  # noqa: E402

NAME = "localhost"
PATIENCE = 900
"""Seconds that testssl.sh may take."""

BAD = ("MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN")
"""Severities that fail; WARN: something could not be examined."""

NOT_OURS = (
    # The CA of this program publishes no revocations.
    ("cert_revocation", "Neither CRL nor OCSP URI provided"),
    # Without it, testssl.sh sends the hellos with those ciphers itself.
    ("engine_problem", "No engine or GOST support"),
    # The site behind the switch decides about them, and this one sends none.
    ("security_headers", "--"),
)
"""Findings that say nothing about the switch: the identifier, without the number of a certificate behind it, and the
beginning of the text. Another text with the same identifier is a failure."""


REPEATED = {"sessionresumption_ticket": "-S"}
"""Findings -> the option for their test, which is repeated where it could not be made (WARN). On a busy machine openssl
s_client, without input, leaves before its ticket has come, and testssl.sh takes that for a connect problem."""


def tests_to_repeat(findings: Iterable[dict[str, Any]]) -> list[str]:
    """The options for tests that could not be made, and that may succeed a second time."""
    return sorted({REPEATED[one["id"]] for one in findings if one["severity"] == "WARN" and one["id"] in REPEATED})


def failures(findings: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each finding above "low" that is about the switch."""
    return [
        f"{finding['severity']}: {finding['id']}: {finding['finding']}"
        for finding in findings
        if finding["severity"] in BAD and not _is_not_ours(finding)
    ]


def _is_not_ours(finding: dict[str, Any]) -> bool:
    name, text = finding["id"].split(" ")[0], finding["finding"]
    return any(name == known and text.startswith(begin) for known, begin in NOT_OURS)


def examine(port: int, folder: Path, ca: Path, *tests: str) -> list[dict[str, Any]]:
    """Run testssl.sh; return its findings. tests: its options for some tests, such as `-R`; none: all.

    Raises SystemExit when it did not finish.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    words = ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--ip", LOOPBACK, "--add-ca", str(ca), *tests]
    done = subprocess.run([*words, "--jsonfile", str(report), f"{NAME}:{port}"], timeout=PATIENCE)
    found: list[dict[str, Any]] = json.loads(report.read_text()) if report.exists() else []
    if not any(finding["id"] == "scanTime" for finding in found):
        raise SystemExit(f"testssl.sh has not finished (exit code {done.returncode})")
    return found


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ktcpvs-testssl-") as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        authority = Authority(folder)
        pems = [
            authority.issue(f"site-{kind}", NAME, purposes=(SERVER,), kind=kind, ends=90) for kind in ("ECDSA", "RSA")
        ]
        nginx = Nginx("behind", folder)
        stack.callback(nginx.stop)
        thread = ControlThread()
        stack.callback(thread.stop)
        config = folder / "site.conf"
        certificates = " ".join(f"certificate = {pem}" for pem in pems) + f" tls_default = {pems[0]}"
        listen, server = f"listen = {LOOPBACK}:{port} tls", f"server = {nginx.address}"
        config.write_text(f"Virtual site {{ {listen} {certificates} scheduler = phttp {server} }}\n")
        daemon = Daemon(thread, folder, "--config", config, tls=True)
        stack.callback(daemon.finish)
        daemon.start()
        found = examine(port, folder, authority.pem, *sys.argv[1:])
        if options := tests_to_repeat(found):
            found = [one for one in found if one["id"] not in REPEATED]
            found += examine(port, folder, authority.pem, *options)
    wrong = failures(found)
    for line in wrong:
        print(line)
    print(f"{len(found)} findings of testssl.sh, {len(wrong)} of them above low")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
