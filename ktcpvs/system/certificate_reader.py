"""A process that reads the files of TLS for a daemon that has dropped its privileges.

Private keys belong to root. `--user` leaves the daemon no right to read them, neither at the start nor after a renewal.
So before it drops its privileges it starts this process, which keeps one capability: to read every file. It answers two
questions about a path, and gives away only what is a certificate with its key, or CAs. It ends with the last process
that may ask it.

The link is a socket of messages (unix(7), SOCK_SEQPACKET), which several processes can use at a time: a daemon hands it
to the one that takes over. Each message carries the socket on which the answer is sent.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from ktcpvs.errors import CannotDrop, NoTLS
from ktcpvs.model.tls_files import USES, TLSFile
from ktcpvs.system.privileges import Identity, become, permitted, prctl
from ktcpvs.system.tls_files import Contents, OwnAccess, decode, encode

MAX_MESSAGE_BYTES = 65536
"""The longest question."""

FILES_PER_MESSAGE = 4
"""The most files of one question: with the longest paths, escaped for JSON, they fit into a message."""

ANSWER_TIMEOUT = 30.0
"""Seconds within which the reader must answer, and within which its answer must be read."""

_READ_ALL: tuple[Mapping[str, int], ...] = ({"CAP_DAC_READ_SEARCH": 2}, {"CAP_DAC_OVERRIDE": 1})
"""The capabilities with which a process may read every file, by linux/capability.h; it keeps the first one that it has.
The second one, with which it may write too, is the one that containers have by default."""

_DUMPABLE = 4
"""From linux/prctl.h."""

_READ, _FINGERPRINTS = "read", "fingerprints"

_CODE = "import sys; from ktcpvs.system.certificate_reader import run; run(*sys.argv[1:])"


class CertificateReader:
    """The link to such a process. Provides FileAccess."""

    def __init__(self, link: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        """process: None: another process has started it."""
        link.settimeout(ANSWER_TIMEOUT)
        self._link = link
        self._process = process

    @classmethod
    def start(cls, user: Identity) -> CertificateReader | None:
        """Start a process that may read what this one may. user: whose processes ask it. None: this process may not
        read more than `user`, or nothing that reads certificates is installed. Raises CannotDrop."""
        if os.geteuid() != 0 or not _reading_capability() or find_spec("cryptography") is None:
            return None
        program = [sys.executable, "-P", "-c", _CODE, user.name, str(user.uid), str(user.gid)]
        environment = {**os.environ, "PYTHONPATH": ":".join(path or os.getcwd() for path in sys.path)}
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with its:
                process = subprocess.Popen(program, stdin=its.fileno(), env=environment, cwd="/")
        except OSError as error:
            ours.close()
            raise CannotDrop(f"--user {user.name}: cannot start {program[0]}: {error.strerror}") from None
        return cls(ours, process)

    def fileno(self) -> int:
        """The descriptor of the link, which a daemon that takes over gets."""
        return self._link.fileno()

    def read(self, file: TLSFile) -> Contents:
        answer = self._ask(_READ, [file])
        if "error" in answer:
            raise NoTLS(str(answer["error"]))
        return decode(answer["contents"])

    def fingerprints(self, files: Sequence[TLSFile]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(files), FILES_PER_MESSAGE):
            some = files[start : start + FILES_PER_MESSAGE]
            with suppress(NoTLS):  # reading them says why
                found += self._ask(_FINGERPRINTS, some).get("fingerprints", ())
            found += [""] * (start + len(some) - len(found))
        return found

    def _ask(self, question: str, files: Sequence[TLSFile]) -> dict[str, Any]:
        """Return the answer. Raises NoTLS."""
        message = json.dumps([question, [(file.use, file.path) for file in files]]).encode("ascii")
        ours, its = socket.socketpair()
        with ours, its:
            ours.settimeout(ANSWER_TIMEOUT)
            try:
                socket.send_fds(self._link, [message], [its.fileno()])
                its.close()
                pieces = []
                while piece := ours.recv(1 << 20):
                    pieces.append(piece)
            except OSError as error:
                pieces = []
                why = error.strerror or "no answer in time"
            else:
                why = "it has ended"
        if not pieces:
            raise NoTLS(
                f"{files[0].path}: the process that reads it with root's rights does not answer ({why}): restart ktcpvs"
            )
        answer: dict[str, Any] = json.loads(b"".join(pieces))
        return answer

    def close(self) -> None:
        """Ask no more; the process ends when no other daemon may ask it."""
        self._link.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ANSWER_TIMEOUT)


def _reading_capability() -> Mapping[str, int]:
    """The capability to keep; empty: this process may not read every file."""
    has = permitted()
    return next((one for one in _READ_ALL if all(has >> number & 1 for number in one.values())), {})


# The process that reads.


def run(name: str, uid: str, gid: str) -> None:
    """Answer questions until nobody can ask any more. The arguments are those of the user whose processes ask."""
    # A terminal, or a service manager that ends the daemon, sends these to all of its processes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        become(Identity(name, int(uid), int(gid)), kept=_reading_capability())
    except CannotDrop:  # the daemon fails in the same way, and says so
        sys.exit(1)
    prctl(_DUMPABLE, 0)
    answer_all(socket.socket(fileno=0), OwnAccess())


def answer_all(link: socket.socket, access: OwnAccess) -> None:
    """Answer each question that comes over the link, until its other end is closed everywhere."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, MAX_MESSAGE_BYTES, 8)
        answers = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not message:
            return
        for answer in answers:
            with answer, suppress(OSError):  # whoever has asked waits no longer
                answer.settimeout(ANSWER_TIMEOUT)
                answer.sendall(json.dumps(_answer(message, access)).encode("ascii"))


def _answer(message: bytes, access: OwnAccess) -> dict[str, Any]:
    try:
        question, named = json.loads(message)
        files = [TLSFile(use, path) for use, path in named]
        if not all(file.use in USES and file.path.startswith("/") for file in files):
            return {"error": "not a file of TLS"}
        if question == _FINGERPRINTS:
            return {"fingerprints": access.fingerprints(files)}
        return {"contents": encode(access.read(files[0]))}
    except NoTLS as error:
        return {"error": str(error)}
    except Exception as error:  # one file does not keep others from being read
        return {"error": f"internal error: {error!r}"}
