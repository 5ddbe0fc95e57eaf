"""A scheduler with options of its own, in a service and in a rule."""

import pytest

from ktcpvs.errors import BadConfiguration, BadValue
from ktcpvs.model.describe import describe_service
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write_service
from ktcpvs.model.modifiers import Modifiers, modifiers_of
from ktcpvs.model.scheduler_words import MAX_OPTIONS, NamedScheduler, name_of, parse_scheduler
from ktcpvs.model.service import VirtualService

HEAD = "Virtual web {\n    listen = 10.0.0.9:80\n    server = 10.0.0.1:80 1\n"


def parsed(lines: str) -> VirtualService:
    return parse(f"{HEAD}{lines}\n}}\n").services["web"]


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("wlc", "wlc", ()),
        ("mine depth 3", "mine", (("depth", "3"),)),
        ('mine  key   "{header.x-user}" depth 3', "mine", (("key", "{header.x-user}"), ("depth", "3"))),
        ('mine key "a b" mode "use"', "mine", (("key", "a b"), ("mode", "use"))),
    ],
)
def test_a_scheduler_has_a_name_and_options(text, name, options):
    named = parse_scheduler(text)
    assert named == NamedScheduler(name, options)
    assert parse_scheduler(str(named)) == named
    assert name_of(str(named)) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not a valid scheduler name"),
        ("mine depth", r"scheduler mine: depth: missing value \(expected: depth VALUE\)"),
        ("mine depth 3 depth 4", "scheduler mine: depth is given twice"),
        ("mine De-pth 3", "scheduler mine: 'De-pth' is not the name of an option: expected NAME VALUE pairs"),
        ("mine match 3", "scheduler mine: no option can have the name 'match', which is a word of the language"),
        (f"mine {' '.join(f'o{n} 1' for n in range(MAX_OPTIONS + 1))}", "65 options are more than 64"),
        ('mine key "a', "unterminated quote"),
        ('mine key "a\tb"', "scheduler mine: key 'a.tb' has a control character"),
        ("mine\ndepth 3", "is not a valid scheduler name"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, why):
    with pytest.raises(BadValue, match=why):
        parse_scheduler(text)


@pytest.mark.parametrize("option", ["scheduler", "balance", "fallback"])
def test_options_stand_behind_the_name_and_are_written_as_they_are_read(option):
    service = parsed(f'    {option} = mine depth 3 key "{{header.x-user}}"\n    maxclients = 5')
    assert getattr(service, option) == 'mine depth 3 key "{header.x-user}"'
    assert service.maxclients == 5
    written = write_service(describe_service(service))
    assert f'    {option} = mine depth 3 key "{{header.x-user}}"\n' in written
    assert parse(written).services["web"] == service


def test_a_test_behind_a_scheduler_is_a_test():
    service = parsed('    scheduler = mine depth 3\n    test "GET /" -> 10.0.0.1:80')
    assert service.scheduler == "mine depth 3"
    assert len(service.tests) == 1


def test_a_misspelled_keyword_in_the_next_line_is_no_option():
    with pytest.raises(BadConfiguration, match=r"^<text>:5:5: unknown keyword 'lsiten'"):
        parsed("    scheduler = wlc\n    lsiten = 127.0.0.1:80")


def test_a_keyword_without_its_sign_is_no_option():
    with pytest.raises(BadConfiguration, match=r"^<text>:5:5: 'server': expected a keyword followed by '='"):
        parsed("    scheduler = http\n    server 10.0.0.2:80")


@pytest.mark.parametrize(
    ("rule", "balance"),
    [
        ("path /a balance mine depth 3 strip_prefix /a use server 10.0.0.1:80", "mine depth 3"),
        ("path /a use server 10.0.0.1:80 5 balance mine depth 3", "mine depth 3"),
        ('pattern "^/(.*)" balance mine key "{path}" match 1 use server 10.0.0.1:80', 'mine key "{path}"'),
        ('path /a balance "host" mode "match" use server 10.0.0.1:80', 'host mode "match"'),
    ],
)
def test_options_of_a_rules_balance(rule, balance):
    service = parsed(f"    scheduler = phttp\n    rule = {rule}\n    maxclients = 5")
    assert service.rules[0].modifiers.balance == balance
    assert service.maxclients == 5
    assert parse(write_service(describe_service(service))).services["web"] == service


def test_modifiers_with_a_scheduler_are_read_back():
    modifiers = Modifiers(strip_prefix="/a", balance='host key "a b" mode "use"')
    assert modifiers_of(str(modifiers)) == modifiers


def test_a_missing_value_in_a_rule_has_its_place():
    with pytest.raises(BadConfiguration, match=r"^<text>:4:28: scheduler mine: depth: missing value"):
        parsed("    rule = path /a balance mine depth use server 10.0.0.1:80")
