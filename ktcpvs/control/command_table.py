"""The table of control commands that edit the switch: one entry for each edit of `ktcpvs.model.edits`.

From an entry follow the AMP command (`commands`), its responder (`server`), and the way from an edit to its command and
back (`edit_commands`). The method of a Python client (`client`) and the command in tcpvsadm (`tcpvsadm.options`) are
made from it by a line there. This module imports neither Twisted nor the model, since `tcpvsadm --help` reads it.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from attrs import frozen


class ArgumentType(Enum):
    """The type of an argument's value. `arguments` reads and writes each type, and `commands` encodes it for AMP."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    ADDRESS = "address"
    SERVICE_OPTIONS = "service options"
    """The options of a virtual service, as the configuration language names and writes them, and `port`."""

    SERVER_OPTIONS = "server options"
    """Words that may stand behind a server in the configuration language: tls ..., h2, proxy v1."""

    USE = "use"
    """The action of a rule, as behind `use`: a text like `respond 403`, or `server ADDRESS [WEIGHT] ...`."""

    SETTINGS = "settings"
    NETWORKS = "networks"
    """Addresses and networks, separated by white space. The client uploads them before the command."""

    CONFIGURATION = "configuration"
    """A text in the configuration language. The client uploads it before the command."""

    @property
    def is_uploaded(self) -> bool:
        """True where the value travels in pages before the command, since an AMP value ends at 65,535 bytes."""
        return self in (ArgumentType.NETWORKS, ArgumentType.CONFIGURATION)


def text_of(value: Any) -> str:
    """Return the text of an option's value, an item in each line where it has several; None becomes an empty text."""
    if isinstance(value, tuple | list):
        return "\n".join(map(str, value))
    return "" if value is None else str(value)


class _Required(Enum):
    REQUIRED = "required"


REQUIRED = _Required.REQUIRED


@frozen
class Argument:
    """One argument of a control command.

    name: on the wire, in the edit and in the client's method. default: the client's, which it sends; None is not sent,
    and the edit's own default holds. is_optional: the command may come without it. option: its name in tcpvsadm; None
    where tcpvsadm has no option for it. help: range, unit, and the meaning of None.
    """

    name: str
    type: ArgumentType
    default: Any = REQUIRED
    is_optional: bool = False
    option: str | None = None
    help: str = ""

    @property
    def is_required(self) -> bool:
        """True where the client must give it."""
        return self.default is REQUIRED


@frozen
class EditCommand:
    """A control command that asks for an edit.

    edit: the name of the edit's class, which is the command's name on the wire too. name: the command in tcpvsadm,
    without the dashes. method: the client's method. help: one line for --help and for the method's documentation.
    """

    edit: str
    name: str
    method: str
    help: str
    arguments: tuple[Argument, ...] = ()

    @property
    def uploaded(self) -> Argument | None:
        """The argument that is uploaded before the command, if it has one."""
        return next((argument for argument in self.arguments if argument.type.is_uploaded), None)

    @property
    def on_the_wire(self) -> tuple[Argument, ...]:
        """The arguments that the command itself carries."""
        return tuple(argument for argument in self.arguments if not argument.type.is_uploaded)


def _optional(name: str, type: ArgumentType, help: str, option: str | None = None) -> Argument:
    return Argument(name, type, default=None, is_optional=True, option=option or name, help=help)


_IDENT = Argument("ident", ArgumentType.TEXT, option="ident")
_ANY_IDENT = _optional("ident", ArgumentType.TEXT, "None means all services.")
_ADDRESS = Argument("address", ArgumentType.ADDRESS, option="real-server")
_SERVER_OF_ANY = Argument(
    "address", ArgumentType.ADDRESS, option="real-server", help="Without a port: all servers of that host."
)
_LISTEN = Argument(
    "address", ArgumentType.ADDRESS, option="listen", help="An address without a port gets the service's port."
)
_PATTERN = Argument(
    "pattern", ArgumentType.TEXT, option="pattern", help="A pattern, or conditions as the configuration writes them."
)
_RULE = Argument(
    "rule", ArgumentType.TEXT, option="rule", help="The rule's name, its pattern or conditions, or its number."
)
_RULE_SERVER = _optional(
    "address", ArgumentType.ADDRESS, "a server of the rule; None for a rule with an action.", "real-server"
)
_ACTION = Argument(
    "action", ArgumentType.USE, default=None, is_optional=True,
    help='"redirect 301 URL", "respond 403", ..., or "server A 95 server B 5"; None: as it is.',
)  # fmt: skip
_MODIFIERS = Argument(
    "modifiers", ArgumentType.TEXT, default=None, is_optional=True,
    help='"balance wrr", "request_header NAME VALUE", "strip_prefix /a", ...; None: unchanged, or none for a new rule.',
)  # fmt: skip
_OPTIONS = Argument(
    "options", ArgumentType.SERVICE_OPTIONS, help='listen, port, scheduler, ...; "" removes a redirect.'
)
_NETWORKS = Argument("networks", ArgumentType.NETWORKS, help="Separated by white space; `#` begins a comment.")
_ONLY = Argument(
    "only", ArgumentType.BOOLEAN, False, option="only", help="True replaces the list, False adds to it."
)  # fmt: skip

