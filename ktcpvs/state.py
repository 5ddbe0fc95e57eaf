"""The state file: the table as of the last change that has been acknowledged to an administrator.

Each save writes a whole new file beside the old one, and renames it over the old one. The file is a JSON object with
format (1), running (idents), configuration (text in the configuration language), key (the secret of this switch, in
hexadecimal), units (what each scheduler of the configuration chooses for, by its name), and local (the edits that hold
on this node of a cluster only).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve

from ktcpvs.control.edit_commands import decode_local, encode_local
from ktcpvs.director.scheduler_reload import scheduler_names
from ktcpvs.errors import CannotSave, NoConfiguration, Refusal
from ktcpvs.interfaces import UNITS
from ktcpvs.model.describe import describe_service
from ktcpvs.model.edits import Load
from ktcpvs.model.language.includes import expand_includes
from ktcpvs.model.language.lexer import Place
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.scheduler_places import place_of_scheduler
from ktcpvs.model.language.writer import write_service, write_settings
from ktcpvs.model.local_edits import LocalEdit
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.system.files import read_file, replace_file
from ktcpvs.system.included_files import find_included
from ktcpvs.system.thread import WorkerThread

FORMAT = 1


class StateFile:
    """Loads and saves tables, one at a time: the director carries out one edit after another.

    key: the secret that is saved with the table; after `load` the one that was saved. text_of: returns the text of
    which a service was read, which need not be written again; "": it is not known. units: after `load` name -> unit
    of the schedulers that the table used. units_of: returns those of all that are known.
    """

    def __init__(self, path: str, reactor: Any, key: bytes) -> None:
        """path: absolute. key: used where none has been saved."""
        self.key = key
        self.text_of: Callable[[VirtualService], str] = lambda service: ""
        self.units: Mapping[str, str] = {}
        self.units_of: Callable[[], Mapping[str, str]] = dict
        self._path = path
        self._source = f"{path}: configuration"
        self._reactor = reactor
        self._thread = WorkerThread(reactor, "state file")
        self._written: dict[str, tuple[VirtualService, str, set[str]]] = {}

    def load(self) -> Table | None:
        """Return the table that was saved; None: there is no file yet. Raises NoConfiguration or BadConfiguration."""
        state = self._read()
        if state is None:
            return None
        running = state.get("running", [])
        if not isinstance(running, list) or not all(isinstance(ident, str) for ident in running):
            raise NoConfiguration(f"the state file {self._path} cannot be read: running is not a list of names")
        with contextlib.suppress(ValueError):
            self.key = bytes.fromhex(str(state.get("key", ""))) or self.key
        self.units = _read_units(state.get("units"))
        table = parse(str(state.get("configuration", "")), self._source).apply(Table())
        local = self._read_local(state.get("local", []))
        return evolve(table, running=frozenset(running).intersection(table.services), local=local)

    def place_of(self, ident: str, scheduler: str) -> Place | None:
        """Return where the file names a scheduler, as Load.place_of does."""
        state = self._read() or {}
        return place_of_scheduler(str(state.get("configuration", "")), self._source, ident, scheduler)

    def _read(self) -> dict[str, Any] | None:
        """Return the contents of the file; None: there is none. Raises NoConfiguration."""
        try:
            state = json.loads(read_file(self._path).decode("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or error
            raise NoConfiguration(f"the state file {self._path} cannot be read: {why}") from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise NoConfiguration(f"{self._path} is not a state file of this version (its format must be {FORMAT})")
        return state

    def _read_local(self, data: Any) -> tuple[LocalEdit, ...]:
        try:
            return decode_local(data)
        except Refusal as refusal:
            raise NoConfiguration(f"the state file {self._path} cannot be read: local: {refusal}") from None

    async def save(self, table: Table) -> None:
        """Write `table`, and return when it is on the disk. Raises CannotSave."""
        text = self._text(table)
        if not self._reactor.running:
            self._write(text)
        else:
            await self._thread.call(self._write, text)

    def _text(self, table: Table) -> str:
        """Return the text of the file. Blocks of services that have not changed since the last time are reused."""
        written: dict[str, tuple[VirtualService, str, set[str]]] = {}
        for service in table:
            known = self._written.get(service.ident)
            if known is None or known[0] is not service:
                text = self.text_of(service) or write_service(describe_service(service))
                known = service, text if text.endswith("\n") else f"{text}\n", scheduler_names(service)
            written[service.ident] = known
        self._written = written
        configuration = write_settings(table.settings.described()) + "".join(text for _, text, _ in written.values())
        running = [ident for ident in table.services if ident in table.running]
        used: set[str] = set().union(*[names for _, _, names in written.values()])
        units = {name: unit for name, unit in sorted(self.units_of().items()) if name in used}
        state = {
            "format": FORMAT,
            "running": running,
            "configuration": configuration,
            "key": self.key.hex(),
            "units": units,
        }
        return json.dumps({**state, "local": encode_local(table.local)} if table.local else state)

    def _write(self, text: str) -> None:
        try:
            replace_file(self._path, text.encode("utf-8"))
        except OSError as error:
            raise CannotSave(f"the state file {self._path} cannot be written: {error.strerror}") from None


def _read_units(data: Any) -> Mapping[str, str]:
    """Return name -> unit of schedulers; what is no unit is left out, as a file of another version may have it."""
    found = data if isinstance(data, dict) else {}
    return {name: unit for name, unit in found.items() if unit in UNITS}


def read_configuration(
    path: str, port_named: Any, *, allow_empty: bool = True, starts_all: bool = False, may_wait: bool = False
) -> Load:
    """Read the configuration file at `path`, with those that it includes. port_named, allow_empty, starts_all: as for
    `parse`. may_wait: as for `read_file`.

    Raises NoConfiguration or BadConfiguration.
    """

    def read(name: str) -> str:
        return _read_text(name, may_wait)

    text = expand_includes(read(path), path, find_included, read)
    return parse(text, path, port_named, allow_empty=allow_empty, starts_all=starts_all)


def _read_text(path: str, may_wait: bool) -> str:
    """Raises NoConfiguration."""
    try:
        return read_file(path, may_wait).decode("utf-8")
    except OSError as error:
        raise NoConfiguration(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise NoConfiguration(f"{path}: byte {error.start} is not UTF-8 text") from None
