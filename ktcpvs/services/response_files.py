"""The files that the rules of a service respond with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.actions import Respond
from ktcpvs.model.service import VirtualService
from ktcpvs.system.response_files import ResponseFile, read_response_file

Warn = Callable[[str], object]


def response_files(
    config: VirtualService, known: Mapping[str, ResponseFile], warn: Warn | None = None
) -> Mapping[str, ResponseFile]:
    """Return the files that the service's rules name, by their paths.

    known: those that were read before; the ones that have not changed are taken from it. warn: called with a line of
    text for each file that cannot be used, which stays as it was, or is missing in the result; None: raise BadValue
    instead.
    """
    found: dict[str, ResponseFile] = {}
    for path, label in _paths(config):
        if path in found:
            continue
        try:
            found[path] = read_response_file(path, known.get(path))
        except BadValue as error:
            text = f"service {config.ident}: rule '{shorten(label, 60)}': file {error}"
            if warn is None:
                raise BadValue(text) from error
            warn(text)
            if path in known:
                found[path] = known[path]
    return found


def _paths(config: VirtualService) -> Iterator[tuple[str, str]]:
    """Yield the path of each rule's file, and the rule's label."""
    for rule in config.rules:
        if isinstance(rule.action, Respond) and rule.action.file is not None:
            yield rule.action.file, rule.label
