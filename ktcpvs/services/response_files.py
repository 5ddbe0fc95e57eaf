"""The files that a service responds with: those of its rules, and its error pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.actions import Respond
from ktcpvs.model.error_pages import error_pages
from ktcpvs.model.service import VirtualService
from ktcpvs.system.response_files import ResponseFile, read_response_file

Warn = Callable[[str], object]


def response_files(
    config: VirtualService, known: Mapping[str, ResponseFile], warn: Warn | None = None
) -> Mapping[str, ResponseFile]:
    """Return the files that the service responds with, by their paths.

    known: those that were read before; the ones that have not changed are taken from it. warn: called with a line of
    text for each file that cannot be used, which stays as it was, or is missing in the result; None: raise BadValue
    instead.
    """
    found: dict[str, ResponseFile] = {}
    for path, where in _paths(config):
        if path in found:
            continue
        try:
            found[path] = read_response_file(path, known.get(path))
        except BadValue as error:
            text = f"service {config.ident}: {where}{error}"
            if warn is None:
                raise BadValue(text) from error
            warn(text)
            if path in known:
                found[path] = known[path]
    return found


def _paths(config: VirtualService) -> Iterator[tuple[str, str]]:
    """Yield the path of each file, and what an error about it begins with."""
    for path in error_pages(config.error_page).values():
        yield path, "error_page: "
    for rule in config.rules:
        if isinstance(rule.action, Respond) and rule.action.file is not None:
            yield rule.action.file, f"rule '{shorten(rule.label, 60)}': file "
