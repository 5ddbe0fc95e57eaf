"""Services that accept no clients for a while, although the table runs them: those of a node that is drained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from twisted.internet.defer import Deferred

from ktcpvs.director.table_runner import TableRunner
from ktcpvs.errors import Refusal
from ktcpvs.model.withdrawal import Withdrawal


class Withdrawals:
    """Withdraws services, and starts them again. current: the services that are withdrawn."""

    def __init__(self, runner: TableRunner) -> None:
        self._runner = runner
        self.current = Withdrawal()

    def withdraw(self, is_withdrawn: bool) -> Deferred[Sequence[str]]:
        """Stop all services without a change of the table, or start again those that it runs. Fires with the reasons
        why some cannot be started, a line each; they stay withdrawn."""
        return self._runner.between_edits(lambda: self._withdraw(is_withdrawn))

    async def _withdraw(self, is_withdrawn: bool) -> Sequence[str]:
        if not self._runner.decides:
            return ()
        if is_withdrawn:
            await self._use(Withdrawal(is_whole=True))
            return ()
        table = self._runner.effective
        held = table.running if self.current.is_whole else self.current.idents & table.running
        if Withdrawal(idents=held) != self.current:
            await self._use(Withdrawal(idents=held))  # which starts nothing
        return await self._release([ident for ident in table.services if ident in held])

    async def _release(self, idents: Sequence[str]) -> Sequence[str]:
        """Start services that are withdrawn; if that is refused, all but those at fault. Returns the reasons."""
        try:
            await self._use(Withdrawal(idents=self.current.idents.difference(idents)))
            return ()
        except Refusal as refusal:
            if len(idents) == 1:
                named = f"service {idents[0]}: "
                return [f"{named}{str(refusal).removeprefix(named)}"]
        middle = len(idents) // 2
        return [*await self._release(idents[:middle]), *await self._release(idents[middle:])]

    def follow(self, withdrawal: Withdrawal) -> Deferred[None]:
        """Withdraw as another process has decided."""
        return self._runner.between_edits(lambda: self._use(withdrawal))

    async def _use(self, withdrawal: Withdrawal) -> None:
        """Raises a Refusal; then nothing has changed."""
        runner, former = self._runner, self.current
        commands = partial(runner.processes.commands_to_withdraw, withdrawal)
        await runner.run_anew(lambda: self._set(withdrawal), lambda: self._set(former), commands)

    def _set(self, withdrawal: Withdrawal) -> None:
        self.current = withdrawal
