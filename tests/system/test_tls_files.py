"""The files of TLS as data: what is read from them, how they travel to other processes, and when they have changed."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from pathlib import Path

import pytest
from authority import Authority

from ktcpvs.errors import NoTLS
from ktcpvs.model.tls_files import AUTHORITIES, CERTIFICATE, CLIENT_CERTIFICATE, TLSFile
from ktcpvs.system.tls_files import Authorities, OwnAccess, Validity, decode, encode, validities

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
ACCESS = OwnAccess()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_contents_travel_as_json(authority: Authority, tmp_path: Path) -> None:
    several = tmp_path / "several"
    several.mkdir()
    for name in "ab":
        shutil.copy(authority.daemon(name, f"{name}.example", "127.0.0.1"), several / f"{name}.pem")
    for file in (
        TLSFile(CERTIFICATE, str(several)),
        TLSFile(AUTHORITIES, str(authority.pem)),
        TLSFile(CLIENT_CERTIFICATE, str(authority.issue("switch"))),
    ):
        contents = ACCESS.read(file)
        assert contents
        assert decode(json.loads(json.dumps(encode(contents)))) == contents
    assert decode(json.loads(json.dumps(encode(())))) == ()


def test_authorities(authority: Authority, tmp_path: Path) -> None:
    found = ACCESS.read(TLSFile(AUTHORITIES, str(authority.pem)))
    assert isinstance(found, Authorities)
    assert (found.count, found.subject, found.pem) == (1, "ca", authority.pem.read_text())
    both = tmp_path / "both.pem"
    both.write_bytes(authority.pem.read_bytes() + Authority(tmp_path, "second").pem.read_bytes())
    read = ACCESS.read(TLSFile(AUTHORITIES, str(both)))
    assert isinstance(read, Authorities)
    assert read.count == 2
    both.write_text("none")
    with pytest.raises(NoTLS, match=f"^{both}: no certificate in PEM, or an unreadable one$"):
        ACCESS.read(TLSFile(AUTHORITIES, str(both)))


def test_keys_do_not_appear_in_a_log(authority: Authority) -> None:
    for file in (
        TLSFile(CERTIFICATE, str(authority.daemon())),
        TLSFile(CLIENT_CERTIFICATE, str(authority.issue("switch"))),
    ):
        assert "PRIVATE" not in repr(ACCESS.read(file))


def fingerprint(path: Path) -> str:
    (found,) = ACCESS.fingerprints([TLSFile(CERTIFICATE, str(path))])
    return found


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "site.pem"
    seen = [fingerprint(file)]

    def has_changed() -> bool:
        seen.append(fingerprint(file))
        return seen[-1] != seen[-2]

    assert not has_changed()
    file.write_text("one")
    assert has_changed()
    assert not has_changed()
    os.utime(file, (1, 1))
    assert has_changed()
    beside = tmp_path / "new"
    beside.write_text("two")
    os.utime(beside, (1, 1))
    beside.rename(file)
    assert has_changed()
    file.unlink()
    assert has_changed()


def test_a_fingerprint_of_a_folder_counts_what_its_links_lead_to(tmp_path: Path) -> None:
    """certbot replaces links in its folder, and never the folder itself."""
    archive, live = tmp_path / "archive", tmp_path / "live"
    archive.mkdir()
    live.mkdir()
    for number in "12":
        (archive / f"privkey{number}.pem").write_text(number)
    (live / "privkey.pem").symlink_to(archive / "privkey1.pem")
    before = fingerprint(live)
    (live / "README").write_text("no certificate")
    assert fingerprint(live) == before
    (live / "privkey.new").symlink_to(archive / "privkey2.pem")
    (live / "privkey.new").rename(live / "privkey.pem")
    after = fingerprint(live)
    assert after != before
    (archive / "privkey2.pem").write_text("22")
    assert fingerprint(live) != after
    (live / "other.pem").write_text("")
    assert len({fingerprint(live), after, before}) == 3


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (-10, 90, ""),
        (-66, 34, ""),
        (-67, 33, "expires on 2030-02-03 00:00 UTC: it is not renewed, and less than a third of its lifetime is left"),
        (-100, -1, "expired on 2029-12-31 00:00 UTC"),
        (1, 100, "is not valid before 2030-01-02 00:00 UTC"),
        (-1, -1, "expired on 2029-12-31 00:00 UTC"),
    ],
)
def test_warnings(begins: int, ends: int, said: str) -> None:
    validity = Validity("/a.pem", "a.example", NOW + begins * DAY, NOW + ends * DAY)
    assert validity.warning(NOW) == (said and f"/a.pem: the certificate of a.example {said}")
    assert 0 <= validity.share_left(NOW) <= 1


def test_validities(authority: Authority) -> None:
    file = TLSFile(CERTIFICATE, str(authority.daemon("site", begins=-3, ends=7)))
    (found,) = validities(file, ACCESS.read(file))
    assert (found.file, found.subject) == (file.path, "site")
    assert found.share_left(found.not_before) == 1
    assert found.share_left(found.not_after) == 0
    cas = TLSFile(AUTHORITIES, str(authority.pem))
    assert [one.subject for one in validities(cas, ACCESS.read(cas))] == ["ca"]
    assert validities(cas, Authorities("", 0)) == []
