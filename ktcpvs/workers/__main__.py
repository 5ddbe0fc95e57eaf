"""The program of a worker process; see worker.py."""

from __future__ import annotations

from ktcpvs.system.limits import uncollected

with uncollected():
    from ktcpvs.workers.worker import run

run()
