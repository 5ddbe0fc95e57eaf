"""The kinds of options that a scheduler declares, and how a service's words are read by them."""

from typing import Any

import pytest

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import (
    REQUIRED,
    ChoiceOption,
    IntegerOption,
    NumberOption,
    PathOption,
    PercentOption,
    Request,
    SchedulerOption,
    TemplateOption,
    TextOption,
)
from ktcpvs.model.scheduler_options import check_declared, read_options


class Mine:
    """A factory that declares options."""

    def __init__(self, **options: SchedulerOption) -> None:
        self.options = options


ALL = Mine(
    depth=IntegerOption(default=1, minimum=1, maximum=9, help="how deep"),
    load_factor=NumberOption(default=1.25, minimum=1),
    part=PercentOption(default=0.05),
    order=ChoiceOption(default="first", choices=("first", "last")),
    note=TextOption(default="", longest=8, pattern="[a-z]*"),
    table=PathOption(default=None),
    key=TemplateOption(default="{client}"),
)


def values(text: str, factory: Any = ALL) -> dict[str, Any]:
    return {**read_options(factory, text), "key": None}


def test_every_option_has_its_default():
    found = read_options(ALL, "mine")
    assert found["key"].value(Request("192.0.2.1")) == b"192.0.2.1"
    assert values("mine") == {
        "depth": 1, "load_factor": 1.25, "part": 0.05, "order": "first", "note": "", "table": None, "key": None,
    }  # fmt: skip


def test_every_option_can_be_given():
    text = "mine depth 9 load_factor 2 part 2.5% order last note abc table /etc/x"
    assert values(text) == {
        "depth": 9, "load_factor": 2.0, "part": 0.025, "order": "last", "note": "abc", "table": "/etc/x", "key": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("depth 10", r"depth 10 is out of range: 1\.\.9"),
        ("depth x", "depth 'x' is not a whole number"),
        ("load_factor 0.5", r"load_factor 0\.5 is out of range: 1\.\.$"),
        ("load_factor x", r"load_factor 'x' is not a number \(example: 1\.25\)"),
        ("part 5", r"part '5' is not a percentage \(example: 5%\)"),
        ("part 101%", r"part 101% is out of range: 0%\.\.100%"),
        ("order lst", "order cannot be 'lst'; did you mean 'last'?"),
        ("note abcdefghi", "note 'abcdefghi' is longer than 8 characters"),
        ("note 1", r"note '1' is not like \[a-z\]\*"),
        ("table x", r"table 'x' is not an absolute path \(example: /etc/table\)"),
        ('key "{clinet}"', "key '{clinet}': unknown variable 'clinet'; did you mean 'client'?"),
        ('key "{1}"', "key '[{]1}': unknown variable"),
        ("dept 3", "this scheduler has no option 'dept'; did you mean 'depth'?"),
    ],
)
def test_what_cannot_be_given_is_said_in_one_line(words, why):
    with pytest.raises(BadValue, match=why):
        read_options(ALL, f"mine {words}")


def test_a_scheduler_without_options_takes_none():
    with pytest.raises(BadValue, match="this scheduler has no options, so no 'depth'"):
        read_options(Mine(), "wlc depth 3")


def test_an_option_may_be_required():
    factory = Mine(table=PathOption(help="the table"))
    with pytest.raises(BadValue, match=r"missing option table \(path\)"):
        read_options(factory, "mine")
    assert read_options(factory, "mine table /x") == {"table": "/x"}
    assert factory.options["table"].described() == {
        "type": "path", "default": None, "required": True, "help": "the table",
    }  # fmt: skip


def test_options_describe_themselves():
    described = {name: option.described() for name, option in ALL.options.items()}
    assert {name: (one["type"], one["default"]) for name, one in described.items()} == {
        "depth": ("integer 1..9", "1"),
        "load_factor": ("number 1..", "1.25"),
        "part": ("percent 0%..100%", "5%"),
        "order": ("one of first, last", "first"),
        "note": ("text like [a-z]*", ""),
        "table": ("path", None),
        "key": ("template", "{client}"),
    }


def test_a_default_that_could_not_be_given_is_an_error_of_the_plugin():
    with pytest.raises(ValueError, match=r"its default 10 is out of range: 1\.\.9"):
        IntegerOption(default=10, minimum=1, maximum=9)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"match": IntegerOption()}, "'match' cannot be the name of an option"),
        ({"Depth": IntegerOption()}, "'Depth' cannot be the name of an option"),
        ({"depth": 3}, r"depth is 3; expected an option, as IntegerOption\(\.\.\.\)"),
    ],
)
def test_what_a_plugin_cannot_declare(options, why):
    factory = Mine()
    factory.options = options
    with pytest.raises(ValueError, match=why):
        check_declared(factory)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{header.X-User}", b"ada"),
        ("{cookie.sid}", b"7"),
        ("{query.q}", b"a b"),
        ("{host}{path}?{query}", b"shop.example/x?q=a+b"),
        ("{scheme} {client} {tls_server_name} {header.none}", b"http 192.0.2.1  "),
        ("{{x}", b"{x}"),
    ],
)
def test_a_template_takes_its_values_from_the_request(template, value):
    lines = b"Host: shop.example:80\r\nx-user: ada\r\nX-User: eve\r\nCookie: a=1; sid=7\r\n"
    request = Request("192.0.2.1", b"GET", b"/x?q=a+b", b"/x?q=a+b", lines)
    assert (
        read_options(Mine(key=TemplateOption(default="{client}")), f'mine key "{template}"')["key"].value(request)
        == value
    )
    assert REQUIRED is TemplateOption().default
