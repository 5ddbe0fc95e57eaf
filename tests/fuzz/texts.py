"""Fuzz targets for texts of people and files: each is accepted, or refused in one line that names error and place.

Each target takes any bytes and returns; an AssertionError or any other exception is a find.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.control.arguments import service_options
from ktcpvs.control.endpoints import parse_control
from ktcpvs.control.tcpvsadm.argument_reader import read_arguments
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.errors import BadConfiguration, Refusal
from ktcpvs.model.address import Inet, parse_address
from ktcpvs.model.describe import configuration as described
from ktcpvs.model.edits import AddService, EditService, Load, Set
from ktcpvs.model.filter import Filter
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.lines import split_lines
from ktcpvs.model.network import Networks, parse_networks
from ktcpvs.model.table import Table
from ktcpvs.protocols.access_log import CombinedFormat, JSONFormat, Record
from ktcpvs.state import StateFile
from tests.model.strategies import assert_sound

T = TypeVar("T")


def or_refusal(call: Callable[..., T], *arguments: Any, kind: type[Refusal] = Refusal) -> T | Refusal:
    """Return the function's result, or its refusal, which must be one printable line of bounded length."""
    try:
        return call(*arguments)
    except kind as refusal:
        assert str(refusal).isprintable(), ascii(str(refusal))
        assert 0 < len(str(refusal)) < 2000
        return refusal


def text_of(data: bytes) -> str:
    """Any text: invalid UTF-8 becomes lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


# The configuration language.

PLACE = re.compile(r"fuzz\.conf:([0-9]+):([0-9]+): \S")
REPEATED = 20_000
"""Every 16th text is also read repeated to this length, which would show more than linear time."""


def configuration(data: bytes) -> None:
    """A configuration: a table that is written and read back as the same, or a refusal with its place."""
    text = data.decode("utf-8", "replace")
    _configuration(text)
    if text and zlib.crc32(data) % 16 == 0:
        or_refusal(parse, text * (REPEATED // len(text)), kind=BadConfiguration)


def _configuration(text: str) -> None:
    load = or_refusal(parse, text, "fuzz.conf", kind=BadConfiguration)
    if isinstance(load, Refusal):
        place = PLACE.match(str(load))
        assert place is not None, load
        lines = split_lines(text)
        assert 1 <= int(place[1]) <= len(lines)
        assert 1 <= int(place[2]) <= len(lines[int(place[1]) - 1]) + 1
        return
    _survives(load.apply(Table()))


def _survives(table: Table) -> None:
    """It is valid; written and read back it is the same, and is written in the same way again."""
    assert_sound(table)
    text = write(*described(table))
    text.encode()
    again = parse(text).apply(Table())
    assert again.services == table.services
    assert again.settings == table.settings
    assert write(*described(again)) == text


# Words.


def address(data: bytes) -> None:
    """An address: written and read back it is the same."""
    for text in (text_of(data), data.decode("latin-1")):
        found = or_refusal(parse_address, text)
        if not isinstance(found, Refusal):
            str(found).encode("utf-8")
            assert parse_address(str(found)) == found
            assert not isinstance(found, Inet) or found.port is None or 1 <= found.port <= 65535


def options(data: bytes) -> None:
    """Lines NAME=VALUE as options of a service and as settings, as they come over the control connection."""
    pairs = [line.partition("=")[::2] for line in text_of(data).split("\n")]
    changed = or_refusal(lambda: Set(dict(pairs)).apply(Table()))
    if isinstance(changed, Table):
        _survives(changed)
    values = or_refusal(service_options, [{"name": name, "value": value} for name, value in pairs])
    if isinstance(values, Refusal):
        return
    added = or_refusal(lambda: AddService("s", values).apply(Table()))
    if isinstance(added, Table):
        _survives(added)
        edited = EditService("s", values).apply(added)
        assert edited.services == added.services


def arguments(data: bytes) -> None:
    """A command line of tcpvsadm, a word in each line; and each word as the address of the control connection."""
    argv = text_of(data).split("\n")
    try:
        given = read_arguments(argv)
    except UsageError as misuse:
        assert all(line.isprintable() for line in str(misuse).split("\n")), ascii(str(misuse))
    else:
        assert given.command.name
        assert len("".join(given.words)) <= len(data)
    for word in argv:
        where = or_refusal(parse_control, word)
        if not isinstance(where, Refusal):
            assert where.path or 1 <= where.port <= 65535
            str(where).encode()


def networks(data: bytes) -> None:
    """Networks: written and read back they are the same, and they match the same addresses."""
    for text in (text_of(data), data.decode("latin-1")):
        found = or_refusal(parse_networks, text)
        if not isinstance(found, Refusal):
            assert parse_networks(str(found)) == found
            judge = Filter(Networks(), found)
            for one in found.entries[:50]:
                assert judge.judge(one.first.to_bytes(one.bits // 8, "big"))[0] is False


# The state file.

_folder: list[Path] = []


def _file() -> Path:
    """A file of this process, in memory where the machine has such a folder."""
    if not _folder:
        memory = Path("/dev/shm")
        _folder.append(Path(tempfile.mkdtemp(prefix="ktcpvs-fuzz-", dir=memory if memory.is_dir() else None)))
        atexit.register(shutil.rmtree, _folder[0])
    return _folder[0] / "state"


def state(data: bytes) -> None:
    """A state file: a table that is saved and loaded again as the same, or a refusal."""
    path = _file()
    path.write_bytes(data)
    table = or_refusal(StateFile(str(path), MemoryReactorClock(), b"k" * 32).load)
    if isinstance(table, Table):
        _survives(Load(table.services, table.settings).apply(Table()))
        failures: list[Any] = []
        file = StateFile(str(path), MemoryReactorClock(), b"k" * 32)
        Deferred.fromCoroutine(file.save(table)).addErrback(failures.append)
        for failure in failures:
            failure.raiseException()
        assert file.load() == table


# The access log.


def access(data: bytes) -> None:
    """A line of the access log in both formats: one line of ASCII with unambiguous fields."""
    method, target, lines, client, server, reason, ending = (data.split(b"\0", 6) + [b""] * 7)[:7]
    record = Record(client.decode("latin-1"), float(zlib.crc32(data)), method, target, len(data) & 1, lines)
    record.server, record.reason, record.ending = server.decode("latin-1"), text_of(reason), text_of(ending)
    record.status = 100 + len(data) % 900
    line = JSONFormat("s", "wlc").line(record)
    assert line.isascii()
    assert line.count(b"\n") == 1
    read = json.loads(line)
    assert (read["method"].encode("latin-1"), read["target"].encode("latin-1")) == (method, target)
    assert (read["client"] or "").encode("latin-1") == client
    assert (read["reason"], read["ending"], read["status"]) == (record.reason, record.ending, record.status)
    record.client = client.decode("latin-1") if client.isalnum() and client.isascii() else "192.0.2.1"
    line = CombinedFormat("s", "wlc").line(record)
    assert line.isascii()
    assert _COMBINED.fullmatch(line), line


_PLAIN = rb"(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})*"
_COMBINED = re.compile(rb'\S+ - - \[[^\] ]+ \+0000\] "%b HTTP/1\.[01]" [0-9]{3} 0 "%b" "%b"\n' % ((_PLAIN,) * 3))

TARGETS: dict[str, Callable[[bytes], None]] = {
    "configuration": configuration,
    "address": address,
    "networks": networks,
    "options": options,
    "arguments": arguments,
    "state": state,
    "access": access,
}
