"""Runs requests through a service in virtual time: its scheduler and the switch's own selection, without a socket."""
