"""ktcpvs, the TCP Virtual Server: a layer-7 switch for TCP services.

Its packages, from the bottom up; each imports only from those below it (setup.cfg has the exact layers):

- `errors`, `interfaces`: refusals, and the contracts of schedulers
- `model`: pure; the table of virtual services, the edits that change it, the states of a connection
- `protocols`: pure; HTTP/1 as bytes: heads, bodies, upgrades
- `schedulers`: pure; the choice of a server
- `system`: the operating system: log, sockets, names, plugins
- `streams`, `relay`: byte streams over sockets, and the engines that join two of them
- `runtime`: everything that the services of one process share
- `dispatch`, `health`: the choice of a server for one request; active checks and ejection
- `http`, `tcp`: client connections
- `services`: running services
- `control`, `status`: the control connection and tcpvsadm; the status page and metrics
- `director`: the director, which carries edits out
- `inspect`: views and explanations
- `workers`: one switch in several processes
- `state`, `service_manager`: the state file; sd_notify(3)
- `takeover`: a new daemon takes over from the one that runs
- `reload`, `shutdown`, `signals`: SIGHUP; the end of a daemon; all signals
- `switch_service`, `offline`, `in_process`: the composition root; checks of a configuration without a daemon; the
  switch inside another program
- `daemon`, `tap`, `adm`: the programs

`Switch` and `endpoint` are those of `in_process`, which is imported when one of them is used. `__init__.pyi` has them
for type checkers. Modules of ktcpvs import nothing from here: for these checkers, all of them would be one cycle.
"""

from importlib import import_module
from typing import Any

from ktcpvs.version import __version__ as __version__

_IN_PROCESS = {"Switch": "ktcpvs.in_process.switch", "endpoint": "ktcpvs.in_process.shared"}


def __getattr__(name: str) -> Any:
    if name not in _IN_PROCESS:
        raise AttributeError(f"module 'ktcpvs' has no attribute '{name}'")
    return getattr(import_module(_IN_PROCESS[name]), name)
