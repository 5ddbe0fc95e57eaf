"""Reads files of TLS again while services use them, and has all processes use what is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twisted.internet.defer import Deferred

from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.table_runner import TableRunner
from ktcpvs.errors import NoTLS
from ktcpvs.model.tls_files import TLSFile
from ktcpvs.runtime.context import Context
from ktcpvs.services.tls_file_store import TLSFiles

MAX_ERRORS = 10
"""The most files in the text of a refusal."""


class TLSFileReload:
    """Takes the place of `files.changed`."""

    def __init__(self, runner: TableRunner, context: Context, running: RunningTable, files: TLSFiles) -> None:
        self._runner = runner
        self._context = context
        self._running = running
        self._files = files
        files.changed = self._files_changed

    async def reload_all(self) -> None:
        """Read all files of TLS again. To be called within `between_edits`. Raises NoTLS for those that cannot be used;
        the others are in use then."""
        errors = await self._reload()
        if errors:
            more = f"; and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
            raise NoTLS(f"{'; '.join(errors[:MAX_ERRORS])}{more}; what was read before stays in use")

    def follow(self) -> None:
        """The table has changed: forget the files that no service needs any more, and pass other processes new ones."""
        table = self._running.table
        update = self._files.follow(table.services[ident] for ident in table.running)
        if update:
            self._runner.processes.pass_files(update)

    def _files_changed(self, files: Collection[TLSFile]) -> Deferred[None]:
        """Read files again that have changed, between two edits."""

        async def reload() -> None:
            if not self._runner.is_ending:
                await self._reload(files)

        return self._runner.between_edits(reload)

    async def _reload(self, files: Collection[TLSFile] | None = None) -> Sequence[str]:
        """Have all processes use files as they are now. Returns errors, a line each. files: None: all."""
        update, errors = await self._files.reload(files)
        if update:
            await self._context.steps.wait("files of TLS", self._runner.processes.replace_files, update)
        return errors