_HOST = Argument("host", ArgumentType.TEXT, help="One of the names of the certificate.")
_NODE = Argument("node", ArgumentType.TEXT, help="The name of the node.")

_SERVER_OPTIONS = Argument(
    "options", ArgumentType.SERVER_OPTIONS, default=None, is_optional=True,
    help='words as in the configuration: "tls ca FILE name HOST", "tls off", "h2", "proxy v2"; None: as it is.',
)  # fmt: skip

EDIT_COMMANDS: tuple[EditCommand, ...] = (
    EditCommand("AddService", "add-service", "add_service", "add a virtual service, stopped", (_IDENT, _OPTIONS)),
    EditCommand(
        "EditService", "edit-service", "edit_service", "change the given options of a virtual service",
        (_IDENT, _OPTIONS),
    ),
    EditCommand("DeleteService", "delete-service", "delete_service", "delete a stopped virtual service", (_IDENT,)),
    EditCommand("Flush", "flush", "flush", "delete all virtual services, if none of them runs"),
    EditCommand(
        "AddListener", "add-listener", "add_listener", "listen on one more address",
        (
            _IDENT,
            _LISTEN,
            Argument("tls", ArgumentType.BOOLEAN, False, is_optional=True, help="True: clients speak TLS there."),
            Argument(
                "on", ArgumentType.TEXT, default=None, is_optional=True,
                help='the nodes of a cluster that listen there, as "node-a, label:edge"; None: all.',
            ),
        ),
    ),
    EditCommand(
        "DeleteListener", "del-listener", "delete_listener",
        "listen on an address no more; connections of its clients continue", (_IDENT, _LISTEN),
    ),
    EditCommand(
        "AddServer", "add-server", "add_server", "add a real server to a virtual service",
        (
            _IDENT,
            _ADDRESS,
            _optional("weight", ArgumentType.INTEGER, "0..65535, 0: no new connections; None: 1."),
            _optional("maxconn", ArgumentType.INTEGER, "the most connections at once; 0 and None: no limit."),
            _SERVER_OPTIONS,
        ),
    ),
    EditCommand(
        "EditServer", "edit-server", "edit_server", "change the weight, the maxconn or words of a real server",
        (
            _IDENT,
            _ADDRESS,
            _optional("weight", ArgumentType.INTEGER, "0..65535, 0: no new connections; None: unchanged."),
            _optional("maxconn", ArgumentType.INTEGER, "the most connections at once, 0: no limit; None: unchanged."),
            _SERVER_OPTIONS,
        ),
    ),
    EditCommand(
        "DeleteServer", "delete-server", "delete_server", "delete a real server that no rule uses; it drains",
        (_IDENT, _ADDRESS),
    ),
    EditCommand(
        "Drain", "drain", "drain", "send no new connections to a server, in one service or in all",
        (_SERVER_OF_ANY, _ANY_IDENT),
    ),
    EditCommand(
        "Ready", "ready", "ready", "use a server again that was drained or in maintenance", (_SERVER_OF_ANY, _ANY_IDENT)
    ),
    EditCommand(
        "Maintenance", "maintenance", "maintenance", "send nothing to a server, and do not check it",
        (_SERVER_OF_ANY, _ANY_IDENT),
    ),
    EditCommand(
        "AddRule", "add-rule", "add_rule", "add a rule, or add a server to the rule of this name or these conditions",
        (
            _IDENT,
            _PATTERN,
            _RULE_SERVER,
            _optional("match", ArgumentType.INTEGER, "0..10, the group of the pattern to hash; None: no group."),
            _optional("rule_name", ArgumentType.TEXT, "identifies the rule; None: its conditions do.", "name"),
            _optional("before", ArgumentType.TEXT, "the rule in front of which it goes; None: to the end."),
            _ACTION,
            _MODIFIERS,
            _optional("weight", ArgumentType.INTEGER, "0..65535, of the server in this rule; None: its own."),
        ),
    ),
    EditCommand(
        "EditRule", "edit-rule", "edit_rule", "change a rule in its place; given conditions take the place of all",
        (
            _IDENT,
            _RULE,
            _optional("pattern", ArgumentType.TEXT, "its pattern or conditions from now on; None: unchanged."),
            _optional("match", ArgumentType.INTEGER, "0..10, the group of the pattern to hash; None: unchanged."),
            _optional("new_name", ArgumentType.TEXT, 'None: unchanged; "": it has none.', "name"),
            _ACTION,
            _MODIFIERS,
        ),
    ),
    EditCommand(
        "MoveRule", "move-rule", "move_rule", "move a rule in front of another one, or to the end",
        (_IDENT, _RULE, _optional("before", ArgumentType.TEXT, "the other rule; None: to the end.")),
    ),
    EditCommand(
        "DeleteRule", "del-rule", "delete_rule",
        "remove a server from a rule, or a rule that has an action",
        (_IDENT, _PATTERN, _RULE_SERVER),
    ),
    EditCommand(
        "Allow", "allow", "allow", "accept clients of these networks, and no others", (_IDENT, _NETWORKS, _ONLY)
    ),
    EditCommand("Deny", "deny", "deny", "reject clients of these networks", (_IDENT, _NETWORKS, _ONLY)),
    EditCommand(
        "DeleteNetwork", "del-network", "delete_network", "remove networks from the allow and deny lists",
        (_IDENT, _NETWORKS),
    ),
    EditCommand(
        "EndLocal", "end-local", "end_local", "in a cluster: end the edits that hold on this node only", (_ANY_IDENT,)
    ),
    EditCommand("StartService", "start", "start", "start one virtual service, or all", (_ANY_IDENT,)),
    EditCommand("StopService", "stop", "stop", "stop one virtual service, or all; connections drain", (_ANY_IDENT,)),
    EditCommand(
        "Set", "set", "set", "change settings; unload=1 ends the daemon",
        (Argument("changes", ArgumentType.SETTINGS, help="setting -> value."),),
    ),
    EditCommand("Unload", "unload", "unload", "stop all services, let them drain, and end the daemon"),
    EditCommand(
        "Load", "load-configfile", "load", "replace the table with a configuration, whole or not at all",
        (
            Argument("text", ArgumentType.CONFIGURATION, help="the configuration."),
            Argument("source", ArgumentType.TEXT, "<text>", help="the name of the text in error messages."),
            _optional(
                "confirm", ArgumentType.INTEGER,
                "seconds after which the load is undone unless it is confirmed; None: it stays.",
            ),
            _optional(
                "start", ArgumentType.TEXT,
                'the services to start: "new" (those that were not in the table before), "all", or None for none.',
            ),
            Argument(
                "allow_empty", ArgumentType.BOOLEAN, False, is_optional=True, option="allow-empty",
                help="True loads even a text without services and settings.",
            ),
        ),
    ),
    EditCommand("Confirm", "confirm", "confirm", "keep the configuration that was loaded on trial"),
    EditCommand(
        "ReloadCertificates", "reload-certificates", "reload_certificates",
        "read the certificates of services again, for new connections",
    ),
    EditCommand(
        "ReloadSchedulers", "reload-schedulers", "reload_schedulers",
        "load scheduler plugins again, and bind the services that use them",
        (
            Argument(
                "scheduler", ArgumentType.TEXT, default=None, is_optional=True,
                help="a scheduler of the package that is loaded again; None: the packages of all plugins.",
            ),
        ),
    ),
    EditCommand(
        "RenewCertificate", "renew-certificate", "renew_certificate",
        "renew the certificate that the switch has obtained for a host", (_HOST,),
    ),
    EditCommand(
        "DrainNode", "drain-node", "drain_node", "let a node of the cluster get no more clients, and drain",
        (
            _NODE,
            _optional("delay", ArgumentType.INTEGER, "seconds for which it goes on accepting; None: 0."),
        ),
    ),
    EditCommand(
        "UndrainNode", "undrain-node", "undrain_node", "let a node of the cluster accept clients again", (_NODE,)
    ),
    EditCommand("ForgetNode", "forget-node", "forget_node", "forget a node of the cluster that is gone", (_NODE,)),
)  # fmt: skip

COMMAND_OF_EDIT: dict[str, EditCommand] = {command.edit: command for command in EDIT_COMMANDS}
COMMAND_OF_NAME: dict[str, EditCommand] = {command.name: command for command in EDIT_COMMANDS}
