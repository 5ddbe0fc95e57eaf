"""Names of certificates of ACME, and the settings about the CA."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue
from ktcpvs.model.acme import MAX_NAMES, directory_url, is_acme, names_of, read_certificate
from ktcpvs.model.settings import Settings
from ktcpvs.model.tls_files import CERTIFICATE, ISSUED, TLSFile, certificate_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("acme a.example", "acme a.example"),
        ("ACME  A.Example.   b.example", "acme a.example b.example"),
        ("acme localhost xn--bcher-kva.example", "acme localhost xn--bcher-kva.example"),
        ("acme 10.0.0.1 [2001:DB8::1]", "acme 10.0.0.1 2001:db8::1"),
        ("/etc/ssl/a b.pem", "/etc/ssl/a b.pem"),
        ("acme/a.pem", "acme/a.pem"),
        ("", ""),
    ],
)
def test_what_is_read(text, value):
    assert read_certificate(text) == value == read_certificate(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("acme", "acme: missing host names (example: certificate = acme www.example.com example.com)"),
        ("acme *.a.example", "acme *.a.example: a wildcard needs a challenge over DNS, which ktcpvs does not have"),
        ("acme bücher.example", "acme bücher.example: write names in their ASCII form"),
        ("acme a.example A.example.", "acme: a.example appears a second time"),
        ("acme a..example", "acme a..example: expected a host name (example: www.example.com) or an IP address"),
        ("acme -a.example", "acme -a.example: expected a host name"),
        ("acme 10.0.0.256", "acme 10.0.0.256: expected a host name"),
        ("acme https://a.example/", "acme https://a.example/: expected a host name"),
        ("acme " + "a" * 64 + ".example", "acme aaaa"),
        ("acme " + " ".join(f"n{n}.example" for n in range(101)), "acme: 101 names; one certificate has at most 100"),
    ],
)
def test_what_is_refused(text, why):
    with pytest.raises(BadValue) as refusal:
        read_certificate(text)
    assert str(refusal.value).startswith(why)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        value = read_certificate(f"acme {text}")
    except BadValue:
        return
    assert is_acme(value)
    assert value.isascii()
    assert 0 < len(names_of(value)) <= MAX_NAMES
    assert read_certificate(value) == value


def test_the_file_of_a_certificate():
    assert certificate_file("acme a.example") == TLSFile(ISSUED, "acme a.example")
    assert certificate_file("/acme a") == TLSFile(CERTIFICATE, "/acme a")


def test_two_directories_have_names():
    assert directory_url("letsencrypt") == "https://acme-v02.api.letsencrypt.org/directory"
    assert "staging" in directory_url("letsencrypt-staging")
    assert directory_url("https://ca.example/dir") == "https://ca.example/dir"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("acme_directory", "lets-encrypt", "expected letsencrypt, letsencrypt-staging, or the https:// URL"),
        ("acme_directory", "http://ca.example/dir", "expected letsencrypt, letsencrypt-staging, or the https:// URL"),
        ("acme_directory", "", "expected letsencrypt"),
        ("acme_email", "admin", "expected one address (example: admin@example.com), or nothing"),
        ("acme_email", "a@b.example,c@d.example", "expected one address"),
        ("acme_ca", "ca.pem", "expected the absolute path of a file, or nothing"),
        ("acme_eab_key", "secret", "expected the absolute path of a file, or nothing"),
        ("acme_eab_kid", "a b", "expected a word without white space"),
        ("acme_challenge", "dns-01", "expected one of auto, http-01, tls-alpn-01"),
    ],
)
def test_settings_that_are_refused(name, value, why):
    with pytest.raises(BadValue) as refusal:
        Settings().changed({name: value})
    assert str(refusal.value).startswith(f"{name} = {value}: {why}")
