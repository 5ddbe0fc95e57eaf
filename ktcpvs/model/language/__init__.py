"""The configuration language of KTCPVS: `parser` reads it, `writer` writes it, docs/configuration.md describes it."""
