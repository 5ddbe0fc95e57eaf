"""The reasons why a CA issues no certificate, in its own words where it has said something."""

from __future__ import annotations


class ACMEProblem(Exception):
    """A step of an order has failed; str() is the reason, in one line.

    is_of_ca: other certificates of this CA would fail in the same way. is_unreachable: the CA has not responded; it may
    respond to another node. retry_after: seconds that the CA asks to wait; None: it does not. is_order_lost: the order
    is over, and the next attempt makes another one.
    """

    def __init__(
        self,
        text: str,
        *,
        is_of_ca: bool = False,
        is_unreachable: bool = False,
        retry_after: float | None = None,
        is_order_lost: bool = True,
    ) -> None:
        super().__init__(text)
        self.is_unreachable = is_unreachable
        self.is_of_ca = is_of_ca
        self.retry_after = retry_after
        self.is_order_lost = is_order_lost


class OrderStopped(Exception):
    """This process must not go on with the order: it ends, or another one orders from now on."""
