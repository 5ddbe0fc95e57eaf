"""The text of a rule's servers, as it stands behind `use`: server ADDRESS [WEIGHT] [server ADDRESS [WEIGHT] ...]."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed, no_port_names, parse_address
from ktcpvs.model.language.lexer import Token, tokens, word
from ktcpvs.model.modifiers import BALANCE
from ktcpvs.model.rule import RuleServer
from ktcpvs.model.settings import whole_number

SERVER = "server"


def is_servers(text: str) -> bool:
    """Whether the text names servers, and no action."""
    return text.split(None, 1)[:1] == [SERVER]


def is_weight(token: Token | None) -> bool:
    """Whether the token behind a server's address is its weight."""
    return token is not None and not token.quoted and token.text.lstrip("-+").isdigit()


def servers_of(text: str, port_named: PortNamed = no_port_names) -> tuple[RuleServer, ...]:
    """Return the servers that `text` names, at least one; their addresses may have no port. Raises a Refusal."""
    rest = list(reversed(tokens(text.replace("\n", " "), "servers")))
    found: list[RuleServer] = []
    while rest:
        if not rest[-1].is_word(SERVER):
            raise BadValue(f"expected 'server', not '{shorten(rest[-1].text, 40)}'")
        rest.pop()
        if not rest:
            raise BadValue("server: missing address (example: server 10.0.0.1:80 95)")
        address = parse_address(rest.pop().text, port_named)
        weight = whole_number("weight", rest.pop().text) if rest and is_weight(rest[-1]) else None
        found.append((address, weight))
    return tuple(found)


def write_servers(servers: Iterable[RuleServer]) -> str:
    """Return the text that `servers_of` reads back."""
    return " ".join(
        f"{SERVER} {word(str(address))}" + ("" if weight is None else f" {weight}") for address, weight in servers
    )


def text_of_words(words: Sequence[str]) -> tuple[str, str]:
    """Return the text of servers that is given as words, the first of them `server`, and that of `balance` behind them;
    "": there is none."""
    end = next((place for place, one in enumerate(words) if one.lower() == BALANCE), len(words))
    servers = [one.lower() if one.lower() == SERVER else word(one) for one in words[:end]]
    return " ".join(servers), " ".join([BALANCE, *map(word, words[end + 1 :])] if words[end:] else [])
