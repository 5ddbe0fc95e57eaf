"""The secret that signs cookies, where the settings have none."""

from __future__ import annotations

from functools import partial

from ktcpvs.director.table_runner import TableRunner
from ktcpvs.runtime.context import Context


class CookieSecret:
    """Replaces it in all processes."""

    def __init__(self, runner: TableRunner, context: Context) -> None:
        self._runner = runner
        self._context = context

    async def use(self, secret: bytes) -> None:
        """Sign cookies with another secret, unless the settings have one. To be called within `between_edits`. Raises a
        Refusal; then nothing has changed."""
        runner, former = self._runner, self._context.cookie_secret
        if runner.decides and secret != former:
            commands = partial(runner.processes.commands_for_cookie_secret, secret)
            await runner.run_anew(lambda: self._set(secret), lambda: self._set(former), commands, is_rekeyed=True)

    def _set(self, secret: bytes) -> None:
        self._context.cookie_secret = secret
