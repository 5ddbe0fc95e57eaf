"""The records in etcd, written and read."""

from __future__ import annotations

import json

import pytest
from attrs import evolve
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from model.strategies import idents, services, settings_values

from ktcpvs.cluster.records import (
    MAX_ERROR_CHARACTERS,
    MAX_REPORTED_ERRORS,
    BadRecord,
    NodeReport,
    ServiceRecord,
    SettingsRecord,
    TrialRecord,
    check_format,
    decode_report,
    decode_sealed,
    decode_service,
    decode_settings,
    decode_table,
    decode_trial,
    encode_format,
    encode_report,
    encode_sealed,
    encode_service,
    encode_settings,
    encode_table,
    encode_trial,
    ident_of,
    service_key,
)
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.errors import BadValue
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings


@examples(30)
@given(services(), st.booleans(), st.integers(0, 1 << 40))
def test_a_service_is_read_as_it_was_written(service: VirtualService, is_running: bool, position: int) -> None:
    record = ServiceRecord(service, is_running, position)
    assert decode_service(service.ident, encode_service(record)) == record


KEY = "/x/tables/1/settings"
SEALER = Sealer([b"s" * 32])


@given(settings_values())
def test_settings_are_read_as_they_were_written(settings: Settings) -> None:
    value = encode_settings(settings, KEY, SEALER)
    assert decode_settings(value, KEY, SEALER) == SettingsRecord(settings)


def test_a_cookie_key_is_stored_sealed() -> None:
    settings = Settings(read_timeout=77, cookie_key="not-for-everyone")
    value = encode_settings(settings, KEY, SEALER)
    assert b"not-for-everyone" not in value
    with pytest.raises(BadValue, match=r"cookie_key would be readable in etcd: give all nodes .* --cluster-secret"):
        encode_settings(settings, KEY, None)
    without = evolve(settings, cookie_key="")
    assert decode_settings(encode_settings(without, KEY, None), KEY, None) == SettingsRecord(without)


@pytest.mark.parametrize(
    ("key", "sealer", "problem"),
    [
        (KEY, None, "cookie_key: sealed, and this node has no --cluster-secret"),
        (KEY, Sealer([b"o" * 32]), "cookie_key: sealed with another --cluster-secret"),
        (KEY + "2", SEALER, "cookie_key: changed by somebody, or moved here from another key of etcd"),
    ],
)
def test_settings_are_read_without_the_key_that_does_not_open(key: str, sealer: Sealer | None, problem: str) -> None:
    settings = Settings(read_timeout=77, cookie_key="not-for-everyone")
    found = decode_settings(encode_settings(settings, KEY, SEALER), key, sealer)
    assert found == SettingsRecord(evolve(settings, cookie_key=""), problem)


def test_a_cookie_key_is_not_current_before_it_is_sealed_with_the_newest_secret() -> None:
    settings = Settings(cookie_key="not-for-everyone")
    both = Sealer([b"n" * 32, b"s" * 32])
    assert decode_settings(encode_settings(settings, KEY, SEALER), KEY, both) == SettingsRecord(settings, "", False)
    readable = b'{"format":1,"settings":"global { cookie_key = not-for-everyone }"}'
    assert decode_settings(readable, KEY, both) == SettingsRecord(settings, "", False)


@pytest.mark.parametrize("sealed", ["7", '["x"]', '"x"', '""', '":"', '"%s:*"', '"%s:AAAA"', '"%s:%s"'])
def test_a_sealed_value_that_is_garbage_is_named(sealed: str) -> None:
    name = SEALER.seal(KEY, b"x").partition(":")[0]
    text = sealed.replace("%s", name)
    value = b'{"format":1,"settings":"","cookie_key":' + text.encode() + b"}"
    try:
        problem = decode_settings(value, KEY, SEALER).problem
    except BadRecord as bad:
        problem = str(bad)
    assert problem.startswith("cookie_key")


def test_a_sealed_value_that_is_no_key_for_cookies() -> None:
    sealed = SEALER.seal(KEY, b"a b")
    value = b'{"format":1,"settings":"","cookie_key":"' + sealed.encode() + b'"}'
    with pytest.raises(BadRecord, match="cookie_key: expected 8 to 128"):
        decode_settings(value, KEY, SEALER)


def test_secrets_are_read_as_they_were_written() -> None:
    assert decode_sealed(encode_sealed("a:b")) == "a:b"
    with pytest.raises(BadRecord, match="sealed is missing"):
        decode_sealed(encode_format())


