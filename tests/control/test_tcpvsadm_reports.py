"""What commands print that load or renew something."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.control.tcpvsadm.reports import format_certificate_reload, format_scheduler_reload


def test_schedulers_are_named_with_their_files_and_the_services_that_use_them() -> None:
    files = [{"name": "a", "file": "/x/one.py"}, {"name": "b", "file": "/x/two.py"}, {"name": "c", "file": "/x/one.py"}]
    assert format_scheduler_reload({"schedulers": files, "services": ["web", "mail"], "unchanged": False}) == (
        "a, c: loaded again from /x/one.py\nb: loaded again from /x/two.py\nservices bound anew: web, mail\n"
    )
    assert format_scheduler_reload({"schedulers": files[:1], "services": [], "unchanged": True}) == (
        "a: loaded again from /x/one.py, unchanged since it was loaded before\n"
        "services bound anew: none, since no running one uses it\n"
    )
    many = [f"s{number}" for number in range(12)]
    assert format_scheduler_reload({"schedulers": [], "services": many, "unchanged": False}).endswith("s9 and 2 more\n")


def test_a_daemon_that_does_not_tell_what_it_has_loaded() -> None:
    assert format_scheduler_reload(None) == ""


def row(name: str, not_after: float | None, file: str = "/x.pem") -> dict[str, Any]:
    return {"names": [name] if name else [], "subject": "CN=me", "not_after": not_after, "file": file}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "no running service has certificates"),
        ([row("a.example", None)], "1 certificate read again"),
        ([row("a.example", 86400.0)], "1 certificate read again; it expires at 1970-01-02 00:00: a.example (/x.pem)"),
        (
            [row("a.example", 2 * 86400.0), row("", 86400.0, "/y\x1b.pem"), row("c", None)],
            r"3 certificates read again; the first expires at 1970-01-02 00:00: CN=me (/y\x1b.pem)",
        ),
    ],
)
def test_certificates_are_counted_and_the_first_to_expire_is_named(rows: list[dict[str, Any]], text: str) -> None:
    assert format_certificate_reload(rows) == f"{text}\n"
