"""A rule that chooses by the hash of a header field or of an argument; without it, its balance scheduler chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.interfaces import (
    Choosing,
    Considered,
    Destination,
    IExplains,
    IScheduler,
    IWatches,
    Request,
    ServiceView,
)
from ktcpvs.model.request_values import arguments, header_values
from ktcpvs.model.sticky import HEADER, Sticky
from ktcpvs.schedulers.notes import notes_of
from ktcpvs.schedulers.rendezvous import Rendezvous


@implementer(IScheduler, IExplains, IWatches)
class StickyRule:
    """The servers of one rule, by the option `sticky`. others: chooses for requests without that part."""

    def __init__(self, view: ServiceView, sticky: Sticky, others: IScheduler) -> None:
        self.others = others
        self._sticky = sticky
        name = sticky.name.encode()
        self._name = name.lower() if sticky.kind == HEADER else name
        self._servers = Rendezvous(view, str(sticky))

    def choose(self, request: Request) -> Choosing:
        key = self._key(request)
        if key is None:
            return self.others.choose(request)
        request.completed = None  # which is that of the others, if they learn
        return self._servers.pick(key, request)

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        return self.others.watched() if IWatches.providedBy(self.others) else ()

    def _key(self, request: Request) -> bytes | None:
        """Return what is hashed: the first value; None: there is none, or it is empty."""
        if self._sticky.kind == HEADER:
            values = header_values(request.lines, (self._name,))
        else:
            values = (pair for pair in arguments(request.path or b"") if pair[0] == self._name)
        _, value = next(iter(values), (b"", b""))
        return value or None

    def explain(self, request: Request) -> Considered:
        """Say what is hashed, or else how balance chooses."""
        key = self._key(request)
        if key is None:
            chooses = f"the request has no {self._sticky}, so balance chooses"
            return Considered((), (chooses, *notes_of(self.others, request)))
        text = shorten(key.decode("utf-8", "backslashreplace"))
        return Considered((), (f"{self._sticky} is '{text}', which is hashed",))
