"""The certificate with which all proxies and servers of a benchmark speak TLS: ECDSA P-256, signed by itself."""

from __future__ import annotations

import os
from pathlib import Path

from bench.configurations import NAME
from bench.processes import output_of, program
from bench.workshop import Workshop

DAYS = "30"


def make(shop: Workshop) -> Path:
    """Write the certificate and its key to one file of the workshop, once; its path. Raises Failure without openssl."""
    made = shop.folder / "tls.pem"
    if made.exists():
        return made
    key, pem = shop.folder / "tls-key.pem", shop.folder / "tls-certificate.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", DAYS]
    words += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(pem)]
    output_of([program("openssl"), *words], os.sched_getaffinity(0))
    made.write_text(pem.read_text() + key.read_text())
    return made
