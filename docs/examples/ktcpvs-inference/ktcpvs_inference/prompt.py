"""The beginning of the prompt in a request to the API of OpenAI, from a body of which only the first bytes are known.

A body that ends in the middle is read as far as it goes. Nothing here raises, whatever the bytes are.
"""

import json
import re
from typing import Any

from attrs import frozen

MAX_DEPTH = 64
"""Objects and lists within each other; a body with more is not read."""

SYSTEM_ROLES = ("system", "developer")

MAX_PARTS = 256
"""Parts of a content or of a prompt that are used, such as the numbers of tokens."""

MAX_TOKENS = 1000
"""Tokens of a body that is not complete; more of it is not read. So none takes longer than a few milliseconds."""

_TOKEN = re.compile(rb'[ \t\r\n]*+("(?:[^"\\]++|\\.)*+(?:"|\\?+\Z)|[-+.\w]++|[\[\]{},:])', re.DOTALL)
"""A token of JSON (RFC 8259, section 2), with the blanks before it. The last one may be a text without its end."""

_WHOLE_CHARACTERS = re.compile(r"(?:[^\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+", re.DOTALL)
"""A text up to an escape without its end."""


@frozen
class Prompt:
    """A request's prompt. system: the messages before that of the user; b"" without any. conversation: these, and the
    first message of the user; or else the whole `prompt`. user: the field `user`; b"" without one."""

    system: bytes = b""
    conversation: bytes = b""
    user: bytes = b""


NONE = Prompt()
"""No prompt, or one that cannot be read."""


def read_prompt(body: bytes) -> Prompt:
    """Return what a body, or its beginning, says of its prompt: that of /v1/chat/completions (`messages`) or of
    /v1/completions (`prompt`)."""
    value = _read(body)
    if not isinstance(value, dict):
        return NONE
    user = value.get("user")
    name = _encoded(user) if isinstance(user, str) else b""
    messages = value.get("messages")
    if isinstance(messages, list):
        return _of_messages(messages, name)
    return Prompt(b"", _encoded(_text(value.get("prompt"))), name)


def _of_messages(messages: list[Any], user: bytes) -> Prompt:
    system = ""
    conversation = ""
    for message in messages:
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        name = role if isinstance(role, str) else ""
        conversation += f"{name}\n{_text(message.get('content'))}\n"
        if role not in SYSTEM_ROLES:
            break
        system = conversation
    return Prompt(_encoded(system), _encoded(conversation), user)


def _text(content: Any) -> str:
    """Return the content of a message as text: it is a text, or a list of parts, of which some have one."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join([_part(part) for part in content[:MAX_PARTS]])
    return ""


def _part(part: Any) -> str:
    """Return one part of a content or of a prompt: a text, the URL of a picture, or the numbers of tokens."""
    if isinstance(part, dict):
        image = part.get("image_url")
        texts = (part.get("text"), image.get("url") if isinstance(image, dict) else image)
        return next((text for text in texts if isinstance(text, str)), "")
    if isinstance(part, list):
        return "".join([f"{number}," for number in part[:MAX_PARTS] if isinstance(number, int)])
    return part if isinstance(part, str) else f"{part},"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _read(body: bytes) -> Any:
    """Return the value that JSON writes, or its beginning; None: it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass  # most likely the body goes on
    try:
        return _Reader().read(body)
    except ValueError:
        return None


class _Reader:
    """Reads the beginning of JSON: objects and lists that have not ended have what has come of them."""

    def __init__(self) -> None:
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []  # of the objects that are open: the name whose value comes next
        self._root: Any = None

    def read(self, body: bytes) -> Any:
        """Return the value. Raises ValueError for what is no JSON."""
        end = 0
        for _ in range(MAX_TOKENS):
            token = _TOKEN.match(body, end)
            if token is None:
                if body[end:].strip(b" \t\r\n"):
                    raise ValueError("not JSON")
                break
            end = token.end()
            self._take(token[1], end == len(body))
            if not self._open or (token[1] == b"}" and self._has_first_message()):
                break
        return self._root

    def _has_first_message(self) -> bool:
        """Whether a message other than those of the system has just ended: what comes after it does not matter."""
        if len(self._open) != 2 or not isinstance(self._root, dict):
            return False
        messages = self._open[1]
        if not isinstance(messages, list) or self._root.get("messages") is not messages:
            return False
        message = messages[-1] if messages else None
        return isinstance(message, dict) and message.get("role") not in SYSTEM_ROLES

    def _take(self, token: bytes, is_last: bool) -> None:
        if token in (b"{", b"["):
            value: dict[str, Any] | list[Any] = {} if token == b"{" else []
            self._add(value)
            self._open.append(value)
            self._keys.append(None)
            if len(self._open) > MAX_DEPTH:
                raise ValueError("too deep")
        elif token in (b"}", b"]"):
            if not self._open:
                raise ValueError("not JSON")
            self._open.pop()
            self._keys.pop()
        elif token.startswith(b'"'):
            self._add_text(token)
        elif token not in (b",", b":") and not is_last:  # the last number may go on
            self._add(json.loads(token))

    def _add_text(self, token: bytes) -> None:
        is_complete = len(token) > 1 and token.endswith(b'"') and _ends(token)
        if is_complete:
            text = json.loads(token, strict=False)
        else:
            partial = token[1:].decode("utf-8", "ignore")  # a character may lack its end
            whole = _WHOLE_CHARACTERS.match(partial)
            text = json.loads(f'"{whole[0] if whole else ""}"', strict=False)
        within = self._open[-1] if self._open else None
        if isinstance(within, dict) and self._keys[-1] is None:
            self._keys[-1] = text if is_complete else ""
        else:
            self._add(text)

    def _add(self, value: Any) -> None:
        if not self._open:
            self._root = value
        elif isinstance(self._open[-1], list):
            self._open[-1].append(value)
        elif (key := self._keys[-1]) is not None:
            self._open[-1][key] = value
            self._keys[-1] = None
        else:
            raise ValueError("a value without its name")


def _ends(token: bytes) -> bool:
    """Whether the last quote of a text ends it: an even number of backslashes is before it."""
    inner = token[:-1]
    return (len(inner) - len(inner.rstrip(b"\\"))) % 2 == 0
