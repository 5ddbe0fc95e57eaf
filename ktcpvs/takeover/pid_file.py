"""twistd's pid file, which passes from a daemon to its successor.

twistd refuses to start where the file names a process that runs, and takes the file away when it ends. So it is told
that there is none, until this daemon has taken over, and from the moment on when another has the file.
"""

from __future__ import annotations

import os
from typing import Any

from ktcpvs.system.files import replace_file

OPTION = "pidfile"


class PidFile:
    """path: absolute; "" where there is none. options: twistd's own; None: it is not twistd that runs."""

    def __init__(self, options: Any) -> None:
        self._options = options
        path = options[OPTION] if options is not None else ""
        self.path = os.path.abspath(path) if path else ""

    def leave_alone(self) -> None:
        """twistd neither looks at the file nor takes it away."""
        if self._options is not None:
            self._options[OPTION] = ""

    def take(self) -> None:
        """Name this process in it; it goes when this daemon ends. Raises OSError."""
        if self.path:
            replace_file(self.path, str(os.getpid()).encode("ascii"), 0o644)
            self._options[OPTION] = self.path
