"""Former name of ktcpvs.protocols.http1.upgrade."""

from __future__ import annotations

from ktcpvs.protocols.http1.upgrade import accepted as accepted
