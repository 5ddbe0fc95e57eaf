"""Pure: the configuration of the switch, and the state that it keeps while it runs.

Glossary, the same words in code, command line, configuration and documents:

- virtual service: a named listener with a scheduler, real servers and rules
- real server: one address with a weight, as configured; weight 0 = quiesced: no new jobs, existing ones finish
- destination: a real server inside one service, with its live counters
- rule: a pattern and the real servers for the requests that it matches
- redirect: the address that is used when the scheduler finds no server
- table: all virtual services, which of them run, and the settings
- edit: a change of the table, the only way to change it
- client connection, server connection: the two sides of a relay, which carries bytes between them
- drain: let existing connections finish, and accept no new ones
"""
