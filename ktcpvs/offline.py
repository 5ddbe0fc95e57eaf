"""Checking a configuration without a daemon (tcpvsadm --check)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from ktcpvs.acme.access import IssuedAccess
from ktcpvs.acme.store import CertificateFolder
from ktcpvs.director.director import Director
from ktcpvs.director.response_files import response_files
from ktcpvs.errors import BadValue, NoTLS, shorten
from ktcpvs.model.language.includes import unmatched_includes
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.scheduler_places import located
from ktcpvs.model.placement import UNKNOWN_NODES
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.model.tls_files import files_of
from ktcpvs.runtime.context import Context
from ktcpvs.services.running import RunningService
from ktcpvs.services.tls_file_store import TLSFileStore
from ktcpvs.services.tls_profiles import TLSProfiles
from ktcpvs.system.authorities import check_authorities
from ktcpvs.system.log import EventLog
from ktcpvs.system.names import service_port
from ktcpvs.system.tls_files import FileAccess


def check_configuration(text: str, source: str, allow_empty: bool) -> Sequence[str]:
    """Read a configuration, bind the schedulers of each service, and run its tests.

    source: the name of the text in messages. allow_empty: as for `parse`. Returns warnings about settings without
    effect and about certificates, one per line. Runs the reactor, so it can be called once in a process. Raises a
    Refusal, as a daemon would.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    results: list[Any] = []

    async def check() -> Sequence[str]:
        edit = parse(text, source, service_port, allow_empty=allow_empty, starts_all=True)
        table = edit.apply(Table())
        context = Context(reactor, EventLog())
        files = TLSFileStore(context, _access(context))
        director = Director(context, nodes=lambda: UNKNOWN_NODES, files=files)
        warnings = [f"{where}: include = {pattern} matches no file" for pattern, where in unmatched_includes(text)]
        warnings += _check_authorities(table.settings)
        for service in table:
            running = RunningService(context, service)
            with located(service.ident, lambda *names: edit.place_of(*names) or source):
                director.check_schedulers(service)
                prepared = await director.bind(running, service, table.settings, is_dry_run=True)
            await director.run_tests(service, table.settings)
            warnings += _check_response_files(service)
            warnings += _check_access_log(service)
            warnings += await _check_tls(director, service, prepared.factory.unit)
        return [*director.warnings(edit, Table(), table), *warnings]

    def begin() -> None:
        Deferred.fromCoroutine(check()).addBoth(results.append).addBoth(lambda _: reactor.stop())

    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    warnings: Sequence[str] = result
    return warnings


def _check_authorities(settings: Settings) -> list[str]:
    """Check the file of `acme_ca`. Returns warnings, one per line: as for `_check_response_files`. Raises BadValue."""
    try:
        if settings.acme_ca:
            check_authorities(settings.acme_ca, "acme_ca")
    except BadValue as refusal:
        if not _is_unreadable(refusal):
            raise
        return [f"{refusal}; this file is not checked"]
    return []


def _check_response_files(service: VirtualService) -> Sequence[str]:
    """Check the files that rules respond with. Returns warnings, one per line. Raises BadValue.

    Files that this user may not read, or that are on another machine, are not checked.
    """
    try:
        response_files(service, {}, str, is_strict=True)
    except BadValue as refusal:
        if not _is_unreadable(refusal):
            raise
        return [f"{refusal}; this file is not checked"]
    return []


def _check_access_log(service: VirtualService) -> Sequence[str]:
    """Look for the folder of a service's access log, and create nothing. Returns warnings, one per line: the folder may
    be on another machine."""
    folder = os.path.dirname(service.access_log)
    if not service.access_log.startswith("/") or os.path.isdir(folder):
        return []
    why = os.strerror(errno.ENOTDIR if os.path.exists(folder) else errno.ENOENT)
    return [f"service {service.ident}: access_log = {shorten(service.access_log)}: {shorten(folder)}: {why}"]


async def _check_tls(director: Director, service: VirtualService, unit: str) -> Sequence[str]:
    """Check the files and options of a service's TLS. unit: of its scheduler. Returns warnings, one per line. Raises
    NoTLS.

    Files that this user may not read, or that are on another machine, are not checked.
    """
    unreadable = []
    for file, where in files_of(service).items():
        try:
            _access(director.context).read(file)
        except NoTLS as refusal:
            if not _is_unreadable(refusal):
                raise NoTLS(f"{where}{refusal}") from None
            unreadable.append(f"{where}{refusal}; this file is not checked")
    if unreadable:
        return unreadable
    warnings = await director.files.prepare([service], is_strict=True)
    if any(listener.is_tls for listener in service.listen):
        TLSProfiles(director.files).choice(service, unit)
    return warnings


def _access(context: Context) -> FileAccess:
    """Reads files with the rights of this user, and takes certificates that a daemon would obtain as missing yet."""
    return IssuedAccess(None, CertificateFolder(os.devnull), context.wall)


def _is_unreadable(error: BaseException | None) -> bool:
    """Whether an error says that a file cannot be read, and not what is wrong with its contents."""
    while error is not None:
        if isinstance(error, OSError):
            return True
        error = error.__cause__
    return False
