"""The parts of gRPC that a proxy reads and writes."""

from __future__ import annotations

import pytest

from ktcpvs.protocols import grpc, http1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"content-type: application/grpc\r\n", True),
        (b"a: b\r\nContent-Type:application/grpc+proto\r\n", True),
        (b"content-type: application/grpc;charset=utf-8\r\n", True),
        (b"content-type: application/grpc-web\r\n", False),
        (b"content-type: application/grpcx\r\n", False),
        (b"x-content-type: application/grpc\r\n", False),
        (b"content-type: text/plain\r\n", False),
        (b"", False),
    ],
)
def test_requests_of_grpc_are_recognised(lines: bytes, expected: bool) -> None:
    assert grpc.is_grpc(lines) == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"250m", 0.25), (b"1000u", 0.001), (b"5000000n", 0.005),
        (b"99999999S", 99999999), (b"0n", 0), (b"123456789S", None), (b"S", None), (b"1", None), (b"-1S", None),
        (b"1s", None), (b"1.5S", None),
    ],
)  # fmt: skip
def test_timeouts(value: bytes, seconds: float | None) -> None:
    found = grpc.read_timeout(b"te: trailers\r\ngrpc-timeout: %b\r\n" % value)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_no_timeout() -> None:
    assert grpc.read_timeout(b"x-grpc-timeout: 1S\r\n") is None


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"grpc-status: 0\r\n", 0), (b"a: b\r\nGrpc-Status:14\r\ngrpc-message: x\r\n", 14), (b"grpc-status: 16", 16),
        (b"grpc-status: x\r\n", None), (b"grpc-status: 1000\r\n", None), (b"x-grpc-status: 1\r\n", None), (b"", None),
    ],
)  # fmt: skip
def test_statuses(lines: bytes, status: int | None) -> None:
    assert grpc.read_status(lines) == status


def test_names_of_statuses() -> None:
    assert [grpc.status_name(number) for number in (0, 14, 16, 17, 99)] == [
        "OK", "UNAVAILABLE", "UNAUTHENTICATED", "17", "99",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 13), (413, 8), (429, 14), (501, 12), (502, 14), (503, 14), (504, 4), (308, 2)],
)
def test_an_error_of_the_switch_is_a_response_without_messages(status: int, expected: int) -> None:
    response = grpc.error_response(status, "100 % of „Server“ fail\r\n")
    read = http1.read_response(response, b"POST", 4096)
    assert read is not None
    assert (read[0].status, read[0].length, read[1]) == (200, 0, len(response))
    assert grpc.read_status(response) == expected
    (message,) = [line for line in response.split(b"\r\n") if line.startswith(b"grpc-message: ")]
    assert message == b"grpc-message: ktcpvs: 100 %25 of %E2%80%9EServer%E2%80%9C fail%0D%0A"


def test_requests_of_the_health_service() -> None:
    assert grpc.health_request("") == bytes(5)
    assert grpc.health_request("a.B") == b"\0\0\0\0\x05\x0a\x03a.B"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\0\0\0\0\x02\x08\x01", 1),
        (b"\0\0\0\0\x02\x08\x02", 2),
        (bytes(5), 0),
        (b"\0\0\0\0\x09\x12\x02ab\x08\x01\x18\x81\x01", 1),
        (b"\0\0\0\0\x07\x08\x01\x1d1234", 1),
        (b"\0\0\0\0\x03\x08\x81\x01", 129),
        (b"\0\0\0\0\x02\x08", None),
        (b"\0\0\0\0\x01\x08", None),
        (b"\0\0\0\0\x02\x08\x80", None),
        (b"\0\0\0\0\x02\x0f\x01", None),
        (b"\0\0\0\0\x02\x12\x05", None),
        (b"\1\0\0\0\x02\x08\x01", None),
        (b"", None),
    ],
)
def test_responses_of_the_health_service(body: bytes, status: int | None) -> None:
    assert grpc.read_health(body) == status
