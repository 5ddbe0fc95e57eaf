"""Download axe-core, which examines web pages for barriers: axe_core.py FILE.

The tests of the status page run it in Chromium. It is one script of npm's registry, so npm itself is not needed. Its
version and its hash are fixed here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

VERSION = "4.14.1"

INTEGRITY = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
"""The SHA-512 of the package, as the registry writes it."""

ADDRESS = f"https://registry.npmjs.org/axe-core/-/axe-core-{VERSION}.tgz"

TIMEOUT = 60
"""Seconds without an answer of the registry after which the download fails."""


def main() -> int:
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} FILE", file=sys.stderr)
        return 2
    try:
        with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT) as response:
            package = response.read()
    except OSError as error:
        print(f"{ADDRESS}: {error}", file=sys.stderr)
        return 1
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != INTEGRITY:
        print(f"{ADDRESS}: not the package that is expected here: its SHA-512 differs", file=sys.stderr)
        return 1
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        Path(sys.argv[1]).write_bytes(member.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
