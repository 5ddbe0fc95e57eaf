"""The files that a service responds with: those of its rules, and its error pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ktcpvs.director.running_table import RunningTable
from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.actions import Respond
from ktcpvs.model.error_pages import error_pages
from ktcpvs.model.service import VirtualService
from ktcpvs.system.log import EventLog
from ktcpvs.system.response_files import ResponseFile, read_response_file

Warn = Callable[[str], object]


def response_files(
    config: VirtualService, known: Mapping[str, ResponseFile], warn: Warn, *, is_strict: bool
) -> Mapping[str, ResponseFile]:
    """Return the files that the service responds with, by their paths.

    known: those that were read before; the ones that have not changed are taken from it. A file that cannot be used
    stays as it was. warn: called with a line of text about it. is_strict: raise BadValue for such a file that is not
    known; False: it is missing in the result.
    """
    found: dict[str, ResponseFile] = {}
    for path, where in _paths(config):
        if path in found:
            continue
        try:
            found[path] = read_response_file(path, known.get(path))
        except BadValue as error:
            text = f"service {config.ident}: {where}{error}"
            if path in known:
                warn(f"{text}; what was read before stays in use")
                found[path] = known[path]
            elif is_strict:
                raise BadValue(text) from error
            else:
                warn(text)
    return found


def _paths(config: VirtualService) -> Iterator[tuple[str, str]]:
    """Yield the path of each file, and what an error about it begins with."""
    for path in error_pages(config.error_page).values():
        yield path, "error_page: "
    for rule in config.rules:
        if isinstance(rule.action, Respond) and rule.action.file is not None:
            yield rule.action.file, f"rule '{shorten(rule.label, 60)}': file "


class ResponseFiles:
    """Those of the services that run."""

    def __init__(self, running: RunningTable, log: EventLog) -> None:
        self._running = running
        self._log = log

    def of(self, config: VirtualService, *, is_strict: bool) -> Mapping[str, ResponseFile]:
        """Return the files that a service responds with. is_strict: raise BadValue for one that cannot be used, unless
        the service has it already."""
        service = self._running.services.get(config.ident)
        known = service.traffic.own_responses.files if service is not None else {}
        return response_files(config, known, lambda text: self._log.warn("{text}", text=text), is_strict=is_strict)

    def read_again(self) -> None:
        """Read the files of services again that a load has not changed."""
        for service in self._running.running():
            if service.traffic.own_responses.files:
                service.traffic.own_responses.files = self.of(service.config, is_strict=False)
