"""A cookie that is taken out of header lines: the quick way, in C and in Python, and the general one."""

import importlib.util
import sys
from types import ModuleType

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols.http1 import cookies
from ktcpvs.protocols.http1.cookies import take_cookie, take_cookies

NAME = b"SID"


@pytest.fixture(scope="module", params=["installed", "Python"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The module as it is installed, and as it is without its compiled part."""
    if request.param == "installed":
        return cookies
    compiled = sys.modules.pop("ktcpvs.protocols._compiled", None)
    sys.modules["ktcpvs.protocols._compiled"] = None  # type: ignore[assignment]
    try:
        spec = importlib.util.find_spec(cookies.__name__)
        assert spec is not None
        assert spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(plain)
    finally:
        del sys.modules["ktcpvs.protocols._compiled"]
        if compiled is not None:
            sys.modules["ktcpvs.protocols._compiled"] = compiled
    return plain


@pytest.mark.parametrize(
    ("lines", "value", "left"),
    [
        (b"Host: h\r\nCookie: SID=1\r\nA: b\r\n", b"1", b"Host: h\r\nA: b\r\n"),
        (b"Cookie: SID=1\r\n", b"1", b""),
        (b"Cookie: a=1; SID=1\r\n", b"1", b"Cookie: a=1\r\n"),
        (b"Cookie: SID=1; a=1\r\n", b"1", b"Cookie: a=1\r\n"),
        (b"Cookie: a=1; SID=1 ; b=2\r\n", b"1 ", b"Cookie: a=1; b=2\r\n"),
        (b"Cookie: a=1;\tSID=\r\n", b"", b"Cookie: a=1\r\n"),
        (b"Cookie: a=1\r\n", None, b"Cookie: a=1\r\n"),
        (b"", None, b""),
    ],
)
def test_a_line_of_a_browser(module: ModuleType, lines: bytes, value: bytes | None, left: bytes) -> None:
    assert module.take_single_cookie(lines, NAME) == (value, left)


@pytest.mark.parametrize(
    "lines",
    [
        b"Cookie: SID=1; SID=2\r\n",
        b"Cookie: XSID=1\r\n",
        b"Cookie: a=SID\r\n",
        b"cookie: SID=1\r\n",
        b"Cookie:SID=1\r\n",
        b"X-Cookie: SID=1\r\n",
        b"Referer: /?SID=1\r\n",
        b"Cookie: SID=1",
        b"SID=1\r\n",
    ],
)
def test_what_may_be_otherwise_is_left_to_the_general_way(module: ModuleType, lines: bytes) -> None:
    assert module.take_single_cookie(lines, NAME) is None


_LINES = st.lists(
    st.builds(
        lambda name, value: b"%b%b\r\n" % (name, value),
        st.sampled_from((b"Cookie: ", b"cookie:", b"Cookie:", b"Cookie:  ", b"X-Cookie: ", b"X: ")),
        st.lists(st.sampled_from((b"SID=", b"SID", b"a=1", b"; ", b";", b" ", b"\t", b"0f", b"."))).map(b"".join),
    ),
    max_size=4,
).map(b"".join)


@examples(500)
@given(_LINES)
def test_the_quick_way_does_what_the_general_one_does(module: ModuleType, lines: bytes) -> None:
    assert module.take_cookie(lines, NAME) == take_cookies(lines, NAME)


def test_other_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        take_cookie("Cookie: SID=1\r\n", NAME)  # type: ignore[arg-type]
