"""Lines of access logs for replays, and a configuration that they are replayed with."""

from __future__ import annotations

from typing import Any

from ktcpvs.protocols.access_log import FORMATS, Record

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
CONFIGURATION = f"""
Virtual web {{
    listen = 0.0.0.0:8080
    scheduler = phttp
    balance = rr
    server = {A}
    server = {B}
    rule = name shop path /shop/ use server {A} server {B}
    rule = name beta header X-Beta "^1$" use server {B}
    rule = name old path /old/ use respond 403
    rule = name shopping host shop.example use server {B}
}}
"""


def record(at: float, target: str = "/shop/1", server: str | None = A, total: float = 0.1, **more: Any) -> Record:
    given = {"method": b"GET", "target": target.encode(), "minor": 1, "lines": b"Host: shop.example\r\n", "status": 200}
    given |= {"client": "192.0.2.1", "reason": "any", "connect": 0.0, "first": total, "ending": "answered"}
    return Record(began=1_800_000_000 + at, server=server, total=total, **{**given, **more})


def lines(*records: Record, form: str = "json", service: str = "web") -> bytes:
    return b"".join(FORMATS[form](service, "phttp").line(one) for one in records)
