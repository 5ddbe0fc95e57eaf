"""Finding the files that a configuration includes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktcpvs.errors import NoConfiguration
from ktcpvs.system.included_files import find_included


def test_a_pattern_is_relative_to_the_including_file(tmp_path: Path) -> None:
    folder = tmp_path / "[odd] *"
    (folder / "conf.d").mkdir(parents=True)
    for name in ("20.conf", "10.conf", ".hidden.conf", "x.txt"):
        (folder / "conf.d" / name).write_text("")
    source = str(folder / "main.conf")
    assert find_included("conf.d/*.conf", source) == [str(folder / "conf.d" / name) for name in ("10.conf", "20.conf")]
    assert find_included(str(tmp_path / "none*"), source) == []
    assert find_included("missing.conf", source) == [str(folder / "missing.conf")]
    assert find_included("/etc/x.conf", source) == ["/etc/x.conf"]


def test_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.conf").write_text("")
    assert find_included("*.conf", "main") == ["a.conf"]


@pytest.mark.parametrize("pattern", ["", "a\0b", "a\nb"])
def test_a_name_that_is_none(pattern: str) -> None:
    with pytest.raises(NoConfiguration, match="expected the name of a file"):
        find_included(pattern, "main")


def test_a_file_whose_name_cannot_be_shown(tmp_path: Path) -> None:
    (tmp_path / "a\nb.conf").write_text("")
    with pytest.raises(NoConfiguration, match=r"cannot stand in messages: rename the file"):
        find_included("*.conf", str(tmp_path / "main"))
