"""The switch as people run it: `twistd ktcpvs` and `tcpvsadm` as programs of their own, real servers, real sockets."""

import sys
from pathlib import Path

_tests = str(Path(__file__).parents[1])
if _tests not in sys.path:  # so that `import servers` finds tests/servers.py however pytest was called
    sys.path.append(_tests)
