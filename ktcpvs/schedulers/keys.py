"""The key that a scheduler hashes: the client's address, or what the option `key` says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ktcpvs.errors import shorten
from ktcpvs.interfaces import Request, RequestTemplate, ServiceView, TemplateOption
from ktcpvs.model.template_checks import check_own_templates
from ktcpvs.schedulers.hashing import hash_client, hash_key

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT = "{client}"

KEY_OPTION = TemplateOption(default=CLIENT, help="what is hashed; where it is empty, the client's address")


def number_of_client(request: Request) -> int:
    """Return the hash of the address of a request's client."""
    return hash_client(request.client)


if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._hashing import configure_keys

        configure_keys(number_of_client)


class Key:
    """The key of requests. template: None: the client's address.

    number: returns the hash of a request's key.
    """

    __slots__ = ("_template", "name", "number")

    def __init__(self, template: RequestTemplate | None = None) -> None:
        self._template = None if template is None or template.text == CLIENT else template
        self.name = "the client's address" if self._template is None else self._template.text
        self.number: Callable[[Request], int] = number_of_client if self._template is None else self._of_template

    def _of_template(self, request: Request) -> int:
        text = self._template.value(request) if self._template is not None else b""
        return hash_key(text) if text else number_of_client(request)

    def describe(self, request: Request) -> str:
        """Return what is hashed for `request`, in words."""
        text = self._template.value(request) if self._template is not None else b""
        if text:
            return f"{self.name} is '{shorten(text.decode('utf-8', 'backslashreplace'))}'"
        is_empty = f"{self.name} is empty, so the client's address counts: " if self._template is not None else ""
        return f"{is_empty}the client's address is '{request.client}'"


def key_of(service: ServiceView, scheduler: str) -> Key:
    """Return the key that the option `key` of a service, or of a rule's balance, names.

    Raises BadValue for one that needs requests where the scheduler of that name chooses before any is read.
    """
    template: RequestTemplate | None = service.options.get("key")
    if service.config.scheduler_name == scheduler:
        check_own_templates(service.ident, service.config.scheduler, service.options)
    return Key(template)
