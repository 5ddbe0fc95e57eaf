"""Interfaces to the operating system and the installation: sockets, BPF, files, processes, plugins, logs."""
