"""The program of `make h2spec`: which cases fail it."""

from __future__ import annotations

from pathlib import Path

import h2spec
import pytest

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="3.5. HTTP/2 Connection Preface" package="http2/3.5" id="3.5" tests="2" errors="1">
    <testcase package="http2/3.5" classname="Sends client connection preface" time="0.0008"></testcase>
    <testcase package="http2/3.5" classname="Sends invalid connection preface" time="0.0003">
      <failure>The endpoint MUST terminate the TCP connection.&#xA;GOAWAY Frame</failure>
    </testcase>
  </testsuite>
</testsuites>
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    return path


def test_a_case_that_fails_is_a_failure(report: Path) -> None:
    cases = h2spec.read_report(report, "by TLS")
    assert len(cases) == 2
    wrong = "The endpoint MUST terminate the TCP connection. GOAWAY Frame"
    assert h2spec.failures(cases) == [f"by TLS: http2/3.5: Sends invalid connection preface: {wrong}"]


def test_without_tls_a_bad_beginning_is_a_request_of_http1(report: Path) -> None:
    assert h2spec.failures(h2spec.read_report(report, "without TLS")) == []


def test_a_run_without_cases_is_a_failure(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text("<testsuites></testsuites>")
    with pytest.raises(SystemExit, match="nothing by TLS"):
        h2spec.read_report(report, "by TLS")


def test_a_run_that_does_not_finish_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has not finished"):
        h2spec.examine("false", "by TLS", 1, tmp_path / "report.xml")
