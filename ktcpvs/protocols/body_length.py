"""The length of a body by Content-Length and Transfer-Encoding (RFC 9112, section 6.3).

A form that two recipients could read differently is refused. A loose form that all of them read in the same way is
accepted, and the caller sends it on in the strict form.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.http1 import BadRequest

CHUNKED = -1
"""As a length: the body is chunked."""

_DIGITS = re.compile(rb"[0-9]++")
_MAX_DIGITS = 18
"""More digits, without zeros in front, are refused: some recipients would overflow."""

_CODING = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)([\t ]*+;[\t -~\x80-\xff]*+)?+")


def body_length(lengths: list[bytes], codings: list[bytes], minor: bool, *, is_request: bool) -> tuple[int, bool]:
    """The body's length in bytes, CHUNKED, or 0 where nothing is said of it; and whether the strict form is what came.

    lengths, codings: the values of all fields Content-Length and Transfer-Encoding, without blanks around them. minor:
    False for HTTP/1.0. Where the form is loose, the message must go on with `Content-Length: N` as the only field of
    that name, or with none if the body is chunked. Raises BadRequest: 400, or 501 for a coding that is not known.
    """
    if not codings:
        return _content_length(lengths, is_request) if lengths else (0, True)
    if lengths and is_request:
        raise BadRequest(400, "Content-Length beside Transfer-Encoding")
    if lengths:  # in a response chunked overrides it
        _content_length(lengths, is_request)
    if not minor:
        raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")
    if codings == [b"chunked"] or (len(codings) == 1 and codings[0].lower() == b"chunked"):
        return CHUNKED, not lengths
    raise _bad_coding(codings)


def _content_length(lengths: list[bytes], is_request: bool) -> tuple[int, bool]:
    value = lengths[0]
    if len(lengths) == 1 and value.isdigit() and len(value) <= _MAX_DIGITS and (value[:1] != b"0" or value == b"0"):
        return int(value), True
    # RFC 9110, section 8.6: several equal values may be read as one.
    numbers = {_number(one.strip(b" \t"), is_request) for value in lengths for one in value.split(b",")}
    if len(numbers) > 1:
        raise BadRequest(400, "two different values of Content-Length")
    return numbers.pop(), False


def _number(text: bytes, is_request: bool) -> int:
    """One value. Zeros in front do no harm where a recipient that takes the number for octal reads the same one."""
    digits = text.lstrip(b"0") or b"0"
    if not _DIGITS.fullmatch(text) or len(digits) > _MAX_DIGITS:
        raise BadRequest(400, "Content-Length is not one number")
    if is_request and len(text) > 1 and text[:1] == b"0" and (len(digits) > 1 or digits > b"7"):
        raise BadRequest(400, "Content-Length begins with 0, which some read as octal")
    return int(digits)


def _bad_coding(codings: list[bytes]) -> BadRequest:
    """Why these are not accepted: every coding but `chunked` is unknown (RFC 9112, section 6.1)."""
    found = [_CODING.fullmatch(one.strip(b" \t")) for value in codings for one in value.split(b",")]
    if all(found) and any(one is not None and one[1].lower() != b"chunked" for one in found):
        return BadRequest(501, "Transfer-Encoding names a coding other than chunked")
    return BadRequest(400, "Transfer-Encoding is not chunked, once and without parameters")
