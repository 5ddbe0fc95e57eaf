"""The records in etcd: a key for each service, for the settings, for each node and for the format.

Below the cluster's prefix: `format`, `table` (the generation in use), `tables/GENERATION/settings`,
`tables/GENERATION/services/IDENT`, `trial`, `nodes/NAME` (with a lease), `members/NAME`, `secrets/NAME` (sealed),
`acme-leader` (with a lease) and `challenges/ID` (sealed, with a lease).
Values are JSON objects. A load of many services writes a new generation, and then `table`, so that it is in force as a
whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from attrs import asdict, evolve, field, frozen

from ktcpvs.cluster.sealing import CannotOpen, Sealer
from ktcpvs.errors import BadValue, Refusal, shorten
from ktcpvs.model.describe import describe_service
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write_service, write_settings
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import DAY, DEFAULT_SETTINGS, Settings

FORMAT = 1
"""Of all values. A node that reads a higher one keeps what it has."""

FORMAT_KEY, TABLE_KEY, TABLES, NODES, MEMBERS = "format", "table", "tables/", "nodes/", "members/"
SECRETS = "secrets/"
TRIAL_KEY = "trial"
REQUESTS, ANSWERS, DRAINS = "requests/", "answers/", "drains/"
ACME_LEADER, CHALLENGES = "acme-leader", "challenges/"

MAX_REPORTED_ERRORS, MAX_ERROR_CHARACTERS = 20, 500
"""The most errors, or other texts, in a report, and the most characters of one; further ones are counted or cut."""

MAX_LABELS = 1000
"""The most labels of a node that are read from its report."""


class BadRecord(Exception):
    """A value cannot be read; str() says why, in one line."""


@frozen
class ServiceRecord:
    """A service as it is stored. position: its place among all services, of which two may have the same. text: of which
    it was read; "": it was not, or the text says more than the service."""

    service: VirtualService
    is_running: bool
    position: int
    text: str = field(default="", eq=False)


@frozen
class SettingsRecord:
    """The settings as they are stored. problem: why their secrets, which are empty then, cannot be read; "": they can.
    is_current: their secrets were sealed with the newest secret of the cluster."""

    settings: Settings
    problem: str = ""
    is_current: bool = True


@frozen
class TrialRecord:
    """A table on trial. generation: of it. former: of the table before, which comes back unless it is confirmed.
    seconds: after which it does. node: on which it was loaded."""

    generation: int
    former: int
    seconds: int
    node: str


@frozen
class NodeReport:
    """A report of a node on itself.

    instance: of the process that reports. revision: of the table in force. errors: what it could not put in force, a
    line each. connections: of clients. since: seconds since 1970 when it started. workers: processes that serve.
    process: `identity` of the process that reports; "": it is not known. drain, drain_revision: DrainState.
    labels: of the node. local: the edits that hold on it only. notes: what has become of such edits, the last lines. A
    report of an older version has none of these.
    """

    instance: str
    revision: int = 0
    errors: tuple[str, ...] = ()
    version: str = ""
    connections: int = 0
    since: int = 0
    workers: int = 1
    process: str = ""
    drain: str = ""
    drain_revision: int = 0
    labels: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@frozen
class Drain:
    """A node that is drained. delay: seconds for which it goes on accepting. since: seconds since 1970. by: the node
    that was asked to drain it."""

    delay: int = 0
    since: int = 0
    by: str = ""


@frozen
class DrainState:
    """A node reports its own drain. state: "": it is not drained. revision: of its key; 0: there is none. errors:
    the services that do not accept clients again, a line each."""

    state: str = ""
    revision: int = 0
    errors: tuple[str, ...] = ()


@frozen
class Request:
    """A request of one node to others. what: its name. by: the node that asks. nodes: those that answer. lease: for the
    keys of their answers."""

    what: str
    arguments: dict[str, Any]
    by: str
    nodes: tuple[str, ...]
    lease: int


def settings_key(generation: int) -> str:
    return f"{TABLES}{generation}/settings"


def services_prefix(generation: int) -> str:
    return f"{TABLES}{generation}/services/"


def service_key(generation: int, ident: str) -> str:
    return f"{services_prefix(generation)}{quote(ident, safe='')}"


def ident_of(key: str, generation: int) -> str | None:
    """Return the ident of the service that a key stores; None: the key is another one."""
    prefix = services_prefix(generation)
    return unquote(key.removeprefix(prefix)) if key.startswith(prefix) else None


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **value}, separators=(",", ":")).encode()


def _decode(value: bytes) -> dict[str, Any]:
    """Raises BadRecord."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise BadRecord("it is not JSON") from None
    if not isinstance(found, dict) or type(found.get("format")) is not int:
        raise BadRecord("it is not a value of ktcpvs")
    if found["format"] > FORMAT:
        raise BadRecord(f"its format is {found['format']}; this version reads formats up to {FORMAT}")
    return found


