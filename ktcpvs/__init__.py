"""ktcpvs, the TCP Virtual Server: a layer-7 switch for TCP services.

The rooms of the house, from the cellar up; a floor imports only what lies below it:

- `errors`, `interfaces`: the refusals and the contracts
- `model`: pure; the table of virtual services, the edits that change it, the life of one connection
- `protocols`: pure; what the bytes say
- `schedulers`: pure; who serves
- `system`: what the operating system gives: the log, sockets, names, plugins
- `transport` | `control`: how connections live | how people reach the switch
- `workers`: one switch in several processes
- `takeover`, `manager`: a new daemon in the place of the one that runs; what a service manager is told
- `state`, `service`, `tap`, `daemon`: the state file and the composition root
"""

__version__ = "0.1.0"
