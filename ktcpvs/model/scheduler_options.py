"""Options of a scheduler's own: the kinds that its factory declares, and how a service's words are read by them.

class Mine:
    name = "mine"
    options = {"depth": IntegerOption(default=1, minimum=1, maximum=9, help="how many servers to look at")}

scheduler = mine depth 3
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

from ktcpvs.errors import BadValue, shorten, unknown
from ktcpvs.model.request_templates import RequestTemplate
from ktcpvs.model.scheduler_words import MAX_OPTIONS, OPTION_NAME, RESERVED_NAMES, parse_scheduler

MAX_TEXT = 4096
"""The most characters of a text, a path or a template."""


class _Required(Enum):
    REQUIRED = "required"

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required.REQUIRED
"""The default of an option that must be given."""


@frozen(kw_only=True)
class SchedulerOption:
    """An option of a scheduler. Subclasses define `read`; other kinds can be defined in the same way.

    default: the value without the option; REQUIRED: it must be given; None: it has no value then. help: for people, in
    a few words. Raises ValueError for a default that cannot be given.
    """

    default: Any = REQUIRED
    help: str = ""

    def __attrs_post_init__(self) -> None:
        if self.default is REQUIRED or self.default is None:
            return
        try:
            object.__setattr__(self, "default", self.read(self.write(self.default)))
        except BadValue as error:
            raise ValueError(f"its default {error}") from None

    @property
    def kind(self) -> str:
        """The values that it takes, for people."""
        return "text"

    def read(self, text: str) -> Any:
        """Return the value that `text` writes. Raises BadValue, whose text goes on after the name of the option."""
        raise TypeError(f"{type(self).__name__} does not define read()")

    def write(self, value: Any) -> str:
        """Return the text that `read` reads back."""
        return str(value)

    def described(self) -> dict[str, Any]:
        """Return it as plain data. default: its text; None: it has no value, or is required."""
        has_none = self.default is None or self.default is REQUIRED
        return {
            "type": self.kind,
            "default": None if has_none else self.write(self.default),
            "required": self.default is REQUIRED,
            "help": self.help,
        }


def _range(minimum: float | None, maximum: float | None, unit: str = "") -> str:
    """Return a range in words; "": there is none."""
    if minimum is None and maximum is None:
        return ""
    low, high = ("" if one is None else f"{one:.15g}{unit}" for one in (minimum, maximum))
    return f"{low}..{high}"


def _check_range(text: str, value: float, minimum: float | None, maximum: float | None, unit: str = "") -> None:
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        raise BadValue(f"{shorten(text, 40)} is out of range: {_range(minimum, maximum, unit)}")


_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?")


@frozen(kw_only=True)
class IntegerOption(SchedulerOption):
    """A whole number: an int. minimum, maximum: None: there is none."""

    minimum: int | None = None
    maximum: int | None = None

    @property
    def kind(self) -> str:
        return f"integer {_range(self.minimum, self.maximum)}".rstrip()

    def read(self, text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise BadValue(f"'{shorten(text, 40)}' is not a whole number")
        _check_range(text, int(text), self.minimum, self.maximum)
        return int(text)


@frozen(kw_only=True)
class NumberOption(SchedulerOption):
    """A number, as 1.25: a float. minimum, maximum: None: there is none."""

    minimum: float | None = None
    maximum: float | None = None

    @property
    def kind(self) -> str:
        return f"number {_range(self.minimum, self.maximum)}".rstrip()

    def read(self, text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise BadValue(f"'{shorten(text, 40)}' is not a number (example: 1.25)")
        _check_range(text, float(text), self.minimum, self.maximum)
        return float(text)

    def write(self, value: Any) -> str:
        return f"{value:.15g}"


@frozen(kw_only=True)
class PercentOption(SchedulerOption):
    """A share in percent, as 5% or 2.5%: a float from 0 to 1. minimum, maximum: shares too."""

    minimum: float = 0.0
    maximum: float = 1.0

    @property
    def kind(self) -> str:
        return f"percent {_range(self.minimum * 100, self.maximum * 100, '%')}"

    def read(self, text: str) -> float:
        number = text.removesuffix("%")
        if number == text or not _NUMBER.fullmatch(number):
            raise BadValue(f"'{shorten(text, 40)}' is not a percentage (example: 5%)")
        _check_range(text, float(number), self.minimum * 100, self.maximum * 100, "%")
        return float(number) / 100

    def write(self, value: Any) -> str:
        return f"{value * 100:.15g}%"


@frozen(kw_only=True)
class ChoiceOption(SchedulerOption):
    """One of some words: a str. choices: these words."""

    choices: tuple[str, ...] = field(converter=tuple)

    @property
    def kind(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def read(self, text: str) -> str:
        if text not in self.choices:
            raise BadValue(f"cannot be {unknown(text, self.choices, 40)}")
        return text


@frozen(kw_only=True)
class TextOption(SchedulerOption):
    """A text without control characters, of at most `longest` characters: a str. pattern: a regular expression that
    matches all of it; None: any."""

    longest: int = MAX_TEXT
    pattern: str | None = None

    @property
    def kind(self) -> str:
        return "text" if self.pattern is None else f"text like {self.pattern}"

    def read(self, text: str) -> str:
        if len(text) > self.longest:
            raise BadValue(f"'{shorten(text, 40)}' is longer than {self.longest} characters")
        if not text.isprintable():
            raise BadValue(f"'{shorten(text, 40)}' has a control character")
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            raise BadValue(f"'{shorten(text, 40)}' is not like {self.pattern}")
        return text


@frozen(kw_only=True)
class PathOption(SchedulerOption):
    """The absolute path of a file or a folder: a str. `bind` finds out whether it is there, and raises BadValue."""

    @property
    def kind(self) -> str:
        return "path"

    def read(self, text: str) -> str:
        if not text.startswith("/") or not text.isprintable() or len(text) > MAX_TEXT:
            raise BadValue(f"'{shorten(text, 60)}' is not an absolute path (example: /etc/table)")
        return text


@frozen(kw_only=True)
class TemplateOption(SchedulerOption):
    """A text with variables, as `{header.x-user}`: a RequestTemplate, whose `value(request)` is the text in bytes for
    one request. default: its text."""

    @property
    def kind(self) -> str:
        return "template"

    def read(self, text: str) -> RequestTemplate:
        if len(text) > MAX_TEXT:
            raise BadValue(f"'{shorten(text, 40)}' is longer than {MAX_TEXT} characters")
        try:
            return RequestTemplate(text)
        except BadValue as error:
            raise BadValue(f"'{shorten(text, 40)}': {error}") from None


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
"""The options of a scheduler that has none."""


def declared_options(factory: Any) -> Mapping[str, SchedulerOption]:
    """Return the options that a factory declares, by name. factory: None in tests without a scheduler."""
    declared: Mapping[str, SchedulerOption] = getattr(factory, "options", NO_OPTIONS)
    return declared


def check_declared(factory: Any) -> None:
    """Raise ValueError where a factory declares options that no service could give."""
    declared: Any = declared_options(factory)
    if not isinstance(declared, Mapping) or len(declared) > MAX_OPTIONS:
        raise ValueError(f"options must be a dict of at most {MAX_OPTIONS} names with options, as IntegerOption(...)")
    for name, option in declared.items():
        if not isinstance(name, str) or not OPTION_NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise ValueError(
                f"options: {name!r} cannot be the name of an option: expected a-z, 0-9 and _, and none of "
                f"{', '.join(sorted(RESERVED_NAMES))}"
            )
        if not isinstance(option, SchedulerOption):
            raise ValueError(f"options: {name} is {option!r}; expected an option, as IntegerOption(...)")


def read_options(factory: Any, text: str) -> Mapping[str, Any]:
    """Return name -> value of all options that `factory` declares, as `text` gives them, or else their defaults.

    text: of the scheduler in a configuration. Raises BadValue, whose text goes on after what names the scheduler.
    """
    declared = declared_options(factory)
    if not declared and " " not in text:
        return NO_OPTIONS
    given = dict(parse_scheduler(text).options)
    for name in given:
        if not declared:
            raise BadValue(f"this scheduler has no options, so no '{shorten(name, 40)}'")
        if name not in declared:
            raise BadValue(f"this scheduler has no option {unknown(name, declared, 40)}")
    values: dict[str, Any] = {}
    for name, option in declared.items():
        if name not in given:
            if option.default is REQUIRED:
                raise BadValue(f"missing option {name} ({option.kind})")
            values[name] = option.default
            continue
        try:
            values[name] = option.read(given[name])
        except BadValue as error:
            raise BadValue(f"{name} {error}") from None
    return MappingProxyType(values)