@given(idents(), st.integers(0, 1 << 62))
def test_the_key_of_a_service(ident: str, generation: int) -> None:
    key = service_key(generation, ident)
    assert ident_of(key, generation) == ident
    assert ident_of(key, generation + 1) is None
    assert key.count("/") == 3


def test_other_values_are_read_as_they_were_written() -> None:
    report = NodeReport("x", 7, ("cannot listen",), "1.0", 3, 5, 2, labels=("edge", "eu"))
    assert decode_report(encode_report(report)) == report
    older = {name: value for name, value in json.loads(encode_report(report)).items() if name != "labels"}
    assert decode_report(json.dumps(older).encode()) == evolve(report, labels=())
    with pytest.raises(BadRecord, match="labels is missing, or not of its type"):
        decode_report(json.dumps({**older, "labels": "edge"}).encode())
    assert decode_table(encode_table(1 << 61)) == 1 << 61
    trial = TrialRecord(1 << 61, 5, 60, "a")
    assert decode_trial(encode_trial(trial)) == trial
    check_format(encode_format())


@pytest.mark.parametrize("seconds", [0, -1, 1 << 40])
def test_a_trial_of_impossible_length(seconds: int) -> None:
    with pytest.raises(BadRecord, match=r"seconds is -?[0-9]+; expected 1\.\.86400"):
        decode_trial(encode_trial(TrialRecord(2, 1, seconds, "a")))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a value of ktcpvs"),
        (b'{"format":"1"}', "not a value of ktcpvs"),
        (b'{"format":true}', "not a value of ktcpvs"),
        (b'{"format":2}', "its format is 2; this version reads formats up to 1"),
        (b'{"format":1}', "service is missing"),
        (b'{"format":1,"service":"Virtual x {"}', "this version cannot read it: "),
        (
            b'{"format":1,"service":"Virtual web { colour = red }","running":true,"position":1}',
            "this version cannot read it",
        ),
        (b'{"format":1,"service":"Virtual other { }","running":true,"position":1}', "not the service of its key"),
        (
            b'{"format":1,"service":"Virtual web { }","running":1,"position":1}',
            "running is missing, or not of its type",
        ),
        (b'{"format":1,"service":"Virtual web { }","running":true,"position":1.5}', "position is missing"),
    ],
)
def test_what_cannot_be_read(value: bytes, why: str) -> None:
    with pytest.raises(BadRecord) as bad:
        decode_service("web", value)
    assert why in str(bad.value)
    assert "\n" not in str(bad.value)


def test_a_report_is_bounded() -> None:
    report = decode_report(encode_report(NodeReport("i", errors=tuple("x" * 1000 for _ in range(1000)))))
    assert len(report.errors) == MAX_REPORTED_ERRORS + 1
    assert report.errors[-1] == "and 980 more; see the log of that node"
    assert {len(error) for error in report.errors[:-1]} == {MAX_ERROR_CHARACTERS + len("...")}


def test_a_report_cannot_write_to_terminals() -> None:
    value = json.dumps({**json.loads(encode_report(NodeReport("i"))), "errors": ["\x1b[2J"], "version": "\r1"})
    report = decode_report(value.encode())
    assert (report.errors, report.version) == ((r"\x1b[2J",), r"\r1")


def test_a_report_of_before_processes_were_reported_is_read() -> None:
    fields = json.loads(encode_report(NodeReport("i", process="p")))
    del fields["process"]
    assert decode_report(json.dumps(fields).encode()) == NodeReport("i")


@pytest.mark.parametrize(
    ("name", "value"), [("since", 1 << 70), ("connections", -1), ("workers", True), ("process", 5)]
)
def test_a_report_with_values_out_of_range_is_refused(name: str, value: object) -> None:
    fields = {**json.loads(encode_report(NodeReport("i"))), name: value}
    with pytest.raises(BadRecord, match=name):
        decode_report(json.dumps(fields).encode())


@examples(30)
@given(services(), services())
def test_a_service_that_is_known_is_not_parsed_again(one: VirtualService, other: VirtualService) -> None:
    value = encode_service(ServiceRecord(one, True, 5))
    same = decode_service(one.ident, value).service  # equal, and another object
    assert decode_service(one.ident, value, same).service is same
    assert decode_service(one.ident, value, other) == ServiceRecord(one, True, 5)


def test_a_service_keeps_the_text_of_which_it_was_read_unless_that_says_more() -> None:
    def text(written: str) -> str:
        value = json.dumps({"format": 1, "service": written, "running": True, "position": 0}).encode()
        return decode_service("a", value).text

    service = "Virtual a { server = 10.0.0.1:80 3 }"
    assert text(service) == service
    assert text(f"global {{ read_timeout = 17 }} {service}") == ""
