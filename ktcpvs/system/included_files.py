"""Finds the files that a configuration file includes."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from ktcpvs.errors import NoConfiguration


def find_included(pattern: str, source: str) -> Sequence[str]:
    """Return the files that match `pattern`, sorted by name; a name without wildcards is one file, whether it exists or
    not.

    source: the including file; a relative pattern is relative to its folder. Raises NoConfiguration.
    """
    if not pattern.isprintable() or not pattern:
        raise NoConfiguration("expected the name of a file, or a pattern such as conf.d/*.conf")
    path = os.path.join(os.path.dirname(source), pattern)
    if not glob.has_magic(pattern):
        return [path]
    # The folder of the source is no pattern, whatever its name is.
    folder = os.path.dirname(source)
    found = [os.path.join(folder, name) for name in sorted(glob.glob(pattern, root_dir=folder or None))]
    unusual = next((name for name in found if not name.isprintable()), None)
    if unusual is not None:
        raise NoConfiguration(f"the name {unusual!a} cannot stand in messages: rename the file")
    return found
