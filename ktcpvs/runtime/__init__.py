"""The context that all parts of one process share: reactor, timers, log, settings, descriptors, sockets, counters."""
