"""The recipes of docs/tls.md: the document shows the files of docs/examples/tls, and each can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.system.names import service_port

DOCS = Path(__file__).parent.parent / "docs"
RECIPES = sorted((DOCS / "examples" / "tls").glob("*.conf"))


def test_the_document_shows_every_recipe_and_no_other() -> None:
    shown = re.findall(r"^```ktcpvs\n(.*?)^```$", (DOCS / "tls.md").read_text(), re.MULTILINE | re.DOTALL)
    assert sorted(shown) == sorted(path.read_text() for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_read(path: Path) -> None:
    table = parse(path.read_text(), path.name, service_port).apply(Table())
    assert len(table.services) == 1
