"""The process that reads certificates with rights that the daemon has given up: what it answers and what not."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority

from ktcpvs.errors import NoTLS
from ktcpvs.model.tls_files import AUTHORITIES, CERTIFICATE, CLIENT_CERTIFICATE, TLSFile
from ktcpvs.system.certificate_reader import FILES_PER_MESSAGE, MAX_MESSAGE_BYTES, CertificateReader, answer_all
from ktcpvs.system.privileges import Identity
from ktcpvs.system.tls_files import OwnAccess

OWN = OwnAccess()


class Reading:
    """A thread that answers as the process does. link: to ask it."""

    def __init__(self) -> None:
        self.link, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=answer_all, args=(its, OWN))
        self._its = its
        self._thread.start()

    def ask(self, message: bytes) -> dict[str, Any]:
        """Ask whatever a hostile process might."""
        ours, its = socket.socketpair()
        with ours, its:
            ours.settimeout(10)
            socket.send_fds(self.link, [message], [its.fileno()])
            its.close()
            data = b""
            while piece := ours.recv(65536):
                data += piece
        answer: dict[str, Any] = json.loads(data)
        return answer

    def close(self) -> None:
        """The last process that may ask has ended."""
        self.link.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._its.close()


@pytest.fixture
def reading() -> Iterator[Reading]:
    one = Reading()
    yield one
    one.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_it_reads_what_the_process_itself_would(reading: Reading, authority: Authority) -> None:
    reader = CertificateReader(reading.link)
    files = [
        TLSFile(CERTIFICATE, str(authority.daemon("site", "a.example"))),
        TLSFile(CLIENT_CERTIFICATE, str(authority.issue("switch"))),
        TLSFile(AUTHORITIES, str(authority.pem)),
    ]
    for file in files:
        assert reader.read(file) == OWN.read(file)
    many = files * FILES_PER_MESSAGE
    assert reader.fingerprints(many) == OWN.fingerprints(many)
    missing = TLSFile(CERTIFICATE, str(authority.folder / "missing.pem"))
    with pytest.raises(NoTLS, match=f"^{missing.path}: No such file or directory$"):
        reader.read(missing)
    assert reader.fingerprints([missing]) == OWN.fingerprints([missing])


def test_the_longest_paths_fit(reading: Reading) -> None:
    reader = CertificateReader(reading.link)
    files = [TLSFile(CERTIFICATE, "/" + "🙂" * 1023)] * FILES_PER_MESSAGE
    assert reader.fingerprints(files) == OWN.fingerprints(files)


def test_a_folder_of_many_certificates(reading: Reading, authority: Authority) -> None:
    folder = authority.folder / "many"
    folder.mkdir()
    pem = authority.daemon("site", "a.example").read_bytes()
    for number in range(200):
        (folder / f"{number}.pem").write_bytes(pem)
    found = CertificateReader(reading.link).read(TLSFile(CERTIFICATE, str(folder)))
    assert len(found) == 200  # type: ignore[arg-type]


def test_it_gives_away_nothing_but_certificates(reading: Reading, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root:$y$j9T$secret:19000:0:99999:7:::\n")
    for use in CERTIFICATE, CLIENT_CERTIFICATE, AUTHORITIES:
        answer = reading.ask(json.dumps(["read", [[use, str(secret)]]]).encode())
        assert list(answer) == ["error"]
        assert "secret" not in answer["error"].replace(str(secret), "")


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"[]",
        b"null",
        b'["read", []]',
        b'["read", [["certificate", "relative.pem"]]]',
        b'["read", [["password", "/etc/shadow"]]]',
        b'["read", [["certificate", 7]]]',
        b'["read", [["certificate", "/a\\u0000b"]]]',
        b'["fingerprints", [["certificate", "/a\\u0000b"]]]',
        b"[" * 5000,
        b"x" * (MAX_MESSAGE_BYTES + 1),
    ],
    ids=range(11),
)
def test_questions_that_make_no_sense(reading: Reading, authority: Authority, message: bytes) -> None:
    assert list(reading.ask(message)) == ["error"]
    file = TLSFile(CERTIFICATE, str(authority.daemon()))
    assert CertificateReader(reading.link).read(file) == OWN.read(file), "it still answers"


def test_a_process_that_does_not_wait_for_its_answer(reading: Reading, authority: Authority) -> None:
    ours, its = socket.socketpair()
    ours.close()
    file = TLSFile(CERTIFICATE, str(authority.daemon()))
    socket.send_fds(reading.link, [json.dumps(["read", [[file.use, file.path]]]).encode()], [its.fileno()])
    its.close()
    reading.link.send(b"no socket for the answer")
    assert CertificateReader(reading.link).read(file) == OWN.read(file)


def test_it_has_ended() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.close()
    reader = CertificateReader(ours)
    with pytest.raises(NoTLS, match=r"^/a\.pem: the process that reads it with root's rights does not answer"):
        reader.read(TLSFile(CERTIFICATE, "/a.pem"))
    assert reader.fingerprints([TLSFile(CERTIFICATE, "/a.pem")] * 9) == [""] * 9
    reader.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may start it")
def test_only_root_starts_it() -> None:
    assert CertificateReader.start(Identity("me", os.getuid(), os.getgid())) is None
