"""AMP for untrusted peers: commands in boxes, a limited number at a time, and none while the peer reads no responses.

Everything else gets a typed error, or closes the connection with one line in the log; never with a traceback, since a
peer could have tracebacks written as often as it likes.
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

MAX_RUNNING_COMMANDS = 32
"""The most commands of one connection that run at once. While there are as many, the connection is not read."""

MAX_REFUSAL_LENGTH = 16_000
"""The most characters of the text of a refusal, such as one that a scheduler plugin raises: each takes up to four
bytes, and a value in AMP has 65,535."""

INTERNAL_ERROR = "internal error; see the daemon's log"

# Reasons not to read the connection.
_PEER_IS_SLOW, _COMMANDS_RUN, _CLOSED = 1, 2, 4


class GuardedAMP(amp.AMP):
    """The server side of one control connection. Subclasses bring the responders.

    expects_answers: this side sends commands too. permissions: decides whether the peer may administer; None: every
    peer may. peer_name: the peer, for the log; "": unknown. running_commands: the number of those that have no response
    yet.
    """

    transport: Any
    permissions: Permissions | None = None
    expects_answers = False
    peer_name: str = ""

    def __init__(self, log: EventLog) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._log = log
        self._box_keys = 0  # of the box that is being received
        self._pause_reasons = 0
        self._response: Deferred[Any] | None = None  # to the command that has just been dispatched
        self.running_commands = 0

    # AMP itself would log every connection; here that is an event of level 3.

    def makeConnection(self, transport: Any) -> None:
        refusal = None
        if self.permissions is not None:
            refusal = self.permissions.refusal(transport)
            self.peer_name = self.peer_name or self.permissions.peer_name(transport)
        amp.BinaryBoxProtocol.makeConnection(self, transport)
        if refusal is not None:
            self._log.fault("control connection refused: {why}", why=refusal)
            self._pause(_CLOSED)
            transport.abortConnection()
            return
        self._log.event(levels.DAEMON, "administrator connected: {peer}", peer=self.peer_name)
        transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._log.event(levels.DAEMON, "administrator disconnected: {peer}", peer=self.peer_name)
        self._pause(_CLOSED)
        amp.BinaryBoxProtocol.connectionLost(self, reason)

    def close(self) -> None:
        """Close the connection, after the responses that are ready have been sent."""
        self._pause(_CLOSED)
        self.transport.unregisterProducer()  # the transport would wait for the producer
        self.transport.loseConnection()

    def _abort(self, why: str) -> None:
        self._log.warn("control connection closed: {why}", why=why)
        self._pause(_CLOSED)
        self.transport.abortConnection()

    # Boxes.

    def proto_init(self, string: bytes) -> str | None:
        self._box_keys = 0
        state: str | None = super().proto_init(string)  # type: ignore[no-untyped-call]
        return state

    def proto_key(self, string: bytes) -> str | None:
        self._box_keys += 1
        if self._box_keys > MAX_BOX_KEYS:
            self._abort(f"the peer sent a box of more than {MAX_BOX_KEYS} keys")
            return "init"
        state: str | None = super().proto_key(string)  # type: ignore[no-untyped-call]
        return state

    def lengthLimitExceeded(self, length: int) -> None:
        self._abort(f"the peer sent a key of {length} bytes, which is not AMP")

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        if self.expects_answers and amp.COMMAND not in box:
            super().ampBoxReceived(box)  # type: ignore[no-untyped-call]
            return
        if amp.COMMAND not in box or amp.ANSWER in box or amp.ERROR in box:
            self._abort("the peer sent a box that is not a command")  # a server asks nothing
            return
        super().ampBoxReceived(box)  # type: ignore[no-untyped-call]
        response, self._response = self._response, None
        assert response is not None  # dispatchCommand has set it
        self.running_commands += 1
        response.addBoth(self._command_done)
        if self.running_commands >= MAX_RUNNING_COMMANDS:  # not earlier: a command that is done already would resume
            self._pause(_COMMANDS_RUN)

    # Commands.

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[Any]:
        self._response = response = self._dispatch(box)
        return response

    def _dispatch(self, box: amp.AmpBox) -> Deferred[Any]:
        name = box[amp.COMMAND]
        command, _ = self._commandDispatch.get(name, (amp.StartTLS, None))  # type: ignore[attr-defined]
        if command is amp.StartTLS:  # every AMP protocol has this command; here TLS begins with the connection
            shown = shorten(name.decode("utf-8", "replace"), 40)
            return _refuse(amp.UNHANDLED_ERROR_CODE, f"there is no command '{shown}'")
        for key, argument in command.arguments:
            if isinstance(argument, amp.Descriptor):
                continue  # reading it would take it out of the queue of received descriptors
            try:
                argument.fromBox(key, box.copy(), {}, self)
            except Exception:  # each type of argument raises another
                why = f"{command.__name__}: its argument '{key.decode()}' is missing or cannot be read"
                return _refuse(BadValue.code, why)
        response: Deferred[Any] = super().dispatchCommand(box)  # type: ignore[no-untyped-call]
        return response.addErrback(self._refusal)

    def _refusal(self, failure: Failure) -> Failure:
        """Return what the peer gets instead of a response. Logs a failure that no responder foresaw."""
        error: Any = failure.value
        if failure.check(amp.RemoteAmpError):
            if len(error.description) <= MAX_REFUSAL_LENGTH:
                return failure
            text = f"{error.description[:MAX_REFUSAL_LENGTH]}..."
            return Failure(amp.RemoteAmpError(error.errorCode, text))
        self._log.failure("a control command failed", failure)
        return Failure(amp.RemoteAmpError(Refusal.code, INTERNAL_ERROR))

    def unhandledError(self, failure: Failure) -> None:
        """Called for a refusal of a command that asked for no response, and for a response that cannot be encoded."""
        if not failure.check(amp.RemoteAmpError):
            self._log.failure("a response cannot be sent", failure)
            self._abort("a response cannot be sent")

    def _command_done(self, result: Any) -> None:
        self.running_commands -= 1
        self._resume(_COMMANDS_RUN)

    # Back-pressure.

    def _pause(self, reason: int) -> None:
        before, self._pause_reasons = self._pause_reasons, self._pause_reasons | reason
        if not before:
            super().pauseProducing()  # type: ignore[no-untyped-call]

    def _resume(self, reason: int) -> None:
        before, self._pause_reasons = self._pause_reasons, self._pause_reasons & ~reason
        if before and not self._pause_reasons:
            super().resumeProducing()  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the peer does not read its responses."""
        self._pause(_PEER_IS_SLOW)

    def resumeProducing(self) -> None:
        """The transport's buffer has room again."""
        self._resume(_PEER_IS_SLOW)

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""


def _refuse(code: bytes, why: str) -> Deferred[Any]:
    return fail(amp.RemoteAmpError(code, why))
