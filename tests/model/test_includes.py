"""Including files: what is read, in which order, and where errors are."""

from __future__ import annotations

import fnmatch

import pytest

from ktcpvs.errors import BadConfiguration, NoConfiguration
from ktcpvs.model.language.includes import MAX_DEPTH, MAX_FILES, expand_includes, unmatched_includes
from ktcpvs.model.language.parser import parse


class Folder:
    """Files by name. asked: (pattern, including file) of each include."""

    def __init__(self, **files: str) -> None:
        self.files = {name.replace("_", "/"): text for name, text in files.items()}
        self.asked: list[tuple[str, str]] = []

    def find(self, pattern: str, source: str) -> list[str]:
        self.asked.append((pattern, source))
        return sorted(name for name in self.files if fnmatch.fnmatch(name, pattern)) if "*" in pattern else [pattern]

    def read(self, name: str) -> str:
        if name not in self.files:
            raise NoConfiguration(f"{name}: No such file or directory")
        return self.files[name]

    def expanded(self, text: str) -> str:
        return expand_includes(text, "main", self.find, self.read)


def idents(folder: Folder, text: str) -> list[str]:
    return list(parse(folder.expanded(text), "main").services)


def test_files_come_in_their_order() -> None:
    folder = Folder(d_b="Virtual b { }", d_a="Virtual a { }\nVirtual a2 { }", e="Virtual e { }")
    assert idents(folder, "Virtual x { }\ninclude = d/*\nVirtual y { } include = e") == ["x", "a", "a2", "b", "y", "e"]
    assert folder.asked == [("d/*", "main"), ("e", "main")]


def test_a_pattern_without_files_includes_nothing() -> None:
    assert idents(Folder(), "include = d/*.conf Virtual x { }") == ["x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("include = d/*.conf", ": include = d/*.conf matches no file; to do that"),
        (
            "include = d/* include = e/*",
            ": include = d/* and 1 more match no file; to do that",
        ),
        ("include = a", "would delete all services; to do that"),
    ],
)
def test_an_empty_configuration_names_the_include_without_files(text: str, said: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        parse(Folder(a="# nothing").expanded(text), "main", allow_empty=False)
    assert said in str(refused.value)


def test_an_include_within_a_block() -> None:
    folder = Folder(servers="server = 10.0.0.1:80\nserver = 10.0.0.2:80 2", timeouts="read_timeout = 7")
    text = 'global { include = timeouts }\nVirtual x {\n  include = "servers"\n  balance = rr }'
    load = parse(folder.expanded(text), "main")
    assert [str(server.address) for server in load.services["x"].servers] == ["10.0.0.1:80", "10.0.0.2:80"]
    assert (load.services["x"].balance, load.settings.read_timeout) == ("rr", 7)


def test_includes_are_nested() -> None:
    folder = Folder(a="include = b Virtual a { }", b="\ufeffVirtual b { }\r\n")
    assert idents(folder, "include = a") == ["b", "a"]
    assert folder.asked == [("a", "main"), ("b", "a")]


@pytest.mark.parametrize(
    ("files", "text", "error"),
    [
        ({"a": "Virtual a {\n  sever = x:1 }"}, "include = a", "a:2:3: unknown keyword 'sever'"),
        ({"a": "Virtual a { }"}, "include = a\n\n  Virtual b { sever = 1 }", "main:3:15: unknown keyword 'sever'"),
        ({"a": ""}, "include = a Virtual b { sever = 1 }", "main:1:25: unknown keyword 'sever'"),
        ({"a": ""}, 'include = "a"  x', "main:1:16: 'x': expected 'Virtual' or 'global'"),
        ({"a": "\nVirtual a {"}, "include = a\n", "main:2:1: unexpected end of the text; expected '}'"),
        ({"a": "server = x:1", "b": "\n server = x:1"}, "Virtual v { include = a include = b }", "b:2:11: server x:1"),
        ({}, "\n include = a", "main:2:12: include = a: a: No such file or directory"),
        ({"a": 'Virtual "a'}, "include = a", "a:1:9: unterminated quote"),
        ({"a": "include = b"}, "include = a", "a:1:11: include = b: b: No such file or directory"),
        ({}, "include =", "main:1:1: include: missing the name of a file (example: include = conf.d/*.conf)"),
        ({}, "Virtual a { include = }", "main:1:13: include: missing the name of a file"),
        ({}, '#line 9 "x"\nVirtual', "main:2:1: unexpected end of the text; expected the service's name"),
        ({"a": '#line 9 "x"\nfoo'}, "include = a", "a:2:1: 'foo': expected 'Virtual' or 'global'"),
    ],
)
def test_errors_have_their_place(files: dict[str, str], text: str, error: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        parse(Folder(**files).expanded(text if "include" in text else f"{text} # include"), "main")
    assert str(caught.value).startswith(error)


def test_a_file_that_includes_itself() -> None:
    with pytest.raises(BadConfiguration, match=rf"^a:1:11: more than {MAX_DEPTH} files include each other; does one"):
        Folder(a="include = a").expanded("include = a")


def test_too_many_files() -> None:
    folder = Folder(**{f"d_{number}": "" for number in range(MAX_FILES)})
    with pytest.raises(BadConfiguration, match=rf"^main:1:25: more than {MAX_FILES} files are included$"):
        folder.expanded("include = d/* include = d/*")


@pytest.mark.parametrize("text", ["include = a", "Virtual a { include = b }", "global { include = b }"])
def test_a_text_that_is_no_file(text: str) -> None:
    with pytest.raises(BadConfiguration, match="include: only files that ktcpvs and tcpvsadm read may include others"):
        parse(text)


def test_an_include_without_a_sign() -> None:
    with pytest.raises(BadConfiguration, match=r"^a\.conf:1:1: include: expected '=' behind it"):
        parse("include conf.d/*.conf", "a.conf")


def test_the_word_elsewhere() -> None:
    folder = Folder()
    text = "Virtual include { rule = path /include use server r:1 server = r:1 } # include = x\n"
    assert idents(folder, text) == ["include"]
    assert not folder.asked


def test_an_include_without_files_is_known_with_its_place() -> None:
    folder = Folder(a="\n  include = e/*")
    text = folder.expanded("include = d/*.conf\ninclude = a\nVirtual x { }")
    assert unmatched_includes(text) == [("d/*.conf", "main:1:11"), ("e/*", "a:2:13")]