def _field(found: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = found.get(name)
    if type(value) is not kind:
        raise BadRecord(f"{name} is missing, or not of its type")
    return value


def encode_service(record: ServiceRecord) -> bytes:
    text = write_service(describe_service(record.service))
    return _encode({"service": text, "running": record.is_running, "position": record.position})


def decode_service(ident: str, value: bytes, known: VirtualService | None = None) -> ServiceRecord:
    """Read the record of a service. known: the service as this node knows it, which is returned if it is the same:
    writing it costs a seventh of parsing. Raises BadRecord."""
    found = _decode(value)
    text = _field(found, "service", str)
    try:
        if known is not None and write_service(describe_service(known)) == text:
            services: Mapping[str, VirtualService] = {known.ident: known}
        else:
            load = parse(text, f"service {ident}")
            services = load.services
            text = text if load.settings == DEFAULT_SETTINGS else ""
    except Refusal as refusal:
        raise BadRecord(f"this version cannot read it: {refusal}") from None
    if list(services) != [ident]:
        raise BadRecord("it is not the service of its key")
    return ServiceRecord(services[ident], _field(found, "running", bool), _field(found, "position", int), text)


def encode_settings(settings: Settings, key: str, sealer: Sealer | None) -> bytes:
    """Write the record of the settings. key: of etcd, to which their secrets are bound. sealer: None: this node has no
    secret of the cluster. Raises BadValue."""
    sealed = {}
    if settings.cookie_key:
        if sealer is None:
            raise BadValue(
                "cookie_key would be readable in etcd: give all nodes of the cluster the same --cluster-secret first"
            )
        sealed = {"cookie_key": sealer.seal(key, settings.cookie_key.encode())}
    return _encode({"settings": write_settings(evolve(settings, cookie_key="").described()), **sealed})


def decode_settings(value: bytes, key: str, sealer: Sealer | None) -> SettingsRecord:
    """Arguments as for `encode_settings`. Raises BadRecord."""
    found = _decode(value)
    try:
        settings = parse(_field(found, "settings", str), "settings", allow_empty=True).settings
    except Refusal as refusal:
        raise BadRecord(f"this version cannot read it: {refusal}") from None
    if "cookie_key" not in found:
        return SettingsRecord(settings, is_current=not settings.cookie_key)
    sealed = _field(found, "cookie_key", str)
    if sealer is None:
        return SettingsRecord(settings, "cookie_key: sealed, and this node has no --cluster-secret")
    try:
        opened = sealer.open(key, sealed).decode()
        return SettingsRecord(evolve(settings, cookie_key=opened), "", sealer.is_newest(sealed))
    except CannotOpen as why:
        return SettingsRecord(settings, f"cookie_key: {why}")
    except (Refusal, UnicodeDecodeError) as error:
        raise BadRecord(f"this version cannot read it: {error}") from None


def encode_table(generation: int) -> bytes:
    return _encode({"generation": generation})


def decode_table(value: bytes) -> int:
    """Return the generation in use. Raises BadRecord."""
    generation: int = _field(_decode(value), "generation", int)
    return generation


def encode_trial(trial: TrialRecord) -> bytes:
    return _encode(asdict(trial))


def decode_trial(value: bytes) -> TrialRecord:
    """Raises BadRecord."""
    found = _decode(value)
    trial = TrialRecord(
        generation=_field(found, "generation", int),
        former=_field(found, "former", int),
        seconds=_field(found, "seconds", int),
        node=_field(found, "node", str),
    )
    if not 0 < trial.seconds <= DAY:
        raise BadRecord(f"seconds is {trial.seconds}; expected 1..{DAY}")
    return trial


def encode_format() -> bytes:
    return _encode({})


def check_format(value: bytes) -> None:
    """Raises BadRecord for a cluster of a newer version."""
    _decode(value)


def encode_report(report: NodeReport) -> bytes:
    texts = {name: _bounded(getattr(report, name)) for name in ("errors", "local", "notes")}
    return _encode({**asdict(report), **texts})


def _bounded(texts: Sequence[str]) -> list[str]:
    """Return what of texts goes into a report."""
    kept = [shorten(text, MAX_ERROR_CHARACTERS) for text in texts[:MAX_REPORTED_ERRORS]]
    more = len(texts) - len(kept)
    return [*kept, f"and {more} more; see the log of that node"] if more > 0 else kept


def decode_report(value: bytes) -> NodeReport:
    """Raises BadRecord."""
    found = _decode(value)
    return NodeReport(
        instance=_field(found, "instance", str),
        revision=_count(found, "revision"),
        errors=_texts(found, "errors"),
        version=shorten(_field(found, "version", str)),
        connections=_count(found, "connections"),
        since=_count(found, "since"),
        workers=_count(found, "workers"),
        process=_optional(found, "process", ""),
        drain=_optional(found, "drain", ""),
        drain_revision=_count(found, "drain_revision") if "drain_revision" in found else 0,
        labels=_texts(found, "labels", MAX_LABELS),
        local=_texts(found, "local"),
        notes=_texts(found, "notes"),
    )


def encode_drain(drain: Drain) -> bytes:
    return _encode(asdict(drain))


def decode_drain(value: bytes) -> Drain:
    """Raises BadRecord."""
    found = _decode(value)
    return Drain(delay=_count(found, "delay"), since=_count(found, "since"), by=_field(found, "by", str))


def encode_request(request: Request) -> bytes:
    return _encode(asdict(request))


def decode_request(value: bytes) -> Request:
    """Raises BadRecord."""
    found = _decode(value)
    return Request(
        what=_field(found, "what", str),
        arguments=_field(found, "arguments", dict),
        by=_field(found, "by", str),
        nodes=tuple(map(str, _field(found, "nodes", list))),
        lease=_count(found, "lease"),
    )


def _count(found: dict[str, Any], name: str) -> int:
    value: int = _field(found, name, int)
    if not 0 <= value < 1 << 63:
        raise BadRecord(f"{name} is out of range")
    return value


def _optional(found: dict[str, Any], name: str, default: str) -> str:
    """Return a field that reports of older versions do not have."""
    value: str = _field(found, name, str) if name in found else default
    return value


def _texts(found: dict[str, Any], name: str, limit: int = MAX_REPORTED_ERRORS + 1) -> tuple[str, ...]:
    """Return texts, `limit` at most; older versions do not report all of them."""
    texts = _field(found, name, list) if name in found or name == "errors" else []
    return tuple(shorten(str(text), MAX_ERROR_CHARACTERS) for text in texts[:limit])


def encode_sealed(sealed: str) -> bytes:
    return _encode({"sealed": sealed})


def decode_sealed(value: bytes) -> str:
    """Raises BadRecord."""
    sealed: str = _field(_decode(value), "sealed", str)
    return sealed
