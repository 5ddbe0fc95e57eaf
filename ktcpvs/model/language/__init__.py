"""The configuration language of KTCPVS: read by `parser`, written by `writer`; docs/configuration.md describes it."""
