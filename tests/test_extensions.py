"""The compiled extensions: where one of them is installed, all are, and each can be loaded."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(ROOT.glob("ktcpvs/**/*.c"))]


@pytest.mark.parametrize("name", NAMES)
def test_each_extension_is_loaded(name: str) -> None:
    """Without an extension, the same is done in Python, so that nothing else tells of one that cannot be loaded."""
    if not any(find_spec(one) for one in NAMES):
        pytest.skip("there was no C compiler at installation")
    import_module(name)
