"""The state file: it always contains either the old table or the new one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.errors import BadConfiguration, CannotSave, NoConfiguration
from ktcpvs.model import edits
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.state import StateFile

KEY = b"k" * 32

TEXT = """global { read_timeout = 17 }
Virtual a { server = 10.0.0.1:80 3 }
Virtual "b" { listen = "unix:/tmp/with blank" rule = pattern "x\\"y" use server 10.0.0.1:80 server = 10.0.0.1:80 }
"""


def state(path: Path) -> StateFile:
    return StateFile(str(path), MemoryReactorClock(), KEY)


def save(file: StateFile, table: Table) -> None:
    failures: list[Any] = []
    Deferred.fromCoroutine(file.save(table)).addErrback(failures.append)
    for failure in failures:
        failure.raiseException()


def table() -> Table:
    return edits.StartService("b").apply(parse(TEXT).apply(Table()))


def test_a_saved_table_is_loaded_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save(state(path), table())
    assert state(path).load() == table()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_every_save_writes_the_whole_table(tmp_path: Path) -> None:
    file = state(tmp_path / "state")
    now = table()
    save(file, now)
    for edit in (
        edits.AddService("c"),
        edits.DeleteService("a"),
        edits.Set({"read_timeout": "9"}),
        edits.StopService(),
    ):
        now = edit.apply(now)
        save(file, now)
        assert state(tmp_path / "state").load() == now


def test_texts_that_are_known_are_not_written_again(tmp_path: Path) -> None:
    """A text may lack its last line end, and only the very object that was read of it has it."""
    read = parse("Virtual a { server = 10.0.0.1:80 3 } # as it came").services["a"]
    file = state(tmp_path / "state")
    file.text_of = lambda service: "Virtual a { server = 10.0.0.1:80 3 } # as it came" if service is read else ""
    now = edits.AddService("b").apply(Table.of([read]))
    save(file, now)
    assert "as it came" in (tmp_path / "state").read_text()
    assert state(tmp_path / "state").load() == now
    now = edits.EditService("a", {"maxclients": 7}).apply(now)
    save(file, now)
    assert "as it came" not in (tmp_path / "state").read_text()
    assert state(tmp_path / "state").load() == now


def test_without_a_file_there_is_no_table(tmp_path: Path) -> None:
    assert state(tmp_path / "state").load() is None


@pytest.mark.parametrize("text", ["", "rubbish", "[]", '{"format": 2}', '"x"', "\0"])
def test_a_file_that_is_not_a_state_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state"
    path.write_text(text)
    with pytest.raises(NoConfiguration, match=str(path)):
        state(path).load()


def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text(json.dumps({"format": 1, "running": [], "configuration": "Virtual x {"}))
    with pytest.raises(BadConfiguration, match=f"{path}: configuration:1:"):
        state(path).load()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = state(folder / "state")
    save(file, Table())
    (folder / "state").rename(tmp_path / "kept")
    folder.rmdir()
    with pytest.raises(CannotSave, match="cannot be written"):
        save(file, table())
    assert state(tmp_path / "kept").load() == Table()


def test_the_key_is_kept_with_the_table(tmp_path: Path) -> None:
    first = state(tmp_path / "state")
    save(first, table())
    second = StateFile(str(tmp_path / "state"), MemoryReactorClock(), b"another")
    second.load()
    assert second.key == KEY
    save(second, table())
    assert json.loads((tmp_path / "state").read_text())["key"] == KEY.hex()


@pytest.mark.parametrize("key", [None, "", "xy", 7])
def test_a_missing_or_unreadable_key_is_replaced(tmp_path: Path, key: object) -> None:
    path = tmp_path / "state"
    path.write_text(json.dumps({"format": 1, "running": [], "configuration": "", "key": key}))
    file = state(path)
    assert file.load() is not None
    assert file.key == KEY


def test_the_units_of_its_schedulers_are_saved_with_the_table(tmp_path: Path) -> None:
    """So that the fallback can choose at a start where one of them is not installed."""
    file = state(tmp_path / "state")
    file.units_of = lambda: {"mine": "EACH_REQUEST", "wlc": "CONNECTION", "of_nobody": "CONNECTION"}
    text = "Virtual a { scheduler = mine depth 3 } Virtual b { scheduler = wlc fallback = none }"
    save(file, parse(text).apply(Table()))
    again = state(tmp_path / "state")
    again.load()
    assert again.units == {"mine": "EACH_REQUEST", "wlc": "CONNECTION"}
    where = again.place_of("a", "mine")
    assert str(where).startswith(f"{tmp_path}/state: configuration:")
    assert again.place_of("b", "mine") is None


@pytest.mark.parametrize("units", [None, 7, ["wlc"], {"wlc": "hour", "rr": 5, "lc": ["CONNECTION"]}])
def test_units_that_are_none_are_ignored(tmp_path: Path, units: object) -> None:
    path = tmp_path / "state"
    path.write_text(json.dumps({"format": 1, "running": [], "configuration": "", "units": units}))
    file = state(path)
    assert file.load() == Table()
    assert file.units == {}
