"""What the operating system and the installation provide: sockets, BPF, files, processes, plugins, logs."""
