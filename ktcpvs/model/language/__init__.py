"""The configuration language of KTCPVS: `parser` reads it, `writer` writes it, docs/configuration.md describes it.

`lexer` makes tokens of a text. `token_reader` reads them one after another for `service_reader`, which reads the block
of a service with its rules (`rule_reader`) and tests (`expectation_reader`).
"""
