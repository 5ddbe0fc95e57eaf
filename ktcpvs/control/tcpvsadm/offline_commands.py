"""The commands that work without a daemon. Layers above this one implement them, since they need a whole switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen


@frozen
class ReplayOptions:
    """The arguments of --replay.

    log: the name of the file; "-": standard input. text, source: a configuration, and its name in messages. ident: the
    service; None: the only one, and all lines. scheduler, balance: instead of those of the service; None: these.
    headers: (name, value) that each request gets besides those that the log has. seconds: the time of a request about
    whose time nothing is known. is_json: return JSON. width: of the terminal; 0: no limit. shows_progress: write it to
    standard error.
    """

    log: str
    text: str
    source: str
    ident: str | None = None
    scheduler: str | None = None
    balance: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.1
    is_json: bool = False
    width: int = 0
    shows_progress: bool = False


Warn = Callable[[str], object]


@frozen
class OfflineCommands:
    """The commands that need no daemon. check: (text, its name in messages, whether it may be empty) -> warnings, one
    per line. replay: (options, called with each warning) -> what is printed. new_scheduler: (name, folder) -> what is
    printed. All raise a Refusal."""

    check: Callable[[str, str, bool], Sequence[str]]
    replay: Callable[[ReplayOptions, Warn], str]
    new_scheduler: Callable[[str, str], str]
