"""The methods of clients for the commands that edit the switch, made from the table of commands.

The clients of asyncio and Twisted have them as coroutines, the blocking one as functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any, Generic, TypeVar

from ktcpvs.control.command_table import COMMAND_OF_EDIT, Argument, ArgumentType, EditCommand

Result = TypeVar("Result")

_ANNOTATIONS: dict[ArgumentType, Any] = {
    ArgumentType.TEXT: str,
    ArgumentType.INTEGER: int,
    ArgumentType.BOOLEAN: bool,
    ArgumentType.ADDRESS: str,
    ArgumentType.SERVICE_OPTIONS: str | int,
    ArgumentType.SERVER_OPTIONS: str,
    ArgumentType.USE: str,
    ArgumentType.SETTINGS: Mapping[str, str | int],
    ArgumentType.NETWORKS: str,
    ArgumentType.CONFIGURATION: str,
}


def _make_method(edit: str) -> Any:
    """Make the client's method for one command of the table. edit: the name of the edit's class."""
    entry = COMMAND_OF_EDIT[edit]
    signature = _make_signature(entry)

    def method(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        client: EditMethods[Any] = bound.arguments.pop("self")
        return client.submit(entry, bound.arguments)

    method.__name__ = entry.method
    method.__qualname__ = f"EditMethods.{entry.method}"
    method.__doc__ = _make_documentation(entry)
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def _make_signature(entry: EditCommand) -> Signature:
    has_options = any(argument.type is ArgumentType.SERVICE_OPTIONS for argument in entry.arguments)
    kind = Parameter.POSITIONAL_ONLY if has_options else Parameter.POSITIONAL_OR_KEYWORD  # options may have any name
    parameters = [Parameter("self", kind), *(_make_parameter(argument, kind) for argument in entry.arguments)]
    return Signature(parameters, return_annotation=list[str])


def _make_parameter(argument: Argument, kind: Any) -> Parameter:
    annotation = _ANNOTATIONS[argument.type]
    if argument.type is ArgumentType.SERVICE_OPTIONS:
        return Parameter(argument.name, Parameter.VAR_KEYWORD, annotation=annotation)
    if argument.is_required:
        return Parameter(argument.name, kind, annotation=annotation)
    if argument.default is None:
        annotation = annotation | None
    return Parameter(argument.name, kind, default=argument.default, annotation=annotation)


def _make_documentation(entry: EditCommand) -> str:
    lines = [f"{entry.help[0].upper()}{entry.help[1:]}."]
    lines += [f"{argument.name}: {argument.help}" for argument in entry.arguments if argument.help]
    return "\n\n".join([lines[0], " ".join(lines[1:])]) if lines[1:] else lines[0]


class EditMethods(ABC, Generic[Result]):
    """Result: what a method returns: the warnings about the edit, one per line, or a coroutine of them."""

    @abstractmethod
    def submit(self, entry: EditCommand, arguments: Mapping[str, Any]) -> Result:
        """Send a command of the table. arguments: all of them by name, as the method takes them."""

    add_service: Callable[..., Result] = _make_method("AddService")
    edit_service: Callable[..., Result] = _make_method("EditService")
    delete_service: Callable[..., Result] = _make_method("DeleteService")
    flush: Callable[..., Result] = _make_method("Flush")
    add_listener: Callable[..., Result] = _make_method("AddListener")
    delete_listener: Callable[..., Result] = _make_method("DeleteListener")
    add_server: Callable[..., Result] = _make_method("AddServer")
    edit_server: Callable[..., Result] = _make_method("EditServer")
    delete_server: Callable[..., Result] = _make_method("DeleteServer")
    drain: Callable[..., Result] = _make_method("Drain")
    ready: Callable[..., Result] = _make_method("Ready")
    maintenance: Callable[..., Result] = _make_method("Maintenance")
    add_rule: Callable[..., Result] = _make_method("AddRule")
    edit_rule: Callable[..., Result] = _make_method("EditRule")
    move_rule: Callable[..., Result] = _make_method("MoveRule")
    delete_rule: Callable[..., Result] = _make_method("DeleteRule")
    allow: Callable[..., Result] = _make_method("Allow")
    deny: Callable[..., Result] = _make_method("Deny")
    delete_network: Callable[..., Result] = _make_method("DeleteNetwork")
    start: Callable[..., Result] = _make_method("StartService")
    stop: Callable[..., Result] = _make_method("StopService")
    set: Callable[..., Result] = _make_method("Set")
    unload: Callable[..., Result] = _make_method("Unload")
    load: Callable[..., Result] = _make_method("Load")
    confirm: Callable[..., Result] = _make_method("Confirm")
    end_local: Callable[..., Result] = _make_method("EndLocal")
    reload_certificates: Callable[..., Result] = _make_method("ReloadCertificates")
    reload_schedulers: Callable[..., Result] = _make_method("ReloadSchedulers")
    renew_certificate: Callable[..., Result] = _make_method("RenewCertificate")
    drain_node: Callable[..., Result] = _make_method("DrainNode")
    undrain_node: Callable[..., Result] = _make_method("UndrainNode")
    forget_node: Callable[..., Result] = _make_method("ForgetNode")
