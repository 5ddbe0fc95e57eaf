"""The file of --cluster-secret: what is read, and what is refused, in one line."""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from ktcpvs.cluster.secret_file import HOW_TO_MAKE, read_secret_file
from ktcpvs.errors import NoConfiguration

FIRST, SECOND = bytes(range(32)), bytes(range(100, 132))


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        b64encode(FIRST).decode(),
        FIRST.hex() + "\n",
        FIRST.hex().upper() + "\r\n\n",
        f"{FIRST.hex()}\n{b64encode(SECOND).decode()}\n",
    ],
)
def test_secrets_in_base64_and_hexadecimal(tmp_path: Path, text: str) -> None:
    sealed = read_secret_file(write(tmp_path / "a", FIRST.hex())).seal("name", b"value")
    assert read_secret_file(write(tmp_path / "b", text, 0o400)).open("name", sealed) == b"value"


def test_the_first_secret_seals_and_both_open(tmp_path: Path) -> None:
    both = read_secret_file(write(tmp_path / "both", f"{FIRST.hex()}\n{SECOND.hex()}\n"))
    first, second = (read_secret_file(write(tmp_path / "one", one.hex())) for one in (FIRST, SECOND))
    assert first.open("name", both.seal("name", b"value")) == b"value"
    assert both.open("name", second.seal("name", b"value")) == b"value"


def test_the_command_that_messages_name_makes_such_a_file(tmp_path: Path) -> None:
    path = tmp_path / "made"
    subprocess.run(["sh", "-c", HOW_TO_MAKE.format(path=path)], check=True)
    sealer = read_secret_file(str(path))
    assert sealer.open("name", sealer.seal("name", b"value")) == b"value"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty; make one with (umask 077; "),
        ("\n\n", "it is empty"),
        (
            FIRST[:31].hex(),
            ":1: expected 32 random bytes, in base64 or as 64 digits of hexadecimal; make a file with (",
        ),
        (FIRST.hex() + "00", ":1: expected 32 random bytes"),
        ("correct horse battery staple", ":1: expected 32 random bytes"),
        ("\xff" * 44, ":1: expected 32 random bytes"),
        (f"{FIRST.hex()}\nshort\n", ":2: expected 32 random bytes"),
        (f"{FIRST.hex()}\n" * 3, "it has 3 lines; expected one secret, or the new one and then the one before"),
    ],
)
def test_what_is_no_secret(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path / "secret", text)
    with pytest.raises(NoConfiguration) as refused:
        read_secret_file(path)
    said = str(refused.value)
    assert said.startswith(f"--cluster-secret {path}")
    assert why in said
    assert "\n" not in said
    assert FIRST.hex()[:20] not in said  # what may be a secret is not shown
    assert "horse" not in said


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o666])
def test_a_file_that_others_can_read_or_change(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "secret", FIRST.hex(), mode)
    with pytest.raises(NoConfiguration, match=f"others may read or change it .mode {mode:o}.; try: chmod 600 {path}"):
        read_secret_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_group_may_read_only_a_file_of_root(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", FIRST.hex(), 0o640)
    read_secret_file(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(NoConfiguration, match="it belongs to user 12345; expected this user or root"):
        read_secret_file(path)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoConfiguration, match=r"No such file or directory; make one with \(umask 077; .* > .*/none\)$"):
        read_secret_file(str(tmp_path / "none"))
    with pytest.raises(NoConfiguration, match="directory"):
        read_secret_file(str(tmp_path))
