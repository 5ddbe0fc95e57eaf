"""The program of `make testssl`: which findings fail it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import testssl


def finding(severity: str, name: str = "BEAST", text: str = "what was found") -> dict[str, str]:
    return {"id": name, "severity": severity, "finding": text, "ip": "localhost/127.0.0.1", "port": "443"}


@pytest.mark.parametrize("severity", ["OK", "INFO", "LOW"])
def test_findings_up_to_low_pass(severity: str) -> None:
    assert testssl.failures([finding(severity)]) == []


@pytest.mark.parametrize("severity", ["MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN"])
def test_findings_above_low_fail(severity: str) -> None:
    assert testssl.failures([finding("OK"), finding(severity)]) == [f"{severity}: BEAST: what was found"]


def test_findings_that_say_nothing_about_the_switch_pass() -> None:
    """Each certificate has a number behind the identifier if there are several."""
    text = "Neither CRL nor OCSP URI provided"
    names = "cert_revocation <cert#1>", "cert_revocation"
    assert testssl.failures([finding("HIGH", name, text) for name in names]) == []


@pytest.mark.parametrize("name", [*dict.fromkeys(name for name, _ in testssl.NOT_OURS), "cert_trust", "scanProblem"])
def test_another_text_with_such_an_identifier_fails(name: str) -> None:
    assert testssl.failures([finding("HIGH", name)]) == [f"HIGH: {name}: what was found"]


def test_a_test_that_could_not_be_made_is_repeated() -> None:
    name = "sessionresumption_ticket"
    assert testssl.tests_to_repeat([finding("WARN", name), finding("WARN", name), finding("WARN")]) == ["-S"]
    assert testssl.tests_to_repeat([finding("OK", name), finding("HIGH", name), finding("WARN")]) == []


def test_a_run_that_does_not_finish_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "testssl"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert subprocess.run(["testssl"]).returncode == 3
    with pytest.raises(SystemExit, match="has not finished"):
        testssl.examine(1, tmp_path, tmp_path / "ca.pem")
