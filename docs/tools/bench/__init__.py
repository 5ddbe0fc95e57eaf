"""The benchmark: the switch and its peers in one run, in turn, on the same work. `make bench` starts it."""
