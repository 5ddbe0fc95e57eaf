"""Obtains the certificates of `certificate = acme NAME...`, and renews them while the switch runs.

One order is made at a time. The process with the director does this: it also tells all workers of new certificates.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.acme.order import CAClient, InThread, Order
from ktcpvs.acme.problems import ACMEProblem, OrderStopped
from ktcpvs.acme.record import Record, decode, key_of
from ktcpvs.acme.schedule import (
    MAX_CA_RETRY_DELAY,
    MAX_RETRY_DELAY,
    MIN_AGE_RETRIES,
    MIN_RENEWAL_INFO_INTERVAL,
    Random,
    renewal_info_delay,
    renewal_time,
    retry_delay,
)
from ktcpvs.acme.store import CertificateFolder, account_key, decode_account
from ktcpvs.director.certificate_issuer import no_certificate
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, Busy, NoTLS, Refusal
from ktcpvs.interfaces import EACH_REQUEST, FIRST_REQUEST
from ktcpvs.model.acme import AUTO, directory_url, names_of
from ktcpvs.model.acme_sharing import Leadership, SharedValue, SharedValues
from ktcpvs.model.address import Inet
from ktcpvs.model.challenges import HTTP_01, KINDS, TLS_ALPN_01, ChallengePublisher
from ktcpvs.model.settings import Settings
from ktcpvs.model.tls_files import ISSUED, TLSFile, issued_files
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.thread import WorkerThread

MAX_PAUSE = 60.0
"""The most seconds until the times are looked at again: the clock may be set."""

CLEANING_INTERVAL = 86400.0
"""Seconds between two searches for certificates that expired long ago."""

RETRY_DELAY = 10.0
"""Seconds after an internal error until the work goes on."""

MAX_LOGGED_NAMES = 3
"""The most names of a certificate in a line of the log."""

MAX_LISTED_NAMES = 20
"""The most names in a refusal."""

ORDERING, WAITING, FAILED, VALID = STATES = ("ordering", "waiting", "failed", "valid")
"""The states of a certificate: its order is in progress; there has been no attempt yet; the last attempt has failed,
and what was in use before stays; the certificate of the CA is in use."""

_CHANCE = re.compile(r"[A-Za-z0-9_-]{24,}")
"""Tokens and the like in what a CA says, which differ in each attempt."""


@define
class _Managed:
    """A certificate that running services need. record: None: not read yet. is_ordered: its order is in progress.
    revision: of the value that nodes share; 0: there is none. logged: the last error that the log has."""

    file: TLSFile
    record: Record
    is_loaded: bool = False
    is_ordered: bool = False
    revision: int = 0
    logged: str = ""


class CertificateManager:
    """Provides CertificateIssuer."""

    def __init__(
        self,
        director: Director,
        folder: CertificateFolder,
        publisher: ChallengePublisher,
        make_client: Callable[[Settings], CAClient],
        random: Random,
        leadership: Leadership | None = None,
        shared: SharedValues | None = None,
        in_thread: InThread | None = None,
    ) -> None:
        """make_client: makes the client of the CA that the settings name; called in the thread. random: see Random.
        leadership, shared: of a cluster; None: this switch is in none. in_thread: None: threads of their own."""
        context = director.context
        self._director = director
        self._folder = folder
        self._publisher = publisher
        self._make_client = make_client
        self._random = random
        self._leadership = leadership
        self._shared = shared
        self._reactor, self._log, self._wall = context.reactor, context.log, context.wall
        # A CA that does not respond must not hold up an edit, which reads and writes files.
        self._threads = ca_thread, file_thread = [
            WorkerThread(context.reactor, name) for name in ("ACME", "ACME files")
        ]
        self._ask_ca: InThread = in_thread or ca_thread.call
        self._in_thread: InThread = in_thread or file_thread.call
        self._managed: dict[TLSFile, _Managed] = {}
        self._client: CAClient | None = None
        self._ca: tuple[str, ...] = ()  # the settings of the client
        self._ca_failures = 0
        self._held: tuple[float, str] = (0.0, "")  # until when no order is made, and why
        self._ask_held_until = self._clean_at = 0.0
        self._is_started = self._is_working = self._must_look_again = False
        self._job = PeriodicJob(context.reactor, self._work, self._work_failed, RETRY_DELAY)

    def start(self) -> None:
        """The reactor runs, and this process serves: order what is due, from now on."""
        self._is_started = True
        if self._leadership is not None:
            self._leadership.observe(self._wake)
        if self._shared is not None:
            self._shared.observe(self._wake)
        self._wake()

    def stop(self) -> None:
        """Order no more. An order in progress is kept, for the next process."""
        self._is_started = False
        self._job.stop()
        for thread in self._threads:
            thread.stop()

    # What the director asks.

    def follow(self) -> None:
        if self._managed or any(True for _ in self._needed()):
            self._wake()

    def describe(self, file: TLSFile) -> dict[str, Any] | None:
        if file.use != ISSUED:
            return None
        names = names_of(file.path)
        managed = self._managed.get(file) or _Managed(file, Record(names))
        record, (held_until, held_why) = managed.record, self._held
        has_certificate = bool(record.pem) and record.directory == self._directory
        is_held = held_until > self._wall() and not has_certificate
        error = record.error or (held_why if is_held else "")
        state = VALID if has_certificate else WAITING
        if managed.is_ordered:
            state = ORDERING
        elif error:
            state = FAILED
        due = max(record.due_at(self._directory), held_until if error else 0.0)
        return {
            "names": list(names),
            "state": state,
            "directory": self._directory,
            "challenge": record.kind,
            "next": due or None,
            "failures": record.failures,
            "error": error,
        }

    async def renew(self, name: str) -> None:
        wanted = name.lower().removesuffix(".")
        found = [one for one in self._managed.values() if wanted in one.record.names and one.is_loaded]
        if not found:
            known = dict.fromkeys(chain.from_iterable(one.record.names for one in self._managed.values()))
            raise BadValue(no_certificate(name, list(known)[:MAX_LISTED_NAMES]))
        if not self._may_order():
            leader = self._leadership.leader if self._leadership is not None else ""
            there = f"; node {leader} does: give this command there" if leader else ""
            raise Busy(f"this switch orders no certificates now{there}")
        for managed in found:
            managed.record = evolve(managed.record, is_renewal_asked=True, retry_at=0.0)
            await self._save(managed, managed.record)
        self._held = (0.0, "")
        self._wake()

    # Which certificates are needed.

    def _needed(self) -> Iterator[TLSFile]:
        """Return the certificates of ACME that running services need: those of this node, or, where nodes share them,
        those of all nodes."""
        return issued_files(self._director.expanded if self._shared is None else self._director.effective)

    async def _follow_table(self) -> None:
        needed = dict.fromkeys(self._needed())
        for file in [file for file in self._managed if file not in needed]:
            del self._managed[file]
        for file in needed:
            self._managed.setdefault(file, _Managed(file, Record(names_of(file.path))))
        for managed in [one for one in self._managed.values() if not one.is_loaded]:
            try:
                managed.record = await self._in_thread(self._load, managed.record.names)
                managed.is_loaded, managed.logged = True, ""
            except Refusal as refusal:
                # An order in its place could be one of many: a CA limits them. The next look reads it again.
                managed.record = evolve(managed.record, error=str(refusal))
                if managed.logged != managed.record.error:
                    managed.logged = managed.record.error
                    form = "certificate for {names}: {why}; it is not ordered until that can be read"
                    self._log.warn(form, names=_listed(managed.record.names), why=refusal)

    def _load(self, names: Sequence[str]) -> Record:
        """Read what is kept. To be called in the thread."""
        record = self._folder.load(names)
        if record.pem and not record.not_after:
            try:
                return self._with_validity(record)
            except NoTLS:
                return Record(record.names, order=record.order)
        return record

    def _with_validity(self, record: Record) -> Record:
        """Return the record with the times that follow from its certificate. Raises NoTLS if that cannot be used. To be
        called in the thread."""
        from ktcpvs.system.certificates import read_certificate

        found = read_certificate("the certificate that the CA has issued", record.pem.encode("ascii", "replace"))
        if missing := [name for name in record.names if name not in found.names]:
            raise NoTLS(f"the certificate that the CA has issued is not for {', '.join(missing)}")
        begins, ends = found.not_before.timestamp(), found.not_after.timestamp()
        return evolve(
            record,
            not_before=begins,
            not_after=ends,
            renew_at=renewal_time(begins, ends, self._random),
            window=None,
            ask_at=0.0,
        )

    # The work.

    def _wake(self) -> None:
        if self._is_working:
            self._must_look_again = True
        elif self._is_started:
            self._job.start()

    @property
    def _directory(self) -> str:
        return directory_url(self._director.effective.settings.acme_directory)

    def _may_order(self) -> bool:
        is_leader = self._leadership is None or self._leadership.is_leader
        return self._is_started and not self._director.is_ending and is_leader

    def _work(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._look())

    def _work_failed(self, why: Failure) -> None:
        self._log.failure("internal error: certificates are not renewed", why)

    async def _look(self) -> float | None:
        """Do what is due. Return the seconds until there may be more; None: until something changes."""
        self._is_working, self._must_look_again = True, False
        try:
            pause = await self._do_next()
        finally:
            self._is_working = False
        return 0.0 if self._must_look_again else pause

    async def _do_next(self) -> float | None:
        """As `_look`."""
        if self._director.is_ending:
            return None
        await self._follow_table()
        if self._shared is not None:
            await self._follow_shared(self._shared)
        if not self._managed:
            return None
        loaded = [one for one in self._managed.values() if one.is_loaded]
        if not (loaded and self._may_order()):
            return MAX_PAUSE
        await self._follow_settings()
        now, (held_until, _) = self._wall(), self._held
        if self._clean_at <= now:
            self._clean_at = now + CLEANING_INTERVAL
            await self._in_thread(self._folder.clean, [one.record.names for one in self._managed.values()], now)
        first = min(loaded, key=self._due_at)
        if max(self._due_at(first), held_until) <= now:
            await self._order(first)
            return 0.0
        asked = min(loaded, key=self._ask_at)
        ask_at = max(self._ask_at(asked), held_until, self._ask_held_until)
        if ask_at <= now:
            await self._ask_when_to_renew(asked)
            return 0.0
        next_time = min(max(self._due_at(first), held_until), ask_at)
        return min(max(next_time - now, 0.0), MAX_PAUSE)

    def _due_at(self, managed: _Managed) -> float:
        return managed.record.due_at(self._directory)

    def _ask_at(self, managed: _Managed) -> float:
        """Return when to ask the CA for the time of renewal, as seconds since 1970; infinity: not at all."""
        record = managed.record
        can_ask = record.pem and record.directory == self._directory and not record.order
        return record.ask_at if can_ask and record.not_after > self._wall() else float("inf")

    async def _follow_settings(self) -> None:
        settings = self._director.effective.settings
        ca = (
            self._directory,
            settings.acme_email,
            settings.acme_ca,
            settings.acme_eab_kid,
            settings.acme_eab_key,
            settings.acme_profile,
        )
        if ca == self._ca and self._client is not None:
            return
        if self._ca:  # what another CA has refused, or this one under other conditions, may be tried again
            self._held, self._ca_failures = (0.0, ""), 0
            for managed in self._managed.values():
                managed.record = evolve(managed.record, retry_at=0.0)
        self._client, self._ca = await self._ask_ca(self._make_client, settings), ca

    # An order.

    async def _order(self, managed: _Managed) -> None:
        assert self._client is not None
        kinds, directory = self._kinds(managed.record.failures), self._directory

        async def save(record: Record) -> None:
            await self._share_account()  # another node can go on with the order only by the account that has made it
            await self._save(managed, record)

        from ktcpvs.acme.self_signed import make_key

        order = Order(self._reactor, self._client, self._ask_ca, self._publisher, save, self._may_order, make_key)
        managed.is_ordered = True
        managed.record = evolve(managed.record, kind=kinds[0])
        try:
            await self._fetch_account()
            pem = await order.obtain(managed.record, directory, kinds)
            issued = evolve(managed.record, pem=pem, directory=directory, order=None)
            issued = await self._in_thread(self._with_validity, issued)
            await self._issued(managed, issued)
        except OrderStopped:
            return
        except ACMEProblem as problem:
            await self._failed(managed, problem)
        except NoTLS as refusal:
            await self._failed(managed, ACMEProblem(str(refusal)))
        except Refusal as refusal:
            await self._failed(managed, ACMEProblem(str(refusal), is_of_ca=True, is_order_lost=False))
        except Exception:
            self._log.failure("internal error: no certificate for {names}", names=_listed(managed.record.names))
            await self._failed(managed, ACMEProblem("internal error; see the daemon's log"))
        finally:
            managed.is_ordered = False

    def _kinds(self, failures: int) -> Sequence[str]:
        """Return the kinds of challenges, the preferred one first. failures: after each one, the preferred one is
        another, for a firewall may let only one of them pass."""
        configured = self._director.effective.settings.acme_challenge
        if configured != AUTO:
            return (configured,)
        found = [kind for kind in KINDS if kind in self._possible_kinds()] or list(KINDS)
        turn = failures % len(found)
        return [*found[turn:], *found[:turn], *(kind for kind in KINDS if kind not in found)]

    def _possible_kinds(self) -> Iterator[str]:
        """Yield the kinds for which a running service listens on the port of the CA's choice."""
        for ident in self._director.expanded.running:
            service = self._director.services.get(ident)
            unit = service.traffic.unit if service is not None else None
            for listener in service.config.listen if service is not None else ():
                port = listener.address.port if isinstance(listener.address, Inet) else None
                if port == HTTP_PORT and not listener.is_tls and unit in (EACH_REQUEST, FIRST_REQUEST):
                    yield HTTP_01
                if port == HTTPS_PORT and listener.is_tls:
                    yield TLS_ALPN_01

    async def _issued(self, managed: _Managed, record: Record) -> None:
        is_first = not managed.record.pem
        record = evolve(record, failures=0, error="", retry_at=0.0, is_renewal_asked=False, issued_at=self._wall())
        await self._save(managed, record)
        await self._share_account()
        managed.logged, self._ca_failures, self._held = "", 0, (0.0, "")
        await self._director.files.changed([managed.file])
        self._log.event(
            ANNOUNCE, "certificate for {names}: {what} by {ca}, valid until {until}; to be renewed on {renewal}",
            names=_listed(record.names), what="issued" if is_first else "renewed", ca=_host(record.directory),
            until=_date(record.not_after), renewal=_date(record.renew_at),
        )  # fmt: skip

    async def _failed(self, managed: _Managed, problem: ACMEProblem) -> None:
        record, first = managed.record, float(self._director.effective.settings.acme_retry)
        failures = record.failures + 1
        delay = retry_delay(failures, first, MAX_RETRY_DELAY, self._random, problem.retry_after)
        if problem.is_of_ca:
            self._ca_failures += 1
            most = min(MAX_CA_RETRY_DELAY, MAX_RETRY_DELAY)
            delay = retry_delay(self._ca_failures, first, most, self._random, problem.retry_after)
            self._held = self._wall() + delay, str(problem)
        record = evolve(
            record,
            failures=failures,
            error=str(problem),
            retry_at=self._wall() + delay,
            order=None if problem.is_order_lost else record.order,
        )
        self._say(managed, record)
        try:
            await self._save(managed, record)
        except (Refusal, OrderStopped) as refusal:
            managed.record = record
            self._log.warn("certificate for {names}: {why}", names=_listed(record.names), why=refusal)
        await self._share_account()
        if problem.is_unreachable and self._leadership is not None:
            await self._leadership.resign()

    def _say(self, managed: _Managed, record: Record) -> None:
        """Log an error, once until another one takes its place."""
        error = _CHANCE.sub("...", record.error)
        if error == managed.logged:
            return
        managed.logged = error
        kept = f"the one until {_date(record.not_after)} stays" if record.pem else "a self-signed one is"
        self._log.warn(
            "certificate for {names}: {ca} issues none: {why}; {kept} in use, and the next attempt is at {when}",
            names=_listed(record.names), ca=_host(self._directory), why=record.error, kept=kept,
            when=_date(record.retry_at),
        )  # fmt: skip

    async def _ask_when_to_renew(self, managed: _Managed) -> None:
        """Ask the CA. An answer that does not come changes nothing: the certificate is renewed at its time."""
        assert self._client is not None
        now = self._wall()
        try:
            found = await self._ask_ca(self._client.renewal_info, managed.record.pem)
        except ACMEProblem as problem:
            if problem.is_of_ca:  # it would not answer for the others either, each time after a while
                self._ask_held_until = now + MIN_RENEWAL_INFO_INTERVAL
            await self._keep(managed, evolve(managed.record, ask_at=now + renewal_info_delay(problem.retry_after)))
            return
        record = managed.record  # a renewal may have been asked for meanwhile
        if found is None:
            await self._keep(managed, evolve(record, ask_at=now + renewal_info_delay(None)))
            return
        ask_at = now + renewal_info_delay(found.retry_after)
        if found.window != record.window:
            youngest = record.issued_at + MIN_AGE_RETRIES * self._director.effective.settings.acme_retry
            renew_at = max(found.window.choose(self._random), youngest)
            record = evolve(record, window=found.window, renew_at=renew_at)
        await self._keep(managed, evolve(record, ask_at=ask_at))

    async def _keep(self, managed: _Managed, record: Record) -> None:
        """Save a record whose loss would do no harm."""
        try:
            await self._save(managed, record)
        except (Refusal, OrderStopped) as refusal:
            managed.record = record
            self._log.warn("certificate for {names}: {why}", names=_listed(record.names), why=refusal)

    async def _save(self, managed: _Managed, record: Record) -> None:
        """Keep a record on this node and, in a cluster, on all others. Raises a Refusal; OrderStopped if another node
        orders from now on."""
        if self._shared is not None:
            value = record.encode(with_certificate=True)
            if not await self._shared.put(_shared_name(record.names), value, managed.revision):
                raise OrderStopped
            stored = self._shared.get(_shared_name(record.names))
            managed.revision = stored.revision if stored is not None else managed.revision
        managed.record = record
        await self._in_thread(self._folder.save, record)

    # What nodes share.

    async def _follow_shared(self, shared: SharedValues) -> None:
        """Take what other nodes have stored."""
        if not shared.is_complete:
            return
        for managed in list(self._managed.values()):
            stored = shared.get(_shared_name(managed.record.names))
            if stored is None:
                managed.revision = 0
                if managed.is_loaded and managed.record.pem and self._may_order():
                    await self._keep(managed, managed.record)  # it had the certificate before it was in the cluster
            elif stored.revision != managed.revision or not managed.is_loaded:
                await self._take_shared(managed, stored)

    async def _take_shared(self, managed: _Managed, stored: SharedValue) -> None:
        """Take what another node has stored of a certificate, also in place of what this one cannot read. What cannot
        be saved is tried again at the next look."""
        record = decode(stored.value, managed.record.names)
        if record is not None and not (managed.is_loaded and record == managed.record):
            try:
                await self._in_thread(self._folder.save, record)
            except Refusal as refusal:
                if managed.logged != str(refusal):
                    managed.logged = str(refusal)
                    form = "certificate for {names} of another node: {why}"
                    self._log.warn(form, names=_listed(record.names), why=refusal)
                return
            is_new = not managed.is_loaded or record.pem != managed.record.pem
            managed.record, managed.is_loaded, managed.logged = record, True, ""
            if is_new and record.pem:
                self._log.event(
                    ANNOUNCE, "certificate for {names}: another node has obtained it, valid until {until}",
                    names=_listed(record.names), until=_date(record.not_after),
                )  # fmt: skip
                if any(file == managed.file for file, _ in self._director.files):
                    await self._director.files.changed([managed.file])
        managed.revision = stored.revision

    async def _fetch_account(self) -> None:
        """Use the account that nodes share, if there is one; or share that of this node."""
        if self._shared is None:
            return
        eab_kid = self._director.effective.settings.acme_eab_kid
        stored = self._shared.get(_account_name(self._directory, eab_kid))
        account = None if stored is None else decode_account(stored.value, self._directory, eab_kid)
        if account is not None:
            await self._in_thread(self._folder.save_account, account)
        else:
            await self._share_account()

    async def _share_account(self) -> None:
        if self._shared is None or not self._may_order():
            return
        eab_kid = self._director.effective.settings.acme_eab_kid
        account = await self._in_thread(self._folder.load_account, self._directory, eab_kid)
        name = _account_name(self._directory, eab_kid)
        stored = self._shared.get(name)
        if account is not None and (stored is None or stored.value != account.encode()):
            await self._shared.put(name, account.encode(), stored.revision if stored is not None else 0)


HTTP_PORT, HTTPS_PORT = 80, 443
"""The ports at which a CA looks for challenges (RFC 8555 section 8.3, RFC 8737 section 3)."""


def _shared_name(names: Sequence[str]) -> str:
    return f"acme:certificate:{key_of(names)}"


def _account_name(directory: str, eab_kid: str) -> str:
    return f"acme:account:{account_key(directory, eab_kid)}"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - MAX_LOGGED_NAMES} more" if len(found) > MAX_LOGGED_NAMES else ""
    return f"{', '.join(found[:MAX_LOGGED_NAMES])}{more}"


def _date(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _host(directory: str) -> str:
    return directory.partition("//")[2].partition("/")[0]
