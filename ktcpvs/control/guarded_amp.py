"""What a peer of the control connection may say at all: commands in boxes, some at a time, no faster than it reads.

All else is answered by a typed error, or ends the connection with one line in the log; never with a traceback, which
a peer could have written as often as it likes.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.permissions import Permissions
from ktcpvs.errors import BadValue, Refusal, shorten
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog

MAX_BOX_KEYS = 32
"""The most keys in one AMP box; no command has as many."""

MAX_COMMANDS = 32
"""Commands of one connection that are being carried out at once; further ones are not read."""

# Reasons to read nothing: the peer does not take what it was answered; many commands are being carried out; it is over.
_FULL, _BUSY, _OVER = 1, 2, 4


class GuardedAMP(amp.AMP):
    """One control connection. Its commands are the responders of the class below this one."""

    transport: Any
    guard: Permissions | None = None
    """Who may come in; None: everybody who can."""

    who: str = ""
    """Who it is, for the log; "": that is not known."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._log = log
        self._keys = 0  # of the box that is coming
        self._held = 0
        self._answer: Deferred[Any] | None = None  # to the command that has just come
        self._running = 0  # commands

    # AMP itself would log every coming and going; to us that is an event of level 3.

    def makeConnection(self, transport: Any) -> None:
        refusal = None
        if self.guard is not None:
            refusal, self.who = self.guard.refusal(transport), self.who or self.guard.who(transport)
        amp.BinaryBoxProtocol.makeConnection(self, transport)
        if refusal is not None:
            self._log.fault("control connection refused: {why}", why=refusal)
            self._hold(_OVER, True)
            transport.abortConnection()
            return
        self._log.event(levels.DAEMON, "an administrator came: {who}", who=self.who)
        transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._log.event(levels.DAEMON, "an administrator left: {who}", who=self.who)
        self._hold(_OVER, True)
        amp.BinaryBoxProtocol.connectionLost(self, reason)

    def close(self) -> None:
        """End it when what was answered has gone out."""
        self._hold(_OVER, True)
        self.transport.unregisterProducer()  # it is waited for otherwise
        self.transport.loseConnection()

    def _end(self, why: str) -> None:
        self._log.warn("control connection closed: {why}", why=why)
        self._hold(_OVER, True)
        self.transport.abortConnection()

    # Boxes.

    def proto_init(self, string: bytes) -> str | None:
        self._keys = 0
        state: str | None = super().proto_init(string)  # type: ignore[no-untyped-call]
        return state

    def proto_key(self, string: bytes) -> str | None:
        self._keys += 1
        if self._keys > MAX_BOX_KEYS:
            self._end(f"a box of more than {MAX_BOX_KEYS} keys")
            return "init"
        state: str | None = super().proto_key(string)  # type: ignore[no-untyped-call]
        return state

    def lengthLimitExceeded(self, length: int) -> None:
        self._end(f"a key of {length} bytes, which AMP does not know")

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        if amp.COMMAND not in box or amp.ANSWER in box or amp.ERROR in box:
            self._end("a box that is no command")  # nothing was asked of this peer, so it has nothing to answer
            return
        super().ampBoxReceived(box)  # type: ignore[no-untyped-call]
        answer, self._answer = self._answer, None
        assert answer is not None  # dispatchCommand has put it there
        self._running += 1
        answer.addBoth(self._done)
        if self._running >= MAX_COMMANDS:  # not before: what is done already would let go, and all be read again
            self._hold(_BUSY, True)

    # Commands.

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[Any]:
        self._answer = answer = self._dispatched(box)
        return answer

    def _dispatched(self, box: amp.AmpBox) -> Deferred[Any]:
        called = box[amp.COMMAND]
        command, _ = self._commandDispatch.get(called, (amp.StartTLS, None))  # type: ignore[attr-defined]
        if command is amp.StartTLS:  # AMP brings it along
            name = shorten(called.decode("utf-8", "replace"), 40)
            return _refused(amp.UNHANDLED_ERROR_CODE, f"there is no command '{name}'")
        for name, argument in command.arguments:
            if isinstance(argument, amp.Descriptor):
                continue  # to read it is to take it
            try:
                argument.fromBox(name, box.copy(), {}, self)
            except Exception:  # each kind of argument has its own
                why = f"{command.__name__}: its argument '{name.decode()}' is missing or cannot be read"
                return _refused(BadValue.code, why)
        answer: Deferred[Any] = super().dispatchCommand(box)  # type: ignore[no-untyped-call]
        return answer.addErrback(self._fault)

    def _fault(self, failure: Failure) -> Failure:
        """What no responder foresaw is a bug of ours."""
        if failure.check(amp.RemoteAmpError):
            return failure
        self._log.failure("a control command failed", failure)
        return Failure(amp.RemoteAmpError(Refusal.code, "the daemon met a fault of its own; its log tells more"))

    def unhandledError(self, failure: Failure) -> None:
        """Nobody gets this refusal: its command wanted no answer."""
        if not failure.check(amp.RemoteAmpError):
            self._log.failure("an answer cannot be sent", failure)
            self._end("an answer cannot be sent")

    def _done(self, result: Any) -> None:
        self._running -= 1
        if self._held & _BUSY:
            self._hold(_BUSY, False)

    # Back-pressure.

    def _hold(self, reason: int, held: bool) -> None:
        before = self._held
        self._held = before | reason if held else before & ~reason
        if self._held and not before:
            super().pauseProducing()  # type: ignore[no-untyped-call]
        elif before and not self._held:
            super().resumeProducing()  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """The peer takes no more."""
        self._hold(_FULL, True)

    def resumeProducing(self) -> None:
        """The peer takes again."""
        self._hold(_FULL, False)

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` tells."""


def _refused(code: bytes, why: str) -> Deferred[Any]:
    return fail(amp.RemoteAmpError(code, why))
