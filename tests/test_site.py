"""The documentation site: `make site` finds nothing to warn of, and what it makes needs no other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT

INDEX = "docs/index.md"


def listed() -> list[str]:
    """The documents that the index lists, in its order, as paths in the repository."""
    text = (ROOT / INDEX).read_text(encoding="utf-8")
    targets = re.findall(r"^- \[[^\]]+\]\((\S+)\): ", text, re.MULTILINE)
    return [os.path.normpath(f"docs/{target}") for target in targets]


def test_the_index_lists_every_document_once() -> None:
    assert sorted(listed()) == sorted(set(DOCUMENTS) - {INDEX})


def test_the_index_has_the_four_kinds() -> None:
    headings = re.findall(r"^## (.*)", (ROOT / INDEX).read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["Tutorial", "How-to guides", "Reference", "Explanation", "Contributing"]


# The rest builds the site, which takes twelve seconds of CPU time.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site. A warning fails the build: a wrong link or anchor, a page without a place in the menu."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/site", "-b", "html", "."]
    variables = {**os.environ, "SITE_URL": "https://docs.example/ktcpvs/"}
    done = subprocess.run([*command, str(folder)], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.slow
@pytest.mark.together
def test_every_document_is_a_page_with_the_menu(site: Path) -> None:
    for document in DOCUMENTS:
        page = (site / document).with_suffix(".html").read_text(encoding="utf-8")
        menu = re.findall(r'<a class="(?:current )?reference internal" href="([^"]*)"', page.split("sidebar-tree")[1])
        assert len(menu) >= len(listed()), document


@pytest.mark.slow
@pytest.mark.together
def test_no_page_needs_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]*)"', text)
        loaded += re.findall(r'<link\b[^>]*\brel="(?:stylesheet|preload|icon)"[^>]*\bhref="([^"]*)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]*)"[^>]*\brel="(?:stylesheet|preload|icon)"', text)
        assert [target for target in loaded if re.match(r"(https?:)?//", target)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
@pytest.mark.together
def test_the_interfaces_are_described(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "docs/api.html").read_text(encoding="utf-8"))
    for name in ("IScheduler.choose(request)", "connect(reactor", "class Refusal"):
        assert name in page, name


@pytest.mark.slow
@pytest.mark.together
def test_the_search_finds_words_of_documents(site: Path) -> None:
    """Its index is a script beside the pages, so it works from a disk too."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")
    for word in ("slow_start", "eject", "preconnect"):
        assert f'"{word}"' in index, word


@pytest.mark.slow
@pytest.mark.together
def test_the_page_for_wrong_addresses_works_at_any_depth(site: Path) -> None:
    page = (site / "404.html").read_text(encoding="utf-8")
    assert '<base href="https://docs.example/ktcpvs/">' in page
    assert 'href="docs/index.html"' in page
    assert (site / "docs/index.html").exists()


@pytest.mark.slow
@pytest.mark.together
def test_the_first_page_leads_to_the_documents(site: Path) -> None:
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
