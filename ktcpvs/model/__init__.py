"""Pure: what the switch is told to do, and what it knows while doing it.

Glossary, the same words in code, command line, configuration and documents:

- virtual service: a named listener with a scheduler, real servers and rules
- real server: one address with a weight, as configured; weight 0 = quiesced: no new jobs, existing ones finish
- destination: a real server inside one service, with its live counters
- rule: a pattern and the real servers that serve what it matches
- redirect: the address of last resort, used when the scheduler finds no server
- table: all virtual services, which of them run, and the settings
- edit: a change of the table, the only way to change it
- connection: one client's; client side and server side; relay: what carries bytes between them
- drain: let what lives finish, and take nothing new
"""
