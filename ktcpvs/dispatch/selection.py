"""Selection: which server handles a request.

Traffic, `--explain` and configuration tests call the same procedure, `Selector.select`, so that they cannot differ:

1. The scheduler chooses among the servers that are up and whose priority is in use, or says with which response
a rule answers. When it fails or takes too long,
the `fallback` scheduler chooses instead. 2. A full server is replaced by another choice of the scheduler, if need be of
a later priority; when there is none, the client waits in the queue. 3. Without a choice, servers of later priorities
are used, one priority after another. 4. Then servers that refused this request may be tried a second time
(`allows_second_round`). 5. Otherwise an ejected server is used, and if there is none, the `redirect` address.
6. Otherwise the request is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from typing import Any, TypeGuard, TypeVar

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.dispatch.measured_request import Completed
from ktcpvs.dispatch.priorities import Priorities, priorities_of
from ktcpvs.model import why as words
from ktcpvs.model.destination import Destination
from ktcpvs.model.health import EJECTED
from ktcpvs.model.outcome import Outcome
from ktcpvs.model.retries import RetryBudget
from ktcpvs.model.scheduler_words import name_of
from ktcpvs.model.scheduling import NONE, Choice, OwnResponse, Request, by_chooser, completed_of
from ktcpvs.model.server_words import MAINTENANCE
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.schedulers.missing import MissingScheduler
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.plugin_errors import describe, raise_interrupt

SERVER, REDIRECT, RESPOND, QUEUE, NOBODY = "server", "redirect", "respond", "queue", "nobody"
"""The outcomes of a selection."""

AGAIN = "again"
"""The outcome after `allows_second_round` has returned True: call `select` again."""

SCHEDULER_FAILED = "the scheduler failed"

FAILURE_ATTENTION = 60
"""Seconds for which a failure of a scheduler is reported as trouble."""


@frozen(eq=False)
class Decision:
    """The result of a selection.

    outcome: SERVER, REDIRECT, RESPOND, QUEUE, NOBODY or AGAIN. choice: the server; with QUEUE the full server that was
    chosen; None with RESPOND, NOBODY and AGAIN. reason: with NOBODY, why the request is refused. response: with
    RESPOND, what the switch responds. why: with NOBODY, the reason as a word of `model/why.py`.
    """

    outcome: str
    choice: Choice | None = None
    reason: str = ""
    response: OwnResponse | None = None
    why: str = ""


def is_choice(answer: Any) -> TypeGuard[Choice]:
    """Return whether a scheduler's answer is a Choice whose fields have their types: a plugin can return anything, and
    a field that is not what it should be would fail in the middle of a request."""
    if not isinstance(answer, Choice):
        return False
    lines, completed = getattr(answer, "lines", ""), getattr(answer, "completed", "")
    return (
        isinstance(getattr(answer, "destination", None), Destination)
        and isinstance(getattr(answer, "reason", None), str)
        and (lines is None or isinstance(lines, bytes))
        and isinstance(getattr(answer, "answer_lines", None), bytes)
        and isinstance(getattr(answer, "why", None), str)
        and (completed is None or callable(completed))
    )


def _with_word(choice: Choice, word: str) -> Choice:
    """Return a choice with one more word that says why."""
    return evolve(choice, why=words.joined(choice.why, word))


Chosen = TypeVar("Chosen", bound=Choice | OwnResponse)


def ignore(outcome: Outcome) -> None:
    """Do nothing: the `completed` of a choice whose scheduler does not learn, where that of the service does."""


def fallen_back(chosen: Chosen, scheduler: Any, text: str, reason: str) -> Chosen:
    """Return what a fallback scheduler has chosen, whose outcome is for it alone. text: of it in the configuration.
    reason: why the service's own scheduler has not chosen."""
    reason = f"fallback {name_of(text)}, since {reason}: {chosen.reason}"
    why = words.joined(chosen.why, words.FALLBACK)
    if isinstance(chosen, OwnResponse):
        return evolve(chosen, reason=reason, why=why)
    return evolve(chosen, reason=reason, why=why, completed=chosen.completed or completed_of(scheduler) or ignore)


