"""The replay of an access log: each line's request goes through the scheduler again, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from attrs import evolve, frozen

from ktcpvs.errors import BadValue, Refusal, shorten, unknown
from ktcpvs.interfaces import CLIENT_HELLO, CONNECTION
from ktcpvs.model.address import Inet, SRVName
from ktcpvs.model.conditions import COOKIE, HEADER
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduler_words import parse_scheduler
from ktcpvs.model.scheduling import BoundRule, Request
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.replay.log_file import LogFile
from ktcpvs.replay.log_reader import WITHOUT_REQUEST, LogReader
from ktcpvs.replay.logged_arrival import LoggedArrival, Row
from ktcpvs.replay.logged_servers import LoggedServers
from ktcpvs.replay.outcomes import Outcomes
from ktcpvs.replay.reader_process import ReaderProcess
from ktcpvs.schedulers.content import NO_RULE, BoundRules, RuleFinder
from ktcpvs.simulation.arrivals import Arrival
from ktcpvs.simulation.behaviour import FAILED, REFUSED, Outcome
from ktcpvs.simulation.durations import Durations
from ktcpvs.simulation.simulated_service import SimulatedRequest, SimulatedService

DEFAULT_SECONDS = 0.1
"""The time of a request for which neither its line nor another one of its server says one."""

MAX_BYTES_AT_ONCE = 256 << 20
"""The most bytes of requests that are in progress at once, in virtual time. A log that tells absurd times has more."""

REQUEST_BYTES = 2048
"""The bytes that a request in progress takes, besides its target and its header lines."""

_LOGGED_HEADERS = ("host", "referer", "user-agent")


@frozen(eq=False)
class Replayed:
    """The result of a replay.

    service, scheduler, balance: of the configuration. log: what was read. began, ended: Unix times of the first and
    the last request; 0 without any. happened, simulated: what came of the requests. skipped: reason -> lines that were
    not replayed. servers: in the order of the configuration. peaks: server -> the most requests that it had at once.
    queued, waits: requests that waited for room, and how long. retries: servers that had failed a request in the
    replay. rules: label -> how many requests it got; empty for a scheduler without rules. unseen: labels of rules
    whose conditions a log does not show. faults: of the scheduler, a line each.
    """

    service: str
    scheduler: str
    balance: str
    log: LogFile
    began: float
    ended: float
    happened: Outcomes
    simulated: Outcomes
    skipped: dict[str, int]
    servers: Sequence[str]
    peaks: dict[str, int]
    queued: int
    waits: Durations
    retries: int
    rules: dict[str, int]
    unseen: Sequence[str]
    faults: Sequence[str]


def choose_service(table: Table, ident: str | None, scheduler: str | None, balance: str | None) -> VirtualService:
    """Return the service that a log is replayed with. ident: its name; None: the only one. scheduler, balance: instead
    of its own; None: its own. Raises a Refusal."""
    if ident is None:
        services = list(table)
        if len(services) != 1:
            names = ", ".join(service.ident for service in services) or "none"
            raise BadValue(f"give the service with -i; there are: {shorten(names)}")
        service = services[0]
    else:
        if ident not in table.services:
            raise BadValue(f"no service {unknown(ident, sorted(table.services))}")
        service = table.service(ident)
    changes: dict[str, Any] = {}
    if scheduler is not None:
        changes["scheduler"] = str(parse_scheduler(scheduler))
    if balance is not None:
        changes["balance"] = str(parse_scheduler(balance))
    return evolve(service, **changes)


class RuleHits:
    """Finds rules for a scheduler, and counts the first rule of each request. is_new: the next one is the first."""

    def __init__(self, rule_set: RuleFinder, rules: Sequence[BoundRule]) -> None:
        self._rule_set = rule_set
        self.tried, self.notes = rule_set.tried, rule_set.notes
        self._rules = tuple(rules)
        self._hits = [0] * (len(rules) + 1)
        self.is_new = False

    def place(self, request: Request) -> int | None:
        """Return the place of the first rule that matches, or None."""
        place = self._rule_set.place(request)
        if self.is_new:
            self.is_new = False
            self._hits[-1 if place is None else place] += 1
        return place

    @property
    def hits(self) -> dict[str, int]:
        """Number and label of each rule, in the order in which they are tried -> how many requests it got."""
        hits = zip(self._rules, self._hits, strict=False)
        return {f"{rule.number} '{shorten(rule.label, 60)}'": count for rule, count in hits}


class Replay:
    """One replay."""

    def __init__(
        self,
        table: Table,
        service: VirtualService,
        log: LogFile,
        *,
        only: str | None = None,
        headers: bytes = b"",
        default_seconds: float = DEFAULT_SECONDS,
        reads_aside: bool = False,
    ) -> None:
        """table: has the settings. service: as `choose_service` returns it. only: the service whose lines are replayed;
        None: all are. headers: lines that each request gets besides those of its line, each with CRLF.
        reads_aside: whether another process reads the log. Raises a Refusal where the service cannot be bound."""
        self._log = log
        self._reads_aside = reads_aside
        self._headers = headers
        self._servers = LoggedServers(default_seconds)
        self._simulated = Outcomes()
        self._waits = Durations()
        self._retries = self._bytes_at_once = 0
        self._texts: dict[Destination, str] = {}
        self._service = SimulatedService(service, self._answer, self._ended, settings=table.settings)
        self._reader = LogReader(log, only, self._service.reads_requests)
        bound = self._service.scheduler
        self._rules: RuleHits | None = None
        if isinstance(bound, BoundRules) and bound.rules[0].number != NO_RULE:
            self._rules = bound.rule_set = RuleHits(bound.rule_set, bound.rules)

    def run(self) -> Replayed:
        """Replay the log. Raises Refusal where it cannot be read, or has no request that can be replayed."""
        with ExitStack() as stack:
            rows = self._reader.rows
            if self._reads_aside:
                with suppress(OSError):  # there are too many processes: this one reads
                    rows = stack.enter_context(ReaderProcess(self._reader)).rows
            self._replay(rows())
        began, time = self._reader.began, self._service.time
        ended = time.now
        self._service.finish()
        if began is None:
            raise Refusal(self._nothing())
        return self._result(began, began + ended)

    def _replay(self, rows: Iterable[Row]) -> None:
        """Let all requests come at their times."""
        service, time, rules, headers = self._service, self._service.time, self._rules, self._headers
        observe = self._servers.observe
        for row in rows:
            arrival = LoggedArrival(*row)
            if headers:
                arrival.lines += headers
            observe(arrival)
            time.advance(arrival.at)
            if rules is not None:
                rules.is_new = True
            self._bytes_at_once += _size(arrival)
            if self._bytes_at_once > MAX_BYTES_AT_ONCE:
                raise Refusal(
                    f"{self._log.name}: near line {self._log.lines}: requests of more than "
                    f"{MAX_BYTES_AT_ONCE >> 20} MiB are in progress at once; replay a part of the log"
                )
            service.begin(arrival)

    def _nothing(self) -> str:
        """Return why there is no request to replay."""
        log, skipped = self._log, self._reader.skipped
        if log.first_malformed is not None and not skipped:  # others may be empty
            number, why = log.first_malformed
            return f"{log.name}: no line is one of an access log; line {number}: {why}"
        if skipped:
            counts = ", ".join(f"{count} {why}" for why, count in skipped.items())
            hint = ""
            if WITHOUT_REQUEST in skipped:
                hint = (
                    f"; {self._service.config.scheduler} chooses by requests, and a log of whole connections has none: "
                    "use a scheduler such as wlc"
                )
            return f"{log.name}: no line can be replayed ({counts}){hint}"
        return f"{log.name}: there are no lines"

    def _answer(self, request: SimulatedRequest, destination: Destination) -> Outcome:
        arrival = request.arrival
        assert isinstance(arrival, LoggedArrival)
        address = self._text(destination)
        outcome = self._servers.outcome(arrival, address)
        if outcome.status == REFUSED:
            self._simulated.failed(address)
        return outcome

    def _text(self, destination: Destination) -> str:
        text = self._texts.get(destination)
        if text is None:
            text = self._texts[destination] = str(destination.address)
        return text

    def _ended(self, request: SimulatedRequest) -> None:
        self._bytes_at_once -= _size(request.arrival)
        server = None if request.server is None else self._text(request.server.destination)
        status = request.status
        is_error = status is None or status == REFUSED or status >= FAILED
        self._simulated.add(request.arrival.client, server, request.seconds, is_error)
        self._retries += request.retries
        if request.queued:
            self._waits.add(request.queued)

    def _result(self, began: float, ended: float) -> Replayed:
        service, config = self._service, self._service.config
        rules = self._rules.hits if self._rules is not None else {}
        return Replayed(
            config.ident,
            config.scheduler,
            config.balance,
            self._log,
            began,
            ended,
            self._reader.happened,
            self._simulated,
            self._reader.skipped,
            tuple(map(str, (destination.address for destination in service.destinations))),
            {self._text(destination): station.peak for destination, station in service.stations.items()},
            service.queued,
            self._waits,
            self._retries,
            rules,
            unseen_rules(config, service.unit, self._headers) if rules else (),
            tuple(service.faults),
        )


def _size(arrival: Arrival) -> int:
    return REQUEST_BYTES + len(arrival.target) + len(arrival.lines)


def unseen_rules(config: VirtualService, unit: str, headers: bytes) -> tuple[str, ...]:
    """Return the labels of the rules that look at what a log does not have. headers: lines that all requests get."""
    if unit in (CONNECTION, CLIENT_HELLO):
        return ()
    known = {line.partition(b":")[0].decode("latin-1").lower() for line in headers.split(b"\r\n") if line}
    known.update(_LOGGED_HEADERS)
    found = []
    for rule in config.rules:
        for condition in rule.conditions:
            is_unseen = condition.kind == COOKIE and "cookie" not in known
            if condition.kind == HEADER:
                is_unseen = condition.name.lower() not in known
            if is_unseen:
                found.append(shorten(rule.label, 60))
                break
    return tuple(found)


def unresolved_names(config: VirtualService) -> list[str]:
    """Return the servers that are configured by a name, which a replay does not look up."""
    return [
        str(server.address)
        for server in config.servers
        if isinstance(server.address, SRVName) or (isinstance(server.address, Inet) and server.address.is_name)
    ]
