"""Files of CAs are checked before they are used."""

from __future__ import annotations

from pathlib import Path

import pytest
from authority import Authority

from ktcpvs.errors import BadValue
from ktcpvs.system.authorities import check_authorities


def test_a_file_of_authorities_must_be_usable(tmp_path: Path) -> None:
    check_authorities(Authority(tmp_path, "one").pem, "acme_ca")
    other = tmp_path / "other"
    with pytest.raises(BadValue, match=f"^acme_ca = {other}: No such file or directory$"):
        check_authorities(str(other), "acme_ca")
    other.write_text("nothing")
    with pytest.raises(BadValue, match=f"^acme_ca = {other}: the file has no certificate in PEM$"):
        check_authorities(str(other), "acme_ca")
