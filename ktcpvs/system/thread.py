"""A separate thread for one kind of blocking work, independent of the reactor's thread pool.

The reactor's pool also looks up host names: ten lookups that hang would block all other work there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

_Job = tuple[Callable[[], Any], "Deferred[Any]"]


class WorkerThread:
    """Calls functions one after another in one thread, which starts with the first call and ends with `stop` or with
    the process."""

    def __init__(self, reactor: Any, name: str) -> None:
        """reactor: its `callFromThread` brings the results back. name: of the thread, for debuggers."""
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call `function(*arguments)` in the thread. The Deferred fires in the reactor's thread, with what the function
        returns or raises. It cannot be cancelled."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        done: Deferred[T] = Deferred()
        self._jobs.put((lambda: function(*arguments), done))
        return done

    def stop(self) -> None:
        """End the thread when the calls made so far are done; does not wait for that. A later call starts another."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread, self._jobs = None, SimpleQueue()

    def _run(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            function, done = job
            try:
                result: Any = function()
            except BaseException:
                result = Failure()
            self._reactor.callFromThread(done.callback, result)
            del function, done, result, job  # results may be large, and the next job may come much later
