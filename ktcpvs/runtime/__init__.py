"""What all parts of one running process share: reactor, timers, log, settings, descriptors, sockets, counters."""
