"""End-to-end tests: `twistd ktcpvs` and `tcpvsadm` run as programs, with real servers and real sockets."""

import sys
from pathlib import Path

_tests = str(Path(__file__).parents[1])
if _tests not in sys.path:  # so that `import servers` finds tests/servers.py however pytest was called
    sys.path.append(_tests)
