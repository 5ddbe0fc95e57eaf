"""twistd's pid file, which passes from the old daemon to the new one.

twistd refuses to start if the file names a process that runs, and removes the file when it ends. So a new daemon hides
the file from twistd until it has taken over, and an old one from the moment on when the new one has the file.
"""

from __future__ import annotations

import os
from typing import Any

from ktcpvs.system.files import replace_file

OPTION = "pidfile"


class PidFile:
    """The pid file of twistd. path: absolute; "": there is none."""

    def __init__(self, options: Any) -> None:
        """options: twistd's own; None: the daemon does not run under twistd."""
        self._options = options
        path = options[OPTION] if options is not None else ""
        self.path = os.path.abspath(path) if path else ""

    def leave_alone(self) -> None:
        """Have twistd neither read nor remove the file."""
        if self._options is not None:
            self._options[OPTION] = ""

    def take(self) -> None:
        """Write this process's id into the file; twistd removes it when this daemon ends. Raises OSError."""
        if self.path:
            replace_file(self.path, str(os.getpid()).encode("ascii"), 0o644)
            self._options[OPTION] = self.path
