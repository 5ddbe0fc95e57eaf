"""tcpvsadm, the command line of the switch; docs/tcpvsadm.md describes it.

- `options`: the table of commands and options
- `argument_reader`: reads argv by it into an `invocation`; `argument_checks` refuses what makes no sense
- `usage`: the text of --help
- `session`: one command carried to the daemon
- `reactor_session`: the same by Twisted's reactor, for TLS and --top
- `session_io`: the waiting of a command, as both of them do it
- `draining`: --wait
- `output`: answers of the daemon as text
- `addresses`: addresses with port names, or numeric
- `colours`, `columns`, `top`, `terminal`: states in colour, aligned columns, and --top
- `exit_status`: the exit statuses
- `main`: one run, from argv to the exit status
"""
