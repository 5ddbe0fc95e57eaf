"""tcpvsadm, the command line of the switch; docs/tcpvsadm.md describes it.

- `options`: the table of commands and options, and how argv is read by it
- `usage`: that table as the text of --help
- `show`: answers of the daemon as text
- `names`: addresses with the names or in the numbers that this machine knows
- `outcome`: how a run can end
- `daemon`: carries a command to the daemon
- `main`: one run, from argv to the exit status
"""
