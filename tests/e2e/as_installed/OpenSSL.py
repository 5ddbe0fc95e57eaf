"""Hides pyOpenSSL, which only the tests' own HTTP client needs: the daemon runs as an installation has it."""

raise ImportError("pip install ktcpvs brings no OpenSSL")
