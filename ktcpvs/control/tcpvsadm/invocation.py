"""One command line of tcpvsadm, as it was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from ktcpvs.control.tcpvsadm.options import Command


def place_of_use(words: Sequence[str]) -> int:
    """Return the place of the word `use`, behind which an action is; the number of words if it is not there."""
    return next((place for place, word in enumerate(words) if word.lower() == "use"), len(words))


@frozen
class Invocation:
    """One command line. values: option -> its value, "" of an option without one; of an option that repeats, the last.
    words: see Command. headers: (name, value) of each --header, in their order. filters: the value of each --filter."""

    command: Command
    values: Mapping[str, str] = field(factory=dict)
    words: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    filters: tuple[str, ...] = ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Of the words of a rule: those before `use`, which are conditions and modifiers."""
        return self.words[: place_of_use(self.words)]

    @property
    def action(self) -> tuple[str, ...]:
        """Of the words of a rule: those behind `use`, which are an action or servers."""
        return self.words[place_of_use(self.words) + 1 :]

    def named(self) -> dict[str, str]:
        """Return {name: value} of the words NAME=VALUE of --set, --add-service and --edit-service. An option that is
        given several times has a value in each line."""
        named: dict[str, str] = {}
        for name, value in (word.split("=", 1) for word in self.words):
            named[name] = f"{named[name]}\n{value}" if name in named else value
        return named

    def request(self) -> tuple[str, str] | None:
        """Return method and target of the request for --explain; None: there is none."""
        if not self.words:
            return None
        method, target = " ".join(self.words).split(" ")[:2]
        return method, target