def never() -> bool:
    """The `allows_second_round` of a request whose servers are tried only once."""
    return False


class Selector:
    """Selects servers for the requests of one service, or of one dry run.

    config: the service's configuration. scheduler: the bound scheduler. completed: of a scheduler that learns, is
    called with the outcomes of its choices; None: it does not learn. usable: all configured servers. down: the
    servers that checks, errors or their mode have taken out of service. in_maintenance: those of them whose mode is
    MAINTENANCE. resting: those whose checks ask for no new clients. standby: those that are up, and whose priority is
    not in use. excluded: all of these, the servers that a new request does not get. These sets are replaced, never
    changed in place. priorities: None: all servers have the same one. limited: the servers with a `maxconn`. redirect:
    None without a redirect address. retries: the budget of retried requests. failures: how often the scheduler has
    failed or taken too long, so that the fallback was asked.
    """

    __slots__ = (
        "_context", "_failed_at", "_fallback", "_make_fallback", "_note", "completed", "config", "down", "excluded",
        "failures", "in_maintenance", "limited", "priorities", "redirect", "resting", "retries", "scheduler", "standby",
        "usable",
    )  # fmt: skip

    def __init__(
        self, context: Context, config: VirtualService, note: Callable[[str], object] = lambda text: None
    ) -> None:
        """note: called with a line of text for each unusual step, for the report of a dry run."""
        self._context = context
        self._note = note
        self._fallback: Any = None
        self._make_fallback: Callable[[], Any] | None = None
        self.config = config
        self.scheduler: Any = None
        self.completed: Completed | None = None
        self.usable: frozenset[Destination] = frozenset()
        self.down: set[Destination] = set()
        self.standby: frozenset[Destination] = NONE
        self.resting: frozenset[Destination] = NONE
        self.excluded: set[Destination] = self.down
        self.in_maintenance: frozenset[Destination] = NONE
        self.priorities: Priorities | None = None
        self.limited: tuple[Destination, ...] = ()
        self.redirect: Destination | None = None
        self.retries = RetryBudget()
        self.failures = 0
        self._failed_at: int | None = None  # tick of the last failure of this scheduler; None: it has not failed

    def configure(
        self,
        config: VirtualService,
        scheduler: Any,
        destinations: frozenset[Destination],
        make_fallback: Callable[[], Any] | None,
    ) -> None:
        """Apply a configuration. make_fallback: binds the fallback scheduler when it is first needed; None: the service
        has none. This only assigns, so it cannot raise."""
        self.config, self.scheduler, self.usable = config, scheduler, destinations
        self.completed = completed_of(scheduler)
        self._failed_at = None
        self._make_fallback, self._fallback = make_fallback, None
        self.limited = tuple([destination for destination in destinations if destination.maxconn])
        self.priorities = priorities_of(config, destinations)
        unused = {server.address for server in config.servers if server.mode == MAINTENANCE}
        self.in_maintenance = frozenset([one for one in destinations if one.address in unused]) if unused else NONE
        if config.redirect is None:
            self.redirect = None
        elif self.redirect is None or self.redirect.address != config.redirect:
            self.redirect = Destination(config.redirect)

    def set_down(self, down: set[Destination], resting: frozenset[Destination] = NONE) -> None:
        """Take these servers out of service, and no others but those in maintenance. Servers of later priorities join
        in, or stand by again. resting: those that get nothing but their sessions."""
        self.down = down = down | self.in_maintenance if self.in_maintenance else down
        before, self.resting = self.standby | self.resting, resting - down if resting else NONE
        self.standby = self.priorities.standby(self.unavailable) if self.priorities is not None else NONE
        others = self.standby | self.resting
        for destination in before ^ others:
            destination.is_standby = destination in others
        self.excluded = down | others if others else down

    @property
    def unavailable(self) -> set[Destination]:
        """The servers that are not available, whatever their priority."""
        return self.down | self.resting if self.resting else self.down

    @property
    def is_failing(self) -> bool:
        """Whether the scheduler, since it was bound, has failed within the last FAILURE_ATTENTION seconds, or is
        missing."""
        if isinstance(self.scheduler, MissingScheduler):
            return True
        return self._failed_at is not None and self._context.wheel.now - self._failed_at <= FAILURE_ATTENTION

    # The procedure.

    def select(self, request: Request, allows_second_round: Callable[[], bool] = never) -> Decision | Deferred[Any]:
        """Call the scheduler. Return a Decision; or a Deferred of an asynchronous scheduler: pass its result to
        `judge`, and its failure to `scheduler_failed`.

        allows_second_round: called when no server is left; True when it has removed servers from `request.tried`.
        """
        if self._has_failed_too_often(request):
            return self.decide(request, None, "", allows_second_round)
        try:
            answer = self.scheduler.choose(request)
        except BaseException as error:  # a plugin may call sys.exit
            raise_interrupt(error)
            return self.scheduler_failed(request, None, allows_second_round)
        return self.judge(request, answer, allows_second_round)

    def judge(
        self, request: Request, answer: Any, allows_second_round: Callable[[], bool] = never
    ) -> Decision | Deferred[Any]:
        """Interpret a scheduler's answer: a choice, an awaitable of one, or an error of the scheduler."""
        if answer is None or is_choice(answer):
            return self.decide(request, answer, "", allows_second_round)
        if isinstance(answer, OwnResponse):
            return Decision(RESPOND, response=answer)
        if isinstance(answer, Choice):
            return self._invalid_choice(request, answer, allows_second_round)
        if isinstance(answer, Deferred):
            return answer
        if inspect.iscoroutine(answer):
            return Deferred.fromCoroutine(answer)
        return self._foreign_choice(request, answer, allows_second_round)

    def scheduler_failed(
        self, request: Request, failure: Failure | None = None, allows_second_round: Callable[[], bool] = never
    ) -> Decision:
        """Decide after an exception of the scheduler: `failure`, or the one that is being handled."""
        failure = failure or Failure()
        self._context.log.failure("scheduler of service {ident} failed", failure, ident=self.config.ident)
        self._note(f"scheduler {self.config.scheduler_name} failed: {describe(failure.value)}")
        return self._fall_back(request, SCHEDULER_FAILED, allows_second_round)

    def scheduler_timed_out(self, request: Request, allows_second_round: Callable[[], bool] = never) -> Decision:
        """Decide after the scheduler has taken longer than `choose_timeout`."""
        reason = f"the scheduler took more than {self._context.settings.choose_timeout} seconds"
        return self._fall_back(request, reason, allows_second_round)

    def decide(
        self,
        request: Request,
        choice: Choice | None,
        reason: str = "",
        allows_second_round: Callable[[], bool] = never,
        chooser: Any = None,
    ) -> Decision:
        """Decide by a scheduler's choice. reason: why there is none, if that is known. chooser: the scheduler that
        chooses among servers of later priorities; None: that of the service."""
        tried = request.tried
        if choice is not None:
            destination = choice.destination
            if destination not in self.usable:
                return self._foreign_choice(request, destination, allows_second_round)
            if destination in tried and not self._continues_session(choice, request):
                choice = None
            elif destination.maxconn and destination.is_full:
                other = self._instead_of_full(choice, request)
                if other is None:
                    return self._wait(choice, request)
                choice = other
        if choice is None and self.standby and not self._has_failed_too_often(request):
            choice = self._of_later_priority(request, chooser)
        if choice is None and allows_second_round():
            return Decision(AGAIN)
        if choice is None and self.down and not self._has_failed_too_often(request):
            choice = self._last_resort(request)
        if choice is not None:
            return Decision(SERVER, choice)
        return self.without_servers(request, reason)

    def _wait(self, choice: Choice, request: Request) -> Decision:
        """Let a request wait for the full server that was chosen, or for another one where too many wait already."""
        crowded = {one for one in self.limited if one.is_crowded}
        if choice.destination not in crowded:
            return Decision(QUEUE, choice)
        self._note(f"max_pending requests wait for {choice.destination.address} already")
        other = self._choose_without(request, request.tried | crowded)
        other = other or self._of_later_priority(request, None, crowded)
        if other is None:
            return self.without_servers(request, "as many requests wait as max_pending allows", words.MAX_PENDING)
        return Decision(QUEUE if other.destination.is_full else SERVER, _with_word(other, words.FULL))

    def without_servers(self, request: Request, reason: str = "", why: str = words.NO_SERVER) -> Decision:
        """Decide for a request that no server of the service can serve. reason: why, if that is known. why: the same as
        a word."""
        if self.redirect is not None and self.redirect not in request.tried:
            reason = "redirect, since no server was found"
            return Decision(REDIRECT, Choice(self.redirect, reason, why=words.REDIRECT_SERVER))
        return Decision(NOBODY, None, reason or self._why_nobody(request), why=why)

    def _has_failed_too_often(self, request: Request) -> bool:
        return len(request.failed) >= self._context.settings.connect_tries

    def _why_nobody(self, request: Request) -> str:
        if request.failed:
            return "no server answered"
        all_are_down = self.down and self.down >= self.usable
        return "all servers are down" if all_are_down else "no server for this request"

    def _foreign_choice(self, request: Request, answer: Any, allows_second_round: Callable[[], bool]) -> Decision:
        form = "scheduler of service {ident} failed: it chose {answer!r}, which is not a server of the service"
        self._context.log.fault(form, ident=self.config.ident, answer=answer)
        self._note(f"scheduler {self.config.scheduler_name} chose {answer!r}, which is not a server of this service")
        return self._fall_back(request, SCHEDULER_FAILED, allows_second_round)

    def _invalid_choice(self, request: Request, choice: Choice, allows_second_round: Callable[[], bool]) -> Decision:
        destination = getattr(choice, "destination", None)
        if not isinstance(destination, Destination):
            return self._foreign_choice(request, destination, allows_second_round)
        why = (
            "reason and why of its choice must be a str; lines and answer_lines must be bytes, lines may be None; "
            "completed must be callable, or None"
        )
        self._context.log.fault("scheduler of service {ident} failed: {why}", ident=self.config.ident, why=why)
        self._note(f"scheduler {self.config.scheduler_name} failed: {why}")
        return self._fall_back(request, SCHEDULER_FAILED, allows_second_round)

    def _fall_back(self, request: Request, reason: str, allows_second_round: Callable[[], bool]) -> Decision:
        self.failures += 1
        self._failed_at = self._context.wheel.now
        choice = self._fallback_choice(request, reason)
        if isinstance(choice, OwnResponse):
            return Decision(RESPOND, response=choice)
        return self.decide(request, choice, reason, allows_second_round, self._fallback)

    def _fallback_choice(self, request: Request, reason: str) -> Choice | OwnResponse | None:
        """Return the fallback scheduler's choice, or None. reason: why the scheduler has not chosen."""
        name = name_of(self.config.fallback)
        try:
            if self._fallback is None and self._make_fallback is not None:
                self._fallback = self._make_fallback()
            choice = self._fallback.choose(request) if self._fallback is not None else None
        except BaseException as error:
            raise_interrupt(error)
            self._context.log.failure("fallback {name} of service {ident} failed", name=name, ident=self.config.ident)
            self._note(f"fallback {name} failed: {describe(error)}")
            return None
        if isinstance(choice, OwnResponse):
            return fallen_back(choice, self._fallback, self.config.fallback, reason)
        if not is_choice(choice) or choice.destination not in self.usable:
            cancel_pending(choice, self._context.log)
            return None
        return fallen_back(choice, self._fallback, self.config.fallback, reason)

    def _instead_of_full(self, choice: Choice, request: Request) -> Choice | None:
        """Return another choice for a request whose server is full, or None if the client must wait."""
        if choice.waits:
            return None
        self._note(f"{choice.destination.address} was chosen first, but it is full")
        full = self._full()
        other = self._choose_without(request, request.tried | full) or self._of_later_priority(request, None, full)
        return None if other is None else _with_word(other, words.FULL)

    def _continues_session(self, choice: Choice, request: Request) -> bool:
        """Whether a server that stands by was chosen because it has the client's session."""
        destination = choice.destination
        is_kept = destination in self.standby or destination in self.resting
        return choice.waits and is_kept and destination not in request.failed

    def _of_later_priority(
        self, request: Request, chooser: Any = None, unusable: Set[Destination] = NONE
    ) -> Choice | None:
        """Return a choice among the servers that stand by, of the first priority that has one; None: there is none.

        chooser: the scheduler that chooses; None: that of the service. unusable: servers that are not chosen, besides
        those that are down or that have failed the request.
        """
        joined: frozenset[Destination] = NONE
        for name, servers in self.priorities.later(self.standby) if self.priorities is not None else ():
            joined |= servers
            choice = self._choose_without(request, (request.tried - joined) | request.failed | unusable, chooser)
            if choice is not None:
                reason = f"{choice.reason}, of {name}, since no server before can serve it"
                by_another = None if chooser is None else completed_of(chooser) or ignore
                completed = choice.completed or by_another
                why = words.joined(choice.why, words.LATER_PRIORITY)
                return evolve(choice, reason=reason, completed=completed, why=why)
        return None

    def _last_resort(self, request: Request) -> Choice | None:
        """Return an ejected server, which is better than none."""
        ejected = {one for one in self.down if one.health.state == EJECTED and not one.is_full}
        ejected -= request.failed | self.in_maintenance
        choice = self._choose_without(request, request.tried - ejected) if ejected else None
        if choice is None:
            return None
        reason = f"{choice.reason}, ejected, but no other is left"
        return evolve(choice, reason=reason, why=words.joined(choice.why, words.LAST_RESORT))

    def _full(self) -> set[Destination]:
        return {destination for destination in self.limited if destination.is_full}

    def _choose_without(self, request: Request, excluded: set[Destination], chooser: Any = None) -> Choice | None:
        """Return a scheduler's immediate choice among the servers that are not `excluded`. chooser: the scheduler;
        None: that of the service."""
        tried, is_repeated = request.tried, request.is_repeated
        request.tried, request.is_repeated = excluded, True
        try:
            other = (self.scheduler if chooser is None else chooser).choose(request)
            is_usable = is_choice(other) and other.destination in self.usable.difference(excluded)
        except BaseException as error:
            raise_interrupt(error)
            self._context.log.failure("scheduler of service {ident} failed", ident=self.config.ident)
            return None
        finally:
            request.tried, request.is_repeated = tried, is_repeated
        if is_usable:
            found: Choice = other
            return found
        cancel_pending(other, self._context.log)
        return None

    # Outcomes.

    def completed_by(self, choice: Choice, request: Request) -> Completed | None:
        """Return what is called with the outcome of the last choice for a request; None: nothing learns from it."""
        completed = choice.completed
        if completed is None and choice.destination is not self.redirect:
            completed = self.completed
        return request.completed if completed is by_chooser else completed

    def report(self, completed: Completed, outcome: Outcome) -> None:
        """Tell a scheduler that learns the outcome of its choice."""
        try:
            completed(outcome)
        except BaseException as error:
            self.learning_failed(error)

    def learning_failed(self, error: BaseException) -> None:
        """Log what the `completed` of a scheduler has raised."""
        raise_interrupt(error)
        form = "scheduler of service {ident} failed to learn from an outcome"
        self._context.log.failure(form, Failure(error), ident=self.config.ident)

    # Retries.

    def may_retry(self) -> bool:
        """Return whether `retry_budget` allows one more request to be sent to a second server."""
        settings = self._context.settings
        live = sum([destination.own for destination in self.usable])
        return self.retries.allows(live, settings.retry_budget, settings.retry_least)

    def instead_of_silent(self, silent: Destination, request: Request) -> Choice | None:
        """Return another choice for a request whose server does not respond; None without another server or retry
        budget."""
        if not self.may_retry():
            return None
        full, failed = self._full(), request.failed
        request.failed = failed | {silent}
        try:
            other = self._choose_without(request, request.tried | {silent} | full)
            return other or self._of_later_priority(request, None, full)
        finally:
            request.failed = failed
