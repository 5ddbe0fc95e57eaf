"""Settings of Sphinx for the documentation site, which `make site` builds from the Markdown files of this repository.

The source folder is the root of the repository, so that links between documents are the same here and on GitHub. The
navigation comes from docs/index.md: each of its sections is a part of the menu.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from lexers import ConfigurationLexer, HAProxyLexer  # noqa: E402
from reference import describe  # noqa: E402

from ktcpvs import __version__  # noqa: E402

project = "ktcpvs"
author = "the ktcpvs contributors"
version = release = __version__

extensions = ["myst_parser"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["*.md", "docs/*.md", "docs/examples/*/README.md"]
exclude_patterns = [".*", "build", "tests", "ktcpvs", "twisted", "debian", "docs/examples/*/*.egg-info"]

myst_heading_anchors = 6
"""Anchors of headings down to this level, named as on GitHub."""

nitpicky = True
show_warning_types = True

smartquotes = False
"""Quotes and dashes stay as they are written: many are parts of commands."""

html_baseurl = os.environ.get("SITE_URL", "")
html_theme = "furo"
html_title = f"ktcpvs {version}"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_permalinks_icon = "#"
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["ktcpvs.css"]
html_additional_pages = {"index": "redirect.html", "404": "not-found.html"}
html_context = {"base": html_baseurl or "/"}
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"

_SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^- \[([^\]]+)\]\((\S+)\.md\)", re.MULTILINE)


_FOLDER = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./|docs/)?examples/[\w/-]+)\)")


def unlink_folders(_app: Any, document: str, source: list[str]) -> None:
    """Turn links to folders, which GitHub lists and a site does not, into their text."""
    source[0] = _FOLDER.sub(r"\1", source[0])


def add_navigation(_app: Any, document: str, source: list[str]) -> None:
    """Append the menu to the page that lists all documents: a hidden table of contents for each of its sections."""
    if document != root_doc:
        return
    for title, body in _SECTION.findall(source[0]):
        items = [f"{text} </docs/{page}>".replace("/docs/../", "/") for text, page in _ITEM.findall(body)]
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *items, "```", ""])


def add_reference(_app: Any, document: str, source: list[str]) -> None:
    """Append the names of the modules that docs/api.md lists."""
    if document == "docs/api":
        modules = re.findall(r"^\| `(ktcpvs\.[\w.]+)` \|", source[0], re.MULTILINE)
        source[0] += "\n" + "\n".join(describe(importlib.import_module(module)) for module in modules)


def setup(app: Any) -> None:
    app.add_lexer("ktcpvs", ConfigurationLexer)
    app.add_lexer("haproxy", HAProxyLexer)
    app.connect("source-read", unlink_folders)
    app.connect("source-read", add_navigation)
    app.connect("source-read", add_reference)
