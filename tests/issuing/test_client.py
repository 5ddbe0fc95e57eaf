"""The conversation with a real CA, pebble: accounts, refusals, and what is said when nothing can be reached."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from pebble import EAB_KEY, EAB_KID, NameServer, Pebble
from servers import LOOPBACK, free_port

from ktcpvs.acme.client import CA, Accounts, ACMEClient, renewal_identifier
from ktcpvs.acme.problems import ACMEProblem
from ktcpvs.acme.store import CertificateFolder

pytestmark = pytest.mark.together


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """It requires an external account."""
    folder = tmp_path_factory.mktemp("ca")
    with contextlib.ExitStack() as stack:
        names = NameServer(folder)
        stack.callback(names.stop)
        server = Pebble(folder, names.http_port, free_port(), names.port, needs_account=True)
        stack.callback(server.stop)
        yield server


def client(ca: CA, folder: Path) -> ACMEClient:
    store = CertificateFolder(str(folder / "state.acme"))
    return ACMEClient(ca, Accounts(store.load_account, store.save_account, store.delete_account), time.time)


def ca(pebble: Pebble, **more: str) -> CA:
    return CA(pebble.directory, authorities=str(pebble.ca), **more)


def why_not(one: CA, folder: Path) -> str:
    with pytest.raises(ACMEProblem) as problem:
        client(one, folder).new_order(["a.example"])
    assert problem.value.is_of_ca
    return str(problem.value)


def test_an_external_account_is_bound_once(pebble: Pebble, tmp_path: Path) -> None:
    key = tmp_path / "eab.key"
    key.write_text(f"{EAB_KEY}\n")
    bound = ca(pebble, eab_kid=EAB_KID, eab_key=str(key), email="admin@example.com")
    first = client(bound, tmp_path)
    order = first.new_order(["b.example", "a.example", "::1"])
    assert {first.authorization(url, ["http-01"]).challenge.name for url in first.look(order).authorizations} == {  # type: ignore[union-attr]
        "a.example",
        "b.example",
        "::1",
    }
    key.unlink()  # it is needed for a new account only
    assert client(bound, tmp_path).look(order).state == "pending"


def test_what_is_missing_for_an_account_is_named(pebble: Pebble, tmp_path: Path) -> None:
    assert why_not(ca(pebble), tmp_path) == (
        "the CA requires an external account: set acme_eab_kid and acme_eab_key, which it has given to you"
    )
    missing = ca(pebble, eab_kid=EAB_KID, eab_key="/nowhere/eab.key")
    assert why_not(missing, tmp_path) == "acme_eab_key: /nowhere/eab.key: No such file or directory"
    assert why_not(ca(pebble, eab_kid=EAB_KID), tmp_path) == "acme_eab_key: no file is named: No such file or directory"
    bad = tmp_path / "bad.key"
    bad.write_text("*")
    unknown = ca(pebble, eab_kid="kid-9", eab_key=str(bad))
    assert why_not(unknown, tmp_path).startswith(("acme_eab_key: ", "the field 'kid'", "unknown "))


def test_a_directory_that_cannot_be_used_is_named(pebble: Pebble, tmp_path: Path) -> None:
    assert why_not(CA(pebble.directory), tmp_path).startswith(f"{pebble.directory}: its certificate is not trusted: ")
    closed = f"https://{LOOPBACK}:{free_port()}/dir"
    assert why_not(CA(closed), tmp_path) == f"{closed}: Connection refused"
    other = pebble.directory.replace("/dir", "/nothing")
    assert why_not(CA(other, authorities=str(pebble.ca)), tmp_path).startswith(f"{other}: unexpected response: ")
    lost = why_not(CA(pebble.directory, authorities="/nowhere/ca.pem"), tmp_path)
    assert lost == "acme_ca: /nowhere/ca.pem: No such file or directory"


def test_the_identifier_of_a_certificate(tmp_path: Path) -> None:
    """The parts are the key identifier of the CA and the serial number, as DER has them (RFC 9773 section 4.1)."""
    import base64

    from cryptography import x509

    pem = Authority(tmp_path).daemon("a.example").read_text()
    certificate = x509.load_pem_x509_certificate(pem.encode())
    key, serial = (base64.urlsafe_b64decode(part + "==") for part in renewal_identifier(pem).split("."))
    assert int.from_bytes(serial, "big") == certificate.serial_number
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key == found
    assert serial[0] < 128, "the sign is that of a positive number"
