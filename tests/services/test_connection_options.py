"""Options of connections to servers: names, files, and the refusals that name them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tls_peers import authority

from ktcpvs.errors import NoTLS
from ktcpvs.model.expansion import expanded
from ktcpvs.model.language.parser import parse
from ktcpvs.model.scheduling import EACH_REQUEST
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.services.connection_options import connection_options
from ktcpvs.streams.connector import ConnectionOptions
from ktcpvs.system.tls_contexts import ClientContexts


def service(*servers: str, found: dict[str, tuple[str, ...]] | None = None) -> VirtualService:
    """Return a service with these servers as it runs. found: the addresses of host names."""
    lines = "\n".join(f"server = {server}" for server in servers)
    table = parse(f"Virtual web {{ listen = 127.0.0.1:80\n{lines}\n}}").apply(Table())
    return expanded(table, found or {}).services["web"]


def options(config: VirtualService, contexts: ClientContexts | None = None) -> dict[str, ConnectionOptions]:
    found = connection_options(config, EACH_REQUEST, contexts or ClientContexts())
    return {str(address): one for address, one in found.items()}


def name(server: str, found: dict[str, tuple[str, ...]] | None = None) -> str | None:
    (made,) = options(service(server, found=found)).values()
    assert made.tls is not None
    return made.tls.name


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("app.example:443 1 tls", "app.example"),
        ("app.example.:443 1 tls", "app.example"),
        ("10.0.0.1:443 1 tls", "10.0.0.1"),
        ("[fe80::1%eth0]:443 1 tls", "fe80::1"),
        ("10.0.0.1:443 1 tls name app.internal", "app.internal"),
        ("app.example:443 1 tls verify off name app.internal.", "app.internal"),
        ("unix:/run/app.sock 1 tls name app.internal", "app.internal"),
        ("unix:/run/app.sock 1 tls verify off", None),
    ],
)
def test_the_name_to_verify(server: str, expected: str | None) -> None:
    assert name(server) == expected


def test_the_name_of_a_server_that_was_looked_up() -> None:
    found = {"app.example": ("10.0.0.1", "10.0.0.2")}
    made = options(service("app.example:443 1 tls", found=found))
    assert {address: one.tls and one.tls.name for address, one in made.items()} == {
        "10.0.0.1:443": "app.example",
        "10.0.0.2:443": "app.example",
    }


def test_plain_servers_have_none() -> None:
    made = options(service("10.0.0.1:80", "10.0.0.2:80 1 proxy v1", "10.0.0.3:80 1 tls proxy v2"))
    assert {address: (one.tls is not None, one.proxy) for address, one in made.items()} == {
        "10.0.0.2:80": (False, "v1"),
        "10.0.0.3:80": (True, "v2"),
    }


def test_servers_with_the_same_files_share_a_context(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority().pem.read_bytes())
    reads: list[str] = []

    def read(path: str) -> str:
        reads.append(path)
        return Path(path).read_text()

    config = service(*(f"10.0.0.{number}:443 1 tls ca {ca} name s{number}" for number in range(1, 9)))
    contexts = ClientContexts(read)
    made = options(config, contexts)
    assert len({one.tls.context for one in made.values() if one.tls}) == 1
    assert reads == [str(ca)]
    assert options(config, contexts) == made


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("tls ca /nowhere/ca.pem", "ca /nowhere/ca.pem: No such file or directory"),
        ("tls ca /etc", "ca /etc: Is a directory"),
        ("tls ca /dev/null", "ca /dev/null: not a regular file"),
        ("tls cert /nowhere/own.pem", "cert /nowhere/own.pem: No such file or directory"),
        ("tls ca {empty}", "ca {empty}: no certificate in PEM, or an unreadable one"),
        ("tls cert {ca}", "cert {ca}: no certificate with its key in PEM"),
        (
            "tls cert {mixed}",
            "cert {mixed}: no certificate with its key in PEM, or one that cannot be used: key values",
        ),
    ],
)
def test_a_file_that_cannot_be_used(words: str, reason: str, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("empty", "mixed")} | {"ca": authority().pem}
    files["empty"].touch()
    own, other = (authority().issue(name).read_text() for name in ("one", "other"))
    files["mixed"].write_text(
        own.partition("-----BEGIN PRIVATE")[0] + "".join(other.partition("-----BEGIN PRIVATE")[1:])
    )
    config = service(f"10.0.0.1:443 1 {words.format(**files)}")
    with pytest.raises(NoTLS) as caught:
        options(config)
    expected = f"service web: server = 10.0.0.1:443: {reason.format(**files)}"
    assert str(caught.value).startswith(expected)


def test_a_unix_socket_needs_a_name() -> None:
    with pytest.raises(
        NoTLS, match=r"^service web: server = unix:/run/app\.sock: missing name, .*\(example: tls name "
    ):
        options(service("unix:/run/app.sock 1 tls"))
